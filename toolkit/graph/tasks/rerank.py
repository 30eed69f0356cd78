"""``rerank``: a CrossEncoder, from pairs of texts to their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from toolkit.corpus.check import SHORT
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import read_encoder
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.spec import Request, TaskSpec, chosen_names, max_length, require_room, warmup_batches
from toolkit.heads.classifier import ClassifierSpec, read_classifier
from toolkit.heads.dense import DENSE_ACTIVATIONS
from toolkit.signatures import (
    PairSignature,
    Prompt,
    Signature,
    Views,
    all_pair_signatures,
    pair_signatures,
)
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.source.loaded import require_independent_rows
from toolkit.tokenizer import TokenizerSpec, read_tokenizer
from toolkit.tokenizer.pairs import STRATEGIES, Pairs, read_pairs

__all__ = ["RerankSpec"]


@dataclass(frozen=True, kw_only=True)
class RerankSpec(TaskSpec):
    """Its signatures from pairs to scores (the default one first), how pairs become rows, the head behind the encoder,
    and the ``activation`` of its scores."""

    task: ClassVar[str] = "rerank"

    signed: tuple[PairSignature, ...]
    pairs: Pairs
    classifier: ClassifierSpec
    activation: str

    @classmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        if views.dims or views.quantized:
            raise InputError("dims and quantize: are for models of embeddings; this one gives scores")
        (first,) = checkpoint.modules
        strategy = _strategy(first)
        module, classifier = read_classifier(first)
        encoder = read_encoder(module)
        limit = max_length(checkpoint, encoder)
        tokenizer = read_tokenizer(replace(checkpoint.tokenizer, max_length=limit))
        pairs = read_pairs(tokenizer, limit, strategy, token_types=checkpoint.token_types)
        _require_types(first, encoder, pairs)
        _require_a_token(tokenizer, pairs)
        prompts = [Prompt(None, checkpoint.prompt), *_prompts(checkpoint, views.prompts)]
        require_room(tokenizer, {item.text for item in prompts}, encoder.vocab_size)
        model: Any = checkpoint.reference
        require_independent_rows(
            model,
            lambda texts: np.reshape(
                model.predict([("hello", text) for text in texts], show_progress_bar=False), (len(texts), -1)
            ),
            first.file.removesuffix("/config.json"),
        )
        return cls(
            signed=pair_signatures(prompts, classifier.labels),
            tokenizer=tokenizer,
            encoder=encoder,
            pairs=pairs,
            classifier=classifier,
            activation=_activation(checkpoint),
            dim=classifier.labels,
            max_length=limit,
        )

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return all_pair_signatures(self.signed)

    @property
    def prompt(self) -> str:
        return self.signed[0].prompt.text

    @property
    def stages(self) -> tuple[str, ...]:
        return ("1_classifier", f"2_{self.activation}")

    def stamp(self) -> dict[str, Any]:
        return {"pair_signatures": [asdict(item) for item in self.signed]}

    def warmup(self, batching: Batching | None) -> list[Request]:
        def pairs(texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
            return {"query": [SHORT[0]] * len(texts), "document": texts}

        name, *further = (item.name for item in self.signed)
        requests: list[Request] = [(name, pairs(texts)) for texts in warmup_batches(self.max_length, batching)]
        return [*requests, *((item, pairs([SHORT[0]])) for item in further)]

    def __str__(self) -> str:
        scores = f"score       float32, {self.dim} a pair, {self.activation}"
        lines = [*self.described(), f"pairs       {self.pairs}", str(self.classifier), scores]
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.signed[1:])])


def _strategy(module: RawModule) -> str:
    """How pairs are cut. Refuses a Transformer module that gives something else than a classifier's logits."""
    fields = Fields(module)
    fields.only("transformer_task", ("sequence-classification",), "sequence-classification")
    fields.only("module_output_name", ("scores",), "scores")
    options = module.config.get("processing_kwargs") or {}
    text = options.get("text") or {}
    if set(options) - {"text"} or set(text) - {"truncation"}:
        raise UnsupportedError(module.file, "processing_kwargs", options, "of text its truncation alone")
    strategy = text.get("truncation", STRATEGIES[0])
    strategy = STRATEGIES[0] if strategy is True else strategy
    if strategy not in STRATEGIES:
        raise UnsupportedError(module.file, "processing_kwargs.text.truncation", strategy, STRATEGIES)
    return str(strategy)


def _activation(checkpoint: Checkpoint) -> str:
    found = checkpoint.activation
    assert found is not None, "a CrossEncoder has one"
    file = checkpoint.modules[0].file
    if found.name not in DENSE_ACTIVATIONS:
        raise UnsupportedError(file, "activation_fn", found.name, DENSE_ACTIVATIONS)
    if found.shown != found.default:
        raise UnsupportedError(file, "activation_fn", found.shown, f"{found.default}, the class's default options")
    return DENSE_ACTIVATIONS[found.name]


def _prompts(checkpoint: Checkpoint, chosen: Sequence[str] | None) -> list[Prompt]:
    """Those of the model's prompts that get a signature of their own; there is none for one that is empty."""
    there = {name: text for name, text in checkpoint.prompts.items() if text}
    return [Prompt(name, there[name]) for name in chosen_names(there, chosen)]


def _require_types(module: RawModule, encoder: EncoderSpec, pairs: Pairs) -> None:
    most = max(part.type_id for part in pairs.parts)
    if most >= encoder.type_vocab_size:
        supported = f"at least {most + 1}: so many token types the tokenizer gives to pairs"
        raise UnsupportedError(module.file, "type_vocab_size", encoder.type_vocab_size, supported)


def _require_a_token(tokenizer: TokenizerSpec, pairs: Pairs) -> None:
    if not pairs.size:
        supported = "one that adds special tokens: a pair of empty texts has no token otherwise"
        raise UnsupportedError(tokenizer.file, "post_processor", None, supported)
