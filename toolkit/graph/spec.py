"""What the specs of all tasks have in common; each is a frozen dataclass in :mod:`toolkit.graph.tasks`.

Nothing behind a spec opens a configuration file. What a family or a module refuses stands with it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from toolkit.corpus.calibration import Calibration, built_in_texts
from toolkit.corpus.check import SHORT, check_texts
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.signatures import Signature, Views
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.tokenizer import TokenizerSpec, reference_tokenizer
from toolkit.tokenizer.steps import listed

__all__ = ["Request", "TaskSpec", "chosen_names", "max_length", "require_output", "require_room", "warmup_batches"]

Request = tuple[str, Mapping[str, Sequence[str]]]
"""A signature's name, and the texts of each of its inputs."""

_WARMUP_ROWS = 8
"""Rows in a warm-up request at most: a server that batches by rows may take no more than so many."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec(ABC):
    """A whole model of one task: its tokenizer, its encoder, the most tokens that a row has, and how many numbers its
    answer to a row has.

    A task is a subclass, in a file of its own and in the table of :mod:`toolkit.graph.tasks`.
    """

    task: ClassVar[str]
    """The name of :data:`toolkit.source.tasks.TASKS`."""
    scores: ClassVar[bool] = False
    """Whether its answers are numbers by themselves, and not vectors: what lower precision is measured by."""

    tokenizer: TokenizerSpec
    encoder: EncoderSpec
    max_length: int | None
    dim: int

    @classmethod
    @abstractmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        """The spec of a checkpoint of this task, with the further signatures that ``views`` ask for.

        Raises ``UnsupportedError`` naming file, field, value and what is supported; ``SourceError`` for tensors that
        are missing, left over or of another shape than the configuration says; ``InputError`` for ``views`` that do not
        go with the model.
        """

    @property
    def float32_alone(self) -> str | None:
        """Why the encoder's products can be in no lower precision, in words; ``None``: they can."""
        return None if self.encoder.product_names() else f"{self.encoder.family} has no products"

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the encoder's products can be exported in."""
        return ("float32", "bfloat16", "int8") if self.float32_alone is None else ("float32",)

    def check_rows(self) -> list[str]:
        """A line of text for each row that a choice of products is tried on."""
        return check_texts(self.max_length)

    def calibration(self) -> Calibration:
        """The rows that int8 is calibrated on where the caller has none."""
        return built_in_texts(self.max_length)

    @property
    @abstractmethod
    def signatures(self) -> tuple[Signature, ...]:
        """All that the artifact has."""

    @property
    @abstractmethod
    def prompt(self) -> str:
        """What is put before each text (or the first one of several) by default."""

    @property
    @abstractmethod
    def stages(self) -> tuple[str, ...]:
        """Names of what stands behind the encoder, in order."""

    @property
    def unattended(self) -> bool:
        """Whether rows may end in tokens that no other token looks at."""
        return False

    @abstractmethod
    def stamp(self) -> dict[str, Any]:
        """What the provenance says of the signatures of this model, as JSON values."""

    @abstractmethod
    def warmup(self, batching: Batching | None) -> list[Request]:
        """The requests that a server answers before it calls the model available."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What users of the model should know of it."""
        without = self.tokenizer.special_from(self.encoder.vocab_size)
        said = f"texts with {listed(list(without))} are refused: the model has no embedding for it"
        return (f"{self.tokenizer.file}: {said}",) if without else ()

    def described(self) -> list[str]:
        """Tokenizer and encoder, a line each."""
        tokenizer = type(self.tokenizer.model).__name__.removesuffix("Model")
        limit = f"at most {self.max_length} tokens" if self.max_length is not None else "any number of tokens"
        lines = [
            f"tokenizer   {tokenizer}, {limit}",
            f"encoder     {self.encoder}",
        ]
        return [f"prompt      {self.prompt!r}", *lines] if self.prompt else lines


def max_length(checkpoint: Checkpoint, encoder: EncoderSpec) -> int:
    """The tokens at which texts are cut: sentence-transformers' limit, else the encoder's own."""
    file, limit, own = checkpoint.modules[0].file, checkpoint.tokenizer.max_length, encoder.max_length
    if limit is None:
        if own is None:
            supported = f"a number (--max-seq-length sets it), as {encoder.family} itself takes texts of any length"
            raise UnsupportedError(file, "max_seq_length", None, supported)
        return own
    if own is not None and limit > own:
        raise UnsupportedError(file, "max_seq_length", limit, f"at most {own}, which the encoder has positions for")
    return limit


def chosen_names(there: Mapping[str, str], chosen: Sequence[str] | None) -> list[str]:
    """The prompts that get a signature of their own, of those that are ``there``: all, or those that are ``chosen``."""
    if unknown := [name for name in chosen or () if name not in there]:
        known = ", ".join(there) or "none, or only empty ones"
        raise InputError(f"prompts: {unknown[0]!r} is none of the model's; it has: {known}")
    return list(there if chosen is None else dict.fromkeys(chosen))


def require_room(tokenizer: TokenizerSpec, prompts: Iterable[str], vocab_size: int) -> None:
    """Every id that texts have needs an embedding; tokens added without resizing the model have none.

    A special token may lack one (the place of an image in Gemma's text, say): only a text that contains it has it, and
    the graph refuses that text, for which the original raises ``IndexError``.
    """
    root = json.loads(tokenizer.json)
    vocabulary = root["model"]["vocab"]
    # Unigram has a list of pieces and scores, in the order of the ids.
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece[0]: index for index, piece in enumerate(vocabulary)}
    ids: list[tuple[int, str]] = [(index, token) for token, index in pieces.items()]
    added, pad_id = tokenizer.added_tokens, tokenizer.pad_id  # which shorter texts of a batch have
    ids += [(item.id, item.content) for item in added if not item.special or item.id == pad_id]
    reference = reference_tokenizer(tokenizer, max_length=None)
    for prompt in prompts:  # and the tokens around every text
        encoded = reference.encode(prompt)
        ids += zip(encoded.ids, encoded.tokens, strict=True)
    if beyond := [item for item in ids if item[0] >= vocab_size]:
        index, token = min(beyond)
        message = f"token {token!r} has id {index}, but the encoder has {vocab_size} embeddings"
        raise SourceError(f"{tokenizer.file}: {message}")


def require_output(module: RawModule, does: str, output: str, *, expanding: bool = False) -> None:
    """Refuse a Transformer module that does something else with a text than ``does``, or calls it otherwise; or fills
    queries up, unless it may be ``expanding``."""
    fields = Fields(module)
    fields.only("transformer_task", (does,), does)
    fields.only("module_output_name", (output,), output)
    if not expanding:
        fields.only("query_expansion", (None,))
    if options := module.config.get("processing_kwargs"):
        raise UnsupportedError(module.file, "processing_kwargs", options, "none")


def warmup_batches(length: int | None, batching: Batching | None) -> list[list[str]]:
    """From a short text alone to the longest the model takes, mixed batches, and a request too large to be batched."""
    texts = check_texts(length)
    longest = max(texts, key=len)
    batches = [[SHORT[0]], [SHORT[4]], list(SHORT[:8]), [texts[-7], *SHORT[:7]], [longest]]
    if (
        batching is not None and length is not None and length <= batching.max_tokens
    ):  # else the longest alone is too large
        batches.append([longest] * min(_WARMUP_ROWS, batching.max_tokens // length + 1))
    return batches
