"""The artifact on disk: ``<models>/<name>/<version>/``, written to a temporary folder and renamed when complete.

Layout, as TF Serving reads it: ``saved_model.pb``, ``variables/``, ``assets.extra/provenance.json`` (ours) and
``assets.extra/tf_serving_warmup_requests`` (a TFRecord file of ``PredictionLog``, replayed by the server at load), and
``assets.extra/ranges*.npy`` where embeddings are quantized by calibrated ranges.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.artifact.compatibility import suit_servers
from toolkit.errors import ArtifactError, InputError, MissingExtraError, VersionExistsError

if TYPE_CHECKING:
    from toolkit.graph.model import ServingModel
    from toolkit.graph.spec import Request

__all__ = [
    "PROVENANCE",
    "WARMUP",
    "StagedVersion",
    "read_provenance",
    "read_ranges",
    "require_space",
    "stage_version",
    "write_model",
    "write_provenance",
    "write_ranges",
    "write_warmup",
]

PROVENANCE = Path("assets.extra", "provenance.json")
WARMUP = Path("assets.extra", "tf_serving_warmup_requests")

# What TF Serving's REST paths (/v1/models/NAME[/versions/N][:verb]) and file systems both take.
_MODEL_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
_MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class StagedVersion:
    """A version being written: ``folder`` holds it now, ``target`` is where it will stand, as ``version``."""

    folder: Path
    target: Path
    version: int


def _versions(model_folder: Path) -> list[int]:
    """Version numbers present under ``<models>/<name>``, ascending."""
    if not model_folder.is_dir():
        return []
    return sorted(int(item.name) for item in model_folder.iterdir() if item.is_dir() and item.name.isdecimal())


@contextmanager
def stage_version(models_dir: Path, name: str, version: int | None) -> Iterator[StagedVersion]:
    """Yield a temporary folder that becomes ``<models_dir>/<name>/<version>`` if the block ends well.

    ``version=None`` takes the next free number. The temporary folder stands beside its target, on the same file
    system, under a name that TF Serving does not take for a version; it is removed if the block raises.
    Raises ``InputError``, ``VersionExistsError`` or ``ArtifactError``.
    """
    if not _MODEL_NAME.match(name):
        raise InputError(
            f"model name {name!r}: use letters, digits, '_', '-' and '.', at most 128, starting with a letter or digit"
        )
    if version is not None and not 0 < version <= _MAX_VERSION:
        raise InputError(f"version {version}: versions are positive 64-bit integers")
    model_folder = models_dir / name
    with _file_errors(model_folder):
        number = version if version is not None else max(_versions(model_folder), default=0) + 1
        target = model_folder / str(number)
        if target.exists():
            raise VersionExistsError(f"{target}: exists already; choose another version (servers never re-read one)")
        created = [path for path in (model_folder, *model_folder.parents) if not path.exists()]
        folder = model_folder / f".{number}.{secrets.token_hex(4)}.tmp"
    try:
        with _file_errors(model_folder):
            folder.mkdir(parents=True)
        yield StagedVersion(folder, target, number)
        with _file_errors(model_folder):
            try:
                os.rename(folder, target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise VersionExistsError(f"{target}: was written by someone else meanwhile") from error
                raise
        created = []
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gone already if it was renamed
        for path in created:  # leave no folders behind that were not there before
            try:
                path.rmdir()
            except OSError:
                break


def require_space(folder: Path, needed: int) -> None:
    """Raise ``ArtifactError`` if the file system of ``folder`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ArtifactError(
            f"{folder.parent}: no space: about {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        )


@contextmanager
def _file_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system or TensorFlow's file layer raises into ``ArtifactError``."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ArtifactError(f"{folder}: no space left on the device") from error
        raise ArtifactError(f"{folder}: cannot be written: {error.strerror or error}") from error
    except Exception as error:
        # tf.errors.OpError, told apart by name so that this file does not import tensorflow
        if any(base.__name__ == "OpError" for base in type(error).__mro__):
            reason = "no space left on the device" if "No space left" in str(error) else str(error).splitlines()[0]
            raise ArtifactError(f"{folder}: cannot be written: {reason}") from error
        raise


def write_model(model: ServingModel, folder: Path) -> None:
    """Write ``saved_model.pb`` and ``variables/`` into ``folder``."""
    import tensorflow as tf
    from absl import logging as absl_logging

    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)  # "Assets written to" a folder that will be renamed
    try:
        with _file_errors(folder.parent):
            tf.saved_model.save(model, str(folder), signatures=model.signature_functions())
            suit_servers(folder)
    finally:
        absl_logging.set_verbosity(verbosity)


def write_warmup(folder: Path, name: str, requests: Sequence[Request]) -> None:
    """Write a warm-up record for each of ``requests``: the signature and the texts, by input, of a ``Predict`` request.

    The server replays them before it calls the version available, so that no caller pays for the first run. Batches
    stay small: where the server batches by rows, a record may not exceed its ``max_batch_size``.
    """
    import tensorflow as tf

    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ModuleNotFoundError as error:
        raise MissingExtraError("tensorflow-serving-api", "convert") from error
    path = folder / WARMUP
    path.parent.mkdir(exist_ok=True)
    with _file_errors(folder.parent), tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for column, texts in inputs.items():
                request.inputs[column].CopyFrom(tf.make_tensor_proto([text.encode() for text in texts], tf.string))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def write_ranges(folder: Path, ranges: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write ``assets.extra/<name>.npy`` for each of the calibrated ranges, float32 ``[2, dim]``, which quantized
    signatures use: what an index that is quantized elsewhere has to be quantized by too."""
    for name, values in ranges.items():
        path = folder / PROVENANCE.with_name(f"{name}.npy")
        with _file_errors(folder.parent):
            path.parent.mkdir(exist_ok=True)
            np.save(path, values)


def read_ranges(version_folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """What ``write_ranges`` wrote. Raises ``ArtifactError`` if a file is damaged."""
    found = {}
    for path in version_folder.glob(f"{PROVENANCE.parent}/ranges*.npy"):
        try:
            found[path.stem] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read: {error}") from error
    return found


def write_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Stamp ``assets.extra/provenance.json``."""
    path = folder / PROVENANCE
    with _file_errors(folder.parent):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_provenance(version_folder: Path) -> dict[str, Any] | None:
    """The stamped provenance; ``None`` if the artifact was not made here. Raises ``ArtifactError`` if damaged."""
    path = version_folder / PROVENANCE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object")
    return value
