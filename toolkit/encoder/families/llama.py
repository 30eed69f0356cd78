"""Llama (Touvron et al. 2023, arXiv:2302.13971) and the decoders built like it, as transformers' ``LlamaModel``,
``MistralModel``, ``Qwen2Model`` and ``Qwen3Model`` compute them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import SLIDING, Fields
from toolkit.encoder.rotary import Rotary, read_rotary
from toolkit.encoder.weights import Weights
from toolkit.errors import SourceError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.attention import Reach
    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["LlamaSpec", "MistralSpec", "Qwen2Spec", "Qwen3Spec", "windows_by_type"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LlamaSpec(EncoderSpec):
    """Layers normalize by the root mean square what goes in, turn queries and keys by position and feed forward through
    a gate. If ``causal`` a token looks at itself and those before it alone, in a layer with a number in ``windows`` at
    so many at most (0: all); if not, it looks at those up to so many places away. Several heads of queries may share
    one of keys.

    Relatives differ in what the class variables say: whether they are a ``decoder``, which is causal unless its
    configuration says otherwise; whether heads of queries and keys are normalized (``normed_heads``); the name of the
    activation's field; a layer's normalizations with their names in the checkpoint (``layer_norms``); and in ``biases``
    and what begins with ``read_``.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llama",)
    title: ClassVar[str] = "Llama"
    any_mask: ClassVar[bool] = False
    decoder: ClassVar[bool] = True
    normed_heads: ClassVar[bool] = False
    activation_field: ClassVar[str] = "hidden_act"
    layer_norms: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "output_norm": "post_attention_layernorm",
    }

    causal: bool
    key_heads: int
    head_size: int
    windows: tuple[int, ...]
    frequencies: tuple[float, ...]
    scale: float
    qkv_bias: bool
    output_bias: bool
    inner_bias: bool

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
        size = fields.positive("head_dim") if module.config.get("head_dim") is not None else fields.heads()[0] // heads
        shared, layers = fields.positive("num_key_value_heads"), fields.positive("num_hidden_layers")
        if heads % shared:
            message = f"num_attention_heads {heads} is no multiple of num_key_value_heads {shared}"
            raise SourceError(f"{module.file}: {message}")
        windows = cls.read_windows(module, layers)
        own: dict[str, Any] = {**cls.biases(fields), **cls.read_rotation(module, size)}
        return cls(
            family=str(module.config["model_type"]),
            vocab_size=fields.positive("vocab_size"),
            hidden_size=hidden,
            num_layers=layers,
            num_heads=heads,
            key_heads=shared,
            head_size=size,
            intermediate_size=fields.positive("intermediate_size"),
            type_vocab_size=1,
            activation=fields.activation(cls.activation_field),
            layer_norm_eps=fields.epsilon("rms_norm_eps"),
            hidden_dropout=0.0,
            attention_dropout=fields.rate("attention_dropout"),
            causal=cls.read_causal(module),
            windows=windows,
            tensors=module.tensors,
            **own,
        )

    @property
    def sight(self) -> int | None:
        return min((window - 1 for window in self.windows if window), default=None)

    @classmethod
    def biases(cls, fields: Fields) -> dict[str, bool]:
        """Which products have biases."""
        attention = fields.flag("attention_bias")
        return {"qkv_bias": attention, "output_bias": attention, "inner_bias": fields.flag("mlp_bias")}

    @classmethod
    def read_windows(cls, module: RawModule, layers: int) -> tuple[int, ...]:
        """Of each layer, how many tokens one looks at (0: all)."""
        return (0,) * layers

    @classmethod
    def read_causal(cls, module: RawModule) -> bool:
        """Whether a token looks at itself and those before it alone.

        By another value than these transformers masks batches with padding alone: vectors would depend on the batch.
        """
        Fields(module).only("is_causal", (True, False) if cls.decoder else (False, None), cls.decoder or None)
        return cls.decoder and module.config.get("is_causal") is not False

    @classmethod
    def read_rotation(cls, module: RawModule, size: int) -> dict[str, Any]:
        """How heads of ``size`` numbers are turned, and how many positions there may be."""
        rotary = read_rotary(module, size)
        return {"frequencies": rotary.frequencies, "scale": rotary.scale, "max_positions": rotary.limit}

    @property
    def num_key_heads(self) -> int:
        return self.key_heads

    @property
    def attention_scale(self) -> float:
        return float(self.head_size**-0.5)

    def reach(self, window: int) -> Reach:
        """How far tokens look in a layer with ``window``."""
        from toolkit.encoder.attention import Reach

        return Reach(window - 1 if window else None, 0) if self.causal else Reach(window or None, window or None)

    def stored(self) -> dict[str, Array]:
        weights = Weights(self.tensors)
        hidden, inner, size = self.hidden_size, self.intermediate_size, self.head_size
        heads, keys = self.num_heads * size, self.key_heads * size
        p = {"embeddings/word": weights.take("embed_tokens.weight", (self.vocab_size, hidden))}
        for layer in range(self.num_layers):
            name, out = f"layers.{layer}", f"layer_{layer}"
            attention, forward = f"{name}.self_attn", f"{name}.mlp"
            three = [f"{attention}.{part}_proj" for part in "qkv"]
            p |= weights.linear(three, f"{out}/qkv", hidden, (heads, keys, keys), bias=self.qkv_bias)
            output = f"{out}/attention_output"
            p |= weights.linear([f"{attention}.o_proj"], output, heads, hidden, bias=self.output_bias)
            inward = [f"{forward}.{part}_proj" for part in ("gate", "up")]
            p |= weights.linear(inward, f"{out}/intermediate", hidden, inner, bias=self.inner_bias)
            p |= weights.linear([f"{forward}.down_proj"], f"{out}/output", inner, hidden, bias=self.inner_bias)
            norms = {norm: (stored, hidden) for norm, stored in self.layer_norms.items()}
            if self.normed_heads:
                norms |= {"query_norm": ("self_attn.q_norm", size), "key_norm": ("self_attn.k_norm", size)}
            for norm, (stored, width) in norms.items():
                p[f"{out}/{norm}/gamma"] = weights.take(f"{name}.{stored}.weight", (width,))
        p["last_norm/gamma"] = weights.take("norm.weight", (hidden,))
        weights.finish()
        return p

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        rotation = blocks.rotation(Rotary(self.frequencies, self.scale))
        x = blocks.embeddings("word")
        for name, window in zip(blocks.layers(), self.windows, strict=True):
            normed = blocks.rms_norm(x, f"{name}/attention_norm")
            context, x = blocks.rotary_attention(
                normed, name, residual=x, rotation=rotation, reach=self.reach(window), normed_heads=self.normed_heads
            )
            x = blocks.linear(context, f"{name}/attention_output", residual=x)
            inner = blocks.gated(blocks.rms_norm(x, f"{name}/output_norm"), f"{name}/intermediate")
            x = blocks.linear(inner, f"{name}/output", residual=x)
        return blocks.rms_norm(x, "last_norm")


