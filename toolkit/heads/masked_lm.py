"""The head of a masked language model: a hidden state to a number for each word of the vocabulary.

That of transformers' ``*ForMaskedLM`` classes (release 5): a linear layer, an activation, a LayerNorm, and a product
with a table of words that most models share with their embeddings. The names of tensors are those of its modeling
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights
from toolkit.errors import UnsupportedError
from toolkit.heads.head import same_table

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.source.checkpoint import RawModule

__all__ = ["MASKED_LM_TYPES", "MaskedLMSpec", "read_masked_lm", "without_head"]

Array = npt.NDArray[np.float32]

_ACTIVATION_FIELD = {"distilbert": "activation", "modernbert": "classifier_activation", "nomic_bert": "hidden_act"}
_EMBEDDING_SIZED = ("albert", "electra", "roformer")
"""Whose words have ``embedding_size`` numbers, and not the hidden state's."""


@dataclass(frozen=True)
class _Form:
    """Where a class keeps its encoder and its head, and the name of its table of words inside the encoder.

    ``activation`` is a fixed one, else the configuration names it. ``optional``: configuration says what has a bias.
    """

    encoder: str
    dense: str
    norm: str
    decoder: str
    words: str = "embeddings.word_embeddings.weight"
    activation: str | None = None
    optional: bool = False


def _cls(encoder: str, norm: str = "LayerNorm") -> _Form:
    transform = "cls.predictions.transform"
    return _Form(encoder, f"{transform}.dense", f"{transform}.{norm}", "cls.predictions.decoder")


def _lm_head(encoder: str) -> _Form:
    return _Form(encoder, "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", activation="gelu")


_FORMS: Mapping[str, _Form] = {
    "bert": _cls("bert"),
    "distilbert": _Form("distilbert", "vocab_transform", "vocab_layer_norm", "vocab_projector"),
    "roberta": _lm_head("roberta"),
    "xlm-roberta": _lm_head("roberta"),
    "camembert": _lm_head("roberta"),
    "data2vec-text": _lm_head("data2vec_text"),
    "mpnet": _lm_head("mpnet"),
    "electra": _Form(
        "electra",
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head",
        activation="gelu",
    ),
    "modernbert": _Form(
        "model", "head.dense", "head.norm", "decoder", words="embeddings.tok_embeddings.weight", optional=True
    ),
    "albert": _Form("albert", "predictions.dense", "predictions.LayerNorm", "predictions.decoder"),
    "ernie": _cls("ernie"),
    "megatron-bert": _cls("bert"),
    "nomic_bert": _cls("nomic_bert", norm="layer_norm"),
    "roformer": _cls("roformer"),
}
MASKED_LM_TYPES = tuple(_FORMS)
"""Each ``model_type`` whose head is computed here."""


@dataclass(frozen=True)
class MaskedLMSpec:
    """``kernel`` ``[hidden, size]`` and ``bias``, the activation, LayerNorm by ``gamma`` and ``beta``, then the product
    with ``words`` ``[vocab, size]`` (``None``: the encoder's own table) and ``words_bias`` ``[vocab]``. ``stored`` are
    those that the checkpoint has, by its own names."""

    vocab_size: int
    size: int
    activation: str
    layer_norm_eps: float
    tensors: Mapping[str, Array] = field(repr=False)
    stored: Mapping[str, str] = field(repr=False)

    @property
    def tied(self) -> bool:
        """Whether the table of words is the encoder's."""
        return "words" not in self.tensors

    def __str__(self) -> str:
        return f"masked LM   {self.vocab_size} words{', of the embeddings' if self.tied else ''}"

    def transform(self, params: Mapping[str, tf.Tensor], hidden: tf.Tensor) -> tf.Tensor:
        """Hidden states ``[tokens, hidden]`` to what is multiplied with the table: float32 ``[tokens, size]``."""
        from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense, layer_norm

        x = ACTIVATION_FUNCTIONS[self.activation](dense(hidden, params["kernel"], params.get("bias")))
        return layer_norm(x, params["gamma"], params["beta"], self.layer_norm_eps)


def without_head(module: RawModule) -> RawModule:
    """The encoder of a masked language model alone, with its tensors by their own names.

    Raises ``UnsupportedError`` for a model type whose head is not computed here.
    """
    prefix = _form(module).encoder + "."
    own = {name.removeprefix(prefix): array for name, array in module.tensors.items() if name.startswith(prefix)}
    return replace(module, tensors=own)


def read_masked_lm(module: RawModule) -> MaskedLMSpec:
    """The head. Raises ``UnsupportedError`` as ``without_head`` does, ``SourceError`` for tensors that do not fit."""
    form, fields = _form(module), Fields(module)
    kind = str(module.config["model_type"])
    hidden, vocab = fields.positive("dim" if kind == "distilbert" else "hidden_size"), fields.positive("vocab_size")
    size = fields.positive("embedding_size") if kind in _EMBEDDING_SIZED else hidden
    # Beside the decoder's bias stands the same one again, which nothing reads.
    again = f"{form.decoder.rpartition('.')[0]}.bias"
    weights = Weights(module.tensors, ignore=(f"{form.encoder}.", *([again] if again != ".bias" else [])))
    bias, norm_bias, words_bias = True, True, True
    if form.optional:
        bias, norm_bias, words_bias = (fields.flag(key) for key in ("classifier_bias", "norm_bias", "decoder_bias"))
    found = weights.linear([form.dense], "head", hidden, size, bias=bias)
    found |= weights.norm(form.norm, "head", size, bias=norm_bias)
    tensors = {name.removeprefix("head/"): np.ascontiguousarray(array) for name, array in found.items()}
    tensors.setdefault("beta", np.zeros(size, np.float32))
    words = weights.take(f"{form.decoder}.weight", (vocab, size))
    tensors["words_bias"] = (
        weights.take(f"{form.decoder}.bias", (vocab,)) if words_bias else np.zeros(vocab, np.float32)
    )
    weights.finish()
    table = module.tensors.get(f"{form.encoder}.{form.words}")
    if not same_table(table, words):
        tensors["words"] = words
    names = {"kernel": f"{form.dense}.weight", "gamma": f"{form.norm}.weight", "words": f"{form.decoder}.weight"}
    names |= {"bias": f"{form.dense}.bias"} if bias else {}
    names |= {"beta": f"{form.norm}.bias"} if norm_bias else {}
    names |= {"words_bias": f"{form.decoder}.bias"} if words_bias else {}
    epsilon = fields.epsilon("norm_eps") if form.optional else fields.epsilon()
    return MaskedLMSpec(
        vocab_size=vocab,
        size=size,
        activation=form.activation or fields.activation(_ACTIVATION_FIELD.get(kind, "hidden_act")),
        layer_norm_eps=1e-12 if kind == "distilbert" else epsilon,  # a literal of its class
        tensors=tensors,
        stored=names,
    )


def _form(module: RawModule) -> _Form:
    kind = str(module.config.get("model_type"))
    if kind not in _FORMS:
        raise UnsupportedError(module.file, "model_type", kind, f"{', '.join(_FORMS)}, as masked language models")
    return _FORMS[kind]
