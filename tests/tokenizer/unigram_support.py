"""Unigram tokenizers made on the spot."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from toolkit.tokenizer.texts import NATURAL, random_texts

DATA = Path(__file__).parents[1] / "data"
CHARSMAP = DATA / "nmt_nfkc.charsmap.xz"


def make_unigram(
    charsmap: bytes | None = None,
    *,
    size: int = 3000,
    normalizer: Any = None,
    pre_tokenizer: Any = None,
    extra: Sequence[tuple[str, float]] = (),
    mask_is_normalized: bool = False,
) -> Tokenizer:
    """A tokenizer in the style of XLM-R: parts of the words of ``texts``, by how often they occur."""
    normalizer = normalizer or (normalizers.Precompiled(charsmap) if charsmap else normalizers.Nmt())
    pre_tokenizer = pre_tokenizer or pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    counts: collections.Counter[str] = collections.Counter()
    for text in [*NATURAL * 20, *random_texts(300, 99)]:
        for word in normalizer.normalize_str(text).split():
            marked = f"▁{word}"
            counts.update(marked[i : i + k] for i in range(min(len(marked), 40)) for k in range(1, 7))
    total = sum(counts.values())
    pieces = [piece for piece, _ in counts.most_common() if "▁" not in piece[1:]][: size - 5]
    scores = [(piece, float(np.float32(math.log(counts[piece] / total) + len(piece)))) for piece in pieces]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [*((token, 0.0) for token in special), *scores, *extra, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    mask = AddedToken("<mask>", lstrip=True, normalized=mask_is_normalized)
    tokenizer.add_special_tokens([*special, mask])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    # Reading JSON changes the last bits of some scores: tests compare with what is read.
    return Tokenizer.from_str(tokenizer.to_str())


def changed(tokenizer: Tokenizer, change: Callable[[dict[str, Any]], None]) -> str:
    """The tokenizer's JSON after ``change``."""
    root = json.loads(tokenizer.to_str())
    change(root)
    return json.dumps(root)
