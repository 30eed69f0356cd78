"""The way back: a Keras model of ``to_keras``, however it was trained since, as the SentenceTransformer that it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import torch

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.places import Places
from toolkit.errors import CheckError, InputError, SourceError, UnsupportedError
from toolkit.graph.keras_door import UNUSED, Encoder, Head, Pooling, Tokenize, Truncate
from toolkit.graph.spec import max_length
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.settings import SourceSettings
from toolkit.source.skeleton import filled
from toolkit.source.traced import require_finite

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["from_keras", "keras_checkpoint"]

Array = npt.NDArray[np.float32]

BOUND = 1e-5
BATCH = 16
OURS = (Tokenize, Encoder, Pooling, Head, Truncate)
TRIED = ("hello world", "", "a much longer sentence about embedding models in production, with commas", "東京 🚀")
"""Texts for which a model that came back must give the same vectors."""


def from_keras(model: keras.Model | str | Path) -> SentenceTransformer:
    """The SentenceTransformer that a model of ``to_keras`` is, with the weights that it has now: ``.save(folder)``
    writes the folder.

    ``model`` is the live model or the ``.keras`` file that its ``save`` wrote. Vectors are equal within 1e-5. The
    prompt and the cut that ``to_keras`` was asked for are the default ones.

    Raises ``UnsupportedError`` naming the layer that a SentenceTransformer has no place for, ``SourceError`` for
    weights that are not finite and a file that is none, ``CheckError`` if the two differ.
    """
    return keras_checkpoint(model).reference


def keras_checkpoint(model: keras.Model | str | Path, settings: SourceSettings = SourceSettings()) -> Checkpoint:
    """The checkpoint that a model of ``to_keras`` stands for; its embeddings by default are the Keras model's own.

    Raises as ``from_keras``, and ``InputError`` for settings that belong to the Keras model.
    """
    for name in ("prompt_name", "max_seq_length", "pooling"):
        if (value := getattr(settings, name)) is not None:
            raise InputError(f"{name} {value!r}: the Keras model has its own; set it where to_keras makes the model")
    live, source = (_loaded(Path(model)), str(model)) if isinstance(model, str | Path) else (model, _shown(model))
    encoder, heads = _parts(live, source)
    weights = {0: _encoder_tensors(encoder, source), **{head.place: _head_tensors(head, source) for head in heads}}
    for tensors in weights.values():
        require_finite({name: torch.from_numpy(value) for name, value in tensors.items()}, source)
    assert encoder.skeleton is not None
    original = filled(encoder.skeleton, weights).reference
    checkpoint = open_checkpoint(original, settings=settings)
    embed = _embedding(live, encoder.spec, checkpoint, source)
    _require_equal(embed(TRIED), np.asarray(original.encode(list(TRIED), show_progress_bar=False)), source)
    return replace(checkpoint, source=source, embed=lambda texts: embed(texts)[:, : checkpoint.truncate_dim])


def _shown(model: Any) -> str:
    return f"Keras model {model.name!r}"


def _loaded(file: Path) -> keras.Model:
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:  # what Keras raises for files that are none
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SourceError(f"{file}: Keras cannot load it: {reason}") from error


def _parts(model: keras.Model, source: str) -> tuple[Encoder, list[Head]]:
    """The layers that may have weights, once all are known to be of those that ``to_keras`` makes."""
    layers = [layer for layer in getattr(model, "layers", ()) if not isinstance(layer, keras.layers.InputLayer)]
    supported = "the layers of to_keras alone; give the model that it made, which others may be built on"
    for layer in layers:
        if not isinstance(layer, OURS):
            raise UnsupportedError(source, f"layer {layer.name!r}", type(layer).__name__, supported)
    kinds = [type(layer) for layer in layers]
    if any(kinds.count(kind) != 1 for kind in (Encoder, Pooling)):
        raise UnsupportedError(source, "layers", [layer.name for layer in layers], supported)
    encoder = next(layer for layer in layers if isinstance(layer, Encoder))
    if encoder.skeleton is None:
        raise UnsupportedError(
            source, f"layer {encoder.name!r}", "saved by an earlier release", "models of this release's to_keras"
        )
    return encoder, [layer for layer in layers if isinstance(layer, Head)]


def _values(layer: Encoder | Head, source: str) -> dict[str, Array]:
    for variable in layer.params.values():
        if variable.dtype != "float32":
            raise UnsupportedError(source, f"dtype of layer {layer.name!r}", variable.dtype, "float32")
    return {name: np.asarray(variable.numpy()) for name, variable in layer.params.items()}


def _encoder_tensors(encoder: Encoder, source: str) -> dict[str, Array]:
    assert encoder.stored_shapes is not None
    values = _values(encoder, source)
    unused = {name.removeprefix(UNUSED): values.pop(name) for name in list(values) if name.startswith(UNUSED)}
    return {**Places(encoder.spec, encoder.stored_shapes).put_back(values), **unused}


def _head_tensors(head: Head, source: str) -> dict[str, Array]:
    # matrices lie the other way round there
    return {head.spec.stored[name]: value.T for name, value in _values(head, source).items()}


def _embedding(
    model: keras.Model, encoder: EncoderSpec, checkpoint: Checkpoint, source: str
) -> Callable[[Sequence[str]], Array]:
    """The Keras model as a function of texts, its default prompt before them, to float32 ``[texts, dim]``."""
    if isinstance(model.input, Mapping):  # of tokens
        if checkpoint.prompt and not all(getattr(module, "include_prompt", True) for module in checkpoint.reference):
            raise UnsupportedError(source, "inputs", "tokens", "text, where pooling leaves a prompt out")
        raw = replace(checkpoint.tokenizer, max_length=max_length(checkpoint, encoder))
        tokenize = Tokenize(asdict(raw), checkpoint.prompt, encoder.vocab_size)
    else:
        tokenize = tf.identity

    def embed(texts: Sequence[str]) -> Array:
        batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        answers = [model(tokenize(tf.constant([text.encode() for text in batch]))).numpy() for batch in batches]
        return np.concatenate(answers)

    return embed


def _require_equal(ours: Array, theirs: Array, source: str) -> None:
    difference = float(np.max(np.abs(ours - theirs)))
    if not difference <= BOUND:
        raise CheckError(
            f"{source}: the SentenceTransformer with its weights differs by {difference:.2g} (bound {BOUND:g})"
        )
