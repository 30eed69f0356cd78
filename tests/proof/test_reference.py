"""reference: what the original answers to each text, in one pass over the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from support import HIDDEN, TEXTS, largest_difference, save_bert, sentence_transformer

from toolkit.proof.reference import reference_answers
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
