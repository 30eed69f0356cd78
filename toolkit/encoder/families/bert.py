"""BERT (Devlin et al. 2018, arXiv:1810.04805) on packed tokens, as transformers' ``BertModel`` computes it.

The names of tensors are those of transformers' ``modeling_bert.py``. The pooler is left out: sentence-transformers
pools the last hidden state itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.graph.spec import EncoderSpec

__all__ = ["hidden_states", "parameters", "product_names"]

Array = npt.NDArray[np.float32]


def parameters(spec: EncoderSpec) -> dict[str, Array]:
    """The graph's parameters: weights as ``[in, out]``, query, key and value side by side in one product.

    Accounts for every tensor of the checkpoint. Raises ``SourceError`` for a missing, misshapen or left-over one.
    """
    weights = Weights(spec.tensors, ignore=("pooler.", "embeddings.position_ids"))
    hidden, inner = spec.hidden_size, spec.intermediate_size

    def norm(name: str, out: str) -> dict[str, Array]:
        return {
            f"{out}/gamma": weights.take(f"{name}.weight", (hidden,)),
            f"{out}/beta": weights.take(f"{name}.bias", (hidden,)),
        }

    def linear(out: str, names: list[str], size_in: int, size_out: int) -> dict[str, Array]:
        kernels = [weights.take(f"{name}.weight", (size_out, size_in)).T for name in names]
        biases = [weights.take(f"{name}.bias", (size_out,)) for name in names]
        return {
            f"{out}/kernel": np.ascontiguousarray(np.concatenate(kernels, 1)),
            f"{out}/bias": np.concatenate(biases),
        }

    p: dict[str, Array] = {
        "embeddings/word": weights.take("embeddings.word_embeddings.weight", (spec.vocab_size, hidden)),
        "embeddings/position": weights.take("embeddings.position_embeddings.weight", (spec.max_positions, hidden)),
        "embeddings/type": weights.take("embeddings.token_type_embeddings.weight", (spec.type_vocab_size, hidden)),
    }
    p |= norm("embeddings.LayerNorm", "embeddings/norm")
    for layer in range(spec.num_layers):
        source, out = f"encoder.layer.{layer}", f"layer_{layer}"
        attention = [f"{source}.attention.self.{part}" for part in ("query", "key", "value")]
        p |= linear(f"{out}/qkv", attention, hidden, hidden)
        p |= linear(f"{out}/attention_output", [f"{source}.attention.output.dense"], hidden, hidden)
        p |= norm(f"{source}.attention.output.LayerNorm", f"{out}/attention_norm")
        p |= linear(f"{out}/intermediate", [f"{source}.intermediate.dense"], hidden, inner)
        p |= linear(f"{out}/output", [f"{source}.output.dense"], inner, hidden)
        p |= norm(f"{source}.output.LayerNorm", f"{out}/output_norm")
    weights.finish()
    return p


def product_names(spec: EncoderSpec) -> tuple[str, ...]:
    """The linear products, in the order in which ``hidden_states`` asks for them."""
    parts = ("qkv", "attention_output", "intermediate", "output")
    return tuple(f"layer_{layer}/{part}" for layer in range(spec.num_layers) for part in parts)


def hidden_states(products: Products, spec: EncoderSpec, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
    """The last hidden state of a chunk's packed tokens: float32 ``[padded_total, hidden]``.

    ``products`` computes with what ``parameters`` names. ``fused_norm`` says that the optimizer of TensorFlow 2.17 or
    later will see this, and not a training step or eager mode.
    """
    import tensorflow as tf

    from toolkit.encoder.layers import fused_layer_norm, layer_norm

    linear = products.linear
    ids, type_ids, positions, _ = chunk.tokens
    # 0 where a token may be looked at, a number that leaves nothing of exp() where not; chosen, not multiplied: the
    # optimizer looks for scale and mask behind the product, and would take this product for that one
    look = tf.where(chunk.mask, 0.0, -1e9)[:, None, None, :]
    head_size = spec.hidden_size // spec.num_heads
    heads = chunk.heads(spec.num_heads, parts=3)

    # For one row the fused kernel takes longer to get ready than the few operations do.
    single = chunk.mask.shape[0] == 1
    form = fused_layer_norm if fused_norm and not single else layer_norm

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        return form(x, products.parameter(f"{name}/gamma"), products.parameter(f"{name}/beta"), spec.layer_norm_eps)

    def attention(qkv: tf.Tensor) -> tf.Tensor:
        query, key, value = heads.split(qkv)
        scores = tf.linalg.matmul(query, key, transpose_b=True) * (head_size**-0.5) + tf.cast(look, qkv.dtype)
        weights = products.dropout(tf.nn.softmax(scores), spec.attention_dropout)
        return heads.join(tf.linalg.matmul(weights, value), like=x)

    x = (
        products.embedding("embeddings/word", ids)
        + products.embedding("embeddings/type", type_ids)
        + products.embedding("embeddings/position", positions)
    )
    x = products.dropout(norm(x, "embeddings/norm"), spec.hidden_dropout)
    for layer in range(spec.num_layers):
        name = f"layer_{layer}"
        context = attention(linear(x, f"{name}/qkv"))
        x = norm(linear(context, f"{name}/attention_output", residual=x), f"{name}/attention_norm")
        inner = linear(x, f"{name}/intermediate", activation=True)
        x = norm(linear(inner, f"{name}/output", residual=x), f"{name}/output_norm")
    return x
