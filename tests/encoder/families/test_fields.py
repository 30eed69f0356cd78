"""What a configuration and its tensors have is read, or does not matter, or is refused by name."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import CONFIGURATIONS, save_family
from transformers import AutoConfig, AutoModel

from toolkit.encoder.families import MODEL_TYPES
from toolkit.encoder.fields import NO_MATTER
from toolkit.errors import SourceError, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.source.checkpoint import RawModule, open_checkpoint


class Recording(Mapping[str, Any]):
    """A configuration that keeps which of its fields were asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_, self.asked = dict(values), set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self.values_[key]

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return self.values_.get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


POOLED = {"legacy", "pooler_dropout", "pooler_hidden_act", "pooler_hidden_size"}  # of classification heads
# beside NO_MATTER, fields of one family that no hidden state depends on
WITHOUT_EFFECT = {
    "distilbert": {"hidden_size", "sinusoidal_pos_embds"},  # another name of dim; the sines are stored as weights
    # of the decoder, of random weights and heads; another name of d_model
    **dict.fromkeys(
        ("t5", "mt5", "umt5"),
        {"decoder_start_token_id", "num_decoder_layers", "scale_decoder_outputs", "tie_word_embeddings"}
        | {"initializer_factor", "eos_token_id", "hidden_size"},
    ),
    "deberta": POOLED,
    "deberta-v2": POOLED,
    "eurobert": {"classifier_pooling"},  # of a head
    "gemma2": {"final_logit_softcapping"},  # of a head
    "granite": {"logits_scaling"},  # of a head
    # what Gemma3Attention keeps and gives to nothing; of a head; a method
    "gemma3_text": {"attn_logit_softcapping", "final_logit_softcapping", "get_text_config"},
    # of heads, of training, of how attention is computed; half of local_attention under another name
    "modernbert": {"classifier_activation", "classifier_bias", "classifier_pooling", "decoder_bias"}
    | {"sparse_pred_ignore_index", "sparse_prediction", "initializer_cutoff_factor", "initializer_range"}
    | {"deterministic_flash_attn", "sliding_window"},
}
# the padding token is a row of the embeddings like any other, but where positions are counted
PADDING_IS_A_ROW = set(MODEL_TYPES) - {"roberta", "xlm-roberta", "camembert", "data2vec-text", "xlm-roberta-xl"}


@pytest.mark.parametrize("model_type", CONFIGURATIONS)
def test_every_field_that_transformers_reads_is_read_or_does_not_matter(model_type: str) -> None:
    # which ERNIE alone knows, and Qwen, whose window no layer has otherwise
    config = AutoConfig.for_model(model_type, use_task_id=True, use_sliding_window=True)
    modeling = importlib.import_module(type(AutoModel.from_config(small(config))).__module__)
    read = set(re.findall(r"\bconfig\.([a-z_0-9]+)", inspect.getsource(modeling)))
    fields = Recording(config.to_dict())
    MODEL_TYPES[model_type].read(RawModule("Transformer", "config.json", fields, {}))
    unread = read - fields.asked - set(NO_MATTER) - WITHOUT_EFFECT.get(model_type, set())
    if model_type in PADDING_IS_A_ROW:
        unread -= {"pad_token_id"}
    assert not {name for name in unread if hasattr(config, name)}


def small(config: Any) -> Any:
    """A configuration of the same type that costs nothing to build."""
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    names = {"dim": 8, "n_layers": 1, "n_heads": 1, "hidden_dim": 8} if config.model_type == "distilbert" else sizes
    return AutoConfig.for_model(config.model_type, **{**names, "intermediate_size": 8, "pad_token_id": 0})


