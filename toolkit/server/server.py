"""The server as a whole: reads the configuration, loads the models, opens the ports, and closes in order."""

from __future__ import annotations

import logging
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from toolkit.errors import ServerError
from toolkit.server.models.folders import model_folders, version_folders
from toolkit.server.options import ServerOptions
from toolkit.server.runtime import import_runtime

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    from toolkit.server.grpc.front import GrpcFront
    from toolkit.server.models.servable import Servable
    from toolkit.server.rest.thread import RestThread
    from toolkit.server.watching.accesslog import AccessLog

__all__ = ["Server"]

log = logging.getLogger("sentence_serving")


class Server:
    """An embedded server. Use it as a context manager, or call `start` and `stop`.

    `start` returns when every configured model is available and the ports are open, as TF Serving does; it raises
    `ServerError` if that cannot be, and `MissingExtraError` without the ``server`` extra.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.grpc_port = 0
        """The gRPC port, once started."""
        self.rest_port: int | None = None
        """The REST port, once started; None without REST."""
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._poller: threading.Thread | None = None
        self._grpc: GrpcFront | None = None
        self._rest: RestThread | None = None
        self._access_log: AccessLog | None = None
        self._started = False

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(grace=min(5.0, self.options.grace_period_seconds))

    def start(self) -> None:
        """Loads the models and opens the ports."""
        if self.options.models_dir is not None:
            self._folders()  # a wrong path is known before TensorFlow is imported
        import_runtime()
        from toolkit.server.grpc.front import GrpcFront
        from toolkit.server.models.configfiles import metrics_path, read_tls
        from toolkit.server.models.manager import ModelManager
        from toolkit.server.requests.core import Core
        from toolkit.server.rest.front import RestFront
        from toolkit.server.rest.thread import RestThread
        from toolkit.server.watching.accesslog import AccessLog
        from toolkit.server.watching.metrics import Metrics
        from toolkit.server.watching.process import Front

        options = self.options
        tls = read_tls(options.ssl_config_file) if options.ssl_config_file else None
        tokens = _tokens(options.auth_token_file) if options.auth_token_file else []
        page = metrics_path(options.monitoring_config_file) if options.monitoring_config_file else options.metrics_path
        config = self._read_models()
        front = Front(pinned=options.pin_front and not options.runs_in_front)
        self._metrics = Metrics()
        self._manager = ModelManager(
            _Loading(self).load,
            poll_seconds=options.file_system_poll_wait_seconds,
            load_threads=options.num_load_threads,
            max_retries=options.max_num_load_retries,
            retry_seconds=options.load_retry_interval_micros / 1e6,
            allow_labels_for_unavailable=options.allow_version_labels_for_unavailable_models,
            on_change=self._show,
        )
        self._core = Core(self._manager, self._metrics, max_rows=options.max_rows)
        access_log = self._access_log = AccessLog(options.access_log, options.log_format)
        try:
            # The ports are taken before the models are loaded, so that a taken one is known at once; they are
            # served only afterwards.
            with front.threads():
                self._grpc = GrpcFront(self._core, options, self._configure, access_log, tls, tokens)
            rest_socket = self._rest_socket()
            self._manager.start()
            self._started = True
            self._configure(config, first=True)
            if rest_socket is not None:
                app = RestFront(self._core, options, access_log, page, tokens)
                self._rest = RestThread(app, rest_socket, options, tls if options.rest_tls else None)
                with front.threads():
                    self._rest.start()
                self.rest_port = rest_socket.getsockname()[1]
            with front.threads():
                self._grpc.start()
        except BaseException:
            self.stop(grace=0)
            raise
        self.grpc_port = self._grpc.port
        self._show()
        self._poller = threading.Thread(target=self._poll, name="config-poller", daemon=True)
        self._poller.start()

    def stop(self, grace: float | None = None) -> None:
        """Turns readiness off, accepts nothing new, finishes what is in work within ``grace`` seconds, frees all."""
        grace = self.options.grace_period_seconds if grace is None else grace
        with self._stopping:
            if self._stopped.is_set():
                return
            if self._grpc is not None and self._started:
                self._core.draining = True
                self._grpc.refuse()
                if self.options.drain_delay_seconds and grace:
                    time.sleep(self.options.drain_delay_seconds)
            self._stopped.set()
            deadline = time.monotonic() + grace
            closing = None
            if self._grpc is not None:
                closing = threading.Thread(target=self._grpc.stop, args=(grace,))
                closing.start()
            if self._rest is not None:
                self._rest.stop(max(0.0, deadline - time.monotonic()))
            if closing is not None:
                closing.join()
            if self._started:
                self._manager.stop()
            if self._access_log is not None:
                self._access_log.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until the server is stopped (True) or ``timeout`` seconds have passed."""
        return self._stopped.wait(timeout)

    def ready(self) -> bool:
        """Whether every configured model has an available version and the server is not about to stop."""
        return self._started and not self._core.draining and self._manager.ready()

    # -- models -------------------------------------------------------------------------------------------------------

    def _read_models(self) -> ModelServerConfig:
        from tensorflow_serving.config import model_server_config_pb2

        from toolkit.server.models.configfiles import read_models

        options = self.options
        if options.model_config_file is not None:
            return read_models(options.model_config_file)
        config = model_server_config_pb2.ModelServerConfig()
        config.model_config_list.SetInParent()
        if options.model_base_path is not None:
            folders = {options.model_name: options.model_base_path}
        else:
            folders = self._folders()
        for name, path in folders.items():
            config.model_config_list.config.add(name=name, base_path=str(path.resolve()), model_platform="tensorflow")
        return config

    def _folders(self) -> dict[str, Path]:
        """The model folders in ``models_dir``. Raises `ServerError` if there are none and none are to be awaited."""
        assert self.options.models_dir is not None
        folders = model_folders(self.options.models_dir)
        if not folders and not self.options.wait_for_models:
            raise ServerError(f"{self.options.models_dir}: no model found; expected folders <model>/<version number>/")
        return folders

    def _configure(self, config: ModelServerConfig, first: bool = False) -> None:
        """Puts a configuration into effect. At the start, its errors are `ServerError`."""
        from toolkit.server.models.manager import check_config
        from toolkit.server.requests.status import ServingError

        if not first:
            self._manager.configure(config)
            self._show()
            return
        try:
            check_config(config)
            if not self.options.wait_for_models:
                for model in config.model_config_list.config:
                    if not _has_version(Path(model.base_path)):
                        raise ServerError(
                            f"No versions of servable {model.name} found under base path {model.base_path}; expected "
                            "folders named by a number (eg. '/1/')"
                        )
            self._manager.configure(config)
        except ServingError as error:
            raise ServerError(f"Failed to start server. Error: {error}") from None

    def _poll(self) -> None:
        """Looks for a changed configuration file, or new model folders."""
        from toolkit.errors import ToolkitError
        from toolkit.server.requests.status import ServingError

        options = self.options
        seconds = options.model_config_file_poll_wait_seconds
        if options.models_dir is not None:
            seconds = options.file_system_poll_wait_seconds
        elif options.model_config_file is None:
            return
        names = set(self._manager.names())
        while seconds > 0 and not self._stopped.wait(seconds):
            try:
                config = self._read_models()
                if options.models_dir is not None:
                    found = {model.name for model in config.model_config_list.config}
                    if found == names:
                        continue
                    names = found
                self._configure(config)
            except ServingError as error:
                log.error("the new configuration is not in effect: %s", error)
            except ToolkitError as error:
                log.error("the configuration stays as it is: %s", error)

    def _show(self) -> None:
        """Tells health service and metrics what is available."""
        readiness = self._manager.readiness()
        self._metrics.available(readiness)
        if self._grpc is not None:
            self._grpc.show(readiness, self._manager.ready())

    # -- REST ---------------------------------------------------------------------------------------------------------

    def _rest_socket(self) -> socket.socket | None:
        options = self.options
        if options.rest_api_port < 0:
            return None
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.bare_host, options.rest_api_port))
        except OSError as error:
            listener.close()
            raise ServerError(
                f"REST cannot listen on {options.url_host}:{options.rest_api_port}: {error.strerror}"
            ) from None
        return listener


