"""What sentence-transformers itself answers: the reference of every check, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit.proof.original import BATCH, Asked, asked_once, told_of
from toolkit.signatures import Prompt, TextSignature
from toolkit.source.adapters import adapted
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.loaded import asked
from toolkit.source.router import ways

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["ReferenceAnswer", "encoded", "reference_answers", "viewed"]

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
    checkpoint: Checkpoint, texts: Sequence[str], further: Sequence[TextSignature] = (), batch_size: int = BATCH
) -> list[ReferenceAnswer]:
    """Run the original model on ``texts``; the vectors are those of ``encode``, and for ``further`` signatures of
    ``encode_query``, ``encode_document`` or ``encode`` with the prompt's name.

    Raises ``SourceError`` if the original itself cannot embed them.
    """
    with told_of(checkpoint):
        return _answers(checkpoint, texts, further, batch_size)


def encoded(checkpoint: Checkpoint, prompt_name: str | None, texts: Sequence[str], batch_size: int = BATCH) -> Array:
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


class _Answer(NamedTuple):
    """What the original makes of one text by default, as ``ReferenceAnswer`` has it; without ``of_tokens`` where that
    is the embedding."""

    input_ids: tuple[int, ...]
    hidden: Array
    stages: tuple[Array, ...]
    embedding: Array
    of_tokens: Array | None


def _answers(
    checkpoint: Checkpoint, texts: Sequence[str], further: Sequence[TextSignature], batch_size: int
) -> list[ReferenceAnswer]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.json)
    tokenizer.no_truncation()
    counts = [len(item.ids) for item in tokenizer.encode_batch_fast([checkpoint.prompt + text for text in texts])]
    answers = _by_default(checkpoint, texts, batch_size)
    prompts = {item.prompt.name: item.prompt for item in further if item.prompt.name is not None}
    own = np.stack([answer.embedding for answer in answers])
    embeddings: Mapping[str | None, Array] = {
        None: np.asarray(checkpoint.answers[None](texts)) if None in checkpoint.answers else own,
        **{name: _as_signed(checkpoint, prompt, texts, batch_size) for name, prompt in prompts.items()},
    }
    views = {item.floats: viewed(item, embeddings[item.prompt.name]) for item in further}
    return [
        ReferenceAnswer(
            input_ids=answer.input_ids,
            num_tokens=count,
            hidden=answer.hidden,
            stages=answer.stages,
            embedding=embedding,
            of_tokens=embedding if answer.of_tokens is None else answer.of_tokens,
            further={name: view[number] for name, view in views.items()},
        )
        for number, (count, answer, embedding) in enumerate(zip(counts, answers, embeddings[None], strict=True))
    ]


def _by_default(checkpoint: Checkpoint, texts: Sequence[str], batch_size: int) -> list[_Answer]:
    model: Any = checkpoint.reference
    way = ways(model, checkpoint.source)[None]
    return asked_once(
        texts,
        tokens=lambda batch: model.preprocess(batch, prompt=checkpoint.prompt or None),
        answers=lambda batch: _encoded(model, None, batch, len(batch)),
        first=way[0],
        modules=way,
        read=lambda batch: _read(checkpoint, way, batch),
        batch_size=batch_size,
    )


def _read(checkpoint: Checkpoint, way: Sequence[Any], batch: Asked) -> Iterator[_Answer]:
    """What there is of each text of a batch that went this ``way``."""
    stages = [
        batch.by_row(wrote[getattr(module, "module_output_name", "sentence_embedding")])
        for module, raw, wrote in zip(way, checkpoint.modules, batch.wrote, strict=True)
        if "sentence_embedding" in wrote and raw.type != "Dropout"  # pooled already
    ]
    if batch.there is None:  # a state is the token's row of the table
        table = way[0].embedding.weight.detach().numpy()
        hidden = [table[list(row.ids)] for row in batch.rows]
    else:
        hidden = batch.by_token(batch.wrote[-1]["token_embeddings"])
    apart: Sequence[Array | None] = [None] * len(batch.rows)
    if checkpoint.prompt and not all(getattr(module, "include_prompt", True) for module in way):
        apart = batch.by_row(_of_tokens(way[1:], batch.wrote[0])[:, : checkpoint.truncate_dim])
    for number, row in enumerate(batch.rows):
        behind = tuple(stage[number] for stage in stages)
        yield _Answer(row.ids, hidden[number], behind, batch.answers[number], apart[number])


def _of_tokens(behind: Sequence[Any], encoded: Mapping[str, Any]) -> Any:
    """What the modules ``behind`` the encoder make of what that wrote, where nothing says that some of the tokens are a
    prompt's."""
    import torch

    features = {name: value for name, value in encoded.items() if name != "prompt_length"}
    with torch.no_grad():
        for module in behind:
            features = module(features)
    return features["sentence_embedding"]


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
