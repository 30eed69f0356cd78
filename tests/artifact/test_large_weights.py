"""Weights of more than 2 GB, which no protobuf message holds: read from shards, written as variables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import MAX_LENGTH, wordpiece_tokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast

from toolkit.convert import export

LIMIT = 2**31


@pytest.mark.long
def test_an_encoder_of_more_than_two_gigabytes_in_shards_is_exported_with_the_whole_proof(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # one tensor alone is over the limit already
    sizes = {"vocab_size": 530_000, "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16}
    model = BertModel(BertConfig(**sizes, intermediate_size=2048, max_position_embeddings=MAX_LENGTH))
    assert model.embeddings.word_embeddings.weight.nbytes > LIMIT
    source = tmp_path / "source"
    model.save_pretrained(source, max_shard_size="20MB")
    del model
    BertTokenizerFast(tokenizer_object=wordpiece_tokenizer(), model_max_length=MAX_LENGTH).save_pretrained(source)
    assert len(list(source.glob("*.safetensors"))) > 3
    result = export(source, tmp_path / "models", "large", tokenizer_sample=0.001)
    assert result.report is not None
    assert result.report.max_abs < 1e-5
    assert (result.path / "saved_model.pb").stat().st_size < LIMIT / 100
    assert sum(file.stat().st_size for file in (result.path / "variables").iterdir()) > LIMIT
