"""A tiny checkpoint with random weights for each model type, made by transformers on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize
from support import HIDDEN, MAX_LENGTH, byte_level_tokenizer, save_encoder, sentence_transformer, wordpiece_tokenizer
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH,
    "initializer_range": 0.3,
}
# what fairseq's models need for the same length: positions begin behind the padding token's id
COUNTED = {"max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}

T5: dict[str, Any] = {
    "d_model": HIDDEN,
    "d_kv": 12,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_max_distance": 20,
}

NAMES_OF_THEIR_OWN = ("distilbert", "t5", "mt5", "umt5")

CONFIGURATIONS: Mapping[str, dict[str, Any]] = {
    "bert": {},
    "ernie": {"use_task_id": True, "task_type_vocab_size": 3},
    "bert-generation": {"hidden_act": "gelu"},
    "megatron-bert": {},
    "roberta": {**COUNTED, "type_vocab_size": 1},
    "xlm-roberta": {**COUNTED, "type_vocab_size": 1},
    "camembert": {**COUNTED, "type_vocab_size": 1},
    "data2vec-text": {**COUNTED, "type_vocab_size": 1},
    "xlm-roberta-xl": {**COUNTED, "type_vocab_size": 1},
    "mpnet": COUNTED,
    "distilbert": {
        "dim": HIDDEN,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": MAX_LENGTH,
        "initializer_range": 0.3,
    },
    "electra": {"embedding_size": 16},
    "deberta": {
        "relative_attention": True,
        "max_relative_positions": 24,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
    },
    # as DeBERTa-v3 has it; texts are longer than the distances that are told apart
    "deberta-v2": {
        "relative_attention": True,
        "max_relative_positions": 24,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    # texts are longer than the distance from which all share a bucket; heads are wider than the hidden size together
    "t5": {**T5, "feed_forward_proj": "relu"},
    "mt5": {**T5, "feed_forward_proj": "gated-gelu"},
    "umt5": {**T5, "feed_forward_proj": "gated-gelu"},
    # texts are longer than the window; two layers in three are local
    "modernbert": {"local_attention": 12, "num_hidden_layers": 4, "pad_token_id": 0},
    # without biases and gated
    "nomic_bert": {},
    "gte": {"pad_token_id": 0},
    "jina_embeddings_v3": {"pad_token_id": 0},
    # two heads of queries share one of keys, and heads are wider than the hidden size together
    "eurobert": {"num_key_value_heads": 2, "head_dim": 12, "pad_token_id": 0},
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 7},
    "qwen2": {"num_key_value_heads": 4},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 12},
    # texts are longer than the window of the first and the last layer; scores are larger than their bound
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 10,
        "sliding_window": 7,
        "attn_logit_softcapping": 2.0,
        "pad_token_id": 0,
    },
    # texts are longer than the window, to which two layers in three keep; normalizations are of more than 1
    "gemma3_text": {
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 10,
        "sliding_window": 13,
        "use_bidirectional_attention": True,
        "sliding_window_pattern": 3,
        "pad_token_id": 0,
    },
    "granite": {
        "num_key_value_heads": 2,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.22,
    },
    "roformer": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "num_hidden_groups": 2, "inner_group_num": 2, "num_hidden_layers": 5},
}


def save_family(folder: Path, model_type: str, **changes: Any) -> Path:
    """A SentenceTransformer folder: the model type's encoder, mean pooling, vectors of length 1."""
    encoder = save_transformer(folder / "encoder", model_type, AutoModel, **changes)
    source = folder / "source"
    sentence_transformer(encoder, Normalize()).save(str(source))
    return source


def save_transformer(folder: Path, model_type: str, auto_class: Any, **changes: Any) -> Path:
    """A folder of the class that ``auto_class`` has for the model type, as transformers saves it."""
    torch.manual_seed(0)
    settings = {**({} if model_type in NAMES_OF_THEIR_OWN else SIZES), **CONFIGURATIONS[model_type], **changes}
    counted = settings.get("pad_token_id") == 1
    # Qwen2's tokenizer is made anew of a byte-level vocabulary when it is loaded, and gets a token more.
    own = model_type == "qwen2"
    words = byte_level_tokenizer() if own else wordpiece_tokenizer(FAIRSEQ) if counted else wordpiece_tokenizer()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    bert = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=MAX_LENGTH, **(names if counted or own else bert)
    )
    config = AutoConfig.for_model(model_type, vocab_size=words.get_vocab_size() + own, **settings)
    return save_encoder(folder, auto_class.from_config(config), tokenizer)
