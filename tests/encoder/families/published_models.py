"""Tiny models made up as well-known ones are published: encoder, the tokenizer of its own class in transformers,
padding, pooling, modules behind it and prompts together."""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from family_models import CONFIGURATIONS, NAMES_OF_THEIR_OWN, SIZES
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from support import HIDDEN, TEXTS, byte_level_tokenizer, save_encoder, sentence_transformer, unigram_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    GemmaTokenizer,
    LlamaTokenizer,
    Qwen2Tokenizer,
    T5Tokenizer,
)

from toolkit.tokenizer.texts import NATURAL

__all__ = ["IMAGE", "PUBLISHED", "save_published"]

IMAGE = "<image_soft_token>"
CHARSMAP = Path(__file__).parents[2] / "data" / "nmt_nfkc.charsmap.xz"
QWEN_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def save_published(folder: Path, name: str) -> Path:
    """A folder as sentence-transformers saves it of the one of ``PUBLISHED`` that is called so."""
    source = folder / "source"
    PUBLISHED[name](folder).save(str(source))
    return source


def _model(
    folder: Path,
    model_type: str,
    tokenizer: Any,
    *heads: Any,
    pooling: str,
    prompts: Mapping[str, str] | None = None,
    rows: int | None = None,
    **changes: Any,
) -> Any:
    """``rows`` are those of the table of words, where they are fewer than the tokenizer's tokens."""
    torch.manual_seed(0)
    settings = {**({} if model_type in NAMES_OF_THEIR_OWN else SIZES), **CONFIGURATIONS[model_type], **changes}
    settings |= {"pad_token_id": tokenizer.pad_token_id, "vocab_size": rows or len(tokenizer)}
    encoder = AutoModel.from_config(AutoConfig.for_model(model_type, **settings))
    model = sentence_transformer(save_encoder(folder / "encoder", encoder, tokenizer), *heads, pooling=pooling)
    model.prompts = dict(prompts or {})
    return model


def _end_with(tokenizer: Any, single: str) -> Any:
    """``tokenizer``, whose file says by ``single`` what is put around a text."""
    names = [(part, tokenizer.convert_tokens_to_ids(part)) for part in single.split() if part != "$A"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=names)
    return tokenizer


