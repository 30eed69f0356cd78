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
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.json)
    tokenizer.no_truncation()
    counts = [len(item.ids) for item in tokenizer.encode_batch_fast([checkpoint.prompt + text for text in texts])]
    given = checkpoint.answers[None](texts) if None in checkpoint.answers else None
    prompts = {item.prompt.name: item.prompt for item in further}
    by_prompt = {name: _as_signed(checkpoint, prompt, texts, batch_size) for name, prompt in prompts.items()}
    views = {item.floats: viewed(item, by_prompt[item.prompt.name]) for item in further}
    order = sorted(range(len(texts)), key=counts.__getitem__)  # texts of about one length together: little padding
    answers: dict[int, ReferenceAnswer] = {}
    for start in range(0, len(texts), batch_size):
        numbers = order[start : start + batch_size]
        known = None if given is None else given[numbers]
        found = _batch_answers(checkpoint, [texts[number] for number in numbers], known)
        for number, (ids, hidden, stages, embedding, of_tokens) in zip(numbers, found, strict=True):
            seen = {name: view[number] for name, view in views.items()}
            answers[number] = ReferenceAnswer(ids, counts[number], hidden, stages, embedding, of_tokens, seen)
    return [answers[number] for number in range(len(texts))]


def _batch_answers(
    checkpoint: Checkpoint, batch: list[str], given: Array | None
) -> Iterator[tuple[tuple[int, ...], Array, tuple[Array, ...], Array, Array]]:
    """Token ids, hidden states, stages, embedding and embedding of the tokens alone, of each text of a batch, which
    goes through the model once; ``given`` are the embeddings where it is not the model that gives them."""
    import torch

    model: Any = checkpoint.reference
    way = ways(model, checkpoint.source)[None]
    features = dict(model.preprocess(batch, prompt=checkpoint.prompt or None))
    own_ids = _ids(features)
    tokens = {name: value for name, value in features.items() if name != "prompt_length"}
    with torch.no_grad():
        with _written(way) as written:
            if given is None:
                embeddings = np.asarray(model.encode(batch, batch_size=len(batch), show_progress_bar=False))
            else:
                model(features)
                embeddings = given
        of_tokens = embeddings
        if checkpoint.prompt and not all(getattr(module, "include_prompt", True) for module in way):
            of_tokens = model(tokens)["sentence_embedding"].cpu().numpy()[:, : checkpoint.truncate_dim]
    stages = [
        behind[getattr(module, "module_output_name", "sentence_embedding")].cpu().numpy()
        for module, raw, behind in zip(way, checkpoint.modules, written, strict=True)
        if "sentence_embedding" in behind and raw.type != "Dropout"  # pooled already
    ]
    # `encode` sorts its texts; which row is whose is told by the ids, and rows of the same ids are the same.
    rows = {ids: row for row, ids in enumerate(_ids(written[-1]))}
    hidden = _hidden(way[0], written[-1])
    for ids, embedding, of_them in zip(own_ids, embeddings, of_tokens, strict=True):
        yield ids, hidden[rows[ids]], tuple(stage[rows[ids]] for stage in stages), embedding, of_them


@contextmanager
def _written(way: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
    """What the modules of ``way`` write while the block runs a batch through them, module by module."""
    written: list[dict[str, Any]] = []
    # a copy, as modules hand one dict on and write into it
    hooks = [module.register_forward_hook(lambda _module, _given, output: written.append({**output})) for module in way]
    try:
        yield written
    finally:
        for hook in hooks:
            hook.remove()


def _ids(features: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The token ids of each text."""
    ids = features["input_ids"].cpu().numpy()
    if "offsets" in features:  # a StaticEmbedding's texts lie end to end
        return [tuple(row.tolist()) for row in np.split(ids, features["offsets"].numpy()[1:])]
    mask = features["attention_mask"].bool().cpu().numpy()
    return [tuple(row[there].tolist()) for row, there in zip(ids, mask, strict=True)]


def _hidden(first: Any, features: Mapping[str, Any]) -> list[Array]:
    """The hidden states of each text, ``[tokens, hidden]``, behind a model's ``first`` module."""
    if "offsets" in features:  # a state is the token's row of the table
        table = first.embedding.weight.detach().numpy()
        return [table[list(ids)] for ids in _ids(features)]
    mask, hidden = features["attention_mask"].bool().cpu().numpy(), features["token_embeddings"].cpu().numpy()
    return [row[there] for row, there in zip(hidden, mask, strict=True)]


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