@dataclass(frozen=True, kw_only=True)
class MistralSpec(LlamaSpec):
    """Llama without biases, with one window for all layers, or none."""

    model_types: ClassVar[tuple[str, ...]] = ("mistral",)
    title: ClassVar[str] = "Mistral"

    @classmethod
    def biases(cls, fields: Fields) -> dict[str, bool]:
        return {"qkv_bias": False, "output_bias": False, "inner_bias": False}

    @classmethod
    def read_windows(cls, module: RawModule, layers: int) -> tuple[int, ...]:
        window = None if module.config.get("sliding_window") is None else Fields(module).positive("sliding_window")
        return (window or 0,) * layers


@dataclass(frozen=True, kw_only=True)
class Qwen2Spec(LlamaSpec):
    """Llama with biases of queries, keys and values alone; some layers may have a window."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2",)
    title: ClassVar[str] = "Qwen2, Qwen2.5"

    @classmethod
    def biases(cls, fields: Fields) -> dict[str, bool]:
        return {"qkv_bias": True, "output_bias": False, "inner_bias": False}

    @classmethod
    def read_windows(cls, module: RawModule, layers: int) -> tuple[int, ...]:
        return windows_by_type(module, layers)


@dataclass(frozen=True, kw_only=True)
class Qwen3Spec(Qwen2Spec):
    """Qwen2 with heads of queries and keys that are normalized, and biases of attention's products or none."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3",)
    title: ClassVar[str] = "Qwen3"
    normed_heads: ClassVar[bool] = True

    @classmethod
    def biases(cls, fields: Fields) -> dict[str, bool]:
        attention = fields.flag("attention_bias")
        return {"qkv_bias": attention, "output_bias": attention, "inner_bias": False}


def windows_by_type(module: RawModule, layers: int) -> tuple[int, ...]:
    """The configuration's window in the layers whose type has one, 0 in the others."""
    types = Fields(module).layer_types(layers)
    window = Fields(module).positive("sliding_window") if SLIDING in types else 0
    return tuple(window if kind == SLIDING else 0 for kind in types)