@functools.cache
def _pairs(specials: Sequence[str]) -> dict[str, Any]:
    """Vocabulary and merges of BPE over characters, with a token for each byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=120,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*NATURAL[:12], *TEXTS] * 3, trainer)
    return _read(tokenizer)


def _read(tokenizer: Tokenizer) -> dict[str, Any]:
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def _pieces(*specials: str) -> list[tuple[str, float]]:
    """A vocabulary of Unigram that begins with ``specials``."""
    vocab = json.loads(unigram_tokenizer().to_str())["model"]["vocab"]
    return [*((name, 0.0) for name in specials), *((piece, score) for piece, score in vocab if score)]


def embedding_gemma(folder: Path) -> Any:
    """Bidirectional Gemma 3, a token that there is no row for, the mean, two Dense modules, prompts."""
    tokenizer = GemmaTokenizer(**_pairs(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")), padding_side="right")
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    wider, back = (
        Dense(size_in, size_out, bias=False, activation_function=torch.nn.Identity())
        for size_in, size_out in ((HIDDEN, 4 * HIDDEN), (4 * HIDDEN, HIDDEN))
    )
    prompts = {
        "query": "task: search result | query: ",
        "document": "title: none | text: ",
        "STS": "task: sentence similarity | query: ",
    }
    return _model(
        folder,
        "gemma3_text",
        _end_with(tokenizer, "<bos> $A <eos>"),
        *(wider, back, Normalize()),
        pooling="mean",
        prompts=prompts,
        rows=rows,
    )


def gemma2_embedder(folder: Path) -> Any:
    """As bge-multilingual-gemma2: causal, the last of a row that is padded on the left."""
    tokenizer = GemmaTokenizer(**_pairs(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")), padding_side="left")
    tokenizer = _end_with(tokenizer, "<bos> $A <eos>")
    prompts = {"query": "<instruct>Given a question, retrieve passages.\n<query>", "document": ""}
    return _model(folder, "gemma2", tokenizer, Normalize(), pooling="lasttoken", prompts=prompts)


def qwen3_embedding(folder: Path) -> Any:
    """Causal, the token behind a text, which is the one that rows are padded with on the left."""
    tokenizer = Qwen2Tokenizer(**_read(byte_level_tokenizer()), padding_side="left")
    tokenizer = _end_with(tokenizer, "$A <|endoftext|>")
    prompts = {"query": QWEN_PROMPT, "document": ""}
    return _model(folder, "qwen3", tokenizer, Normalize(), pooling="lasttoken", prompts=prompts)


def gte_qwen2(folder: Path) -> Any:
    """As gte-Qwen2 and stella say that theirs attend, of which transformers has a field: not causal."""
    tokenizer = Qwen2Tokenizer(**_read(byte_level_tokenizer()), padding_side="left")
    tokenizer = _end_with(tokenizer, "$A <|endoftext|>")
    return _model(folder, "qwen2", tokenizer, Normalize(), pooling="lasttoken", is_causal=False)


def e5_mistral(folder: Path) -> Any:
    """Causal with a window, Llama 2's tokenizer with both ends, padded on the left with the last of them."""
    tokenizer = LlamaTokenizer(**_pairs(("<unk>", "<s>", "</s>")), pad_token="</s>", padding_side="left")
    tokenizer = _end_with(tokenizer, "<s> $A </s>")
    prompts = {"web_search_query": "Instruct: Given a web search query, retrieve passages\nQuery: "}
    return _model(folder, "mistral", tokenizer, Normalize(), pooling="lasttoken", prompts=prompts)


def sentence_t5(folder: Path) -> Any:
    """The mean of T5's encoder, a Dense without a bias and an activation."""
    charsmap = lzma.decompress(CHARSMAP.read_bytes())
    tokenizer = T5Tokenizer(_pieces("<pad>", "</s>", "<unk>"), _spm_precompiled_charsmap=charsmap, extra_ids=3)
    dense = Dense(HIDDEN, HIDDEN, bias=False, activation_function=torch.nn.Identity())
    return _model(folder, "t5", tokenizer, dense, Normalize(), pooling="mean")


def deberta_v3(folder: Path) -> Any:
    """The first token of DeBERTa-v3, not of length 1: with larger weights the original itself is further from what it
    computes in double precision than vectors may differ."""
    tokenizer = DebertaV2Tokenizer(_pieces("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    tokenizer = _end_with(tokenizer, "[CLS] $A [SEP]")
    return _model(folder, "deberta-v2", tokenizer, pooling="cls", initializer_range=0.2)


def camembert(folder: Path) -> Any:
    """As sentence-camembert: the mean, not of length 1; the tokens around a text are the sixth and the seventh, behind
    namesakes that are not used."""
    first = _pieces("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    vocab = [*(first[:4]), ("<unk>NOTUSED", -100.0), *first[5:], ("<mask>", 0.0)]
    tokenizer = CamembertTokenizer(vocab=vocab, _spm_precompiled_charsmap=lzma.decompress(CHARSMAP.read_bytes()))
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return _model(folder, "camembert", tokenizer, pooling="mean", **ends)


PUBLISHED: Mapping[str, Callable[[Path], Any]] = {
    "EmbeddingGemma": embedding_gemma,
    "bge-multilingual-gemma2": gemma2_embedder,
    "Qwen3-Embedding": qwen3_embedding,
    "gte-Qwen2": gte_qwen2,
    "e5-mistral": e5_mistral,
    "sentence-t5": sentence_t5,
    "DeBERTa-v3": deberta_v3,
    "CamemBERT": camembert,
}
"""By the name of a model that is published so."""
