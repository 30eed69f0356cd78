"""Chat templates, in which sentence-transformers (6.2) puts a pair: the query and the document are a message each of
that role, and the prompt is the system's.

A template is a program that may do anything with a text. Served are those that write it as it is: what they make of
texts that a program could treat otherwise is looked at, among them every string that stands in the template itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.errors import SourceError, UnsupportedError
from toolkit.tokenizer.chat import Frame

__all__ = ["chat_frames", "chat_settings", "takes_messages"]

_ROLES = ("query", "document")
_MARKS = ("\ue0f0\ue0f1\ue0f2", "\ue0f3\ue0f4\ue0f5")
_STRINGS = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_CHANGES = "strftime_now"  # what tells the time to a template
_PROBES = (
    *(
        "",
        " ",
        "\n",
        "a",
        "A b",
        " a ",
        "\n\na\n\n",
        "a\tb\r\nc",
        "a\n\n\n    b",
        "<b>&amp;\"'</b>",
        "\\n\\",
        "%s {} {{ a }}",
    ),
    *("1", "-1.5", "True", "None", "[]", '{"a": 1}', "Ünïcödé 東京 🚀", "ﬁ", "a" * 100, "a b " * 5000),
    *("https://example.com/a.png", "<think>a</think>", "<|im_start|>system\na<|im_end|>\n", "[INST] a [/INST]"),
)


def takes_messages(first: Any) -> bool:
    """Whether a Transformer module puts texts into a chat template."""
    return "message" in getattr(first, "modality_config", ())


def chat_settings(first: Any) -> dict[str, Any]:
    """What, beside a Transformer module's own configuration, decides on the texts that it makes of pairs."""
    return {"chat_template": first.processor.chat_template, "special_tokens": dict(first.processor.special_tokens_map)}


def chat_frames(first: Any, prompts: Iterable[str], options: Mapping[str, Any], file: str) -> dict[str, Frame]:
    """What the template of a Transformer module, with these ``options``, writes around a pair, by prompt.

    ``file`` is named where a template is refused. Raises ``UnsupportedError`` for one that does more with texts than to
    write them, ``SourceError`` for one that fails.
    """
    template = first.processor.chat_template
    if not isinstance(template, str):
        raise UnsupportedError(file, "chat_template", f"{len(template)} templates", "a single one")
    if _CHANGES in template:
        raise UnsupportedError(file, "chat_template", _CHANGES, "templates whose text is the same every day")
    return {prompt: _frame(first.processor, prompt, options, file) for prompt in prompts}


def _frame(tokenizer: Any, prompt: str, options: Mapping[str, Any], file: str) -> Frame:
    system = [{"role": "system", "content": prompt}] if prompt else []

    def rendered(query: str, document: str) -> str:
        pair = [{"role": role, "content": text} for role, text in zip(_ROLES, (query, document), strict=True)]
        try:
            return str(tokenizer.apply_chat_template([*system, *pair], tokenize=False, **options))
        except Exception as error:  # whatever the template raises
            raise SourceError(f"{file}: chat_template fails for a query and a document: {error}") from error

    supported = "templates that write the query, and behind it the document, once each and as they are"
    whole, (first, second) = rendered(*_MARKS), _MARKS
    before, found, rest = whole.partition(first)
    between, also, after = rest.partition(second)
    if not found or not also or any(mark in part for mark in _MARKS for part in (before, between, after)):
        raise UnsupportedError(file, "chat_template", whole, supported)
    frame = Frame(before, between, after)
    template = tokenizer.chat_template
    own = [single or double for single, double in _STRINGS.findall(template)]
    own += [re.sub(r"\\n", "\n", text) for text in own]
    around = [text for word in dict.fromkeys(own) for text in (word, f"{word}a", f"a{word}", f"a{word}a")]
    texts = list(dict.fromkeys((*_PROBES, *around)))
    for query, document in itertools.chain(((text, "a") for text in texts), (("a", text) for text in texts)):
        if (ours := frame.around(query, document)) != (theirs := rendered(query, document)):
            shown = f"{theirs[-200:]!r} where {ours[-200:]!r} is expected"
            raise UnsupportedError(file, "chat_template", shown, supported)
    return frame
