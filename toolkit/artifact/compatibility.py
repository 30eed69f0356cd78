"""Which TensorFlow Serving releases can load an artifact, from the ops in its graph.

Sources: the tensorflow-text version each TF Serving release links (its ``WORKSPACE``), and the op registrations of
those tensorflow-text versions. A stock server links no op outside core TensorFlow, tensorflow-text and
TensorFlow Decision Forests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import ArtifactError, InputError

__all__ = [
    "DEFAULT_OLDEST",
    "RELEASES",
    "ServingReleases",
    "graph_ops",
    "model_ops",
    "read_saved_model",
    "require_release",
    "runs_on",
    "saved_model_nodes",
    "serving_releases",
    "suit_servers",
]

RELEASES: tuple[str, ...] = (*(f"2.{minor}" for minor in range(6, 21)),)
"""TF Serving releases the table below covers."""

DEFAULT_OLDEST = "2.17"
"""The oldest release that an export is for, unless an older one is asked for."""

# op (or op.attribute, where it matters) -> first release that runs it, where that is later than the first of RELEASES
_SINCE: dict[str, str] = {
    "DisableCopyOnRead": "2.10",
    "FastWordpieceTokenizeWithOffsets": "2.10",
    "FastWordpieceDetokenize": "2.10",
    "FastBertNormalize": "2.12",
    # what a tf.TensorArray that grows writes; a server that does not know it fails at the first request
    "TensorListSetItem.resize_if_index_out_of_bounds": "2.13",
    "TFText>FastSentencepieceTokenize": "2.12",
    "TFText>FastSentencepieceDetokenize": "2.12",
    # stands where LayerNorm is fused, see toolkit.encoder.layers: older servers leave it and die of two calls at a time
    "FusedBatchNormV3": "2.17",
    # int8 products
    "_QuantizedMatMul": "2.17",
    # products of few tokens, see toolkit.encoder.precision.packed
    "_MklNativeFusedMatMul": "2.12",
    "TFText>RoundRobinTrim": "2.20",
    "TFText>RoundRobinGenerateMasks": "2.20",
    "TFText>Utf8Binarize": "2.20",
}

# Internal ops of builds with oneDNN: the official ones for Linux have them, those for macOS and most home-made ones for
# ARM do not, whatever their release. A server without an op of the graph does not load the artifact.
_ONEDNN = frozenset({"_QuantizedMatMul", "_MklNativeFusedMatMul"})

# op -> attributes that newer releases write and older ones warn of for every node; they change no result
_DESCRIPTIVE: dict[str, tuple[str, ...]] = {"VarHandleOp": ("debug_name",)}

# Text ops that all of RELEASES link.
_TEXT_OPS = frozenset(
    {
        "CaseFoldUTF8",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "RegexSplitWithOffsets",
        "SentencepieceOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsetsV2",
        "WordpieceTokenizeWithOffsets",
    }
)


@dataclass(frozen=True)
class ServingReleases:
    """``since`` is the oldest release that can load the artifact (``None``: none can); ``because`` are the ops that
    rule out older ones, ``unknown`` those that no stock server links, ``onednn`` those that only builds with oneDNN
    have."""

    since: str | None
    because: tuple[str, ...]
    unknown: tuple[str, ...]
    onednn: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.unknown:
            return f"none: no stock server links {', '.join(self.unknown)}"
        reason = f" ({', '.join(self.because)})" if self.because else ""
        build = f"; needs oneDNN ({', '.join(self.onednn)})" if self.onednn else ""
        return f"{self.since} and later{reason}{build}"


def runs_on(op: str, release: str) -> bool:
    """Whether a server of this release runs ``op``, as far as the table above knows.

    Raises ``InputError`` for what is no release that it covers.
    """
    if release not in RELEASES:
        raise InputError(f"TF Serving release {release!r}: expected one of {RELEASES[0]} to {RELEASES[-1]}")
    return _key(_SINCE.get(op, RELEASES[0])) <= _key(release)


def require_release(releases: ServingReleases, release: str) -> None:
    """Raise ``InputError`` unless ``release`` is one of ``releases``."""
    if releases.since is None or _key(releases.since) > _key(release):
        raise InputError(f"oldest server {release}: TF Serving releases that can run this artifact are {releases}")


def _key(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def saved_model_nodes(model: Any) -> Iterator[Any]:
    """All nodes of a parsed SavedModel's graphs and functions."""
    for meta_graph in model.meta_graphs:
        yield from meta_graph.graph_def.node
        for function in meta_graph.graph_def.library.function:
            yield from function.node_def


def read_saved_model(version_folder: Path) -> Any:
    """The parsed ``saved_model.pb`` of a version directory. Raises ``ArtifactError`` if it cannot be read."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = version_folder / "saved_model.pb"
    try:
        return saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: is missing; expected a version directory <models>/<name>/<version>") from error
    except (OSError, DecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error


def suit_servers(version_folder: Path) -> None:
    """Rewrite ``saved_model.pb`` as servers take it best.

    Attributes that only describe and that older releases complain of are left out. A function that is not inlined is
    optimized when it is called first: once is enough, where two rounds are usual.
    """
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.saved_model import fingerprinting_utils

    from toolkit.server.runtime import optimize_once

    model = read_saved_model(version_folder)
    functions = [item for meta_graph in model.meta_graphs for item in meta_graph.graph_def.library.function]
    called = {item.signature.name for item in functions if "_noinline" in item.attr}
    for node in saved_model_nodes(model):
        for name in _DESCRIPTIVE.get(node.op, ()):
            node.attr.pop(name, None)
        if "config_proto" in node.attr and node.attr["f"].func.name in called:
            config = config_pb2.ConfigProto.FromString(node.attr["config_proto"].s)
            optimize_once(config)
            node.attr["config_proto"].s = config.SerializeToString(deterministic=True)
    (version_folder / "saved_model.pb").write_bytes(model.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(version_folder))


def graph_ops(version_folder: Path) -> frozenset[str]:
    """`model_ops` of a version directory. Raises ``ArtifactError`` if it cannot be read."""
    return model_ops(read_saved_model(version_folder), version_folder)


def model_ops(model: Any, version_folder: Path) -> frozenset[str]:
    """Names of all ops in a SavedModel's graphs and functions, and ``op.attribute`` for attributes that matter.

    Raises ``ArtifactError``, naming ``version_folder``, if there are none.
    """
    ops: set[str] = set()
    for node in saved_model_nodes(model):
        ops.add(node.op)
        ops.update(name for name in (f"{node.op}.{attribute}" for attribute in node.attr) if name in _SINCE)
    if not ops:
        raise ArtifactError(f"{version_folder / 'saved_model.pb'}: holds no graph")
    return frozenset(ops)


def serving_releases(ops: Iterable[str]) -> ServingReleases:
    """The TF Serving releases that can run a graph of these ops."""
    names = set(ops)
    unknown = names - _TEXT_OPS - set(_SINCE)
    if unknown:
        import tensorflow as tf

        # Functions are called by name as ops in old graphs: what is no core op and in no table is unknown.
        unknown = {name for name in unknown if not hasattr(tf.raw_ops, name)}
    needed = {name: _SINCE[name] for name in names if name in _SINCE}
    since = max(needed.values(), key=_key, default=RELEASES[0])
    because = tuple(sorted(name for name, release in needed.items() if release == since))
    return ServingReleases(None if unknown else since, because, tuple(sorted(unknown)), tuple(sorted(names & _ONEDNN)))
