"""What a tokenizer is, read once and frozen: every refusal of a tokenizer lives here.

The source of truth is the tokenizer as the ``tokenizers`` package serialises it (``tokenizer.json``). Nothing after
:func:`read_tokenizer` opens JSON again; what is left to find out about single characters is asked of the tokenizer
itself (see :mod:`toolkit.tokenizer.characters`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from toolkit.errors import MissingExtraError, SourceError, UnsupportedError
from toolkit.tokenizer.bpe.spec import BytePairModel, read_pairs
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel
from toolkit.tokenizer.parts import parts
from toolkit.tokenizer.unigram.spec import UnigramModel, read_unigram
from toolkit.tokenizer.wordpiece.spec import WordPieceModel, read_wordpiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "TOKENIZER_KINDS",
    "AddedToken",
    "BytePairModel",
    "Template",
    "TokenizerSource",
    "TokenizerSpec",
    "UnigramModel",
    "WordPieceModel",
    "read_tokenizer",
    "reference_tokenizer",
]

Side = Literal["left", "right"]
Model = WordPieceModel | UnigramModel | BytePairModel | CharacterPairModel


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer as a checkpoint gives it.

    ``json`` is ``Tokenizer.to_str()`` of the live tokenizer; ``file`` is its name in error messages; ``max_length`` is
    in tokens, special tokens included (None: nothing is cut off); ``lowercase`` asks for a ``Lowercase`` normalizer
    before the others where the tokenizer has none; ``truncation_side`` is the side that loses tokens; ``pad_id`` is
    the id that fills up short rows (None: the tokenizer's own padding token).
    """

    json: str
    file: str
    max_length: int | None
    lowercase: bool = False
    truncation_side: Side = "right"
    pad_id: int | None = None

    def without_special(self) -> TokenizerSource:
        """The same one that adds no special tokens to a text."""
        return replace(self, json=json.dumps({**json.loads(self.json), "post_processor": None}, ensure_ascii=False))


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in the text itself, before (or, if ``normalized``, after) normalization."""

    content: str
    id: int
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


@dataclass(frozen=True)
class Template:
    """The special tokens around every text, as ``(token, id)`` in order."""

    before: tuple[tuple[str, int], ...] = ()
    after: tuple[tuple[str, int], ...] = ()

    @property
    def size(self) -> int:
        """How many tokens the template adds."""
        return len(self.before) + len(self.after)

    def around(self, inner: Template) -> Template:
        """The template that results when this one is applied to the result of ``inner``."""
        return Template(self.before + inner.before, inner.after + self.after)


@dataclass(frozen=True)
class TokenizerSpec:
    """Everything a tokenizer graph is built from. ``json`` is the tokenizer that the graph equals on every text."""

    json: str = field(repr=False)
    file: str
    model: Model = field(repr=False)
    added_tokens: tuple[AddedToken, ...]
    template: Template
    max_length: int | None
    truncation_side: Side
    pad_id: int

    def special_from(self, token_id: int) -> tuple[str, ...]:
        """The special tokens that are looked for in the text and have ids from ``token_id`` on."""
        return tuple(token.content for token in self.added_tokens if token.special and token.id >= token_id)


@dataclass(frozen=True)
class _Kind:
    """``titles``: what users call it, and the models it is known from. ``read`` takes the file's name and the complete
    ``tokenizer.json``, and refuses the normalizers and pre-tokenizers that this kind does not take."""

    titles: tuple[tuple[str, str], ...]
    read: Callable[[str, Mapping[str, Any]], Model]


_MODELS: Mapping[str, _Kind] = {
    "WordPiece": _Kind((("WordPiece", "BERT, MPNet, DistilBERT, ELECTRA"),), read_wordpiece),
    "Unigram": _Kind(
        (("Unigram", "XLM-RoBERTa, CamemBERT, multilingual E5, BGE-M3, ALBERT, T5, DeBERTa"),), read_unigram
    ),
    "BPE": _Kind(
        (
            ("byte-level BPE", "RoBERTa, GPT-2, ModernBERT, Llama 3, Qwen, GPT-4o, DeepSeek-V3, Granite"),
            ("SentencePiece BPE", "Gemma, EmbeddingGemma, Llama 2, Mistral"),
        ),
        read_pairs,
    ),
}
TOKENIZER_KINDS: Mapping[str, str] = {title: known for kind in _MODELS.values() for title, known in kind.titles}
"""The kinds of tokenizers, and the models that have such a one."""
_POST_PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel", "Sequence of these")


def read_tokenizer(source: TokenizerSource) -> TokenizerSpec:
    """Read ``source`` into a spec.

    Raises :class:`~toolkit.errors.SourceError` if it is not a tokenizer, and
    :class:`~toolkit.errors.UnsupportedError`, naming file, field and value, for a part that cannot be made exact.
    """
    root, tokenizer, own_pad_id = _load(source)
    model = _model(source.file, root)
    template = _template(source.file, "post_processor", root["post_processor"])
    return TokenizerSpec(
        json=json.dumps(root, ensure_ascii=False),
        file=source.file,
        model=model,
        added_tokens=_added_tokens(source.file, root["added_tokens"], tokenizer),
        template=template,
        max_length=_max_length(source, template),
        truncation_side=_truncation_side(source),
        pad_id=_pad_id(source, own_pad_id, tokenizer),
    )


def reference_tokenizer(spec: TokenizerSpec, *, max_length: int | Literal["spec"] | None = "spec") -> Tokenizer:
    """The ``tokenizers`` object that a graph of ``spec`` must equal; by default it truncates as ``spec`` says."""
    tokenizer: Tokenizer = _tokenizers().Tokenizer.from_str(spec.json)
    limit = spec.max_length if max_length == "spec" else max_length
    if limit is not None:
        tokenizer.enable_truncation(limit, stride=0, strategy="longest_first", direction=spec.truncation_side)
    return tokenizer


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "convert") from error
    return tokenizers


def _load(source: TokenizerSource) -> tuple[dict[str, Any], Tokenizer, int | None]:
    """The tokenizer's JSON without truncation and padding, the tokenizer made of that, and the id it padded with."""
    tokenizers = _tokenizers()
    try:
        root = json.loads(source.json)
        if not isinstance(root, dict):
            raise TypeError("not a JSON object")
        if source.lowercase:
            root["normalizer"] = _with_lowercase(root.get("normalizer"))
        # The package fills in every default, so that later readers find each field.
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(root))
        padding = tokenizer.padding
        tokenizer.no_padding()
        tokenizer.no_truncation()
        complete = cast("dict[str, Any]", json.loads(tokenizer.to_str()))
    except Exception as error:  # the package raises bare Exception
        raise SourceError(f"{source.file}: not a tokenizer that the tokenizers package can read: {error}") from error
    return complete, tokenizer, padding["pad_id"] if padding else None


