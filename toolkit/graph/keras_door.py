"""A model of sentence-transformers as a Keras 3 model with trainable weights, to be built into other TensorFlow models.

After ``import toolkit.graph.keras_door`` ``keras.models.load_model`` reads what ``model.save("x.keras")`` wrote: the
layers are those of :mod:`toolkit.graph.keras_layers`. The way back is :mod:`toolkit.graph.keras_back`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import keras

from toolkit.encoder.families import MODEL_TYPES
from toolkit.encoder.static import STATIC
from toolkit.errors import InputError
from toolkit.graph.keras_layers import WORDS, Activation, Occurrence, PooledVectors, Pooling, Truncate, Vectors
from toolkit.graph.keras_modules import Layers
from toolkit.graph.keras_tokens import THERE, TOKENS, Tokenize, TokenizeExpanded, TokenizePairs, pairs_config
from toolkit.graph.spec import TaskSpec
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.multi_vector import MultiVectorSpec
from toolkit.graph.tasks.rerank import RerankSpec
from toolkit.graph.tasks.sparse import SparseSpec
from toolkit.heads.head import SENTENCE, RowHead, head_parameters, own_parameters, stage_names
from toolkit.heads.head import TOKENS as TOKEN_EMBEDDINGS
from toolkit.heads.pooling import PoolingSpec
from toolkit.signatures import Views, prompt_texts
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.settings import SourceSettings
from toolkit.source.tasks import TASKS
from toolkit.tokenizer.chat import ChatPairs
from toolkit.vectors_signatures import DOCUMENT, QUERY

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

__all__ = ["asked_by_default", "routes", "to_keras", "tokenizing"]

Tensors = Mapping[str, Any]

_TEXT = "text"
"""What the way of texts is called that are taken for nothing."""


@dataclass(frozen=True)
class _Way:
    """What a text goes through, as if that were the whole model. Where there are several, ``route`` says which it is
    of (``None``: of all texts)."""

    spec: Any
    checkpoint: Checkpoint
    route: str | None = None

    def named(self, name: str) -> str:
        """The name of a layer of this way alone."""
        return name if self.route is None else f"{name}_{self.route}"


def routes(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """The ways through a model that its Keras model takes texts for, by the names of its inputs: those of a Router, and
    the default one as ``text`` where it is none of them. A model with one way for all texts has none."""
    found = checkpoint.routes
    if found and not any(_same(way, checkpoint) for way in found.values()):
        found[_TEXT] = replace(checkpoint, ways={})
    return found


def _same(a: Checkpoint, b: Checkpoint) -> bool:
    return [id(module) for module in a.modules] == [id(module) for module in b.modules]


def asked_by_default(checkpoint: Checkpoint) -> list[str]:
    """Of ``routes`` those by which a text is treated as by default: the same way, with the same prompt."""
    prompts = prompt_texts(checkpoint.prompts, checkpoint.prompt, tuple(checkpoint.routes)) | {_TEXT: checkpoint.prompt}
    return [
        name
        for name, way in routes(checkpoint).items()
        if _same(way, checkpoint) and prompts[name] == checkpoint.prompt
    ]


def _way(spec: TaskSpec, route: str, checkpoint: Checkpoint) -> _Way:
    """That of a ``checkpoint`` of one route of a whole model, which ``spec`` is of."""
    texts: Any = spec.texts  # type: ignore[attr-defined]  # of the tasks that have routes
    text = next(item for item in texts if item.prompt.name == (None if route == _TEXT else route))
    if isinstance(spec, EmbedSpec):
        return _Way(replace(spec.routes.get(route, spec), texts=(text,), routes={}), checkpoint, route)
    return _Way(read_spec(replace(checkpoint, prompt=text.prompt.text), Views(prompts=())), checkpoint, route)


@dataclass(frozen=True)
class _Behind:
    """What stands behind the encoder: ``head`` is that of the encoder's own module, ``words`` whether its table
    of words is asked for, and ``build`` makes the answer of what the encoder yields (token embeddings, and the table
    where it is asked for) and of the tokens by name."""

    build: Callable[[Tensors, Tensors], Any]
    head: RowHead | None = None
    words: bool = False


def _embed(way: _Way, layers: Layers, prompted: bool) -> _Behind:
    spec: EmbedSpec = way.spec
    params = head_parameters(spec.modules)
    skipped = spec.texts[0].prompt.skipped if prompted else 0  # tokens that a caller chose have no prompt
    modules = [module for module in way.checkpoint.modules if module.type != "Dropout"]
    if spec.encoder.family != STATIC:  # which pools by itself, without another module
        modules = modules[1:]

    def build(features: Tensors, tokens: Tensors) -> Any:
        for stage, head, module in zip(stage_names(spec.modules), spec.modules, modules, strict=True):
            if isinstance(head, PoolingSpec):
                layer = Pooling(list(head.modes), head.dim, skipped, name=way.named("pooling"))
                features = {SENTENCE: layer(features[TOKEN_EMBEDDINGS], tokens["attention_mask"])}
            else:
                made = layers.head(head, module, own_parameters(params, stage))
                features = {**features, head.writes: made(features[head.reads])}
        x = features[SENTENCE]
        return x if spec.truncate_dim is None else Truncate(spec.dim, name=way.named("truncate"))(x)

    return _Behind(build)


def _rerank(way: _Way, layers: Layers, prompted: bool) -> _Behind:
    spec: RerankSpec = way.spec

    def build(features: Tensors, tokens: Tensors) -> Any:
        logits = _answer(spec.head, way, layers, features, tokens)
        return Activation(spec.activation, name="activation")(logits)

    return _Behind(build, spec.head, _lacks_words(spec.head))


def _sparse(way: _Way, layers: Layers, prompted: bool) -> _Behind:
    spec: SparseSpec = way.spec
    head = spec.splade
    if head is None:
        occurrence = Occurrence(name=way.named("occurrence"))
        return _Behind(lambda features, tokens: occurrence(features[WORDS], *_shown(tokens)), words=True)
    return _Behind(lambda features, tokens: _answer(head, way, layers, features, tokens), head, _lacks_words(head))


_BEHIND: Mapping[str, Callable[[_Way, Layers, bool], _Behind]] = {"embed": _embed, "rerank": _rerank, "sparse": _sparse}
"""What stands behind the encoder, by task, of a way, and of whether prompts stand before texts."""


def _lacks_words(head: RowHead) -> bool:
    """Whether its table of words is the encoder's."""
    return "words" in head.stored and "words" not in head.weights


