"""What several of the server's tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.server import ServerOptions

GOLDEN = Path(__file__).parent / "server" / "golden"


def golden_options(folder: Path, **changes: Any) -> ServerOptions:
    """The options with which the recorded server ran."""
    config = folder / "models.config"
    config.write_text((GOLDEN / "models.config").read_text().replace("MODELS", str(GOLDEN / "models")))
    options: dict[str, Any] = {
        "model_config_file": config,
        "monitoring_config_file": GOLDEN / "monitoring.config",
        "allow_version_labels_for_unavailable_models": True,
        "grpc_max_threads": 64,
        "port": 0,
        "rest_api_port": 0,
        "host": "127.0.0.1",
    }
    return ServerOptions(**(options | changes))
