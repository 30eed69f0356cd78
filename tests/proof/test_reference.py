"""reference: what the original answers to each text, in one pass over the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from support import HIDDEN, TEXTS, largest_difference, save_bert, sentence_transformer

from toolkit.graph.tasks import read_spec
from toolkit.proof.reference import reference_answers
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint

# of many lengths and in no order, some of the same tokens
MIXED = [*TEXTS, "a", "word " * 40, "A", "", " ", "b " * 7, "word " * 40]


def original(folder: Path) -> Any:
    return sentence_transformer(save_bert(folder), Dense(HIDDEN, 5), Normalize())


def test_each_text_goes_through_the_original_once(tmp_path: Path) -> None:
    model = original(tmp_path)
    seen: list[int] = []
    model[0].register_forward_hook(lambda _module, _given, output: seen.append(len(output["input_ids"])))
    reference_answers(open_checkpoint(model), MIXED, batch_size=4)
    assert sum(seen) == len(MIXED)
    assert max(seen) == 4


def test_cuts_and_what_is_pooled_without_a_prompt_ask_for_no_text_again(tmp_path: Path) -> None:
    model = original(tmp_path)
    model[1].include_prompt = False
    model.prompts, model.default_prompt_name = {"word": "some words "}, "word"
    seen: list[int] = []
    model[0].register_forward_hook(lambda _module, _given, output: seen.append(len(output["input_ids"])))
    checkpoint = open_checkpoint(model)
    spec = read_spec(checkpoint, Views(prompts=(), dims=(4, 2)))
    seen.clear()
    answers = reference_answers(checkpoint, MIXED, spec.texts[1:])
    assert sum(seen) == len(MIXED)
    for text, answer in zip(MIXED, answers, strict=True):
        assert largest_difference(answer.embedding, model.encode(text)) < 1e-5
        cut = answer.embedding[:2]
        assert largest_difference(answer.further["embedding_2"], cut / np.linalg.norm(cut)) < 1e-6
        tokens = model.preprocess(["some words " + text])  # of which nothing says that they are a prompt's
        with torch.no_grad():
            assert largest_difference(answer.of_tokens, model(tokens)["sentence_embedding"][0].numpy()) < 1e-5
    assert largest_difference(answers[0].of_tokens, answers[0].embedding) > 1e-3


def test_answers_are_each_texts_own_in_the_order_of_the_texts(tmp_path: Path) -> None:
    model = original(tmp_path)
    answers = reference_answers(open_checkpoint(model), MIXED, batch_size=4)
    for text, answer in zip(MIXED, answers, strict=True):
        assert answer.input_ids == tuple(model.tokenizer(text, truncation=True)["input_ids"])
        with torch.no_grad():
            features = model.preprocess([text])
            hidden = model[0](features)["token_embeddings"][0].numpy()
            stages = []
            for module in list(model)[1:]:
                features = module(features)
                stages.append(features["sentence_embedding"][0].numpy())
        assert largest_difference(answer.hidden, hidden) < 1e-5
        assert len(answer.stages) == len(stages) == 3
        for ours, theirs in zip(answer.stages, stages, strict=True):
            assert largest_difference(ours, theirs) < 1e-5
        assert largest_difference(answer.embedding, model.encode(text)) < 1e-6
        assert np.array_equal(answer.of_tokens, answer.embedding)


def test_nothing_is_left_on_the_original(tmp_path: Path) -> None:
    model = original(tmp_path)
    reference_answers(open_checkpoint(model), MIXED)
    assert not any(module._forward_hooks for module in model.modules())
