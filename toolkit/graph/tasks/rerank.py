"""``rerank``: a CrossEncoder, from pairs of texts to their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from toolkit.corpus.calibration import Calibration
from toolkit.corpus.check import SHORT, as_row, check_pairs
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.families import read_encoder
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.spec import Request, TaskSpec, chosen_names, max_length, require_room, warmup_batches
from toolkit.heads.classifier import ClassifierSpec, read_classifier
from toolkit.heads.dense import DENSE_ACTIVATIONS
from toolkit.heads.logit_score import LOGITS, LogitScoreSpec, read_logit_score
from toolkit.signatures import (
    PairSignature,
    Prompt,
    Signature,
    Views,
    all_pair_signatures,
    pair_signatures,
)
from toolkit.source.chat import chat_frames, takes_messages
from toolkit.source.checkpoint import Checkpoint, RawModule
from toolkit.source.loaded import first_of, require_independent_rows
from toolkit.tokenizer import TokenizerSource, TokenizerSpec, read_tokenizer, reference_tokenizer
from toolkit.tokenizer.chat import ChatPairs, read_chat_pairs
from toolkit.tokenizer.pairs import STRATEGIES, Pairs, read_pairs

__all__ = ["RerankSpec"]


@dataclass(frozen=True, kw_only=True)
class RerankSpec(TaskSpec):
    """Its signatures from pairs to scores (the default one first), how pairs become rows, the head behind the encoder,
    and the ``activation`` of its scores."""

    task: ClassVar[str] = "rerank"
    scores: ClassVar[bool] = True

    signed: tuple[PairSignature, ...]
    pairs: Pairs | ChatPairs
    head: ClassifierSpec | LogitScoreSpec
    activation: str

    @classmethod
    def read(cls, checkpoint: Checkpoint, views: Views = Views()) -> Self:
        if views.dims or views.quantized:
            raise InputError("dims and quantize: are for models of embeddings; this one gives scores")
        first, *scored = checkpoint.modules
        _require_form(checkpoint.modules)
        module, head = read_logit_score(first, *scored) if scored else read_classifier(first)
        encoder = read_encoder(module)
        limit = max_length(checkpoint, encoder)
        prompts = [Prompt(None, checkpoint.prompt), *_prompts(checkpoint, views.prompts)]
        read = _read_chat if takes_messages(first_of(checkpoint.reference)) else _read_template
        tokenizer, pairs = read(checkpoint, limit, encoder, [item.text for item in prompts])
        model: Any = checkpoint.reference
        require_independent_rows(
            model,
            lambda texts: np.reshape(
                model.predict([("hello", text) for text in texts], show_progress_bar=False), (len(texts), -1)
            ),
            first.file.removesuffix("/config.json"),
        )
        return cls(
            signed=pair_signatures(prompts, head.labels),
            tokenizer=tokenizer,
            encoder=encoder,
            pairs=pairs,
            head=head,
            activation=_activation(checkpoint),
            dim=head.labels,
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
        return (f"1_{self.head.name}", f"2_{self.activation}")

    def check_rows(self) -> list[str]:
        assert self.max_length is not None
        return [as_row(*pair) for pair in check_pairs(self.max_length)]

    def calibration(self) -> Calibration:
        alone = super().calibration()
        return replace(alone, texts=tuple(map(as_row, alone.texts, (*alone.texts[1:], alone.texts[0]))))

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
        lines = [*self.described(), f"pairs       {self.pairs}", str(self.head), scores]
        return "\n".join([*lines, *(f"signature   {item.name}: {item}" for item in self.signed[1:])])


def _require_form(modules: Sequence[RawModule]) -> None:
    """Refuse modules other than a classifier, or a decoder and what scores its logits."""
    first, *scored = modules
    task, output = ("text-generation", LOGITS) if scored else ("sequence-classification", "scores")
    if first.type != "Transformer" or [module.type for module in scored] not in ([], ["LogitScore"]):
        shown = ", ".join(module.type for module in modules)
        raise UnsupportedError(first.file, "modules", shown, ("Transformer", "Transformer, LogitScore"))
    fields = Fields(first)
    fields.only("transformer_task", (task,), task)
    fields.only("module_output_name", (output,), output)


def _strategy(module: RawModule, *further: str) -> str:
    """How texts are cut. Refuses what else a module may be told about them, beside what is for ``further`` steps."""
    options = module.config.get("processing_kwargs") or {}
    text = options.get("text") or {}
    if set(options) - {"text", *further} or set(text) - {"truncation"}:
        raise UnsupportedError(module.file, "processing_kwargs", options, "of text its truncation alone")
    strategy = text.get("truncation", STRATEGIES[0])
    strategy = STRATEGIES[0] if strategy is True else strategy
    if strategy not in STRATEGIES:
        raise UnsupportedError(module.file, "processing_kwargs.text.truncation", strategy, STRATEGIES)
    return str(strategy)


def _read_template(
    checkpoint: Checkpoint, limit: int, encoder: EncoderSpec, prompts: Sequence[str]
) -> tuple[TokenizerSpec, Pairs]:
    """The tokenizer, and rows by its own template for pairs."""
    (first, *_), source = checkpoint.modules, checkpoint.tokenizer
    tokenizer = read_tokenizer(replace(source, max_length=limit))
    pairs = read_pairs(tokenizer, limit, _strategy(first), token_types=checkpoint.token_types)
    _require_types(first, encoder, pairs)
    if not pairs.size:
        raise _no_token(source)
    require_room(tokenizer, prompts, encoder.vocab_size)
    return tokenizer, pairs


def _read_chat(
    checkpoint: Checkpoint, limit: int, encoder: EncoderSpec, prompts: Sequence[str]
) -> tuple[TokenizerSpec, ChatPairs]:
    """The tokenizer, which adds no tokens here, and rows by way of its chat template."""
    first, source = checkpoint.modules[0], checkpoint.tokenizer.without_special()
    if (strategy := _strategy(first, "chat_template")) == "only_second":  # there is one text
        raise UnsupportedError(first.file, "processing_kwargs.text.truncation", strategy, STRATEGIES[:2])
    options = dict((first.config.get("processing_kwargs") or {}).get("chat_template") or {})
    keeps = options.pop("restore_suffix", True)
    if sizes := sorted({"padding", "truncation", "max_length", "return_tensors"} & set(options)):
        raise UnsupportedError(first.file, f"processing_kwargs.chat_template.{sizes[0]}", options[sizes[0]], "none")
    tokenizer = read_tokenizer(replace(source, max_length=limit))
    frames = chat_frames(first_of(checkpoint.reference), dict.fromkeys(prompts), options, first.file)
    empty = [frame.around("", "") for frame in frames.values()]
    if not all(reference_tokenizer(tokenizer).encode(text).ids for text in empty):
        raise _no_token(source)
    require_room(tokenizer, empty, encoder.vocab_size)
    return tokenizer, read_chat_pairs(tokenizer, limit, frames, keeps_ending=bool(keeps))


def _no_token(source: TokenizerSource) -> UnsupportedError:
    supported = "one that adds special tokens: a pair of empty texts has no token otherwise"
    return UnsupportedError(source.file, "post_processor", None, supported)


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