LONGROPE = {"rope_type": "longrope", "rope_theta": 100.0}
PARTIAL = {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("model_type", "change", "words"),
    [
        ("roberta", {"is_decoder": True}, ("is_decoder", "True")),
        ("roberta", {"hidden_act": "quick_gelu"}, ("hidden_act", "quick_gelu")),
        ("roberta", {"pad_token_id": None}, ("pad_token_id", "None")),
        ("xlm-roberta-xl", {"add_cross_attention": True}, ("add_cross_attention",)),
        ("mpnet", {"relative_attention_num_buckets": 64}, ("relative_attention_num_buckets", "64", "32")),
        ("distilbert", {"activation": "quick_gelu"}, ("activation", "quick_gelu")),
        ("distilbert", {"n_heads": 5}, ("n_heads", "5")),
        ("electra", {"embedding_size": 0}, ("embedding_size", "0")),
        ("albert", {"num_hidden_groups": 20}, ("num_hidden_groups", "20")),
        ("albert", {"inner_group_num": 0}, ("inner_group_num",)),
        ("ernie", {"use_task_id": "yes"}, ("use_task_id", "yes")),
        ("megatron-bert", {"num_attention_heads": 7}, ("num_attention_heads", "7")),
        ("bert-generation", {"vocab_size": -1}, ("vocab_size", "-1")),
        ("t5", {"dense_act_fn": "quick_gelu"}, ("dense_act_fn", "quick_gelu")),
        ("t5", {"relative_attention_num_buckets": 2}, ("relative_attention_num_buckets", "2", "from 4 on")),
        ("umt5", {"relative_attention_max_distance": 8}, ("relative_attention_num_buckets", "32", "8")),
        ("deberta", {"talking_head": True}, ("talking_head", "True")),
        ("nomic_bert", {"moe_every_n_layers": 2}, ("moe_every_n_layers", "2", "0")),
        ("nomic_bert", {"n_inner": 2048}, ("n_inner", "2048", "3072")),
        ("nomic_bert", {"rotary_emb_base": 10000}, ("rotary_emb_base", "10000", "1000.0")),
        ("gte", {"rope_parameters": {"rope_type": "ntk", "rope_theta": 1.0}}, ("rope_parameters.rope_type", "ntk")),
        ("jina_embeddings_v3", {"num_attention_heads": 5}, ("num_attention_heads", "5")),
        ("llama", {"num_key_value_heads": 5}, ("num_key_value_heads", "5", "32")),
        ("llama", {"is_causal": None}, ("is_causal", "None", "True, False")),
        ("eurobert", {"is_causal": True}, ("is_causal", "True", "False, None")),
        ("gemma2", {"use_bidirectional_attention": True}, ("use_bidirectional_attention", "True")),
        ("gemma2", {"attn_logit_softcapping": 0}, ("attn_logit_softcapping", "0", "positive")),
        ("granite", {"residual_multiplier": -1.0}, ("residual_multiplier", "-1.0")),
        ("qwen3", {"layer_types": ["chunked_attention"]}, ("layer_types", "chunked_attention", "sliding_attention")),
        ("gemma3_text", {"is_causal": False}, ("is_causal", "False", "True")),
        ("gemma3_text", {"sliding_window": None}, ("sliding_window", "None")),
        ("gemma3_text", {"query_pre_attn_scalar": 0}, ("query_pre_attn_scalar", "0")),
        ("gemma3_text", {"hidden_activation": "quick_gelu"}, ("hidden_activation", "quick_gelu")),
        ("eurobert", {"num_key_value_heads": 5}, ("num_key_value_heads", "5", "12")),
        ("eurobert", {"head_dim": 7}, ("size of a head", "7")),
        ("roformer", {"num_attention_heads": 256}, ("size of a head", "3", "even")),
        ("modernbert", {"layer_types": ["full_attention"]}, ("layer_types", "22 times")),
        ("modernbert", {"rope_parameters": {"full_attention": LONGROPE}}, ("rope_type", "longrope", "llama3")),
        ("modernbert", {"rope_parameters": None}, ("rope_parameters", "None")),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_theta": 0}}}, ("full_attention.rope_theta", "0")),
        ("modernbert", {"num_attention_heads": 256}, ("size of a head", "3", "even")),
        ("modernbert", {"rope_parameters": {"full_attention": PARTIAL}}, ("partial_rotary_factor", "0.5")),
        ("deberta-v2", {"conv_kernel_size": 2}, ("conv_kernel_size", "2", "odd")),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_groups": 2}, ("conv_groups", "2")),
        ("deberta-v2", {"attention_head_size": 32}, ("attention_head_size", "32", "64")),
        ("deberta-v2", {"position_buckets": 1024}, ("position_buckets", "1024", "512")),
        ("deberta-v2", {"position_buckets": 15}, ("position_buckets", "15", "even")),
    ],
)
def test_what_a_family_does_not_compute_is_refused_by_name(
    model_type: str, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    config = {**AutoConfig.for_model(model_type).to_dict(), **change}
    with pytest.raises((UnsupportedError, SourceError)) as caught:
        MODEL_TYPES[model_type].read(RawModule("Transformer", "config.json", config, {}))
    for word in ("config.json", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "model_type",
    [
        "mpnet",
        "albert",
        "xlm-roberta-xl",
        "distilbert",
        "electra",
        "deberta",
        "deberta-v2",
        "umt5",
        "modernbert",
        "gte",
        "eurobert",
        "gemma3_text",
        "roformer",
    ],
)
def test_every_tensor_is_consumed_or_the_export_refused(tmp_path: Path, model_type: str) -> None:
    checkpoint = open_checkpoint(save_family(tmp_path, model_type))
    encoder = read_spec(checkpoint).encoder
    # T5's table of words has two names
    for name in [name for name in encoder.tensors if not name.startswith(("pooler.", "shared."))]:
        missing = {key: value for key, value in encoder.tensors.items() if key != name}
        with pytest.raises(SourceError, match=re.escape(name)):
            replaced(encoder, missing).stored()
    with pytest.raises(SourceError, match=r"no place in the model, first 'extra\.weight'"):
        replaced(encoder, {**encoder.tensors, "extra.weight": np.ones(3)}).stored()


def replaced(encoder: Any, tensors: Mapping[str, Any]) -> Any:
    from dataclasses import replace

    return replace(encoder, tensors=tensors)
