"""Well-known models in small equal their originals as a whole: prompts, tokens, padding, encoder, pooling and heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from marks import long_but
from published_models import IMAGE, PUBLISHED, save_published
from sentence_transformers import SentenceTransformer
from support import TEXTS, largest_difference

from toolkit.convert import export
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.source.checkpoint import open_checkpoint

SOME = ("EmbeddingGemma", "Qwen3-Embedding", "e5-mistral")
MORE = ("a", " ", "two words", "日本語 🚀 Ünïcödé\n\nnaïve", "  spaces   around  ", "it's 1234567 o'clock")
CLASSES = {
    "EmbeddingGemma": "GemmaTokenizer",
    "bge-multilingual-gemma2": "GemmaTokenizer",
    "Qwen3-Embedding": "Qwen2Tokenizer",
    "gte-Qwen2": "Qwen2Tokenizer",
    "e5-mistral": "TokenizersBackend",
    "sentence-t5": "T5Tokenizer",
    "DeBERTa-v3": "DebertaV2Tokenizer",
    "CamemBERT": "CamembertTokenizer",
}


@pytest.mark.parametrize("name", long_but(SOME, PUBLISHED))
def test_every_signature_equals_the_original_whatever_the_padding_side(tmp_path: Path, name: str) -> None:
    original = SentenceTransformer(str(save_published(tmp_path, name)), device="cpu")
    assert type(original.tokenizer).__name__ == CLASSES[name], "which makes it anew of the vocabulary, or not"
    functions = EmbedModel(read_spec(open_checkpoint(original))).functions()
    texts = [*TEXTS, *MORE]
    asked = {"serving_default": original.encode, "embed_query": original.encode_query}
    for side in ("left", "right"):
        original.tokenizer.padding_side = side
        for signature, encode in asked.items():
            if signature not in functions:
                assert not original.prompts.get("query")
                continue
            ours = functions[signature](text=tf.constant(texts))["embedding"]
            assert largest_difference(ours, encode(texts, batch_size=4)) < 1e-5
    for text in texts:
        ours = functions["serving_default"](text=tf.constant([text]))["embedding"]
        assert largest_difference(ours, original.encode([text])) < 1e-5


def test_embedding_gemmas_token_without_an_embedding_is_refused_at_run_time_alone(tmp_path: Path) -> None:
    original = SentenceTransformer(str(save_published(tmp_path, "EmbeddingGemma")), device="cpu")
    rows = original[0].auto_model.config.vocab_size
    assert original.tokenizer.convert_tokens_to_ids(IMAGE) == rows
    functions = EmbedModel(read_spec(open_checkpoint(original))).functions()
    for signature in ("serving_default", "embed_query", "embed_document", "embed_STS"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"text must contain no token that .*: {IMAGE}"):
            functions[signature](text=tf.constant(["hello", f"see {IMAGE}"]))
    near = ["<image", "image_soft_token", "<image_soft_token", "word " * 60 + IMAGE]  # the last is cut before it
    ours = functions["serving_default"](text=tf.constant(near))["embedding"]
    assert largest_difference(ours, original.encode(near)) < 1e-5


def test_an_empty_text_is_the_token_that_is_appended(tmp_path: Path) -> None:
    original = SentenceTransformer(str(save_published(tmp_path, "Qwen3-Embedding")), device="cpu")
    model = EmbedModel(read_spec(open_checkpoint(original)))
    ids = model._tokenize_signature(tf.constant(["", "hello"]))["input_ids"].numpy()
    end = original.tokenizer.eos_token_id
    assert ids[0, 0] == end
    assert ids[1, -1] == end
    ours = np.asarray(model._serving_default(tf.constant([""]))["embedding"])
    assert largest_difference(ours, original.encode([""])) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_an_export_passes_the_whole_proof(tmp_path: Path, name: str) -> None:
    result = export(save_published(tmp_path, name), tmp_path / "models", "m", tokenizer_sample=0.01)
    assert result.report is not None
    assert result.report.token_ids_equal
    assert result.report.max_abs <= 1e-5
