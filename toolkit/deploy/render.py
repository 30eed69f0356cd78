"""The runtime configuration of a server for exported models: the files of ``serving/``, and the deployment around them.

``find_models`` reads what ``export`` wrote (``<models>/<name>/<version>/``), ``render`` turns it into texts, ``write``
puts them on disk. TensorFlow Serving's own file formats are the configuration: ``ModelServerConfig``,
``BatchingParameters`` (``session_bundle_config.proto``) and ``MonitoringConfig``, as protobuf text.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.artifact.savedmodel import read_provenance
from toolkit.errors import ArtifactError, InputError

__all__ = ["RuntimeOptions", "ServedModel", "batching_config", "deployment_files", "find_models", "render", "write"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_LABEL = re.compile(r"[A-Za-z0-9_]+\Z")  # TensorFlow Serving's rule for version labels
_MIB = 1024 * 1024

#: Files of serving/ that are the same for every model; the others are made by ``render``.
STATIC_FILES = ("entrypoint", "healthcheck", "ssl.config.example", "kustomization.yaml", "README.md")


@dataclass(frozen=True)
class ServedModel:
    """An exported model: its name, its versions on disk (ascending), bytes of the newest, provenance of the newest."""

    name: str
    versions: tuple[int, ...]
    size: int
    batches_in_graph: bool = False
    provenance: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RuntimeOptions:
    """How the models are served.

    ``cpus`` are whole CPUs of one replica: the limit of its container and the number of batches computed at a time.
    ``max_batch_size`` is the most rows computed together, ``max_request_rows`` the most rows of one request (larger
    ones than a batch are split), ``batch_timeout_micros`` how long a row waits for company. ``max_enqueued_batches``
    bounds the queue: beyond it callers get UNAVAILABLE at once instead of a growing wait. ``labels`` maps
    (model, label) to a version; a model with labels serves exactly its labelled versions, any other its newest one.
    """

    cpus: int = 2
    max_batch_size: int = 64
    max_request_rows: int = 1024
    batch_timeout_micros: int = 2000
    max_enqueued_batches: int = 64
    models_path: str = "/models"
    labels: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, minimum, maximum in (
            ("cpus", 1, 1024),
            ("max_batch_size", 1, 65536),
            ("max_request_rows", self.max_batch_size, 1_000_000),
            ("batch_timeout_micros", 0, 10_000_000),
            ("max_enqueued_batches", 1, 1_000_000),
        ):
            value = getattr(self, name)
            if not minimum <= value <= maximum:
                raise InputError(f"{name} is {value}; a number from {minimum} to {maximum} is needed")
        room = self.max_batch_size * self.max_enqueued_batches
        if self.max_request_rows > room:
            raise InputError(
                f"max_request_rows is {self.max_request_rows}, but the queue has room for {room} rows "
                "(max_batch_size times max_enqueued_batches): such a request would never be accepted"
            )
        if not re.fullmatch(r"(/|[a-z0-9]+://)[A-Za-z0-9._/-]+", self.models_path):
            raise InputError(
                f"models_path is {self.models_path!r}; an absolute path or an object store's URL is needed"
            )


def find_models(models_dir: Path, names: Sequence[str] = ()) -> tuple[ServedModel, ...]:
    """The exported models in ``models_dir`` (all, or those named). Raises ``ArtifactError`` if there are none."""
    if not models_dir.is_dir():
        raise ArtifactError(f"{models_dir}: not a folder")
    found = names or sorted(entry.name for entry in models_dir.iterdir() if entry.is_dir() and _versions(entry))
    if not found:
        raise ArtifactError(f"{models_dir}: no model in it; expected {models_dir}/<name>/<version>/saved_model.pb")
    return tuple(_read_model(models_dir / name) for name in found)


def _versions(model_dir: Path) -> tuple[int, ...]:
    if not model_dir.is_dir():
        return ()
    numbers = (int(entry.name) for entry in model_dir.iterdir() if re.fullmatch("[0-9]+", entry.name))
    return tuple(sorted(number for number in numbers if (model_dir / str(number) / "saved_model.pb").is_file()))


def _read_model(model_dir: Path) -> ServedModel:
    versions = _versions(model_dir)
    if not versions:
        raise ArtifactError(f"{model_dir}: no exported version in it; expected {model_dir}/<version>/saved_model.pb")
    if not _NAME.match(model_dir.name):
        raise InputError(
            f"model name {model_dir.name!r}: only letters, digits, '.', '_' and '-' can stand in URLs and configuration"
        )
    newest = model_dir / str(versions[-1])
    return ServedModel(
        name=model_dir.name,
        versions=versions,
        size=sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()),
        # An operation's type name stands verbatim in the graph's bytes.
        batches_in_graph=b"BatchFunction" in (newest / "saved_model.pb").read_bytes(),
        provenance=read_provenance(newest) or {},
    )


def render(models: Sequence[ServedModel], options: RuntimeOptions | None = None) -> dict[str, str]:
    """File name to text of everything in ``serving/`` that depends on the models. Raises ``InputError``."""
    options = options or RuntimeOptions()
    if not models:
        raise InputError("no model to render a configuration for")
    _check_labels(models, options.labels)
    files = {
        "models.config": _models_config(models, options),
        "monitoring.config": _MONITORING,
        "model.env": _model_env(models, options),
        "image.labels": _image_labels(models),
    }
    if not any(model.batches_in_graph for model in models):
        files["batching.config"] = batching_config(options)
    return files


def _check_labels(models: Sequence[ServedModel], labels: Mapping[tuple[str, str], int]) -> None:
    by_name = {model.name: model for model in models}
    for (name, label), version in labels.items():
        if name not in by_name:
            raise InputError(f"label {name}:{label}={version}: no model {name!r}; there are: {', '.join(by_name)}")
        if not _LABEL.match(label):
            raise InputError(f"label {label!r}: only letters, digits and '_' are allowed")
        if version not in by_name[name].versions:
            have = ", ".join(map(str, by_name[name].versions))
            raise InputError(f"label {name}:{label}={version}: model {name!r} has no version {version}; it has: {have}")


_HEADER = "# Written by `sentence-serving render`; render again instead of editing.\n"

_MONITORING = (
    _HEADER
    + """# Prometheus metrics on the REST port.
prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }
"""
)


def _models_config(models: Sequence[ServedModel], options: RuntimeOptions) -> str:
    blocks = []
    for model in models:
        labels = {label: version for (name, label), version in options.labels.items() if name == model.name}
        if labels:
            wanted = " ".join(f"versions: {version}" for version in sorted(set(labels.values())))
            policy = f"    model_version_policy {{ specific {{ {wanted} }} }}\n"
            policy += "".join(
                f'    version_labels {{ key: "{label}" value: {version} }}\n' for label, version in labels.items()
            )
        else:
            policy = "    model_version_policy { latest { num_versions: 1 } }\n"
        blocks.append(
            f'  config {{\n    name: "{model.name}"\n    base_path: "{options.models_path}/{model.name}"\n'
            f'    model_platform: "tensorflow"\n{policy}  }}\n'
        )
    return f"{_HEADER}model_config_list {{\n{''.join(blocks)}}}\n"


def batching_config(options: RuntimeOptions) -> str:
    """The text of ``batching.config``."""
    return f"""{_HEADER}# Most rows of one request; larger ones are refused. Rows beyond a batch are split over several.
max_batch_size {{ value: {options.max_request_rows} }}
enable_large_batch_splitting {{ value: true }}
# Most rows computed together. No allowed_batch_sizes: padding a batch with copies costs CPU time and gains nothing.
max_execution_batch_size {{ value: {options.max_batch_size} }}
# Longest wait of a row for company.
batch_timeout_micros {{ value: {options.batch_timeout_micros} }}
# Batches computed at a time: the CPUs of the container.
num_batch_threads {{ value: {options.cpus} }}
# Batches that may wait; beyond that callers are told UNAVAILABLE at once.
max_enqueued_batches {{ value: {options.max_enqueued_batches} }}
"""


def _model_env(models: Sequence[ServedModel], options: RuntimeOptions) -> str:
    # 1.25 GiB for the server, its threads and the activations of the batches in progress; each model four times: the
    # version in use and the one that replaces it each take up to 1.9 times their artifact in memory (weights, and
    # the tables of a large vocabulary).
    need = 1280 * _MIB + 4 * sum(model.size for model in models)
    memory = -(-need // (256 * _MIB)) * 256
    return (
        f"{_HEADER}# What the deployment takes from the models: the probes' model, CPUs and memory of a replica.\n"
        f"MODEL_NAME={models[0].name}\nCPUS={options.cpus}\nMEMORY={memory}Mi\n"
    )


def _image_labels(models: Sequence[ServedModel]) -> str:
    """OCI labels, one ``--label`` a line, for ``docker build $(cat serving/image.labels)``: nothing a shell expands."""
    labels = {
        "org.opencontainers.image.title": ",".join(model.name for model in models),
        "org.opencontainers.image.version": ",".join(str(model.versions[-1]) for model in models),
    }
    if "created" in models[0].provenance:
        labels["org.opencontainers.image.created"] = str(models[0].provenance["created"])
    for model in models:
        for key, value in sorted(_flat(model.provenance).items()):
            labels[f"sentence-serving.{model.name}.{key}"] = value
    return "".join(f"--label={key}={re.sub(r'[^A-Za-z0-9._:/+@,=-]+', '_', value)}\n" for key, value in labels.items())


def _flat(content: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """The scalar values of nested objects under dotted names; lists are left to the artifact's own file."""
    result: dict[str, str] = {}
    for key, value in content.items():
        name = f"{prefix}{re.sub(r'[^A-Za-z0-9_-]+', '-', str(key))}"
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{name}."))
        elif isinstance(value, str | int | float) and value != "":
            result[name] = str(value)
    return result


