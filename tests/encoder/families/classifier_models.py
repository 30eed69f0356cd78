"""A tiny CrossEncoder's checkpoint of each model type, and pairs of texts of all lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from family_models import CONFIGURATIONS, COUNTED, FAIRSEQ, NAMES_OF_THEIR_OWN, SIZES
from support import MAX_LENGTH, byte_level_tokenizer, save_encoder, wordpiece_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

__all__ = ["PAIRS", "save_classifier"]

PAIRS = [
    ("hello world", "a much longer sentence about the latency of embedding models in production, with commas"),
    ("hello world", "short"),
    ("hello world", ""),
    ("", "short"),
    ("", ""),
    ("word " * 100, "short"),
    ("short", "word " * 100),
    ("word " * 100, "sentence " * 90),
    ("[SEP] in the middle [MASK] of things", "Ünïcödé and 東京 and 🚀 [PAD]"),
    ("hello world", "short"),
]


def save_classifier(folder: Path, model_type: str = "bert", labels: int = 1, **changes: Any) -> Path:
    """A folder as transformers writes it: the model type's encoder with a head that classifies, random weights."""
    torch.manual_seed(0)
    settings = {**({} if model_type in NAMES_OF_THEIR_OWN else SIZES), "pad_token_id": 0, **CONFIGURATIONS[model_type]}
    settings |= {"num_labels": labels, **changes}
    counted = settings["pad_token_id"] == COUNTED["pad_token_id"]
    words = wordpiece_tokenizer(FAIRSEQ) if counted else wordpiece_tokenizer()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    bert = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    own = model_type == "qwen2"  # whose tokenizer is made anew, of bytes, when it is loaded, and gets a token more
    if own:
        words, counted, settings["pad_token_id"] = byte_level_tokenizer(), True, 1
    config = AutoConfig.for_model(model_type, vocab_size=words.get_vocab_size() + own, **settings)
    types = [] if getattr(config, "type_vocab_size", 0) == 1 else ["token_type_ids"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask", *types],
        **(names if counted else bert),
    )
    return save_encoder(folder / "classifier", AutoModelForSequenceClassification.from_config(config), tokenizer)
