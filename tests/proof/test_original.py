"""original: each row goes through the original once for each prompt, and gets its own answers whatever its length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifier_models import save_classifier
from multi_vector_support import multi_vector_encoder
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from sparse_support import inference_free, save_masked_bert, splade_model
from support import TEXTS, largest_difference, save_bert

from toolkit.corpus.check import as_row
from toolkit.errors import SourceError
from toolkit.graph.tasks import read_spec
from toolkit.proof.original import BATCH
from toolkit.proof.reference import reference_answers
from toolkit.proof.tasks import PROOFS
from toolkit.source.checkpoint import open_checkpoint

# of many lengths and in no order, more than a batch, some of the same tokens
MIXED = [
    *TEXTS,
    "a",
    "word " * 40,
    "A",
    "",
    " ",
    "b " * 7,
    "word " * 40,
    "[MASK]",
    "a [SEP] [MASK]",
    "c " * 13,
    *"defghijk",
]
PAIRS = [(text, MIXED[7 * row % len(MIXED)]) for row, text in enumerate(MIXED)]
MANY = "multi_vector"
PROMPTS = {"query": "search for ", "document": "[D] "}
assert len(MIXED) > BATCH


def reranker(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(save_classifier(folder, labels=2)), device="cpu", prompts={"web": "search the web "})


def sparse(folder: Path) -> SparseEncoder:
    return splade_model(save_masked_bert(folder), prompts=dict(PROMPTS))


def routed(folder: Path, default: str, **prompts: str) -> SparseEncoder:
    """Queries by a weight for each token, documents by the encoder; what texts are by default."""
    model = inference_free(save_masked_bert(folder), prompts=prompts)
    router: Any = model[0]
    router.default_route = default
    return model


def static_by_default(folder: Path) -> SparseEncoder:
    return routed(folder, "query")


def encoded_by_default(folder: Path) -> SparseEncoder:
    return routed(folder, "document")


def expanding(folder: Path, *behind: Any) -> Any:
    expansion = {"strategy": "min", "length": 12, "attend": False}
    return multi_vector_encoder(save_bert(folder), *behind, query_expansion=expansion)


def references(model: Any, rows: list[str]) -> Any:
    checkpoint = open_checkpoint(model)
    proof = PROOFS[checkpoint.task](checkpoint, Path(), read_spec(checkpoint).stamp(), rows)
    with encoded(model) as shapes:
        found = proof.references()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return found, shapes


@contextmanager
def encoded(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Rows and their padded length of each batch that the encoder takes while the block runs."""
    shapes: list[tuple[int, int]] = []
    embeddings = next(module for module in model.modules() if hasattr(module, "word_embeddings"))
    hook = embeddings.register_forward_hook(lambda _module, _given, output: shapes.append(tuple(output.shape[:2])))
    try:
        yield shapes
    finally:
        hook.remove()


