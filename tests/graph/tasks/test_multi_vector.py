"""Models of many vectors a text: as many vectors as the original gives, each the same, in every role."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from multi_vector_support import PROMPTS, multi_vector_encoder
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from support import HIDDEN, TEXTS, largest_difference, save_bert

from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.tasks.multi_vector import MultiVectorSpec
from toolkit.graph.tasks.multi_vector_model import MultiVectorModel
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint
from toolkit.tokenizer import read_tokenizer, reference_tokenizer, shortened

Vectors = list[npt.NDArray[np.float32]]
Ask = Callable[..., Any]

ALL_SKIPPED = "!!! ... ?"
ROWS = (*TEXTS, ALL_SKIPPED, "?")
ROLES = ("multi_vector", "multi_vector_query", "multi_vector_document")

FIXED: dict[str, Any] = {"strategy": "fixed", "length": 20}
MIN: dict[str, Any] = {"strategy": "min", "length": 12}


def served(model: MultiVectorEncoder, batching: Batching | None = None) -> MultiVectorModel:
    return MultiVectorModel(MultiVectorSpec.read(open_checkpoint(model)), Layout(batching=batching))


def answer(model: MultiVectorModel, name: str, texts: Any) -> Mapping[str, Any]:
    outputs = model.functions()[name](tf.constant([text.encode() for text in texts], tf.string))
    return {key: value.numpy() for key, value in outputs.items()}


def vectors(model: MultiVectorModel, name: str, texts: Any) -> Vectors:
    found = answer(model, name, texts)
    splits = found["row_splits"]
    assert splits.dtype == np.int32
    return [found["values"][a:b] for a, b in pairwise(splits)]


def original(model: MultiVectorEncoder, name: str, texts: Any) -> Vectors:
    ask: Ask = {"multi_vector_query": model.encode_query, "multi_vector_document": model.encode_document}.get(
        name, model.encode
    )
    return list(ask(list(texts), convert_to_numpy=True, show_progress_bar=False))


def assert_equal(ours: Vectors, theirs: Vectors) -> None:
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    assert largest_difference(np.concatenate(ours), np.concatenate(theirs)) < 1e-5


MODELS: Mapping[str, dict[str, Any]] = {
    # as ColBERTv2: queries end in masks that no other token looks at, punctuation of documents has no vector
    "colbert": {"query_expansion": FIXED, "document_length": 30},
    "expansion that is attended to": {"query_expansion": {**FIXED, "attend": True, "token": "the"}},
    "longer queries whole": {"query_expansion": MIN, "query_length": 17, "prompts": {}},
    "lengths alone": {"query_length": 9, "document_length": 14, "words": ()},
    "skipped in queries too": {
        "query_expansion": FIXED,
        "mask": lambda: MultiVectorMask([*string.punctuation, "[MASK]"], skiplist_tasks=["query", "document"]),
    },
    "nothing but some tokens": {"mask": lambda: MultiVectorMask(keep_only_token_ids=[2, 3, 40, 41, 42])},
    "other prompts": {"prompts": {"passage": "p: ", "query": "", "title": "title: "}, "query_expansion": None},
}


QUICK = ("colbert", "expansion that is attended to", "longer queries whole")


@pytest.mark.parametrize("case", [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in MODELS])
def test_vectors_equal_the_originals_in_every_role(tiny_bert: Path, case: str) -> None:
    options = dict(MODELS[case])
    mask = options.pop("mask", lambda: None)()
    model = multi_vector_encoder(tiny_bert, mask=mask, **options)
    ours = served(model)
    for name in ROLES:
        expected = original(model, name, ROWS)
        assert_equal(vectors(ours, name, ROWS), expected)
        for row, text in enumerate(ROWS):
            if len(text) < 40:
                assert_equal(vectors(ours, name, [text]), [expected[row]])


def test_prompts_beside_those_of_queries_and_documents_are_those_of_encode(tiny_bert: Path) -> None:
    model = multi_vector_encoder(tiny_bert, prompts={"query": "", "passage": "p: ", "title": "title: "})
    spec = MultiVectorSpec.read(open_checkpoint(model), Views(("title", "document")))
    names = [item.name for item in spec.texts]
    further = ["multi_vector_title", "multi_vector_document"]
    assert names == ["serving_default", "multi_vector", *(n + end for n in further for end in ("", "_padded"))]
    ours = vectors(MultiVectorModel(spec), "multi_vector_title", ROWS)
    assert_equal(ours, model.encode(list(ROWS), prompt_name="title", convert_to_numpy=True))
    assert spec.texts[-1].prompt.text == ""  # encode_document takes "document" first, which every model has


@pytest.fixture(scope="module")
def colbert(tiny_bert: Path) -> MultiVectorEncoder:
    return multi_vector_encoder(tiny_bert, query_expansion=FIXED, document_length=30)


def test_requests_are_batched_inside_the_graph(colbert: MultiVectorEncoder) -> None:
    ours = served(colbert, Batching(max_tokens=256))
    for name in ROLES:
        assert_equal(vectors(ours, name, ROWS), original(colbert, name, ROWS))  # as many tokens as fit
        assert_equal(vectors(ours, name, ROWS[:1]), original(colbert, name, ROWS[:1]))
    many = [*ROWS, *ROWS, *ROWS]  # more
    assert_equal(vectors(ours, ROLES[2], many), original(colbert, ROLES[2], many))


def test_the_padded_form_has_the_same_vectors_and_zeros_behind_them(colbert: MultiVectorEncoder) -> None:
    ours = served(colbert)
    for ragged, padded in (("multi_vector", "serving_default"), (ROLES[2], f"{ROLES[2]}_padded")):
        rows, found = vectors(ours, ragged, ROWS), answer(ours, padded, ROWS)
        values, mask = found["values"], found["mask"].astype(bool)
        assert values.shape == (len(ROWS), max(map(len, rows)), 16)
        assert mask.sum(1).tolist() == [len(row) for row in rows]
        assert all(np.array_equal(values[row][mask[row]], rows[row]) for row in range(len(ROWS)))
        assert not values[~mask].any()
    empty = answer(ours, "serving_default", [])
    assert (empty["values"].shape, empty["mask"].shape) == ((0, 0, 16), (0, 0))
    assert answer(ours, "multi_vector", [])["row_splits"].tolist() == [0]


def test_a_text_of_skipped_tokens_alone_has_no_vector(tiny_bert: Path) -> None:
    words = [*string.punctuation, "[CLS]", "[SEP]"]
    model = multi_vector_encoder(tiny_bert, words=words, prompts={})
    ours, rows = served(model), (ALL_SKIPPED, "a word.", "")
    found = vectors(ours, ROLES[2], rows)
    assert [len(row) > 0 for row in found] == [False, True, False]
    assert_equal(found, original(model, ROLES[2], rows))
    assert vectors(ours, ROLES[2], [""])[0].shape == (0, 16)
    assert answer(ours, f"{ROLES[2]}_padded", [""])["values"].shape == (1, 0, 16)


def test_expansion_counts_only_where_a_mask_says_so(tiny_bert: Path) -> None:
    for attend in (False, True):
        model = multi_vector_encoder(tiny_bert, query_expansion={**FIXED, "attend": attend})
        del model[2]
        assert_equal(vectors(served(model), ROLES[1], ROWS), original(model, ROLES[1], ROWS))


def test_pooling_of_no_tokens_normalizes_alone(tiny_bert: Path) -> None:
    model = multi_vector_encoder(tiny_bert, HierarchicalTokenPooling(1.0))
    del model[3]  # Normalize
    ours = served(model)
    for name in ROLES:
        assert_equal(vectors(ours, name, ROWS), original(model, name, ROWS))
    lengths = np.linalg.norm(np.concatenate(vectors(ours, ROLES[1], ROWS)), axis=1)
    assert abs(lengths - 1).max() > 1e-2  # queries are not pooled


@pytest.mark.parametrize("batching", [None, pytest.param(Batching(max_tokens=256), marks=pytest.mark.long)])
def test_vectors_of_documents_are_pooled_where_the_model_says_so(tiny_bert: Path, batching: Batching | None) -> None:
    model = multi_vector_encoder(tiny_bert, HierarchicalTokenPooling(2.0, num_protected_tokens=2))
    ours = served(model, batching)
    for name in ROLES:
        found = vectors(ours, name, ROWS)
        assert_equal(found, original(model, name, ROWS))
        assert_equal(vectors(ours, name, ROWS[:1]), found[:1])
    whole = multi_vector_encoder(tiny_bert)
    assert len(vectors(ours, ROLES[1], ROWS[:1])[0]) == len(original(whole, ROLES[1], ROWS[:1])[0])
    assert len(found[0]) < len(original(whole, ROLES[2], ROWS[:1])[0])
    assert served(model)._spec.precisions == ("float32",)


@pytest.mark.long
def test_queries_with_their_expansion_are_pooled_where_the_model_says_so(tiny_bert: Path) -> None:
    pooling = HierarchicalTokenPooling(1.5, normalize_embeddings=False, tasks=["query"])
    model = multi_vector_encoder(tiny_bert, pooling, query_expansion=FIXED)
    ours = served(model)
    for name in ROLES:
        assert_equal(vectors(ours, name, ROWS), original(model, name, ROWS))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_cut_once_more_are_those_of_a_tokenizer_that_cuts_there(tiny_bert: Path, side: Any) -> None:
    source = replace(open_checkpoint(multi_vector_encoder(tiny_bert)).tokenizer, truncation_side=side)
    long, short = (read_tokenizer(replace(source, max_length=limit)) for limit in (40, 7))
    rows = [reference_tokenizer(long).encode(text).ids for text in ROWS]
    splits = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    ids, cut = shortened(long, tf.constant(np.concatenate(rows), tf.int32), tf.constant(splits), 7)
    expected = [reference_tokenizer(short).encode(text).ids for text in ROWS]
    assert [ids[a:b].numpy().tolist() for a, b in pairwise(cut)] == expected


def dense(**options: Any) -> Dense:
    return Dense(16, 16, **options)


REFUSED: Mapping[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "a module of texts": ((Normalize(),), {}, "module_input_name is 'sentence_embedding'"),
    "another feature": (
        (dense(module_input_name="token_embeddings", module_output_name="x"),),
        {},
        "module_output_name",
    ),
    "two masks": ((MultiVectorMask(),), {}, "module is 'MultiVectorMask'"),
    "pooling in the middle": (
        (HierarchicalTokenPooling(1.0), dense(module_input_name="token_embeddings")),
        {},
        "nothing behind it",
    ),
    "more tokens than positions": ((), {"document_length": 65}, "document_length is 65.* at most 64"),
    "an expansion beyond them": ((), {"query_expansion": {**FIXED, "length": 65}}, "65.* at most 64"),
    "less than special tokens": ((), {"query_length": 1}, r"query_length is 1,.* at least 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(tiny_bert: Path, case: str) -> None:
    behind, options, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message):
        MultiVectorSpec.read(open_checkpoint(multi_vector_encoder(tiny_bert, *behind, **options)))


def test_options_of_single_vectors_are_refused_by_name(tiny_bert: Path) -> None:
    checkpoint = open_checkpoint(multi_vector_encoder(tiny_bert))
    for views, name in ((Views(dims=(8,)), "dims"), (Views(quantized=("int8",)), "quantize"), (Views(("x",)), "'x'")):
        with pytest.raises(InputError, match=name):
            MultiVectorSpec.read(checkpoint, views)


def test_padding_on_the_left_is_refused_where_it_becomes_part_of_queries(tiny_bert: Path, tmp_path: Path) -> None:
    model = multi_vector_encoder(save_bert(tmp_path), query_expansion=FIXED)
    model.tokenizer.padding_side = "left"
    with pytest.raises(UnsupportedError, match="padding_side is 'left'"):
        MultiVectorSpec.read(open_checkpoint(model))


def test_prompts_are_texts_of_the_model(tiny_bert: Path) -> None:
    spec = MultiVectorSpec.read(open_checkpoint(multi_vector_encoder(tiny_bert)))
    assert {item.role: item.prompt.text for item in spec.texts if item.role} == PROMPTS
    assert spec.dim == 16
    assert spec.encoder.hidden_size == HIDDEN
