"""Tiny SparseEncoders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import Router, SparseStaticEmbedding, SpladePooling, Transformer
from support import HIDDEN, MAX_LENGTH, save_encoder, wordpiece_tokenizer
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

__all__ = ["inference_free", "save_masked_bert", "splade_model"]


def save_masked_bert(folder: Path, **config: Any) -> Path:
    """A BERT with its head, as transformers saves it; about half of the words are active at a token."""
    torch.manual_seed(0)
    words = wordpiece_tokenizer()
    tokenizer = BertTokenizerFast(tokenizer_object=words, model_max_length=MAX_LENGTH)
    settings = {
        "vocab_size": words.get_vocab_size(),
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }
    return save_encoder(folder, BertForMaskedLM(BertConfig(**(settings | config))), tokenizer)


def splade_model(bert: Path, *pooling: str, **options: Any) -> SparseEncoder:
    """Transformer and SpladePooling."""
    transformer = Transformer(str(bert), transformer_task="fill-mask", max_seq_length=MAX_LENGTH)
    model = SparseEncoder(modules=[transformer, SpladePooling(*pooling)], device="cpu", **options)
    return model.eval()


def inference_free(bert: Path, **options: Any) -> SparseEncoder:
    """Documents by the encoder, queries by a weight for each token, of which some are 0 and some below."""
    transformer = Transformer(str(bert), transformer_task="fill-mask", max_seq_length=MAX_LENGTH)
    torch.manual_seed(1)
    weights = torch.relu(torch.randn(len(transformer.tokenizer)) + 1)
    weights[::7] *= -1
    query = SparseStaticEmbedding(transformer.tokenizer, weight=weights, frozen=True)
    router = Router.for_query_document([query], [transformer, SpladePooling("max", "log1p_relu")])
    return SparseEncoder(modules=[router], device="cpu", **options).eval()
