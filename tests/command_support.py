"""The installed command, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import toolkit

__all__ = ["installed", "start_installed"]


def start_installed(*arguments: object, path: Path | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start it; modules in the folder ``path`` are found before installed ones. Outputs are pipes."""
    command = shutil.which("sentence-serving", path=str(Path(sys.executable).parent))
    start = [command] if command else [sys.executable, "-c", "from toolkit.cli import main; main()"]
    # the package under test, where it is not installed
    places = [str(place) for place in (path, Path(toolkit.__file__).parents[1]) if place is not None]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), **options.pop("environment", {})}
    return subprocess.Popen(
        [*start, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        **options,
    )


def installed(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    process = start_installed(*arguments, **options)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
