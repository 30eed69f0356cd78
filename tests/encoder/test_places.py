"""What a family takes from a checkpoint is put back where it stood, whatever the family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from family_models import CONFIGURATIONS, NAMES_OF_THEIR_OWN, SIZES
from transformers import AutoConfig, AutoModel

from toolkit.encoder.families import read_encoder
from toolkit.encoder.places import Places
from toolkit.source.checkpoint import RawModule

OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("deberta-v2", {"share_att_key": False, "type_vocab_size": 2, "conv_kernel_size": 3, "embedding_size": 16}),
    ("deberta-v2", {"relative_attention": False, "norm_rel_ebd": "layer_norm"}),
    ("modernbert", {"norm_bias": True, "attention_bias": True}),
    ("roformer", {"rotary_value": True}),
]


@pytest.mark.parametrize(("model_type", "changes"), [*((name, {}) for name in CONFIGURATIONS), *OTHERS], ids=str)
def test_what_is_stored_is_put_back_bit_for_bit(model_type: str, changes: dict[str, Any]) -> None:
    settings = {**({} if model_type in NAMES_OF_THEIR_OWN else SIZES), **CONFIGURATIONS[model_type], **changes}
    config = AutoConfig.for_model(model_type, vocab_size=50, **settings)
    state = AutoModel.from_config(config).state_dict()
    encoder = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.")}
    tensors = {name: tensor.numpy() + np.float32(0.5) for name, tensor in encoder.items()}
    spec = read_encoder(RawModule("Transformer", "config.json", config.to_dict(), tensors))
    places = Places(spec, {name: tensor.shape for name, tensor in tensors.items()})
    back = places.put_back(spec.stored())
    assert tuple(back) == places.names
    assert all(np.array_equal(back[name], tensors[name]) for name in back)
    left = {name.split(".")[0] for name in set(tensors) - set(back)} - {"pooler", "shared"}
    assert left <= ({"encoder"} if changes.get("relative_attention") is False else set())
