"""``LogitScore``: what a decoder says to the question whether it is true, as the score of what it was asked.

Facts are those of sentence-transformers' (6.2) ``cross_encoder/modules/logit_score.py`` and of transformers' (5.x)
``...ForCausalLM`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights
from toolkit.errors import UnsupportedError
from toolkit.heads.head import RowHead, same_table
from toolkit.heads.pooling import PoolingSpec, only_token, pool

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.source.checkpoint import RawModule

__all__ = ["LOGITS", "LOGIT_SCORE_TYPES", "LogitScoreSpec", "read_logit_score"]

Array = npt.NDArray[np.float32]

LOGITS = "causal_logits"
"""What a Transformer module calls the logits that LogitScore reads."""

_CAPPED = ("gemma2", "gemma3_text")
LOGIT_SCORE_TYPES = ("llama", "mistral", "qwen2", "qwen3", *_CAPPED, "granite")
"""Each ``model_type`` whose logits are computed here."""

_TABLE, _EMBEDDINGS = "lm_head.weight", "embed_tokens.weight"


@dataclass(frozen=True)
class LogitScoreSpec(RowHead):
    """The last token's hidden state to one number: the logit of the word ``true_id``, less that of ``false_id`` where
    there is one.

    Logits are divided by ``divisor``, then kept between ``-cap`` and ``cap`` by a hyperbolic tangent (``None``: not).
    ``tensors`` are the rows of these words in the table of words, ``output`` ``[hidden, 1 or 2]``; ``words`` is that
    table, ``None`` where it is the encoder's.
    """

    labels: ClassVar[int] = 1
    name: ClassVar[str] = "logit_score"

    hidden_size: int
    true_id: int
    false_id: int | None
    divisor: float
    cap: float | None
    tensors: Mapping[str, Array] = field(repr=False)
    words: Array | None = field(repr=False)

    @property
    def stored(self) -> Mapping[str, str]:  # type: ignore[override]  # the same of all
        return {"words": _TABLE}

    def __str__(self) -> str:
        less = "" if self.false_id is None else f" less that of {self.false_id}"
        return f"logit score last token, logit of word {self.true_id}{less}"

    @property
    def weights(self) -> Mapping[str, Array]:
        return {} if self.words is None else {"words": self.words}

    def derived(self, weights: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        import tensorflow as tf

        return {"output": tf.transpose(tf.gather(weights["words"], self._asked))}

    @property
    def _asked(self) -> list[int]:
        return [self.true_id, *([] if self.false_id is None else [self.false_id])]

    def apply(self, params: Mapping[str, tf.Tensor], hidden: tf.Tensor, chunk: Chunk) -> tf.Tensor:
        import tensorflow as tf

        from toolkit.encoder.layers import dense

        logits = dense(pool(self._pooling(), hidden, chunk), params["output"], None)
        if self.divisor != 1.0:
            logits = logits / self.divisor
        if self.cap is not None:
            logits = tf.tanh(logits / self.cap) * self.cap
        return logits if self.false_id is None else logits[:, :1] - logits[:, 1:]

    def asked(self, chunk: Chunk) -> tf.Tensor | None:
        return only_token(self._pooling(), chunk)

    def _pooling(self) -> PoolingSpec:
        return PoolingSpec(("lasttoken",), self.hidden_size)


def read_logit_score(module: RawModule, score: RawModule) -> tuple[RawModule, LogitScoreSpec]:
    """A Transformer module that is a decoder with its table of words, as the decoder alone, and the score of its logits
    that the LogitScore module ``score`` makes.

    Raises ``UnsupportedError`` for a decoder whose logits are not computed here, ``SourceError`` for words that there
    are none of and tensors that do not fit.
    """
    kind, fields = module.config.get("model_type"), Fields(module)
    if kind not in LOGIT_SCORE_TYPES:
        raise UnsupportedError(module.file, "model_type", kind, f"{', '.join(LOGIT_SCORE_TYPES)}, as decoders")
    Fields(score).only("module_input_name", (LOGITS,))
    prefix = f"{module.config['base_model_prefix']}."
    hidden, vocab = fields.positive("hidden_size"), fields.positive("vocab_size")
    weights = Weights(module.tensors, ignore=(prefix,))
    table = weights.take(_TABLE, (vocab, hidden))
    weights.finish()
    given = [name for name in ("true_token_id", "false_token_id") if score.config.get(name) is not None]
    words = [Fields(score).index(name, vocab) for name in dict.fromkeys(("true_token_id", *given))]
    cap = "final_logit_softcapping"
    capped = kind in _CAPPED and module.config.get(cap) is not None
    own = {name.removeprefix(prefix): value for name, value in module.tensors.items() if name.startswith(prefix)}
    spec = LogitScoreSpec(
        hidden_size=hidden,
        true_id=words[0],
        false_id=words[1] if words[1:] else None,
        divisor=fields.positive_number("logits_scaling") if kind == "granite" else 1.0,
        cap=fields.positive_number(cap) if capped else None,
        tensors={"output": np.ascontiguousarray(table[words].T, np.float32)},
        words=None if same_table(own.get(_EMBEDDINGS), table) else table,
    )
    return replace(module, tensors=own), spec
