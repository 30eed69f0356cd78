"""What sentence-transformers itself answers: the reference of every check, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError
from toolkit.signatures import Prompt, TextSignature
from toolkit.source.adapters import adapted
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.loaded import asked
from toolkit.source.router import ways

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["ReferenceAnswer", "encoded", "reference_answers", "told_of", "viewed"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceAnswer:
    """One text through the original model.

    ``input_ids`` after truncation, ``num_tokens`` before it; ``hidden`` float32 ``[tokens, hidden]``; ``stages`` the
    embedding after each module behind the encoder; ``embedding`` what ``SentenceTransformer.encode`` returns (or the
    Keras model, where that is the original), and
    ``of_tokens`` what the model makes of the same tokens where nothing says that some of them are a prompt's.
    ``further`` are the embeddings of other signatures, by name, before any is quantized.
    """

    input_ids: tuple[int, ...]
    num_tokens: int
    hidden: Array
    stages: tuple[Array, ...]
    embedding: Array
    of_tokens: Array
    further: Mapping[str, Array]


def reference_answers(
    checkpoint: Checkpoint, texts: Sequence[str], further: Sequence[TextSignature] = (), batch_size: int = 16
) -> list[ReferenceAnswer]:
    """Run the original model on ``texts``; the vectors are those of ``encode``, and for ``further`` signatures of
    ``encode_query``, ``encode_document`` or ``encode`` with the prompt's name.

    Raises ``SourceError`` if the original itself cannot embed them.
    """
    with told_of(checkpoint):
        return _answers(checkpoint, texts, further, batch_size)


def encoded(checkpoint: Checkpoint, prompt_name: str | None, texts: Sequence[str], batch_size: int = 16) -> Array:
    """What users of sentence-transformers get for a prompt, float32 ``[texts, dim]``: by ``encode_query`` and
    ``encode_document`` for those two, else by ``encode``.

    Raises ``SourceError`` if the original cannot embed the texts.
    """
    with told_of(checkpoint):
        return _encoded(checkpoint.reference, prompt_name, texts, batch_size)


def viewed(signature: TextSignature, embeddings: Array) -> Array:
    """What ``encode`` would give of these embeddings, for ``signature``'s ``truncate_dim`` and
    ``normalize_embeddings``."""
    import torch
    from sentence_transformers.util import truncate_embeddings

    if not signature.cut:
        return embeddings
    cut = truncate_embeddings(torch.from_numpy(embeddings), signature.dim)
    return np.asarray(torch.nn.functional.normalize(cut, p=2, dim=1) if signature.normalized else cut)


@contextmanager
def told_of(checkpoint: Checkpoint, what: str = "embed the texts") -> Iterator[None]:
    """Raise ``SourceError`` where the original cannot do ``what`` it is asked for."""
    try:
        yield
    except (IndexError, RuntimeError, ValueError) as error:  # what torch raises for models that do not fit together
        raise SourceError(f"{checkpoint.source}: the original model cannot {what}: {error}") from error


def _answers(
    checkpoint: Checkpoint, texts: Sequence[str], further: Sequence[TextSignature], batch_size: int
) -> list[ReferenceAnswer]:
    import torch
    from tokenizers import Tokenizer

    model = checkpoint.reference
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.json)
    tokenizer.no_truncation()
    counts = [len(item.ids) for item in tokenizer.encode_batch_fast([checkpoint.prompt + text for text in texts])]
    if None in checkpoint.answers:
        embeddings = checkpoint.answers[None](texts)
    else:
        embeddings = np.asarray(model.encode(list(texts), batch_size=batch_size, show_progress_bar=False))
    prompts = {item.prompt.name: item.prompt for item in further}
    by_prompt = {name: _as_signed(checkpoint, prompt, texts, batch_size) for name, prompt in prompts.items()}
    views = {item.floats: viewed(item, by_prompt[item.prompt.name]) for item in further}
    way = ways(model, checkpoint.source)[None]
    leaves_prompt_out = checkpoint.prompt and not all(getattr(module, "include_prompt", True) for module in way)
    answers: list[ReferenceAnswer] = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        features: dict[str, Any] = model.preprocess(batch, prompt=checkpoint.prompt or None)
        tokens = {name: value for name, value in features.items() if name != "prompt_length"}
        of_tokens = embeddings[start : start + batch_size]
        stages: list[Array] = []
        with torch.no_grad():
            for module, raw in zip(way, checkpoint.modules, strict=True):
                features = module(features)
                if "sentence_embedding" in features and raw.type != "Dropout":  # pooled already
                    written = getattr(module, "module_output_name", "sentence_embedding")
                    stages.append(features[written].cpu().numpy())
            if leaves_prompt_out:
                of_tokens = model(tokens)["sentence_embedding"].cpu().numpy()[:, : checkpoint.truncate_dim]
        rows = _token_rows(way[0], features)
        answers += [
            ReferenceAnswer(
                tuple(int(token) for token in rows[row][0]),
                counts[start + row],
                rows[row][1],
                tuple(stage[row] for stage in stages),
                embeddings[start + row],
                of_tokens[row],
                {name: view[start + row] for name, view in views.items()},
            )
            for row in range(len(batch))
        ]
    return answers


def _token_rows(first: Any, features: Mapping[str, Any]) -> list[tuple[npt.NDArray[Any], Array]]:
    """Of each text its token ids, and their hidden states ``[tokens, hidden]``, behind a model's ``first`` module."""
    ids = features["input_ids"].cpu().numpy()
    if "offsets" in features:  # a StaticEmbedding's texts lie end to end, and a state is the token's row of its table
        table = first.embedding.weight.detach().numpy()
        return [(row, table[row]) for row in np.split(ids, features["offsets"].numpy()[1:])]
    mask, hidden = features["attention_mask"].bool().cpu().numpy(), features["token_embeddings"].cpu().numpy()
    return [(ids[row][mask[row]], hidden[row][mask[row]]) for row in range(len(ids))]


def _encoded(model: SentenceTransformer, prompt_name: str | None, texts: Sequence[str], batch_size: int) -> Array:
    return np.asarray(asked(model, prompt_name, texts, batch_size=batch_size))


def _as_signed(checkpoint: Checkpoint, prompt: Prompt, texts: Sequence[str], batch_size: int) -> Array:
    """With an adapter by ``encode`` too, once ``set_adapter`` has chosen it; the Keras model's where that answers."""
    model: Any = checkpoint.reference
    if prompt.name in checkpoint.answers:
        return np.asarray(checkpoint.answers[prompt.name](texts))
    if prompt.adapter is None:
        return _encoded(model, prompt.name, texts, batch_size)
    with adapted(model, prompt.adapter):
        found = model.encode(list(texts), prompt=prompt.text, batch_size=batch_size, show_progress_bar=False)
        return np.asarray(found)
