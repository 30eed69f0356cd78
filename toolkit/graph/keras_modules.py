"""The Keras layers that a checkpoint's modules become, with what it stores as their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.places import Places
from toolkit.graph.keras_layers import UNUSED, Answer, Encoder, Head, numbers_of
from toolkit.heads.head import HeadSpec, RowHead
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.source.router import ways
from toolkit.source.skeleton import places, skeleton
from toolkit.source.traced import unused_state

__all__ = ["Layers"]


class Layers:
    """Makes the layers of a checkpoint's modules, of each module one, however many of its ``routes`` have it.

    The name of a layer says which route it is of, unless all have it.
    """

    def __init__(self, checkpoint: Checkpoint, routes: Mapping[str, Checkpoint]) -> None:
        self._routes = routes
        self._skeleton = skeleton(checkpoint.reference)
        self._places = places(checkpoint.reference)
        taken = ways(checkpoint.reference, checkpoint.source)
        self._live = {
            id(module): live
            for name, way in taken.items()
            for module, live in zip((checkpoint.routes[name] if name else checkpoint).modules, way, strict=True)
        }
        self._encoders: dict[str, Encoder] = {}
        self._heads: dict[str, Head] = {}
        self._answers: dict[str, Answer] = {}

    def encoder(self, spec: EncoderSpec, module: RawModule, head: RowHead | None = None, *, words: bool) -> Encoder:
        """Of a module that takes texts, with a ``head`` around it or none; ``words``: it hands its table of words on.

        The first of a model keeps all that is saved beside the weights.
        """
        name = self._name("encoder", module)
        if name in self._encoders:
            return self._encoders[name]
        prefix = f"{module.config['base_model_prefix']}." if head is not None else ""
        shapes = {name: tensor.shape for name, tensor in spec.tensors.items()}
        used = [spec.tensors[name] for name in Places(spec, shapes).names]
        others = {f"{prefix}{name}": tensor for name, tensor in spec.tensors.items()}
        if head is not None:
            used += [module.tensors[name] for name in head.stored.values()]
            others |= {name: tensor for name, tensor in module.tensors.items() if not name.startswith(prefix)}
        if module.type == "Transformer":
            stored = unused_state(self._live[id(module)].auto_model)
            others |= {name: np.asarray(tensor.detach()) for name, tensor in stored.items()}
        unused = {
            f"{UNUSED}{name}": tensor
            for name, tensor in others.items()
            # a table may have two names
            if tensor.dtype.kind == "f" and not any(np.shares_memory(tensor, other) for other in used)
        }
        values = {**spec.stored(), **unused}
        layer = Encoder(
            numbers_of(replace(spec, tensors={})),
            {name: value.shape for name, value in values.items()},
            {name: list(shape) for name, shape in shapes.items()},
            self._skeleton,
            prefix,
            words,
            self._place(module),
            name=name,
            trainable=not module.config.get("frozen", False),  # as a SparseStaticEmbedding may be
        )
        self._skeleton = ""
        layer.load(values)
        self._encoders[name] = layer
        return layer

    def head(self, head: HeadSpec, module: RawModule, params: Mapping[str, np.ndarray[Any, Any]]) -> Head:
        """Of a module behind the encoder, whose weights are ``params``."""
        kind, place = type(head).__name__, self._place(module)
        name = self._name(f"head_{place}_{kind.removesuffix('Spec').lower()}", module)
        if name not in self._heads:
            shapes = {key: value.shape for key, value in params.items()}
            self._heads[name] = Head(kind, numbers_of(head), shapes, place, name=name)
            self._heads[name].load(params)
        return self._heads[name]

    def answer(self, head: RowHead, module: RawModule, answers: int) -> Answer:
        """Of the ``head`` around an encoder."""
        kind = type(head).__name__
        name = self._name(kind.removesuffix("Spec").lower(), module)
        if name not in self._answers:
            shapes = {key: value.shape for key, value in head.weights.items()}
            place = self._place(module)
            self._answers[name] = Answer(kind, numbers_of(head), shapes, head.stored, answers, place, name=name)
            self._answers[name].load(head.weights)
        return self._answers[name]

    def _place(self, module: RawModule) -> int:
        return self._places[id(self._live[id(module)])]

    def _name(self, name: str, module: RawModule) -> str:
        on = [route for route, way in self._routes.items() if any(item is module for item in way.modules)]
        return name if len(on) == len(self._routes) else f"{name}_{on[0]}"
