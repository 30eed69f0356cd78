"""Compile a BPE tokenizer over characters into regular expressions and models of two kernels, exactly.

The merges of such a tokenizer run over whole texts. Every merge makes a token, and only tokens that their own text is
merged into are ever made (:mod:`toolkit.tokenizer.bpe.tokens`); so between two characters that stand side by side in
none of these tokens no merge ever crosses, and a text may be cut there. Texts are cut before each run of ``▁`` that
follows a character which no token has before ``▁``; most of the parts are then words, and many of those are tokens.
What is left whole, the kernel merges with a queue, in n log n.

Where normalization ends with a space's turning into ``▁``, it is the other way round here, in texts as in tables: texts
have many spaces and hardly a ``▁``, and stay shorter. Where added tokens allow it, the marks that cut are put before
spaces by the step that repairs broken UTF-8, which goes through all characters anyway, and the few that are too many
are taken out again: an expression that matches at each word takes as long as half of all the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.bpe.marks import ANY, BREAK, END, START, mark_passes, pattern_of
from toolkit.tokenizer.bpe.sentencepiece import bpe_model
from toolkit.tokenizer.bpe.tables import CompiledBytePairs
from toolkit.tokenizer.bpe.tokens import fits, lookup_model, marked_tokens, pattern, ranks, reachable, word_pattern
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel, Metaspace, Prepend, Replace
from toolkit.tokenizer.patterns import character_class, literal
from toolkit.tokenizer.spec import AddedToken, TokenizerSpec

__all__ = ["compile_character_pairs"]

_MARKED = f"{pattern_of(START)}[^{pattern_of(END)}]*{pattern_of(END)}"
_SPACE_MARK = "▁"
_TO_SPACES = Replace(_SPACE_MARK, " ")


def compile_character_pairs(spec: TokenizerSpec) -> CompiledBytePairs:
    """Compile ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    model = spec.model
    assert isinstance(model, CharacterPairModel)
    made = reachable(model.tokens, model.merges, filter(None, model.tokens))
    raw, late = ([token for token in spec.added_tokens if token.normalized == late] for late in (False, True))
    if not late and (spaced := _with_spaces(model)) is not None:
        model, made = spaced, {_spaced(token) for token in made if " " not in token}
    found = {token.content: _normal(model, token) for token in late}
    unknown = _unused(model.tokens)
    forms = {token.content: _form(model, token, unknown) for token in spec.added_tokens}
    added = marked_tokens(spec.file, spec.added_tokens, forms)
    pieces, piece_ids = _pieces(model, made, unknown)
    words, word_ids = lookup_model({**_words(spec, model, made), **added})
    word = word_pattern(spec.added_tokens)
    marked = model.changes[-1:] == (_TO_SPACES,) and not model.whole_parts and all(map(_stays, raw))
    split = [*_metaspace_passes(model.metaspace), *filter(None, [_unknown(model, unknown)])]
    split += (_run_passes if marked else _part_passes)(model, made, tuple(forms.values()))
    return CompiledBytePairs(
        mark_passes([pattern(token, token.content) for token in raw], word, late=False),
        mark_passes([pattern(token, found[token.content]) for token in late], word, late=bool(raw)),
        tuple(split),
        words,
        word_ids,
        pieces,
        piece_ids,
        None,
        tuple(step for change in model.changes for step in _change_passes(change, marked=marked)),
        marked,
    )


def _with_spaces(model: CharacterPairModel) -> CharacterPairModel | None:
    """The model with spaces in the place of ``▁``; ``None`` where normalization does not end as that needs it.

    No text that is normalized has a space, so what has one now is left out.
    """
    *before, last = model.changes or (None,)
    if last != Replace(" ", _SPACE_MARK) or not all(isinstance(change, Prepend) for change in before):
        return None
    if model.metaspace is not None or _SPACE_MARK not in model.tokens:
        return None
    return replace(
        model,
        tokens={_spaced(token): number for token, number in model.tokens.items() if " " not in token},
        merges=tuple((_spaced(a), _spaced(b)) for a, b in model.merges if " " not in a + b),
        changes=(*(Prepend(_spaced(change.text)) for change in before if isinstance(change, Prepend)), _TO_SPACES),
    )


def _spaced(text: str) -> str:
    return text.replace(_SPACE_MARK, " ")


def _normal(model: CharacterPairModel, token: AddedToken) -> str:
    """A token's content when the text is normalized. One that is found before gets nothing in front."""
    content = token.content
    for change in model.changes:
        if isinstance(change, Replace):
            content = content.replace(change.old, change.new)
        elif token.normalized:
            content = change.text + content
    return content


def _change_passes(change: Prepend | Replace, *, marked: bool) -> Passes:
    """``marked``: each space has a mark in front."""
    if isinstance(change, Replace):
        return ((literal(change.old), (BREAK if marked else "") + _rewrite(change.new)),)
    text, first = _rewrite(change.text), f"{pattern_of(BREAK)}?" if marked else ""
    return (f"^{first}[^{ANY}]", rf"{text}\0"), (f"{pattern_of(END)}({first}[^{ANY}])", rf"{END}{text}\1")