def _with_lowercase(normalizer: Any) -> Any:
    found = parts(normalizer, "normalizers")
    if any(part.get("type") == "Lowercase" for part in found):
        return normalizer
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *found]}


def _template(file: str, name: str, node: Any) -> Template:
    template = Template()
    apart = False
    for part in parts(node, "processors"):
        kind = part["type"]
        if apart and kind != "ByteLevel":
            # A text is several parts by then, which the package takes for a pair of texts.
            allowed = "ByteLevel alone behind a TemplateProcessing that adds tokens"
            raise UnsupportedError(file, f"{name}.type", f"{kind} behind TemplateProcessing", allowed)
        if kind == "TemplateProcessing":
            apart = len(part["single"]) > 1
            template = _template_processing(file, name, part).around(template)
        elif kind in ("BertProcessing", "RobertaProcessing"):
            template = Template((tuple(part["cls"]),), (tuple(part["sep"]),)).around(template)
        elif kind != "ByteLevel":  # which trims offsets only
            raise UnsupportedError(file, f"{name}.type", kind, _POST_PROCESSORS)
    return template


def _template_processing(file: str, name: str, node: dict[str, Any]) -> Template:
    before: list[tuple[str, int]] = []
    after: list[tuple[str, int]] = []
    sequences = 0
    for item in node["single"]:
        ((kind, piece),) = item.items()
        if piece["type_id"] != 0:
            raise UnsupportedError(file, f"{name}.single.{kind}.type_id", piece["type_id"], [0])
        if kind == "Sequence":
            sequences += 1
        else:
            special = node["special_tokens"][piece["id"]]
            (after if sequences else before).extend(zip(special["tokens"], special["ids"], strict=True))
    if sequences != 1:
        raise UnsupportedError(file, f"{name}.single", f"{sequences} sequences", "exactly one sequence")
    return Template(tuple(before), tuple(after))


def _model(file: str, root: Mapping[str, Any]) -> Model:
    kind = root["model"]["type"]
    if kind not in _MODELS:
        raise UnsupportedError(file, "model.type", kind, tuple(_MODELS))
    return _MODELS[kind].read(file, root)


def _added_tokens(file: str, nodes: list[dict[str, Any]], tokenizer: Tokenizer) -> tuple[AddedToken, ...]:
    tokens = []
    late: dict[str, str] = {}
    for node in nodes:
        content, normalized = node["content"], node["normalized"]
        if not content:
            continue  # the package ignores it as well
        found = content
        if normalized and tokenizer.normalizer is not None:
            found = tokenizer.normalizer.normalize_str(content)
        if not found:
            raise UnsupportedError(file, "added_tokens.content", content, "contents that normalization does not delete")
        if normalized and late.setdefault(found, content) != content:
            # Which one the package finds changes from process to process.
            both = f"{late[found]!r} and {content!r}"
            raise UnsupportedError(file, "added_tokens.content", both, "contents that differ after normalization")
        if not normalized and "\ufffd" in content:
            raise UnsupportedError(file, "added_tokens.content", content, "contents without U+FFFD")
        flags = {name: node[name] for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        # The package trusts the model's vocabulary more than the id in the file.
        tokens.append(AddedToken(content=content, id=cast("int", tokenizer.token_to_id(content)), **flags))
    for token in tokens:
        # Where a token with rstrip has taken all of another one, the package does not find that one.
        if (
            token.content.isspace()
            and token.lstrip
            and any(t.rstrip for t in tokens if t.normalized == token.normalized)
        ):
            allowed = "contents that are not white space, where the token has lstrip and one has rstrip"
            raise UnsupportedError(file, "added_tokens.content", token.content, allowed)
    return tuple(tokens)


def _max_length(source: TokenizerSource, template: Template) -> int | None:
    limit = source.max_length
    if limit is None or limit >= 2**31:
        return None
    if limit < max(template.size, 1):
        raise UnsupportedError(source.file, "max_length", limit, f"at least {max(template.size, 1)} (special tokens)")
    return limit


def _truncation_side(source: TokenizerSource) -> Side:
    if source.truncation_side not in ("left", "right"):
        raise UnsupportedError(source.file, "truncation_side", source.truncation_side, ["left", "right"])
    return source.truncation_side


def _pad_id(source: TokenizerSource, own: int | None, tokenizer: Tokenizer) -> int:
    candidates = (source.pad_id, own, tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("<pad>"), 0)
    return next(int(candidate) for candidate in candidates if candidate is not None)