def _shipped(name: str) -> Path:
    """A file or folder that ships with the package; in a checkout the same file at the top level."""
    package = Path(__file__).parents[1]
    installed = package / "_deploy" / name
    return installed if installed.exists() else package.parent / name


def deployment_files(models: Sequence[ServedModel], options: RuntimeOptions, *, kubernetes: bool) -> dict[str, str]:
    """Relative path to text of ``serving/`` and, with ``kubernetes``, ``k8s/`` and ``Dockerfile.serving``.

    Raises ``InputError`` for labels that do not fit the models.
    """
    files = {f"serving/{name}": _shipped(f"serving/{name}").read_text(encoding="utf-8") for name in STATIC_FILES}
    rendered = render(models, options)
    if "batching.config" not in rendered:
        files["serving/kustomization.yaml"] = files["serving/kustomization.yaml"].replace(
            "      - batching.config\n", ""
        )
    files |= {f"serving/{name}": text for name, text in rendered.items()}
    if kubernetes:
        root = _shipped("k8s")
        for path in sorted(root.rglob("*")):
            if path.is_file():
                files[f"k8s/{path.relative_to(root).as_posix()}"] = path.read_text(encoding="utf-8")
        for name in ("Dockerfile.serving", ".dockerignore"):
            files[name] = _shipped(name).read_text(encoding="utf-8")
    return files


def write(files: Mapping[str, str], output: Path, *, force: bool = False) -> list[Path]:
    """Writes ``files`` under ``output``, each by renaming a finished temporary file; returns the paths that changed.

    A file with other content than is to be written is only replaced with ``force``; otherwise nothing is written and
    ``InputError`` names it. Files that are not among ``files`` stay as they are.
    """
    changed = {name: text for name, text in files.items() if not _same(output / name, text)}
    if not force:
        for name in changed:
            if (output / name).exists():
                raise InputError(f"{output / name} exists and differs; use --force to replace the rendered files")
    paths = []
    try:
        for name, text in changed.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
                    stream.write(text)
                os.chmod(temporary, 0o755 if text.startswith("#!") else 0o644)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
            paths.append(path)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error}") from error
    return paths


def _same(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False
