"""Which versions of which models are served: finds them, loads them, retires them, and says how they fare.

As TF Serving's ``AspiredVersionsManager`` with the availability-preserving policy: a version that is no longer wanted
goes only after a wanted one has become available. One thread looks and decides; a small pool loads and unloads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import ArtifactError
from toolkit.server.models.folders import aspired_versions, stamp
from toolkit.server.requests.status import Code, ServingError, invalid

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

    from toolkit.server.models.servable import Servable

__all__ = ["Loader", "ModelManager", "State", "VersionStatus", "check_config"]

log = logging.getLogger("sentence_serving.models")

Loader = Callable[[str, int, Path], "Servable"]


class State(IntEnum):
    """``ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """One version's state and, after a failure, its error."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


@dataclass
class _Version:
    version: int
    path: Path
    state: State = State.START
    code: Code = Code.OK
    message: str = ""
    servable: Servable | None = None
    attempts: int = 0
    retry_at: float = 0.0
    busy: bool = False
    stamp: int = 0
    """The folder's stamp when this version was found."""
    seen: int = 0
    """The stamp at the last look since it failed: a folder that still changes is not loaded yet."""
    lost: bool = False
    """A look did not find it (or it was not wanted) since it was last found or loaded."""


@dataclass
class _Model:
    config: ModelConfig | None
    aspired: set[int] = field(default_factory=set)
    versions: dict[int, _Version] = field(default_factory=dict)


