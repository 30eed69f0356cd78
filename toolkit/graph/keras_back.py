"""The way back: a Keras model of ``to_keras``, however it was trained since, as the model that it was made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import torch

from toolkit.encoder.places import Places
from toolkit.errors import CheckError, InputError, SourceError, UnsupportedError
from toolkit.graph.keras_door import asked_by_default, routes, tokenizing
from toolkit.graph.keras_layers import (
    UNUSED,
    WORDS,
    Activation,
    Answer,
    Encoder,
    Head,
    Occurrence,
    PooledVectors,
    Pooling,
    Truncate,
    Vectors,
)
from toolkit.graph.keras_tokens import Tokenize, TokenizePairs
from toolkit.graph.tasks import read_spec
from toolkit.signatures import Views
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.loaded import asked
from toolkit.source.settings import SourceSettings
from toolkit.source.skeleton import filled
from toolkit.source.traced import require_finite
from toolkit.vectors_signatures import DOCUMENT, QUERY

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = ["from_keras", "keras_checkpoint"]

Array = npt.NDArray[np.float32]
Answers = Callable[[Sequence[Any]], Any]

BOUND = 1e-5
BATCH = 16
ANSWERING = (Pooling, Answer, Occurrence)
"""Of which each way through a model has one, behind its encoder; one of many vectors has two others."""
OURS = (*ANSWERING, Vectors, PooledVectors, Tokenize, TokenizePairs, Encoder, Head, Truncate, Activation)
TRIED = ("hello world", "", "a much longer sentence about embedding models in production, with commas", "東京 🚀")
"""Texts for which a model that came back must give the same answers."""


def from_keras(model: keras.Model | str | Path) -> BaseModel:
    """The model of sentence-transformers that a model of ``to_keras`` is, with the weights that it has now:
    ``.save(folder)`` writes the folder.

    ``model`` is the live model or the ``.keras`` file that its ``save`` wrote. Answers are equal within 1e-5. The
    prompt and the cut that ``to_keras`` was asked for are the default ones.

    Raises ``UnsupportedError`` naming the layer that sentence-transformers has no place for, ``SourceError`` for
    weights that are not finite and a file that is none, ``CheckError`` if the two differ.
    """
    return keras_checkpoint(model).reference


def keras_checkpoint(
    model: keras.Model | str | Path, settings: SourceSettings = SourceSettings(), task: str | None = None
) -> Checkpoint:
    """The checkpoint that a model of ``to_keras`` stands for, which may be asked to be one of a ``task``; its answers
    by default are the Keras model's own.

    Raises as ``from_keras``, and ``InputError`` for settings that belong to the Keras model.
    """
    for name in ("prompt_name", "max_seq_length", "pooling"):
        if (value := getattr(settings, name)) is not None:
            raise InputError(f"{name} {value!r}: the Keras model has its own; set it where to_keras makes the model")
    live, source = (_loaded(Path(model)), str(model)) if isinstance(model, str | Path) else (model, _shown(model))
    parts = _parts(live, source)
    encoders = {layer.place: layer for layer in parts if isinstance(layer, Encoder)}
    weights = {place: _encoder_tensors(encoder, source) for place, encoder in encoders.items()}
    for layer in parts:
        if isinstance(layer, Head):
            weights[layer.place] = _head_tensors(layer, source)
        elif isinstance(layer, Answer):
            weights[layer.place] |= _answer_tensors(layer, encoders[layer.place], source)
    for tensors in weights.values():
        require_finite({name: torch.from_numpy(value) for name, value in tensors.items()}, source)
    packed = next(encoder.skeleton for encoder in encoders.values() if encoder.skeleton)
    original = filled(packed, weights).reference
    checkpoint = open_checkpoint(original, task=task, settings=settings)
    found = _answers(live, checkpoint, source)
    if checkpoint.task == "multi_vector":  # compared before clusters, which rounding may make others of
        _require_same(_answers(_unpooled(live), checkpoint, source), _without_pooling(original), checkpoint, source)
    else:
        _require_same(found, original, checkpoint, source)
    if cut := checkpoint.truncate_dim:
        found = {name: _cut(answers, cut) for name, answers in found.items()}
    return replace(checkpoint, source=source, answers=found)


def _cut(answers: Answers, dim: int) -> Answers:
    return lambda rows: answers(rows)[..., :dim]


def _unpooled(model: keras.Model) -> keras.Model:
    """A model of many vectors without what makes them fewer."""
    found = {layer.name.removeprefix("vectors_"): layer.output for layer in model.layers if isinstance(layer, Vectors)}
    outputs = {
        key: value for name, pair in found.items() for key, value in zip((name, f"{name}_mask"), pair, strict=True)
    }
    return keras.Model(model.input, outputs)


def _without_pooling(model: Any) -> Any:
    bare = copy.copy(model)
    bare._modules = {
        name: module for name, module in model._modules.items() if type(module).__name__ != "HierarchicalTokenPooling"
    }
    return bare


def _embeddings(model: Any, name: str | None, rows: Sequence[Any]) -> Array:
    return np.asarray(asked(model, name, rows))


def _scores(model: Any, name: str | None, rows: Sequence[Any]) -> Array:
    return np.asarray(model.predict(list(rows), show_progress_bar=False))


def _activations(model: Any, name: str | None, rows: Sequence[Any]) -> Array:
    dim = model.get_embedding_dimension()
    return np.asarray(asked(model, name, rows, max_active_dims=dim, convert_to_sparse_tensor=False))


def _lists(model: Any, name: str | None, rows: Sequence[Any]) -> list[Array]:
    return list(asked(model, name, rows, convert_to_numpy=True))


_ORIGINALS: Mapping[str, Callable[[Any, str | None, Sequence[Any]], Any]] = {
    "embed": _embeddings,
    "multi_vector": _lists,
    "rerank": _scores,
    "sparse": _activations,
}
"""What the models of a task answer, by default or for the prompt of that name, as their Keras models do."""


def _shown(model: Any) -> str:
    return f"Keras model {model.name!r}"


def _loaded(file: Path) -> keras.Model:
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:  # what Keras raises for files that are none
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SourceError(f"{file}: Keras cannot load it: {reason}") from error


def _parts(model: keras.Model, source: str) -> list[Any]:
    """The layers that may have weights, once all are known to be those of ``to_keras``."""
    layers = [layer for layer in getattr(model, "layers", ()) if not isinstance(layer, keras.layers.InputLayer)]
    supported = "the layers of to_keras alone; give the model that it made, which others may be built on"
    for layer in layers:
        if not isinstance(layer, OURS):
            raise UnsupportedError(source, f"layer {layer.name!r}", type(layer).__name__, supported)
    encoders = [layer for layer in layers if isinstance(layer, Encoder)]
    answering, vectors = (sum(isinstance(layer, kind) for layer in layers) for kind in (ANSWERING, Vectors))
    old = [encoder for encoder in encoders if encoder.skeleton is None]
    if old:
        raise UnsupportedError(
            source, f"layer {old[0].name!r}", "saved by an earlier release", "models of this release's to_keras"
        )
    whole = sum(bool(encoder.skeleton) for encoder in encoders) == 1  # and not parts of several models
    if not whole or not ((answering and not vectors) or (answering, vectors) == (0, 2)):
        raise UnsupportedError(source, "layers", [layer.name for layer in layers], supported)
    return [layer for layer in layers if isinstance(layer, Encoder | Head | Answer)]


def _values(layer: Encoder | Head | Answer, source: str) -> dict[str, Array]:
    for variable in layer.params.values():
        if variable.dtype != "float32":
            raise UnsupportedError(source, f"dtype of layer {layer.name!r}", variable.dtype, "float32")
    return {name: np.asarray(variable.numpy()) for name, variable in layer.params.items()}


def _encoder_tensors(encoder: Encoder, source: str) -> dict[str, Array]:
    assert encoder.stored_shapes is not None
    values = _values(encoder, source)
    unused = {name.removeprefix(UNUSED): values.pop(name) for name in list(values) if name.startswith(UNUSED)}
    own = Places(encoder.spec, encoder.stored_shapes).put_back(values)
    return {**{f"{encoder.prefix}{name}": value for name, value in own.items()}, **unused}


def _head_tensors(head: Head, source: str) -> dict[str, Array]:
    # matrices lie the other way round there
    return {head.spec.stored[name]: value.T for name, value in _values(head, source).items()}


def _answer_tensors(answer: Answer, encoder: Encoder, source: str) -> dict[str, Array]:
    values = _values(answer, source)
    if encoder.hands_on:
        values["words"] = np.asarray(encoder.params[WORDS].numpy())
    return {name: values[own] if own == "words" else values[own].T for own, name in answer.stored.items()}


def _answers(model: keras.Model, checkpoint: Checkpoint, source: str) -> dict[str | None, Answers]:
    """The Keras model as a function of texts, or of pairs of them, by the name of the prompt that it puts before them
    (``None``: the default one)."""
    if checkpoint.task == "multi_vector":
        return {name: partial(_many_vectors, model, name) for name in (QUERY, DOCUMENT)}
    if taken := routes(checkpoint):
        return _routed_answers(model, checkpoint, tuple(taken), source)
    tokens = isinstance(model.input, Mapping) and "input_ids" in model.input
    if tokens and checkpoint.prompt and not all(getattr(item, "include_prompt", True) for item in checkpoint.reference):
        raise UnsupportedError(source, "inputs", "tokens", "text, where pooling leaves a prompt out")
    tokenize = tokenizing(read_spec(checkpoint, Views(prompts=())), checkpoint) if tokens else None

    def given(rows: Sequence[Any]) -> Any:
        columns = [rows] if checkpoint.task != "rerank" else list(zip(*rows, strict=True))
        texts = [_strings(column) for column in columns]
        if tokenize is not None:
            return tokenize(*texts)
        return texts[0] if checkpoint.task != "rerank" else dict(zip((QUERY, DOCUMENT), texts, strict=True))

    return {None: partial(_in_batches, model, given)}


def _routed_answers(
    model: keras.Model, checkpoint: Checkpoint, names: Sequence[str], source: str
) -> dict[str | None, Answers]:
    """Those of a model with routes of these ``names``."""
    for side, found in (("inputs", model.input), ("outputs", model.output)):
        if not isinstance(found, Mapping) or set(found) != set(names):
            shown = sorted(found) if isinstance(found, Mapping) else type(found).__name__
            raise UnsupportedError(source, side, shown, f"those of to_keras: {', '.join(names)}")
    by_name = {
        name: partial(_in_batches, keras.Model(model.input[name], model.output[name]), _strings) for name in names
    }
    answers: dict[str | None, Answers] = {name: by_name[name] for name in checkpoint.routes}
    if alike := asked_by_default(checkpoint):
        answers[None] = by_name[alike[0]]
    return answers


def _strings(texts: Sequence[str]) -> tf.Tensor:
    return tf.constant([text.encode() for text in texts])


def _in_batches(model: keras.Model, given: Callable[[Sequence[Any]], Any], rows: Sequence[Any]) -> Array:
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return np.concatenate([model(given(batch)).numpy() for batch in batches])


def _many_vectors(model: keras.Model, name: str, rows: Sequence[Any]) -> list[Array]:
    """Of each text its vectors, where it is taken for what ``name`` says."""
    lists: list[Array] = []
    for start in range(0, len(rows), BATCH):
        texts = _strings(rows[start : start + BATCH])
        found = model({QUERY: texts, DOCUMENT: texts})
        masks = found[f"{name}_mask"].numpy().astype(bool)
        lists += [vectors[mask] for vectors, mask in zip(found[name].numpy(), masks, strict=True)]
    return lists


def _require_same(answers: Mapping[str | None, Answers], original: Any, checkpoint: Checkpoint, source: str) -> None:
    """Raise ``CheckError`` unless ``original`` answers some texts as the Keras model does."""
    tried: Sequence[Any] = TRIED if checkpoint.task != "rerank" else list(zip(TRIED, TRIED[::-1], strict=True))
    for name, ask in answers.items():
        for ours, theirs in zip(ask(tried), _ORIGINALS[checkpoint.task](original, name, tried), strict=True):
            _require_row_equal(ours, theirs, source)


def _require_row_equal(ours: Array, theirs: Array, source: str) -> None:
    if ours.shape != theirs.shape:
        raise CheckError(
            f"{source}: it answers {list(ours.shape)} numbers, and what its weights make {list(theirs.shape)}"
        )
    # sums over tokens, and scores without an activation, may be large
    difference = float(np.max(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs)), initial=0.0))
    if not difference <= BOUND:
        raise CheckError(f"{source}: the model that its weights make differs by {difference:.2g} (bound {BOUND:g})")
