"""Decoders that answer yes or no score pairs as ``predict`` does: with a chat template around a pair, and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from classifier_models import PAIRS
from family_models import save_transformer
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from support import largest_difference
from tokenizers.processors import ByteLevel
from torch import nn
from transformers import AutoModelForCausalLM

from toolkit.errors import SourceError, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.rerank_model import RerankModel
from toolkit.heads.logit_score import LOGIT_SCORE_TYPES
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.settings import SourceSettings

YES, NO = 7, 9


def message(role: str) -> str:
    return f'{{{{ messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first }}}}'


SYSTEM = message("system").replace(" }}", ' | default("given a query", true) }}')
TEMPLATE = f"[CLS]{SYSTEM}\nmodel {message('query')}\nsentence {message('document')}[SEP]\nis it\n"
CHANGES: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {"use_bidirectional_attention": False, "final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 3.0},
    "llama": {"tie_word_embeddings": True},
}


def decoder(folder: Path, kind: str = "qwen3", template: str | None = TEMPLATE, **options: Any) -> Transformer:
    saved = save_transformer(folder / "plain", kind, AutoModelForCausalLM, **CHANGES.get(kind, {}))
    options |= {"processor_kwargs": {"chat_template": template}} if template else {}
    return Transformer(str(saved), transformer_task="text-generation", **options)


def reranker(folder: Path, *args: Any, score: LogitScore | None = None, **options: Any) -> CrossEncoder:
    modules = [decoder(folder, *args, **options), score or LogitScore(YES, NO)]
    return CrossEncoder(modules=modules, device="cpu", prompts={"web": "search the web"})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return reranker(tmp_path_factory.mktemp("qwen3"))


def columns(pairs: Any) -> list[tf.Tensor]:
    return [tf.constant([text.encode() for text in column]) for column in zip(*pairs, strict=True)]


def require_equal(checkpoint: Checkpoint) -> None:
    """The scores of pairs of all lengths, with each prompt, are those of ``predict``."""
    spec = read_spec(checkpoint)
    served = RerankModel(spec)
    for item in spec.signed:
        ours = served.scores(item.prompt.text, *columns(PAIRS))
        expected: Any = checkpoint.reference.predict(PAIRS, prompt_name=item.prompt.name)
        assert largest_difference(ours, expected) < 1e-5
        assert expected.max() - expected.min() > 0.02


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "gemma2" else pytest.mark.long) for kind in LOGIT_SCORE_TYPES]
)
def test_every_decoder_scores_as_by_predict(tmp_path: Path, kind: str) -> None:
    require_equal(open_checkpoint(reranker(tmp_path, kind)))


def test_a_saved_one_is_read_back_with_its_template(model: CrossEncoder, tmp_path: Path) -> None:
    model.save(str(tmp_path))
    saved = open_checkpoint(tmp_path)
    assert saved.task == "rerank"
    assert saved.digest == open_checkpoint(model).digest
    spec = read_spec(saved)
    assert [item.name for item in spec.signatures] == ["serving_default", "rerank", "rerank_web", "tokenize_pairs"]
    assert spec.stages == ("1_logit_score", "2_sigmoid")
    require_equal(saved)


def test_a_row_that_is_cut_ends_as_the_template_does(model: CrossEncoder) -> None:
    spec = read_spec(open_checkpoint(model))
    found = RerankModel(spec).packed_pairs("", *columns(PAIRS))
    ids = tf.RaggedTensor.from_row_splits(found.ids, found.row_splits).to_list()
    features = model.preprocess(PAIRS)
    mask = features["attention_mask"].bool()
    assert ids == [row[on].tolist() for row, on in zip(features["input_ids"], mask, strict=True)]
    full = [row for row in ids if len(row) == spec.max_length]
    assert len(full) > 3
    ending = spec.pairs.endings[""]
    assert len(ending) > 2
    assert all(tuple(row[-len(ending) :]) == ending for row in full)


def test_a_pair_of_nothing_without_a_token_is_refused(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(model[0].modality_config, "message")
    adding = model.tokenizer.backend_tokenizer.post_processor
    model.tokenizer.backend_tokenizer.post_processor = ByteLevel()
    with pytest.raises(UnsupportedError, match="post_processor"):
        read_spec(open_checkpoint(model))
    model.tokenizer.backend_tokenizer.post_processor = adding


def test_without_a_template_pairs_are_rows_of_the_tokenizer(tmp_path: Path) -> None:
    require_equal(open_checkpoint(reranker(tmp_path, "llama", None, score=LogitScore(YES))))


def test_options_of_the_template_the_cut_and_the_activation_are_followed(model: CrossEncoder, tmp_path: Path) -> None:
    template = TEMPLATE.replace("is it", "{% if asked %}is it{% else %}it is not{% endif %}")
    options: dict[str, Any] = {"chat_template": {"asked": True, "restore_suffix": False}, "text": {"truncation": True}}
    other = reranker(tmp_path, "qwen3", template, processing_kwargs=options)
    other.activation_fn = nn.Identity()
    other.tokenizer.truncation_side = "left"
    checkpoint = open_checkpoint(other, settings=SourceSettings(max_seq_length=30))
    assert set(read_spec(checkpoint).pairs.endings.values()) == {()}
    require_equal(checkpoint)


def test_a_classifier_may_have_a_template_too(tmp_path: Path) -> None:
    from classifier_models import save_classifier

    saved = save_classifier(tmp_path)
    original = CrossEncoder(str(saved), device="cpu", processor_kwargs={"chat_template": TEMPLATE})
    require_equal(open_checkpoint(original))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace(" | first }}[SEP]", " | first | trim }}[SEP]"), "as they are"),
        (lambda text: text.replace("is it", f"{{{{ 'it' in {message('query')[3:-3]} }}}}"), "as they are"),
        (lambda text: text.replace("sentence", f"{message('document')} sentence"), "once each"),
        (lambda text: text + '{{ strftime_now("%d") }}', "strftime_now"),
    ],
)
def test_a_template_that_does_more_than_write_the_texts_is_refused(
    model: CrossEncoder, monkeypatch: pytest.MonkeyPatch, change: Any, named: str
) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", change(TEMPLATE))
    with pytest.raises(UnsupportedError, match="chat_template") as caught:
        read_spec(open_checkpoint(model))
    assert named in str(caught.value)


def test_what_is_not_computed_is_refused_by_name(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*parts: str, kind: type[Exception] = UnsupportedError) -> None:
        with pytest.raises(kind) as caught:
            read_spec(open_checkpoint(model))
        assert all(part in str(caught.value) for part in parts), caught.value

    with monkeypatch.context() as patched:
        patched.setattr(model[1], "module_input_name", "scores")
        refused("1_LogitScore/config.json", "module_input_name", "'scores'", "causal_logits")
    with monkeypatch.context() as patched:
        patched.setattr(model[1], "true_token_id", -1)
        refused("true_token_id is -1", kind=SourceError)
    with monkeypatch.context() as patched:
        patched.setitem(model[0].modality_config["message"], "format", "structured")
        refused("modality_config", "structured", "flat")
    with monkeypatch.context() as patched:
        patched.setattr(model[0], "processing_kwargs", {"text": {"logits_to_keep": 0}})
        refused("processing_kwargs", "truncation alone")
    with monkeypatch.context() as patched:
        patched.setattr(model[0], "processing_kwargs", {"chat_template": {"max_length": 9}})
        refused("processing_kwargs.chat_template.max_length", "9")


def test_a_plain_decoder_is_a_reranker_where_that_is_asked_for(tmp_path: Path) -> None:
    plain = save_transformer(tmp_path, "qwen3", AutoModelForCausalLM)
    with pytest.raises(UnsupportedError, match="Qwen3ForCausalLM"):
        open_checkpoint(plain)
    checkpoint = open_checkpoint(plain, task="rerank")  # the words yes and no are unknown to this tokenizer: all equal
    spec = read_spec(checkpoint)
    assert spec.head.true_id == checkpoint.reference.tokenizer.convert_tokens_to_ids("yes")
    assert spec.head.false_id == checkpoint.reference.tokenizer.convert_tokens_to_ids("no")