def check_config(config: ModelServerConfig) -> None:
    """Raises `ServingError` with TF Serving's texts for a model list that cannot be served."""
    seen = set()
    for model in config.model_config_list.config:
        if model.name in seen:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
        if not model.name:
            raise invalid("Model name must not be empty in config list")
    for model in config.model_config_list.config:
        if not Path(model.base_path).is_absolute():
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        if model.model_type and model.model_platform:
            raise invalid(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        if not model.model_type and not model.model_platform:
            raise invalid(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform."
            )
        if model.model_platform not in ("", "tensorflow"):
            raise invalid(f"Model {model.name} requests unsupported platform {model.model_platform}")


class ModelManager:
    """The models of a server. All methods may be called from any thread."""

    def __init__(
        self,
        load: Loader,
        *,
        poll_seconds: float = 1.0,
        load_threads: int = 2,
        max_retries: int = 5,
        retry_seconds: float = 60.0,
        allow_labels_for_unavailable: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._poll_seconds = poll_seconds
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._allow_labels = allow_labels_for_unavailable
        self._on_change = on_change
        self._models: dict[str, _Model] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._available: dict[str, dict[int, Servable]] = {}  # replaced, never changed: readers take no lock
        self._latest: dict[str, Servable] = {}
        self._changed = threading.Condition()
        self._reloading = threading.Lock()
        self._stop = False
        self._wake = False
        self._pool = ThreadPoolExecutor(load_threads, thread_name_prefix="load")
        self._thread = threading.Thread(target=self._watch, name="model-manager", daemon=True)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to watch the file system."""
        self._thread.start()

    def stop(self) -> None:
        """Unloads everything; returns when it is done."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown(wait=True)
        with self._changed:
            servables = [servable for group in self._available.values() for servable in group.values()]
            self._available, self._latest = {}, {}
        for servable in servables:
            servable.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable for a request, counted in; call its ``release`` afterwards. Raises `ServingError`."""
        if not name:
            raise invalid("ModelSpec has no name specified.")
        if label is not None:
            if version is not None:
                raise invalid("ModelSpec has both version and version_label set.")
            try:
                version = self._labels[name][label]
            except KeyError:
                raise invalid(f"Unrecognized servable version label: {label}") from None
        for _ in range(2):  # a version may retire between the look-up and the lease; its successor is there by then
            servable = self._latest.get(name) if version is None else self._available.get(name, {}).get(version)
            if servable is None:
                break
            if servable.lease():
                return servable
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """States of a model's versions, newest first. Raises `ServingError` NOT_FOUND."""
        with self._changed:
            versions = self._models[name].versions if name in self._models else {}
            if version is not None and version not in versions:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
            if not versions:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
            chosen = sorted(versions, reverse=True) if version is None else [version]
            return [
                VersionStatus(item.version, item.state, item.code, item.message)
                for item in (versions[number] for number in chosen)
            ]

    def names(self) -> Mapping[str, object]:
        """Every model that is or was configured."""
        return self._models

    def readiness(self) -> dict[str, bool]:
        """Every model that is or was configured, and whether a version of it is available."""
        with self._changed:
            return {name: name in self._latest for name in self._models}

    def ready(self) -> bool:
        """Whether every configured model has an available version (and there is one)."""
        with self._changed:
            configured = [name for name, model in self._models.items() if model.config is not None]
            return bool(configured) and all(name in self._latest for name in configured)

    # -- configuration ------------------------------------------------------------------------------------------------

    def configure(self, config: ModelServerConfig, *, wait: bool = True) -> None:
        """Replaces the configuration and, with ``wait``, waits until every new model is available.

        Raises `ServingError`, leaving the old configuration as it is, where the new one is refused; a new model that
        cannot be loaded raises UNKNOWN after the change.
        """
        with self._reloading:
            check_config(config)
            models = {model.name: model for model in config.model_config_list.config}
            with self._changed:
                labels = self._checked_labels(models)
                fresh = {name for name in models if name not in self._models or self._models[name].config is None}
                for name, model in models.items():
                    self._models.setdefault(name, _Model(model)).config = model
                for name, state in self._models.items():
                    if name not in models:
                        state.config = None
                self._labels = labels
                self._wake = True
                self._changed.notify_all()
            if wait:
                self._await_new(fresh)

    def _checked_labels(self, models: Mapping[str, ModelConfig]) -> dict[str, dict[str, int]]:
        for name, model in models.items():
            for label, version in model.version_labels.items():
                current = self._labels.get(name, {}).get(label, version)
                if self._allow_labels and current == version:
                    continue
                if version not in self._available.get(name, {}):
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {name}, which is not currently "
                        "available for inference",
                    )
        return {name: dict(model.version_labels) for name, model in models.items() if model.version_labels}

    def _await_new(self, names: set[str]) -> None:
        """Waits until each model has a version and each of its versions was tried, or nothing can be expected of one.

        TF Serving goes on at a model's first version; then a request right after the start may meet an older one.
        """

        def failed(name: str) -> bool:
            model = self._models[name]
            settled = [item for item in model.versions.values() if item.version in model.aspired]
            return bool(settled) and all(item.state is State.END and item.code for item in settled)

        def settled(name: str) -> bool:
            model = self._models[name]
            return name in self._latest and all(model.versions[version].attempts for version in model.aspired)

        with self._changed:
            self._changed.wait_for(
                lambda: self._stop or any(failed(name) for name in names) or all(settled(name) for name in names)
            )
            missing = [name for name in sorted(names) if name not in self._latest]
            if missing and not self._stop:
                broken = [
                    f"{{name: {name} version: {item.version}}} due to error: {item.code.name}: {item.message}"
                    for name in missing
                    for item in self._models[name].versions.values()
                    if item.code
                ]
                raise ServingError(Code.UNKNOWN, f"Some models did not become available: {{{', '.join(broken)}}}")

    # -- the watching thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        looked = 0.0
        while True:
            with self._changed:
                if self._stop:
                    return
                due = self._wake or (self._poll_seconds > 0 and time.monotonic() - looked >= self._poll_seconds)
                self._wake = False
                models = {name: model.config for name, model in self._models.items()}
            if due:
                looked = time.monotonic()
                found = {name: aspired_versions(name, config) for name, config in models.items()}
                with self._changed:
                    for name, versions in found.items():
                        if self._models[name].config is models[name]:
                            self._aspire(self._models[name], versions)
            with self._changed:
                for name, model in self._models.items():
                    self._reconcile(name, model)
                if not self._wake and not self._stop:
                    pause = self._poll_seconds if self._poll_seconds > 0 else 1.0
                    self._changed.wait(min(pause, self._until_retry()))

    def _until_retry(self) -> float:
        times = [item.retry_at for model in self._models.values() for item in model.versions.values() if item.retry_at]
        return max(0.01, min(times) - time.monotonic()) if times else 3600.0

    def _aspire(self, model: _Model, versions: dict[int, Path] | None) -> None:
        """Takes note of the versions that are wanted now; None: nobody knows, so those of before stay wanted."""
        for version, item in model.versions.items():
            item.lost = item.lost or versions is None or version not in versions
        if versions is None:
            return
        model.aspired = set(versions)
        for version, path in versions.items():
            known = model.versions.get(version)
            if known is None or (known.state is State.END and (known.lost or not known.code or _changed(known, path))):
                # New, wanted again, back, or another on disk than the one that failed.
                model.versions[version] = _Version(version, path, stamp=stamp(path))
            elif known.state is State.AVAILABLE:
                known.lost = False

    def _reconcile(self, name: str, model: _Model) -> None:
        now = time.monotonic()
        for item in model.versions.values():
            if item.busy or item.version not in model.aspired:
                continue
            if item.state is State.START or (item.retry_at and now >= item.retry_at):
                item.busy, item.retry_at, item.state = True, 0.0, State.LOADING
                self._pool.submit(self._load_one, name, item)
        served = [item for item in model.versions.values() if item.state is State.AVAILABLE]
        wanted = any(item.version in model.aspired for item in served)
        for item in served:
            if item.version not in model.aspired and (wanted or not model.aspired):
                item.state, item.busy = State.UNLOADING, True
                self._publish(name, model)
                self._pool.submit(self._unload_one, name, item)
        for item in model.versions.values():
            if item.version not in model.aspired:
                item.retry_at = 0.0
                if item.state is State.START and not item.busy:
                    item.state = State.END

    def _load_one(self, name: str, item: _Version) -> None:
        log.info("loading model %s version %d from %s", name, item.version, item.path)
        servable, code, message = None, Code.OK, ""
        try:
            servable = self._load(name, item.version, item.path)
        except ServingError as error:
            code, message = error.code, error.message
        except ArtifactError as error:
            code, message = Code.INVALID_ARGUMENT, str(error)
        except Exception as error:
            log.exception("loading model %s version %d", name, item.version)
            code, message = Code.INTERNAL, f"{type(error).__name__}: {error}"
        with self._changed:
            item.busy = False
            item.servable, item.code, item.message = servable, code, message
            item.attempts += 1
            item.state = State.AVAILABLE if servable else State.END
            if servable is None and item.attempts <= self._max_retries:
                item.retry_at = time.monotonic() + self._retry_seconds
            self._publish(name, self._models[name])
            self._wake = self._wake or servable is not None
            self._changed.notify_all()
        if servable is not None:
            log.info("model %s version %d is available after %.2f s", name, item.version, servable.load_seconds)
        else:
            log.error("model %s version %d cannot be loaded: %s", name, item.version, message)
        self._on_change()

    def _unload_one(self, name: str, item: _Version) -> None:
        servable = item.servable
        if servable is not None:
            servable.close()
        with self._changed:
            item.servable, item.busy, item.state = None, False, State.END
            self._wake = True
            self._changed.notify_all()
        log.info("model %s version %d is unloaded", name, item.version)
        self._on_change()

    def _publish(self, name: str, model: _Model) -> None:
        """Shows requests what is available now."""
        available = {
            item.version: item.servable
            for item in model.versions.values()
            if item.state is State.AVAILABLE and item.servable is not None
        }
        self._available = {**self._available, name: available}
        latest = dict(self._latest)
        latest.pop(name, None)
        if available:
            latest[name] = available[max(available)]
        self._latest = latest


def _changed(item: _Version, path: Path) -> bool:
    """Whether the folder of a version that failed is another by now, and did not change between the last two looks."""
    before, item.seen = item.seen, stamp(path)
    return item.seen != item.stamp and item.seen == before
