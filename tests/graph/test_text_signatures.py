"""Signatures from text to embedding: prompts, cuts and quantized views answer as the original does with them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from sentence_transformers.util import quantize_embeddings
from support import HIDDEN, TEXTS, largest_difference, sentence_transformer

from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import ArtifactError, InputError
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.heads.pooling import POOLING_MODES
from toolkit.heads.quantized import quantized, starts_and_steps
from toolkit.proof.ranges import calibrated_ranges
from toolkit.signatures import QUANTIZED, SIGNATURES, Views, stamped_text_signatures
from toolkit.source.checkpoint import open_checkpoint

PROMPTS = {"query": "search for this: ", "passage": "passage: ", "long": "word " * 60}


@pytest.fixture
def model(tiny_bert: Path) -> SentenceTransformer:
    made = sentence_transformer(tiny_bert)
    made.prompts |= PROMPTS
    return made


def prompts(model: SentenceTransformer, **views: Any) -> dict[str, str]:
    return {item.name: item.prompt.text for item in read_spec(open_checkpoint(model), Views(**views)).texts}


def answers(model: SentenceTransformer, batching: Batching | None = None, views: Views = Views()) -> dict[str, Any]:
    """What each signature from text to embedding gives for ``TEXTS``; ranges are calibrated on the same."""
    checkpoint = open_checkpoint(model)
    spec = read_spec(checkpoint, views)
    ranges = calibrated_ranges(checkpoint, spec.texts, TEXTS)
    served = EmbedModel(spec, Layout(batching=batching), ranges=ranges)
    return {item.name: served._text_signature(item, tf.constant(list(TEXTS)))["embedding"] for item in spec.texts}


def originals(model: SentenceTransformer) -> dict[str, Any]:
    """What sentence-transformers gives for the same."""
    texts = list(TEXTS)
    named = {f"embed_{name}": model.encode(texts, prompt_name=name) for name in model.prompts}
    chosen = {"embed_query": model.encode_query(texts), "embed_document": model.encode_document(texts)}
    return {"serving_default": model.encode(texts), **named, **chosen}


def test_queries_and_documents_get_the_prompts_that_sentence_transformers_chooses(model: SentenceTransformer) -> None:
    assert prompts(model) == {
        "serving_default": "",
        "embed_query": PROMPTS["query"],
        "embed_document": "",  # its key is there, if empty: encode_document asks for no other
        "embed_passage": PROMPTS["passage"],
        "embed_long": PROMPTS["long"],
    }
    del model.prompts["document"], model.prompts["query"]
    model.default_prompt_name = "long"
    found = prompts(model)
    assert (found["serving_default"], found["embed_query"], found["embed_document"]) == (
        PROMPTS["long"],
        PROMPTS["long"],
        PROMPTS["passage"],
    )
    ours, theirs = answers(model), originals(model)
    assert set(ours) == set(theirs)
    for name in theirs:
        assert largest_difference(ours[name], theirs[name]) < 2e-5, name


@pytest.mark.parametrize(("include_prompt", "batching"), [(True, None), (False, None), (False, Batching())])
def test_every_prompt_answers_like_encode_with_it(
    model: SentenceTransformer, include_prompt: bool, batching: Batching | None
) -> None:
    model[1] = type(model[1])(HIDDEN, POOLING_MODES, include_prompt=include_prompt)
    model.default_prompt_name = "passage"
    ours, theirs = answers(model, batching), originals(model)
    assert set(ours) == set(theirs)
    for name in theirs:
        assert largest_difference(ours[name], theirs[name]) < 2e-5, name
    assert largest_difference(ours["embed_query"], ours["embed_passage"]) > 1e-2


def test_token_ids_know_of_no_prompt(model: SentenceTransformer) -> None:
    model[1].include_prompt = False
    model.default_prompt_name = "query"
    served = EmbedModel(read_spec(open_checkpoint(model)))
    tokens = served._tokenize_signature(tf.constant(list(TEXTS)))
    model[1].include_prompt = True
    ours = served._embed_tokens(**tokens)["embedding"]
    assert largest_difference(ours, model.encode(list(TEXTS))) < 2e-5


def test_a_model_without_a_prompt_has_the_signatures_of_every_model(tiny_bert: Path) -> None:
    model = sentence_transformer(tiny_bert)
    assert model.prompts == {"query": "", "document": ""}
    assert prompts(model) == {"serving_default": ""}
    assert [item.name for item in EmbedModel(read_spec(open_checkpoint(model))).signatures] == [
        item.name for item in SIGNATURES
    ]


def test_prompts_can_be_chosen(model: SentenceTransformer) -> None:
    assert list(prompts(model, prompts=("passage", "query"))) == ["serving_default", "embed_passage", "embed_query"]
    assert list(prompts(model, prompts=())) == ["serving_default"]


@pytest.mark.parametrize(
    ("there", "views", "words"),
    [
        ({}, {"prompts": ("passages",)}, "'passages' is none of the model's; it has: query, document, passage, long"),
        ({"tokens": "x"}, {}, "prompt 'tokens': there is another signature 'embed_tokens'"),
        ({"query_8": "x"}, {"dims": (8,)}, "prompt 'query_8': there is another signature 'embed_query_8'"),
        ({"two words": "x"}, {}, "prompt 'two words': a signature's name is made of letters"),
        ({}, {"dims": (8, 33)}, "dims: 33 is above the 32 numbers that the model's vectors have"),
        ({}, {"dims": (0,)}, "dims: 0 is not a positive number"),
        ({}, {"quantized": ("int4",)}, "quantize: 'int4' is not supported; supported: int8, uint8, binary, ubinary"),
    ],
)
def test_what_can_be_no_signature_is_refused_by_name(
    model: SentenceTransformer, there: dict[str, str], views: dict[str, Any], words: str
) -> None:
    model.prompts |= there
    with pytest.raises(InputError) as caught:
        prompts(model, **views)
    assert words in str(caught.value)


@pytest.mark.parametrize("normalized", [True, False])
def test_cuts_equal_encode_with_truncate_dim(tiny_bert: Path, normalized: bool) -> None:
    model = sentence_transformer(tiny_bert, *([Normalize()] if normalized else []))
    model.prompts["query"] = PROMPTS["query"]
    ours, texts = answers(model, views=Views(("query",), (5, HIDDEN))), list(TEXTS)
    assert list(ours) == [
        *("serving_default", "embedding_5", "embedding_32", "embed_query", "embed_query_5", "embed_query_32")
    ]
    for dim in (5, HIDDEN):
        options: Any = {"truncate_dim": dim, "normalize_embeddings": normalized}
        assert largest_difference(ours[f"embedding_{dim}"], model.encode(texts, **options)) < 1e-5
        assert largest_difference(ours[f"embed_query_{dim}"], model.encode_query(texts, **options)) < 1e-5


def test_quantized_embeddings_are_those_of_quantize_embeddings_bit_for_bit(model: SentenceTransformer) -> None:
    dense = Dense(HIDDEN, 20)  # no multiple of eight
    with torch.no_grad():
        dense.linear.weight[3], dense.linear.bias[3] = 0, 0.5  # always the same: a step of 0, which counts as 1
    model.append(dense)
    model.prompts["document"] = "document: "
    ours = answers(model, views=Views((), (11,), tuple(QUANTIZED)))
    calibration = model.encode_document(list(TEXTS))
    for base, dim in (("embedding", 20), ("embedding_11", 11)):
        floats = ours["serving_default" if base == "embedding" else base].numpy()
        ranges = np.stack([calibration[:, :dim].min(0), calibration[:, :dim].max(0)])
        for kind in QUANTIZED:
            expected = quantize_embeddings(floats, kind, ranges)  # type: ignore[arg-type]
            found = ours[f"{base}_{kind}"].numpy()
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert np.array_equal(found, expected), (base, kind)


def test_the_quantizer_rounds_as_numpy_does_over_its_whole_range() -> None:
    random = np.random.default_rng(0)
    ranges = np.sort(random.normal(0, 1, [2, 64]), 0).astype(np.float32)
    start, step = starts_and_steps(ranges)
    near = start + step * random.integers(-3, 260, [4000, 64]).astype(np.float32)  # where steps begin, and a bit beside
    x = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9)), -near, near * 0])
    variable = tf.Variable(starts_and_steps(ranges))

    @tf.function
    def run(values: Any, kind: str) -> Any:
        return quantized(values, kind, variable)

    for kind in QUANTIZED:
        expected = quantize_embeddings(x.astype(np.float32), kind, ranges)  # type: ignore[arg-type]
        assert np.array_equal(run(tf.constant(x, tf.float32), kind), expected), kind


def test_they_come_back_from_a_provenance(model: SentenceTransformer) -> None:
    texts = read_spec(open_checkpoint(model), Views(dims=(8,), quantized=("binary",))).texts
    assert stamped_text_signatures({"text_signatures": [asdict(item) for item in texts]}) == texts
    assert stamped_text_signatures(None) == ()
    with pytest.raises(ArtifactError, match="text_signatures"):
        stamped_text_signatures({"text_signatures": [{"name": "x"}]})
