"""What stands behind the encoder of an ``embed`` model: who reads and writes which feature."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.errors import SourceError, UnsupportedError
from toolkit.heads import HEADS
from toolkit.heads.head import SENTENCE, TOKENS, HeadSpec, features
from toolkit.heads.pooling import PoolingSpec, read_pooling
from toolkit.source.checkpoint import RawModule

__all__ = ["read_modules"]

# What the encoder is given, and what else sentence-transformers' modules ask for by name
_TAKEN = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "prompt_length", "token_weights_sum")

Modules = tuple[tuple[HeadSpec, ...], PoolingSpec, tuple[HeadSpec, ...], int]


def read_modules(first: RawModule, rest: Sequence[RawModule], width: int, *, pooled: bool = False) -> Modules:
    """The modules of tokens, pooling, those behind it, and the size of the embedding. ``first`` is the encoder's, which
    yields embeddings of size ``width``, of texts if it has ``pooled`` them by their mean; Dropout, which does nothing
    at inference, is left out.

    Raises ``UnsupportedError`` or ``SourceError`` naming the module.
    """
    heads: list[HeadSpec] = []
    before: tuple[HeadSpec, ...] = ()
    pooling = PoolingSpec(("mean",), width) if pooled else None
    sizes = {SENTENCE if pooled else TOKENS: width}
    for module in (module for module in rest if module.type != "Dropout"):
        if module.type == "Pooling" and pooling is None:
            pooling = read_pooling(module, sizes[TOKENS])
            before, heads, sizes = tuple(heads), [], {SENTENCE: pooling.dim}
            continue
        if module.type not in HEADS:
            where = "module after Transformer" if pooling is None else "module after Pooling"
            raise UnsupportedError(module.file, where, module.type, (*HEADS, *(["Pooling"] if pooling is None else [])))
        named = features(module)
        reads, writes = named["reads"], named["writes"]
        if reads not in sizes:
            supported = f"{', '.join(sizes)}: what there is {'before' if pooling is None else 'behind'} pooling"
            raise UnsupportedError(module.file, "module_input_name", reads, supported)
        if writes in (*_TAKEN, SENTENCE if pooling is None else TOKENS):
            raise UnsupportedError(module.file, "module_output_name", writes, "names that nothing else has")
        heads.append(HEADS[module.type].read(module, sizes[reads]))
        sizes[writes] = heads[-1].width(sizes[reads])
    if pooling is None:
        raise SourceError(f"{first.file}: the model has no Pooling module, so no sentence embedding")
    return before, pooling, tuple(heads), sizes[SENTENCE]
