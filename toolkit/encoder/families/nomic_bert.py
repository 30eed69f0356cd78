"""NomicBERT (Nussbaum et al. 2024, arXiv:2402.01613), as transformers' ``NomicBertModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.rotary import Rotary, read_rotary
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["NomicBertSpec", "RotaryBertSpec"]

Array = npt.NDArray[np.float32]

UNUSED = ("pooler.",)
"""What pools the hidden states: no sentence embedding depends on it."""


@dataclass(frozen=True, kw_only=True)
class RotaryBertSpec(EncoderSpec):
    """BERT's layers with queries and keys that are turned by position, in the place of a table of positions.

    Relatives differ in what the class variables say: ``biased`` are the products with a bias, ``inward`` and
    ``outward`` the feed-forward layer's tensors; of two inward ones the first is the gate, and ``inner_dropout`` says
    whether what it lets through is dropped in training. Without ``typed`` there is no table of types.
    """

    biased: ClassVar[tuple[str, ...]]
    inward: ClassVar[tuple[str, ...]]
    outward: ClassVar[str]
    inner_dropout: ClassVar[bool] = False

    head_size: int
    typed: bool
    frequencies: tuple[float, ...]
    scale: float

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
        size = fields.positive("head_dim") if module.config.get("head_dim") else fields.heads()[0] // heads
        rotary = read_rotary(module, size)
        return cls(
            family=str(module.config["model_type"]),
            vocab_size=fields.positive("vocab_size"),
            hidden_size=hidden,
            num_layers=fields.positive("num_hidden_layers"),
            num_heads=heads,
            head_size=size,
            intermediate_size=fields.positive("intermediate_size"),
            max_positions=rotary.limit,
            activation=fields.activation(),
            layer_norm_eps=fields.epsilon(),
            hidden_dropout=fields.rate("hidden_dropout_prob"),
            attention_dropout=fields.rate("attention_probs_dropout_prob"),
            frequencies=rotary.frequencies,
            scale=rotary.scale,
            tensors=module.tensors,
            **cls.types(module),
        )

    @classmethod
    def types(cls, module: RawModule) -> dict[str, Any]:
        """The fields about token types."""
        return {"typed": True, "type_vocab_size": Fields(module).positive("type_vocab_size")}

    @property
    def attention_scale(self) -> float:
        return float(self.head_size**-0.5)

    def stored(self) -> dict[str, Array]:
        weights = Weights(self.tensors, ignore=UNUSED)
        hidden, inner, heads = self.hidden_size, self.intermediate_size, self.num_heads * self.head_size
        p = {"embeddings/word": weights.take("embeddings.word_embeddings.weight", (self.vocab_size, hidden))}
        if self.typed:
            shape = (self.type_vocab_size, hidden)
            p["embeddings/type"] = weights.take("embeddings.token_type_embeddings.weight", shape)
        p |= weights.norm("embeddings.LayerNorm", "embeddings/norm", hidden)
        for layer in range(self.num_layers):
            name, out = f"layers.{layer}", f"layer_{layer}"
            products = {
                "qkv": ([f"self_attn.{part}_proj" for part in "qkv"], hidden, heads),
                "attention_output": (["self_attn.o_proj"], heads, hidden),
                "intermediate": (self.inward, hidden, inner),
                "output": ([self.outward], inner, hidden),
            }
            for product, (stored, size_in, size_out) in products.items():
                names = [f"{name}.{part}" for part in stored]
                p |= weights.linear(names, f"{out}/{product}", size_in, size_out, bias=product in self.biased)
            p |= weights.norm(f"{name}.post_attention_layernorm", f"{out}/attention_norm", hidden)
            p |= weights.norm(f"{name}.post_mlp_layernorm", f"{out}/output_norm", hidden)
        weights.finish()
        return p

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        rotation = blocks.rotation(Rotary(self.frequencies, self.scale))
        x = blocks.embeddings("word", *(["type"] if self.typed else []))
        x = blocks.dropout(blocks.norm(x, "embeddings/norm"))
        for name in blocks.layers():
            context, x = blocks.rotary_attention(x, name, residual=x, rotation=rotation)
            x = blocks.norm(blocks.linear(context, f"{name}/attention_output", residual=x), f"{name}/attention_norm")
            inward = f"{name}/intermediate"
            inner = blocks.gated(x, inward) if len(self.inward) == 2 else blocks.linear(x, inward, activation=True)
            inner = blocks.dropout(inner) if self.inner_dropout else inner
            x = blocks.norm(blocks.linear(inner, f"{name}/output", residual=x), f"{name}/output_norm")
        return x


NOT_COMPUTED = {
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "prenorm", "use_rms_norm"), False),
    **dict.fromkeys(("parallel_block", "rotary_emb_interleaved"), False),
    **dict.fromkeys(("rotary_scaling_factor", "rotary_emb_scale_base"), None),
    "moe_every_n_layers": 0,
    "rotary_emb_fraction": 1.0,
    "activation_function": "swiglu",
}
"""Fields of the checkpoints' own code that transformers' class knows nothing of, with what it computes."""


@dataclass(frozen=True, kw_only=True)
class NomicBertSpec(RotaryBertSpec):
    """Gated feed-forward layers, and no product has a bias.

    The published checkpoints' configurations are those of code of their own, with other names for some fields;
    transformers does not read them, so they are held to what it computes.
    """

    model_types: ClassVar[tuple[str, ...]] = ("nomic_bert",)
    title: ClassVar[str] = "NomicBERT"
    biased: ClassVar[tuple[str, ...]] = ()
    inward: ClassVar[tuple[str, ...]] = ("mlp.gate_proj", "mlp.up_proj")
    outward: ClassVar[str] = "mlp.down_proj"

    @classmethod
    def read(cls, module: RawModule) -> Self:
        spec, fields = super().read(module), Fields(module)
        same = {
            "n_embd": spec.hidden_size,
            "n_layer": spec.num_layers,
            "n_head": spec.num_heads,
            "n_inner": spec.intermediate_size,
            "layer_norm_epsilon": spec.layer_norm_eps,
            "rotary_emb_base": module.config["rope_parameters"].get("rope_theta"),
        }
        for name, value in (NOT_COMPUTED | same).items():
            fields.only(name, (value,), value)
        return spec
