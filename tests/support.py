"""Tiny models made on the spot: random weights, a WordPiece vocabulary trained on a few sentences."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import BertConfig, BertModel, BertTokenizerFast, PreTrainedModel, PreTrainedTokenizerFast

from toolkit.convert import Export, export
from toolkit.corpus.check import check_texts
from toolkit.encoder.families.bert import BertSpec

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HIDDEN = 32
MAX_LENGTH = 48

TEXTS = (
    "hello world",
    "",
    "a much longer sentence about the latency of embedding models in production, with commas",
    "short",
    "Ünïcödé and 東京 and 🚀",
    "word " * 100,
    "[SEP] in the middle [MASK] of things",
)
"""Mixed lengths: empty, short, and longer than ``MAX_LENGTH`` tokens."""


def wordpiece_tokenizer(specials: Sequence[str] = SPECIALS) -> Tokenizer:
    """A WordPiece tokenizer of its own for the caller; see ``_wordpiece``."""
    return Tokenizer.from_str(_wordpiece(tuple(specials)))


# The trainers break ties by chance. One tokenizer for all tests of a process is compiled once, and then in the cache.
@functools.cache
def _wordpiece(specials: tuple[str, ...]) -> str:
    """A WordPiece tokenizer like BERT's, trained on the check's corpus; ``specials`` are padding, unknown, first and
    last token and mask in the order of their ids, told apart by their names."""
    unknown = next(token for token in specials if "unk" in token.lower())
    first, last = (
        next(token for token in specials if token in names) for names in (("[CLS]", "<s>"), ("[SEP]", "</s>"))
    )
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=list(specials), show_progress=False)
    tokenizer.train_from_iterator([*check_texts(MAX_LENGTH), *TEXTS], trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ids
    )
    return str(tokenizer.to_str())


def save_encoder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Save a model with its random weights, biases and LayerNorms among them, and its tokenizer."""
    with torch.no_grad():
        for parameter in model.parameters():  # biases and LayerNorms start at 0 and 1: make them count
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def unigram_tokenizer() -> Tokenizer:
    """A small Unigram tokenizer in the style of XLM-R, of its own for the caller."""
    return Tokenizer.from_str(_unigram())


@functools.cache
def _unigram() -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Nmt()
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=2000, special_tokens=names, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*check_texts(MAX_LENGTH), *TEXTS], trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    root = json.loads(tokenizer.to_str())  # scores are in single precision, as SentencePiece writes them
    root["model"]["vocab"] = [[piece, float(np.float32(score))] for piece, score in root["model"]["vocab"]]
    return json.dumps(root)


def byte_level_tokenizer() -> Tokenizer:
    """A small byte-level BPE tokenizer in the style of RoBERTa, with a normalizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*check_texts(MAX_LENGTH), *TEXTS], trainer)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def save_bert(folder: Path, *, seed: int = 0, tokenizer: Tokenizer | None = None, **config: Any) -> Path:
    """Save a BERT with random weights, large enough for differences to show, and its tokenizer."""
    torch.manual_seed(seed)
    if tokenizer is None:
        tokenizer = wordpiece_tokenizer()
        fast = BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH)
    else:
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, **names)
    settings = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    return save_encoder(folder, BertModel(BertConfig(**(settings | config))), fast)


def sentence_transformer(
    bert: Path, *modules: Any, pooling: Any = "mean", max_length: int = MAX_LENGTH
) -> SentenceTransformer:
    """Transformer and Pooling over a saved BERT, then ``modules``."""
    transformer = Transformer(str(bert), max_seq_length=max_length)
    size = transformer.get_embedding_dimension()
    model = SentenceTransformer(modules=[transformer, Pooling(size, pooling), *modules], device="cpu")
    model.eval()
    return model


def static_embedding(
    size: int = 16, *, tokenizer: Tokenizer | None = None, rows: int | None = None, seed: int = 0
) -> StaticEmbedding:
    """A table of random numbers, for each token of ``tokenizer`` or of ``rows`` of them."""
    tokenizer = tokenizer or wordpiece_tokenizer()
    numbers = np.random.default_rng(seed).standard_normal((rows or tokenizer.get_vocab_size(), size))
    return StaticEmbedding(tokenizer, embedding_weights=numbers.astype(np.float32))


def export_with_tokenizer(tokenizer: Tokenizer, folder: Path) -> Export:
    """A small BERT with ``tokenizer``, exported and checked."""
    source = folder / "source"
    sentence_transformer(save_bert(folder / "bert", tokenizer=tokenizer)).save(str(source))
    return export(source, folder / "models", "model", tokenizer_sample=0.01)


def bert_without_weights(size: int, activation: str = "gelu", tensors: Mapping[str, Any] | None = None) -> BertSpec:
    """A BERT of one layer whose hidden and intermediate size is ``size``, to be looked at or given products one by
    one."""
    return BertSpec(
        family="bert",
        vocab_size=9,
        hidden_size=size,
        num_layers=1,
        num_heads=2,
        intermediate_size=size,
        max_positions=9,
        type_vocab_size=1,
        activation=activation,
        layer_norm_eps=1e-12,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensors=tensors or {},
    )


def largest_difference(a: Any, b: Any) -> float:
    """Largest absolute difference of two arrays of one shape."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert x.shape == y.shape, (x.shape, y.shape)
    return float(np.max(np.abs(x - y), initial=0.0))