def _shown(tokens: Tensors) -> tuple[Any, Any]:
    return tokens["input_ids"], tokens["attention_mask"]


def _answer(head: RowHead, way: _Way, layers: Layers, features: Tensors, tokens: Tensors) -> Any:
    layer = layers.answer(head, way.checkpoint.modules[0], way.spec.dim)
    return layer(features[TOKEN_EMBEDDINGS], *_shown(tokens), features.get(WORDS))


def _answered(way: _Way, layers: Layers, tokens: Tensors, prompted: bool = True) -> Any:
    """The answer to tokens that go this way."""
    behind = _BEHIND[way.spec.task](way, layers, prompted)
    encoder = layers.encoder(way.spec.encoder, way.checkpoint.modules[0], behind.head, words=behind.words)
    found = encoder(*(tokens[name] for name in TOKENS))
    features = dict(zip((TOKEN_EMBEDDINGS, WORDS), found, strict=True)) if behind.words else {TOKEN_EMBEDDINGS: found}
    return behind.build(features, tokens)


def _routed(spec: TaskSpec, taken: Mapping[str, Checkpoint], layers: Layers) -> tuple[Tensors, Tensors]:
    """Of texts that go each their own way, inputs and answers by name."""
    entry, found = {}, {}
    for name, checkpoint in taken.items():
        way = _way(spec, name, checkpoint)
        entry[name] = keras.Input(shape=(), dtype="string", name=name)
        found[name] = _answered(way, layers, tokenizing(way.spec, checkpoint, way.named("tokenize"))(entry[name]))
    return entry, found


def _many_vectors(spec: MultiVectorSpec, checkpoint: Checkpoint, layers: Layers) -> tuple[Tensors, Tensors]:
    """Of queries and documents, which go through the same encoder and modules, but become tokens in their own ways."""
    roles = {role.name: role for role in spec.roles}
    prompts = {item.role: item.prompt.text for item in spec.texts}
    modules = [module for module in checkpoint.modules if module.type in ("Dense", "Normalize")]
    params, names = head_parameters(spec.heads), stage_names(spec.heads)
    encoder = layers.encoder(spec.encoder, checkpoint.modules[0], words=False)
    parts = zip(spec.heads, names, modules, strict=True)
    heads = [layers.head(head, module, own_parameters(params, name)) for head, name, module in parts]
    entry, found = {}, {}
    for name in (QUERY, DOCUMENT):
        role = roles[name]
        entry[name] = keras.Input(shape=(), dtype="string", name=name)
        raw = asdict(replace(checkpoint.tokenizer, max_length=role.max_length))
        own: Any = {"prompt": prompts[name], "vocab_size": spec.encoder.vocab_size, "name": f"tokenize_{name}"}
        more = role.expansion
        tokens = (Tokenize(raw, **own) if more is None else TokenizeExpanded(raw, *astuple(more), **own))(entry[name])
        there = tokens[THERE] if more is not None else tokens["attention_mask"]
        seen = there if more is not None and not more.attended else None
        x = encoder(*(tokens[item] for item in TOKENS), seen)
        for head in heads:
            x = head(x)
        x, there = Vectors(role.skipped, role.kept, name=f"vectors_{name}")(x, tokens["input_ids"], there)
        if role.pooling is not None:
            x, there = PooledVectors(**asdict(role.pooling), longest=role.length, name=f"pooled_{name}")(x, there)
        found[name], found[f"{name}_mask"] = x, there
    return entry, found