class _Loading:
    """Loads versions as the options say."""

    def __init__(self, server: Server) -> None:
        from toolkit.server.models.configfiles import read_batching
        from toolkit.server.models.servable import RunOptions

        options = server.options
        self._server = server
        self._batching = None
        if options.enable_batching and not options.enable_per_model_batching_parameters:
            from toolkit.server.models.configfiles import Batching

            file = options.batching_parameters_file
            self._batching = read_batching(file) if file else Batching()
        self._run = RunOptions(
            tags=tuple(options.saved_model_tags.split(",")),
            intra_op_threads=options.intra_op_threads,
            inter_op_threads=options.inter_op_threads,
            in_callers=options.runs_in_front,
            timeout_ms=int(options.max_deadline_seconds * 1000),
            batching=self._batching,
            count_tokens=options.count_tokens,
        )

    def load(self, name: str, version: int, path: Path) -> Servable:
        """Loads and warms up a version. Raises `ArtifactError`."""
        from dataclasses import replace

        from toolkit.errors import ArtifactError
        from toolkit.server.models.configfiles import read_batching
        from toolkit.server.models.servable import Servable
        from toolkit.server.models.warmup import replay
        from toolkit.server.watching.process import return_memory, settle

        server = self._server
        run = self._run
        own = path / "batching_params.pbtxt"
        if server.options.enable_per_model_batching_parameters and own.exists():
            try:
                run = replace(run, batching=read_batching(own))
            except ServerError as error:
                raise ArtifactError(str(error)) from None
        try:
            servable = Servable(name, version, path, run)
        except ArtifactError:
            server._metrics.load_failed(str(path))
            raise
        times: list[float] = []
        if server.options.enable_model_warmup:
            try:
                times = replay(server._core, servable, server.options.num_request_iterations_for_warmup)
            except ArtifactError:
                servable.close()
                raise
        settle()
        return_memory()
        server._metrics.loaded(name, str(path), servable.stages, times)
        return servable


def _tokens(path: Path) -> list[bytes]:
    try:
        tokens = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise ServerError(f"auth_token_file {path}: {error.strerror}") from None
    if not tokens:
        raise ServerError(f"auth_token_file {path} holds no token")
    return tokens


def _has_version(path: Path) -> bool:
    try:
        return bool(version_folders(path))
    except OSError:
        return False
