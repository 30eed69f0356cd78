"""Heads that classify texts: what transformers' ``...ForSequenceClassification`` classes have behind the encoder.

One line of the table for each ``model_type``; the facts are those of transformers' (5.x) modeling files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from toolkit.encoder.fields import Fields
from toolkit.errors import SourceError, UnsupportedError
from toolkit.heads.head import RowHead, with_norm_bias
from toolkit.heads.pooling import PoolingSpec, only_token, pool

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.source.checkpoint import RawModule

__all__ = ["CLASSIFIERS", "ClassifierSpec", "read_classifier"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Form:
    """Of one family: the names of the tensors (``{}`` is the encoder's own name), and where the configuration says how
    its tokens are pooled. An ``activation`` with a ``:`` before it is the field that names it."""

    dense: str | None
    activation: str
    output: str
    norm: str | None = None
    pooling: str | None = None


_LIKE_BERT = _Form("{}.pooler.dense", "tanh", "classifier")
_LIKE_ROBERTA = _Form("classifier.dense", "tanh", "classifier.out_proj")
_LIKE_DEBERTA = _Form("pooler.dense", ":pooler_hidden_act", "classifier")
_LAST_TOKEN = _Form(None, "linear", "score")

CLASSIFIERS: Mapping[str, _Form] = {
    **dict.fromkeys(("bert", "ernie", "megatron-bert", "nomic_bert", "gte"), _LIKE_BERT),
    "albert": _Form("{}.pooler", "tanh", "classifier"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "data2vec-text"), _LIKE_ROBERTA),
    **dict.fromkeys(("mpnet", "xlm-roberta-xl", "jina_embeddings_v3"), _LIKE_ROBERTA),
    "electra": replace(_LIKE_ROBERTA, activation="gelu"),
    "roformer": replace(_LIKE_ROBERTA, activation=":hidden_act"),
    "distilbert": _Form("pre_classifier", "relu", "classifier"),
    **dict.fromkeys(("deberta", "deberta-v2"), _LIKE_DEBERTA),
    "modernbert": _Form("head.dense", ":classifier_activation", "classifier", "head.norm", "classifier_pooling"),
    "eurobert": _Form("dense", "gelu", "classifier", pooling="classifier_pooling"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"), _LAST_TOKEN),
}
"""A configuration's ``model_type`` to the form of its head."""

_POOLINGS = {"cls": "cls", "bos": "cls", "mean": "mean", "late": "late"}


@dataclass(frozen=True)
class ClassifierSpec(RowHead):
    """Hidden states to ``labels`` numbers: pooled, then a layer with an activation (and LayerNorm), then a linear one.

    ``pooling`` is ``cls``, ``mean``, ``late`` (the mean of all tokens' numbers) or ``last``, the last token whose id is
    not ``pad_id``. ``tensors`` are ``dense``
    ``[hidden, hidden]`` and ``dense_bias``, ``gamma`` and ``beta``, ``output`` ``[hidden, labels]`` and
    ``output_bias``; those that there are.
    """

    name: ClassVar[str] = "classifier"

    pooling: str
    hidden_size: int
    labels: int
    activation: str
    epsilon: float
    pad_id: int
    tensors: Mapping[str, Array] = field(repr=False)
    stored: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        layer = f"{self.activation}, " if "dense" in self.tensors else ""
        return f"classifier  {self.pooling}, {layer}{self.labels} label{'s' * (self.labels > 1)}"

    @property
    def weights(self) -> Mapping[str, Array]:
        return {name: self.tensors[name] for name in self.stored}

    def derived(self, weights: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return with_norm_bias(weights)

    def apply(self, params: Mapping[str, tf.Tensor], hidden: tf.Tensor, chunk: Chunk) -> tf.Tensor:
        from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense, layer_norm

        x = hidden if self.pooling == "late" else self._pooled(hidden, chunk)
        if "dense" in params:
            x = ACTIVATION_FUNCTIONS[self.activation](dense(x, params["dense"], params.get("dense_bias")))
        if "gamma" in params:
            x = layer_norm(x, params["gamma"], params["beta"], self.epsilon)
        x = dense(x, params["output"], params.get("output_bias"))
        return pool(PoolingSpec(("mean",), self.labels), x, chunk) if self.pooling == "late" else x

    def _pooled(self, hidden: tf.Tensor, chunk: Chunk) -> tf.Tensor:
        if self.pooling != "last":
            return pool(self._pooling(), hidden, chunk)
        return chunk.one_of_each(hidden, self._last(chunk))

    def _pooling(self) -> PoolingSpec:
        return PoolingSpec((self.pooling,), self.hidden_size)

    def _last(self, chunk: Chunk) -> tf.Tensor:
        """The last token of each row that is none of padding; of a row of nothing else its first."""
        import tensorflow as tf

        place = tf.where(chunk.tokens.ids[: chunk.total] != self.pad_id, tf.range(chunk.total), 0)
        last = tf.math.unsorted_segment_max(place, chunk.row_of_token(), chunk.rows)
        return tf.maximum(last, chunk.tokens.row_splits[:-1])

    def asked(self, chunk: Chunk) -> tf.Tensor | None:
        return self._last(chunk) if self.pooling == "last" else only_token(self._pooling(), chunk)


def read_classifier(module: RawModule) -> tuple[RawModule, ClassifierSpec]:
    """A Transformer module whose encoder has a head around it, as the encoder alone and the head.

    Raises ``UnsupportedError`` for a head that is not computed here, ``SourceError`` for tensors that do not fit.
    """
    kind = module.config.get("model_type")
    if kind not in CLASSIFIERS:
        raise UnsupportedError(
            module.file, "model_type", kind, f"{', '.join(CLASSIFIERS)}, with a head that classifies"
        )
    form, own = CLASSIFIERS[str(kind)], f"{module.config['base_model_prefix']}"
    fields = Fields(module)
    left = dict(module.tensors)
    hidden = fields.positive("dim" if kind == "distilbert" else "hidden_size")
    if kind in ("deberta", "deberta-v2"):
        fields.only("pooler_hidden_size", (hidden,))
    tensors: dict[str, Array] = {}
    stored: dict[str, str] = {}

    def take(out: str, name: str, *, optional: bool = False) -> None:
        found = left.pop(name, None)
        if found is not None:
            tensors[out], stored[out] = np.ascontiguousarray(found.T, np.float32), name
        elif not optional:
            raise SourceError(f"{module.file}: the weights lack {name!r}")

    if form.dense is not None:
        name = form.dense.format(own)
        take("dense", f"{name}.weight")
        take("dense_bias", f"{name}.bias", optional=True)
    if form.norm is not None:
        take("gamma", f"{form.norm}.weight")
        take("beta", f"{form.norm}.bias", optional=True)
        tensors.setdefault("beta", np.zeros(hidden, np.float32))
    take("output", f"{form.output}.weight")
    take("output_bias", f"{form.output}.bias", optional=True)
    labels = tensors["output"].shape[1]
    expected = {"dense": (hidden, hidden), "output": (hidden, labels)}
    for out, value in tensors.items():
        shape = expected.get(out, (labels if out == "output_bias" else hidden,))
        if value.shape != shape:
            raise SourceError(f"{module.file}: {out} of the head has shape {value.shape}, expected {shape}")
    prefix = f"{own}."
    if strange := sorted(name for name in left if not name.startswith(prefix)):
        raise SourceError(f"{module.file}: tensor {strange[0]!r} is not part of a {kind} model's head")
    pad_id = module.config.get("pad_token_id")
    if form is _LAST_TOKEN and pad_id is None:
        raise UnsupportedError(module.file, "pad_token_id", None, "a number: the original takes no batch without")
    activation = fields.activation(form.activation[1:]) if form.activation.startswith(":") else form.activation
    spec = ClassifierSpec(
        pooling="last" if form is _LAST_TOKEN else _read_pooling(module, form),
        hidden_size=hidden,
        labels=labels,
        activation=activation,
        epsilon=fields.epsilon("norm_eps") if form.norm is not None else 0.0,
        pad_id=-1 if pad_id is None else int(pad_id),
        tensors=tensors,
        stored=stored,
    )
    encoder = {name.removeprefix(prefix): value for name, value in left.items()}
    return replace(module, tensors=encoder), spec


def _read_pooling(module: RawModule, form: _Form) -> str:
    if form.pooling is None:
        return "cls"
    value = module.config.get(form.pooling)
    if value not in _POOLINGS:
        raise UnsupportedError(module.file, form.pooling, value, _POOLINGS)
    return _POOLINGS[value]