def within(ours: Any, theirs: Any, bound: float = 1e-5) -> bool:
    """Of the same shape, and as close as rounding leaves them in another batch."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return ours.shape == theirs.shape and (ours.size == 0 or largest_difference(ours, theirs) < bound)


@pytest.mark.parametrize(
    ("make", "rows", "prompts"),
    [
        (reranker, [as_row(*pair) for pair in PAIRS], 2),
        (sparse, MIXED, 3),
        (expanding, MIXED, 3),
        (lambda folder: expanding(folder, HierarchicalTokenPooling(2.0)), MIXED, 3),
        (encoded_by_default, MIXED, 2),  # by default, and as documents
        (static_by_default, MIXED, 1),  # as documents alone, whose states are looked at
        (lambda folder: routed(folder, "query", document="word "), MIXED, 2),  # and without their prompt for the states
    ],
    ids=["rerank", "sparse", "multi_vector", "pooled", "encoded by default", "static by default", "static, a prompt"],
)
def test_each_row_goes_through_the_original_once_for_each_prompt(
    tmp_path: Path, make: Callable[[Path], Any], rows: list[str], prompts: int
) -> None:
    _, shapes = references(make(tmp_path), rows)
    assert sum(count for count, _ in shapes) == prompts * len(rows)
    lengths = [length for _, length in shapes[: -(-len(rows) // BATCH)]]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


@torch.no_grad()
def test_pairs_answers_are_their_own(tmp_path: Path) -> None:
    model: Any = reranker(tmp_path)
    answers, _ = references(model, [as_row(*pair) for pair in PAIRS])
    assert len(answers) == len(PAIRS)
    for pair, answer in zip(PAIRS, answers, strict=True):
        features = model.preprocess([pair])
        assert answer.input_ids == tuple(features["input_ids"][0].tolist())
        assert answer.type_ids == tuple(features["token_type_ids"][0].tolist())
        assert within(answer.logits, model(features)["scores"][0])
        for name, prompt in (("rerank", None), ("rerank_web", "web")):
            assert within(answer.scores[name], model.predict([pair], prompt_name=prompt)[0])


@pytest.mark.parametrize("make", [sparse, static_by_default, encoded_by_default])
@torch.no_grad()
def test_sparse_vectors_and_states_are_their_texts_own(tmp_path: Path, make: Callable[[Path], SparseEncoder]) -> None:
    model: Any = make(tmp_path)
    answers, _ = references(model, MIXED)
    first = next(module for module in model.modules() if hasattr(module, "auto_model"))
    for number, text in enumerate(MIXED):
        tokens = first.tokenizer(text, truncation=True, return_tensors="pt")
        assert answers.ids[number] == tuple(tokens["input_ids"][0].tolist())
        assert within(answers.hidden[number], first.auto_model.base_model(**tokens).last_hidden_state[0])
        asked = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
        for name, vectors in answers.vectors.items():
            assert within(vectors[number], asked[name]([text], convert_to_sparse_tensor=False)[0])


@torch.no_grad()
def test_lists_of_vectors_and_stages_are_their_texts_own(tmp_path: Path) -> None:
    model: Any = expanding(tmp_path, HierarchicalTokenPooling(2.0))
    answers, _ = references(model, MIXED)
    asked = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
    padded = {None: "serving_default", "query": f"{MANY}_query_padded", "document": f"{MANY}_document_padded"}
    for role, ask in asked.items():
        for number, text in enumerate(MIXED):
            stages = answers.stages[role][number]
            features = model.preprocess([text], prompt=model.prompts.get(role), task=role)
            assert stages.input_ids == tuple(features["input_ids"][0].tolist())
            assert len(stages.outputs) == 3
            for ours, module in zip(stages.outputs, (model[0], model[1], model[3]), strict=True):
                features = module(features)
                assert within(ours, features["token_embeddings"][0])
            for name in (f"{MANY}_{role}" if role else MANY, padded[role]):
                assert within(answers.vectors[name][number], ask([text])[0])
    unpooled = MultiVectorEncoder(modules=list(model)[:-1], device="cpu", prompts=model.prompts)
    assert set(answers.whole) == {None, "document"}  # queries are not pooled
    for number, text in enumerate(MIXED):
        assert within(answers.whole[None][number], unpooled.encode([text])[0])
        assert within(answers.whole["document"][number], unpooled.encode_document([text])[0])


def test_an_original_that_is_given_other_tokens_than_it_makes_by_itself_is_told_of(tiny_source: Path) -> None:
    checkpoint = open_checkpoint(tiny_source)
    model: Any = checkpoint.reference
    make = model.preprocess
    calls = iter(range(1_000))
    model.preprocess = lambda texts, **options: make(
        [f"{text} {next(calls)}" for text in texts] if next(calls) else texts, **options
    )
    with pytest.raises(SourceError, match="not given the tokens that its own tokenizer makes"):
        reference_answers(checkpoint, TEXTS)
