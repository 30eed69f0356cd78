"""Tiny MultiVectorEncoders made on the spot."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from support import HIDDEN, MAX_LENGTH

DIM = 16

PROMPTS = {"query": "[Q] ", "document": "[D] "}
"""As text: plain words to a tokenizer that does not know them."""


def multi_vector_encoder(
    bert: Path,
    *behind: Any,
    words: Sequence[str] = tuple(string.punctuation),
    prompts: dict[str, str] | None = None,
    mask: MultiVectorMask | None = None,
    **transformer: Any,
) -> MultiVectorEncoder:
    """A saved BERT, a Dense and a Normalize for each token, and a mask that skips ``words`` in documents."""
    torch.manual_seed(1)
    first = Transformer(str(bert), max_seq_length=MAX_LENGTH, **transformer)
    size = first.get_embedding_dimension() or HIDDEN
    dense = Dense(size, DIM, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    modules = [first, dense, mask or MultiVectorMask(list(words)), Normalize("token_embeddings"), *behind]
    model = MultiVectorEncoder(modules=modules, device="cpu", prompts=PROMPTS if prompts is None else prompts)
    return model.eval()