def _metaspace_passes(metaspace: Metaspace | None) -> Passes:
    if metaspace is None:
        return ()
    mark = _rewrite(metaspace.mark)
    other = f"[^{literal(metaspace.mark)}{ANY}]"
    passes = [(" ", mark)]
    if metaspace.prepend != "never":
        passes.append((f"^{other}", rf"{mark}\0"))
    if metaspace.prepend == "always":
        passes.append((f"{pattern_of(END)}({other})", rf"{END}{mark}\1"))
    return tuple(passes)


def _unknown(model: CharacterPairModel, unknown: str) -> tuple[str, str] | None:
    """A pattern for what has no token, and what it becomes."""
    if model.byte_fallback:
        return None
    known = character_class(ord(token) for token in model.tokens if len(token) == 1)[1:-1]
    return f"[^{known}{ANY}]{'+' if model.fuse_unk else ''}", unknown if model.unk_id is not None else ""


def _form(model: CharacterPairModel, token: AddedToken, unknown: str) -> str:
    """A token's content when the text is split."""
    content = _normal(model, token)
    if model.metaspace is not None:
        content = content.replace(" ", model.metaspace.mark)
    if model.byte_fallback:
        return content
    runs = itertools.groupby(content, model.tokens.__contains__)
    new = unknown if model.unk_id is not None else ""
    return "".join("".join(run) if known else new * (1 if model.fuse_unk else len([*run])) for known, run in runs)


def _mark(model: CharacterPairModel) -> str:
    """What stands for a space when the text is split."""
    if model.metaspace is not None:
        return model.metaspace.mark
    return " " if model.changes[-1:] == (_TO_SPACES,) else _SPACE_MARK


def _before_marks(model: CharacterPairModel, made: set[str]) -> set[str]:
    """The characters that some token has before what stands for a space."""
    mark = _mark(model)
    return {token[at - 1] for token in made for at in range(1, len(token)) if token[at] == mark} - {mark}


def _stays(token: AddedToken) -> bool:
    """Whether ``token`` is found in a text with marks before its spaces, and whole when those in it are out again."""
    content = token.content
    inside = " " in content or _SPACE_MARK in content.lstrip(_SPACE_MARK)
    return not (inside or token.lstrip or token.rstrip)


def _run_passes(model: CharacterPairModel, made: set[str], forms: Collection[str]) -> Passes:
    """Passes that leave, of marks before each space, those before runs of spaces that no merge reaches into."""
    passes = [(f" {pattern_of(BREAK)}", " ")]
    if over := _before_marks(model, made):
        passes.append((f"({character_class(map(ord, over))}){pattern_of(BREAK)}", r"\1"))
    if any(form.startswith(" ") for form in forms):
        passes.append((pattern_of(START) + pattern_of(BREAK), START))
    return (*passes, *_apart(forms))


def _apart(forms: Collection[str]) -> Passes:
    """A pass that puts marks around added tokens, if there are any."""
    return ((_MARKED, rf"{BREAK}\0{BREAK}"),) if forms else ()


def _part_passes(model: CharacterPairModel, made: set[str], forms: Collection[str]) -> Passes:
    """Passes that put marks between the parts of a text that no merge leaves. ``forms`` are those of added tokens."""
    mark, over = _mark(model), _before_marks(model, made)
    plain, marks = f"[^{literal(mark)}{ANY}]", f"{literal(mark)}+"
    if model.metaspace is not None and model.metaspace.split:
        part = f"{literal(mark)}{plain}*|{plain}+"
    elif model.whole_parts:
        part = f"[^{ANY}]+"
    elif over:
        crossing = f"{plain}*{character_class(map(ord, over))}{marks}"
        part = f"{marks}(?:{crossing})*{plain}*|(?:{crossing})+{plain}*|{plain}+"
    elif any(mark in form for form in forms):
        part = f"{marks}{plain}*|{plain}+"
    else:
        # As the last one, by patterns that RE2 finds by what they begin with.
        return (*_apart(forms), (marks, rf"{BREAK}\0"))
    return ((f"(?:{_MARKED}|{part})", rf"\0{BREAK}"),)


def _pieces(model: CharacterPairModel, made: set[str], unknown: str) -> tuple[bytes, npt.NDArray[np.int32]]:
    """SentencePiece's model, and the token id of each of its pieces."""
    rank = ranks(model.merges, made)
    tokens = sorted(made, key=model.tokens.__getitem__)
    pieces = [(token.encode(), -float(rank.get(token, 0))) for token in tokens]
    ids = [model.tokens[token] for token in tokens]
    if model.byte_fallback:
        ids += [model.tokens[f"<0x{byte:02X}>"] for byte in range(256)]
    elif model.unk_id is not None:
        pieces.append((unknown.encode(), 0.0))
        ids.append(model.unk_id)
    return bpe_model(pieces, byte_fallback=model.byte_fallback), np.array(ids, np.int32)


def _words(spec: TokenizerSpec, model: CharacterPairModel, made: set[str]) -> dict[bytes, int]:
    """The tokens that a part may be."""
    chosen = filter(None, model.tokens) if model.whole_parts else made
    return {
        token.encode(): model.tokens[token]
        for token in chosen
        if fits(spec.file, token, token.encode(), merged=token in made)
    }


def _unused(tokens: Iterable[str]) -> str:
    """A private character that is in no token."""
    used = set().union(*tokens)
    return next(chr(point) for point in range(0xF0000, 0x110000) if chr(point) not in used)


def _rewrite(text: str) -> str:
    return text.replace("\\", r"\\")
