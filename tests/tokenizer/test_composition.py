"""Normalization forms in the graph equal the tokenizers package's, whatever stands beside what."""

from __future__ import annotations

import random
from typing import get_args

import pytest
import tensorflow as tf
from tokenizers import normalizers

from toolkit.tokenizer.composition import ComposeCharacters, Form, compile_composition
from toolkit.tokenizer.texts import NATURAL, NATURAL_FORMS, TRICKY, code_points, random_texts

# Letters and marks that decompose, compose, do so with one another, change places, or are excluded from composition.
LETTERS = "Aeéấ가각\u1100कक़ﬁ⓪０ﷺΩΩ\u0344\U00016d63か\U0001d15e\u0f73 1"
MARKS = "\u0301\u0323\u0327\u0345\u0334\u05b0\u3099\u1161\u11a8\u094d\u093c\U00016d67\u0f71"


@pytest.mark.parametrize("form", get_args(Form))
def test_every_code_point_and_random_runs_of_marks(form: Form) -> None:
    generator = random.Random(1)
    texts = [
        *(*NATURAL, *NATURAL_FORMS, *TRICKY),
        *random_texts(1000, 5),
        *("".join(generator.choices(LETTERS + MARKS, k=generator.randint(1, 7))) for _ in range(10_000)),
        *(f"a{chr(point)}b {chr(point)}\u0301" for point in code_points() if point < 0x20000 or point > 0xE0000),
    ]
    step = ComposeCharacters(form, compile_composition("tokenizer.json", form))
    normalize = getattr(normalizers, form)().normalize_str
    for text, found in zip(texts, step.apply(tf.constant(texts), *step.held()).numpy(), strict=True):
        assert found.decode() == normalize(text), ascii(text)