def tokenizing(spec: TaskSpec, checkpoint: Checkpoint, name: str = "tokenize") -> Tokenize | TokenizePairs:
    """The layer from what the default signature takes to tokens, its prompt before them."""
    if not isinstance(spec, RerankSpec):
        raw = replace(checkpoint.tokenizer, max_length=spec.max_length)
        return Tokenize(asdict(raw), spec.prompt, spec.encoder.vocab_size, name=name)
    own = checkpoint.tokenizer.without_special() if isinstance(spec.pairs, ChatPairs) else checkpoint.tokenizer
    raw, pairs = replace(own, max_length=spec.max_length), pairs_config(spec.pairs)
    return TokenizePairs(asdict(raw), pairs, prompt=spec.prompt, vocab_size=spec.encoder.vocab_size, name=name)


def to_keras(
    source: str | Path | BaseModel,
    *,
    task: str | None = None,
    inputs: Literal["text", "tokens"] = "text",
    prompt_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> keras.Model:
    """A Keras model that equals ``source`` (a folder, hub id or live model of sentence-transformers), ready to be
    trained. ``task`` names what it is for where a plain folder leaves that open, as for ``export``.

    With ``inputs="text"`` it takes string ``[batch]``, a CrossEncoder's two of them, ``query`` and ``document``; with
    ``"tokens"`` a dict of int32 ``[batch, length]`` tensors input_ids, attention_mask and token_type_ids. The output is
    float32: embeddings ``[batch, dim]``; scores ``[batch]``, or ``[batch, labels]``; of a SparseEncoder all numbers of
    its vectors, ``[batch, vocabulary]``. A MultiVectorEncoder's model takes ``query`` and ``document`` too, and
    gives for each a vector for every token, ``[batch, length, dim]``, and where there are such, ``query_mask`` and
    ``document_mask``. Layers: ``tokenize``, ``encoder``, then those of the task. Before each text (or query) is the
    prompt of that name, else the default one.

    A model with a Router takes a dict of strings by route, ``query`` and ``document`` (and ``text``, if what is neither
    goes a third way), and gives a dict of the answers of ``encode_query`` and ``encode_document``. The names of layers
    end in the route's, as ``encoder_query``, but of those that all routes share.

    Raises ``SourceError``, ``UnsupportedError`` or ``InputError``.
    """
    if inputs not in ("text", "tokens"):
        raise InputError(f"inputs is {inputs!r}; expected 'text' or 'tokens'")
    if inputs == "tokens" and prompt_name is not None:
        raise InputError(
            "prompt_name goes with inputs 'text': tokens are what the caller makes of a text and its prompt"
        )
    checkpoint = open_checkpoint(
        source,
        task=task,
        revision=revision,
        trust_remote_code=trust_remote_code,
        settings=SourceSettings(prompt_name=prompt_name),
        model_types=MODEL_TYPES,
    )
    many, taken = checkpoint.task == MultiVectorSpec.task, routes(checkpoint)
    if (many or taken) and (inputs == "tokens" or prompt_name is not None):
        named = "inputs 'tokens'" if inputs == "tokens" else f"prompt_name {prompt_name!r}"
        kind = "of many vectors" if many else "with routes"
        raise InputError(f"{named}: a Keras model {kind} takes texts, each of its inputs with its own prompt")
    names = (QUERY, DOCUMENT) if many else tuple(checkpoint.routes)
    spec, layers = read_spec(checkpoint, Views(prompts=names)), Layers(checkpoint, taken)
    entry: Any
    if isinstance(spec, MultiVectorSpec):
        entry, answers = _many_vectors(spec, checkpoint, layers)
    elif taken:
        entry, answers = _routed(spec, taken, layers)
    else:
        if inputs == "tokens":
            entry = tokens = {name: keras.Input(shape=(None,), dtype="int32", name=name) for name in TOKENS}
        elif spec.task == "rerank":
            entry = {name: keras.Input(shape=(), dtype="string", name=name) for name in (QUERY, DOCUMENT)}
            tokens = tokenizing(spec, checkpoint)(*entry.values())
        else:
            entry = keras.Input(shape=(), dtype="string", name="text")
            tokens = tokenizing(spec, checkpoint)(entry)
        answers = _answered(_Way(spec, checkpoint), layers, tokens, inputs == "text")
    return keras.Model(entry, answers, name=_snake(TASKS[spec.task].model_class))


def _snake(name: str) -> str:
    """``SparseEncoder`` as ``sparse_encoder``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
