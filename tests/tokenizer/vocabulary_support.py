"""Tokenizers of well-known models that are among the tests' data, whole or without their vocabularies. Of DeBERTa-v3
and ModernBERT the steps are theirs, and the vocabulary is another."""

from __future__ import annotations

import copy
import json
import lzma
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from toolkit.tokenizer.texts import NATURAL

__all__ = ["STEPS", "VOCABULARIES", "steps_of", "vocabulary", "with_another_vocabulary"]

_DATA = Path(__file__).parents[1] / "data"
VOCABULARIES = sorted(path.name.removesuffix(".json.xz") for path in _DATA.glob("*.json.xz"))
STEPS: dict[str, dict[str, Any]] = json.loads(lzma.decompress((_DATA / "steps.xz").read_bytes()))
"""What ``steps_of`` finds in the tokenizers of ``make test-tokenizers`` whose vocabularies are not here."""

_PARTS = ("normalizer", "pre_tokenizer", "post_processor")


def vocabulary(name: str) -> str:
    """The ``tokenizer.json`` of one of ``VOCABULARIES``."""
    return lzma.decompress((_DATA / f"{name}.json.xz").read_bytes()).decode()


def steps_of(tokenizer: str) -> dict[str, Any]:
    """A BPE tokenizer (JSON) but for the vocabulary: ``inside`` are those added tokens that are in it, too."""
    root = json.loads(tokenizer)
    vocab = root["model"]["vocab"]
    added = [{name: value for name, value in token.items() if name != "id"} for token in root["added_tokens"]]
    return {
        **{name: root[name] for name in _PARTS},
        "model": {name: value for name, value in root["model"].items() if name not in ("vocab", "merges")},
        "inside": [token for token in added if token["content"] in vocab],
        "behind": [token for token in added if token["content"] not in vocab],
    }


def with_another_vocabulary(steps: dict[str, Any]) -> str:
    """A ``tokenizer.json`` of these ``steps``, with a vocabulary of the tests' own texts."""
    over_bytes = not steps["model"].get("byte_fallback")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel() if over_bytes else pre_tokenizers.Metaspace()
    inside = [token["content"] for token in steps["inside"]]
    first = inside if over_bytes else [*inside, *(f"<0x{byte:02X}>" for byte in range(256))]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if over_bytes else []
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + 2000, special_tokens=first, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(NATURAL * 2, trainer)
    root = json.loads(tokenizer.to_str())
    root.update({name: copy.deepcopy(steps[name]) for name in _PARTS})
    root["model"].update(steps["model"])
    ids = dict(root["model"]["vocab"])
    for token in steps["behind"]:
        ids[token["content"]] = len(ids)
    root["added_tokens"] = [{"id": ids[token["content"]], **token} for token in [*steps["inside"], *steps["behind"]]]
    for special in ((root["post_processor"] or {}).get("special_tokens") or {}).values():
        special["ids"] = [ids[token] for token in special["tokens"]]
    return json.dumps(root)
