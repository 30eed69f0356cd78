"""The ``tokenizer.json`` of a folder beside the tokenizer that sentence-transformers loads from that folder.

transformers 5 builds a tokenizer anew by its class, and may set other normalizers than the file has. The export follows
what is loaded; servers that read the file alone would cut some texts otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import SourceError
from toolkit.tokenizer import texts
from toolkit.tokenizer.spec import TokenizerSource

__all__ = ["BareTokenizer", "compare_bare"]

_RANDOM = 10_000


@dataclass(frozen=True)
class BareTokenizer:
    """Of how many ``texts`` the file alone makes other token ids; ``example`` is the shortest of them."""

    texts: int
    differences: int
    example: str | None

    def __str__(self) -> str:
        if not self.differences:
            return f"tokenizer.json alone gives the same token ids for all of {self.texts:,} texts"
        return (
            f"tokenizer.json alone gives other token ids for {self.differences:,} of {self.texts:,} texts, "
            f"{self.example!a} for example: transformers builds this tokenizer anew by its class. The export follows "
            "sentence-transformers; servers that read the file itself do not"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def compare_bare(file: Path, loaded: TokenizerSource) -> BareTokenizer:
    """Compare ``file`` with the tokenizer as it was loaded, on texts of many scripts, without cutting at a length.

    Raises ``SourceError`` for a file that the tokenizers package cannot read.
    """
    from tokenizers import Tokenizer

    try:
        bare = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises Exception itself
        raise SourceError(f"{file}: cannot be read: {error}") from error
    bare.no_truncation()
    bare.no_padding()
    tokens = [token.content for token in bare.get_added_tokens_decoder().values()][:200]
    corpus = [*texts.NATURAL, *texts.NATURAL_FORMS, *texts.TRICKY, *texts.random_texts(_RANDOM, 0, tokens)]
    theirs = Tokenizer.from_str(loaded.json).encode_batch_fast(corpus)
    ours = bare.encode_batch_fast(corpus)
    different = [text for text, a, b in zip(corpus, ours, theirs, strict=True) if a.ids != b.ids]
    return BareTokenizer(len(corpus), len(different), min(different, key=len, default=None))
