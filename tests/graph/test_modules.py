"""Modules that read and write other features than the sentence embedding equal the original, or are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
    WeightedLayerPooling,
)
from support import HIDDEN, MAX_LENGTH, TEXTS, largest_difference
from torch import nn

from toolkit.convert import export
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import SourceError, UnsupportedError
from toolkit.graph.keras_back import from_keras
from toolkit.graph.keras_door import to_keras
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.proof.reference import reference_answers
from toolkit.source.checkpoint import open_checkpoint

TOKENS: dict[str, Any] = {"module_input_name": "token_embeddings"}


def model_of(bert: Path, *modules: Any) -> SentenceTransformer:
    """A Transformer and what is behind it, Pooling included."""
    first = Transformer(str(bert), max_seq_length=MAX_LENGTH)
    return SentenceTransformer(modules=[first, *modules], device="cpu").eval()


def chain(kind: str) -> list[Any]:
    if kind == "of tokens":
        return [Dense(HIDDEN, 20, **TOKENS), Normalize(**TOKENS), Pooling(20, ("mean", "max")), Dense(40, 12)]
    if kind == "through another feature":
        wide = Dense(HIDDEN, 48, activation_function=nn.GELU(), module_output_name="wide")
        return [Pooling(HIDDEN), wide, Dense(48, 16, module_input_name="wide", module_output_name="sentence_embedding")]
    if kind == "tokens through another feature":
        back = Dense(16, HIDDEN, module_input_name="narrow", module_output_name="token_embeddings")
        return [Dense(HIDDEN, 16, **TOKENS, module_output_name="narrow"), back, Pooling(HIDDEN, "cls"), Normalize()]
    beside = Dense(HIDDEN, 5, module_output_name="classes")
    return [Pooling(HIDDEN), LayerNorm(HIDDEN), beside, Normalize()]


KINDS = ("of tokens", "through another feature", "tokens through another feature", "beside the embedding")


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_equals_the_original(tiny_bert: Path, tmp_path: Path, kind: str) -> None:
    model_of(tiny_bert, *chain(kind)).save(str(tmp_path))
    checkpoint = open_checkpoint(tmp_path)
    spec = EmbedSpec.read(checkpoint)
    model = EmbedModel(spec, Layout(batching=Batching() if kind == "of tokens" else None))
    texts = tf.constant(TEXTS)
    answers = reference_answers(checkpoint, TEXTS)
    assert largest_difference(model._serving_default(texts)["embedding"], [x.embedding for x in answers]) < 1e-5
    stages = model._stages(texts)
    assert len(stages) == len(answers[0].stages)
    for ours, *theirs in zip(stages.values(), *(x.stages for x in answers), strict=True):
        assert largest_difference(ours, theirs) < 2e-5
    hidden = model._token_embeddings(texts)
    for row, mask, answer in zip(hidden["token_embeddings"], hidden["attention_mask"], answers, strict=True):
        assert largest_difference(row[: sum(mask)], answer.hidden) < 1e-4


@pytest.mark.long
def test_a_model_with_modules_of_tokens_passes_the_whole_proof_in_float32_and_int8(
    tiny_bert: Path, tmp_path: Path
) -> None:
    for precision in ("float32", "int8"):
        made = export(
            model_of(tiny_bert, *chain("of tokens")), tmp_path, precision, precision=precision, tokenizer_sample=0.01
        )
        assert made.report is not None
        assert {figure.stage for figure in made.report.stages} >= {"hidden state", "3_pooling", "4_dense"}


@pytest.mark.parametrize("kind", KINDS)
def test_they_become_keras_layers_and_go_back(tiny_bert: Path, kind: str) -> None:
    original = model_of(tiny_bert, *chain(kind))
    model = to_keras(original)
    assert largest_difference(model(tf.constant(TEXTS)), original.encode(list(TEXTS))) < 1e-5
    if kind == "beside the embedding":  # what nothing depends on is no part of a Keras model
        with pytest.raises(SourceError, match="module 3, Dense: no layer has its weights"):
            from_keras(model)
        return
    assert open_checkpoint(from_keras(model)).digest == open_checkpoint(original).digest


def test_a_cut_is_normalized_where_the_embedding_is_whatever_is_written_behind_it(tiny_bert: Path) -> None:
    for modules, normalized in (
        ([Pooling(HIDDEN), Normalize(), Dense(HIDDEN, 5, module_output_name="classes")], True),
        ([Pooling(HIDDEN), Normalize(module_output_name="unit")], False),
    ):
        spec = EmbedSpec.read(open_checkpoint(model_of(tiny_bert, *modules)))
        assert spec.dim == HIDDEN
        assert (spec.heads[-1].writes != "sentence_embedding") is True
        model = EmbedModel(spec)
        vectors = model._serving_default(tf.constant(TEXTS))["embedding"].numpy()
        assert bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)) is normalized


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([Pooling(HIDDEN), Dense(HIDDEN, 5, **TOKENS)], r"module_input_name is 'token_embeddings'.*sentence_embedding"),
        ([Dense(HIDDEN, 5, module_input_name="wide"), Pooling(HIDDEN)], r"module_input_name is 'wide'.*before pooling"),
        ([Pooling(HIDDEN), Normalize(module_output_name="input_ids")], r"module_output_name is 'input_ids'"),
        ([Pooling(HIDDEN), Pooling(HIDDEN)], r"module after Pooling is 'Pooling'"),
        ([Dense(HIDDEN, 20, **TOKENS), Pooling(HIDDEN)], r"embedding_dimension is 32, but .* 20"),
        ([WeightedLayerPooling(HIDDEN, 2, 0), Pooling(HIDDEN)], r"WeightedLayerPooling: it needs the hidden states of"),
        ([CNN(HIDDEN, 8), Pooling(24)], r"CNN: it looks beyond a text's last token"),
    ],
    ids=("tokens behind pooling", "nobody wrote", "taken", "pooled twice", "size", "all layers", "padding"),
)
def test_what_does_not_go_is_refused_by_name(tiny_bert: Path, modules: list[Any], message: str) -> None:
    with pytest.raises((UnsupportedError, SourceError), match=message):
        EmbedSpec.read(open_checkpoint(model_of(tiny_bert, *modules)))
