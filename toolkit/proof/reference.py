"""What sentence-transformers itself answers: the reference of every check, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError
from toolkit.source.checkpoint import Checkpoint

__all__ = ["ReferenceAnswer", "reference_answers"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceAnswer:
    """One text through the original model.

    ``input_ids`` after truncation, ``num_tokens`` before it; ``hidden`` float32 ``[tokens, hidden]``; ``stages`` the
    embedding after each module behind the encoder; ``embedding`` what ``SentenceTransformer.encode`` returns.
    """

    input_ids: tuple[int, ...]
    num_tokens: int
    hidden: Array
    stages: tuple[Array, ...]
    embedding: Array


def reference_answers(checkpoint: Checkpoint, texts: Sequence[str], batch_size: int = 16) -> list[ReferenceAnswer]:
    """Run the original model on ``texts``; the vectors are those of ``encode``.

    Raises ``SourceError`` if the original itself cannot embed them.
    """
    try:
        return _answers(checkpoint, texts, batch_size)
    except (IndexError, RuntimeError, ValueError) as error:  # what torch raises for models that do not fit together
        raise SourceError(f"{checkpoint.source}: the original model cannot embed the texts: {error}") from error


def _answers(checkpoint: Checkpoint, texts: Sequence[str], batch_size: int) -> list[ReferenceAnswer]:
    import torch
    from tokenizers import Tokenizer

    model = checkpoint.reference
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.json)
    tokenizer.no_truncation()
    counts = [len(item.ids) for item in tokenizer.encode_batch_fast([checkpoint.prompt + text for text in texts])]
    embeddings = np.asarray(model.encode(list(texts), batch_size=batch_size, show_progress_bar=False))
    answers: list[ReferenceAnswer] = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        features: dict[str, Any] = model.preprocess(batch, prompt=checkpoint.prompt or None)
        stages: list[Array] = []
        with torch.no_grad():
            for module, raw in zip(model, checkpoint.modules, strict=True):
                features = module(features)
                if raw.type not in ("Transformer", "Dropout"):
                    stages.append(features["sentence_embedding"].cpu().numpy())
        mask = features["attention_mask"].bool().cpu().numpy()
        ids, hidden = features["input_ids"].cpu().numpy(), features["token_embeddings"].cpu().numpy()
        answers += [
            ReferenceAnswer(
                tuple(int(token) for token in ids[row][mask[row]]),
                counts[start + row],
                hidden[row][mask[row]],
                tuple(stage[row] for stage in stages),
                embeddings[start + row],
            )
            for row in range(len(batch))
        ]
    return answers
