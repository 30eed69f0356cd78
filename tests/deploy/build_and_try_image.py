"""Builds Dockerfile.serving for real and tries the image as a restricted container. Run as root: `make image-test`.

Needs buildah and debootstrap (``apt-get install buildah debootstrap``) and the package registries of Debian and Python,
but no container engine and no image registry: the base image is made here, with ``debootstrap``, and stands in for
``python:slim``. The image serves a model made on the spot with the embedded server; both APIs are asked, the health
check is run, and SIGTERM is sent under load. The variant for the stock server starts a stand-in for it. Takes several
minutes and about 10 GB of disk, most of it TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from deploy.sandbox import USER, Sandbox
from deploy.trial import (
    MODEL,
    Address,
    check_answers,
    check_restrictions,
    check_sigterm_under_load,
    free_ports,
    make_model,
)

from toolkit.render import RuntimeOptions, deployment_files, find_models, write

ROOT = Path(__file__).parents[2]
BASE = "localhost/serving-test-base"
IMAGE = "localhost/serving-test"
ENVIRONMENT = os.environ | {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
CONTEXT = ("toolkit", "k8s", "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, **options: object) -> str:
    print("$", *command, flush=True)
    result = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    return str(result.stdout).strip()


def make_base(work: Path, suite: str) -> None:
    """An image with Python and nothing else, trusting what this machine trusts so that pip reaches its registry."""
    root = work / "base"
    if not (root / "usr/bin/python3").exists():
        shutil.rmtree(root, ignore_errors=True)
        packages = "python3,python3-venv,ca-certificates"
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", suite, root], check=True)
    for name in ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt"):
        if Path("/", name).exists():
            shutil.copyfile(Path("/", name), root / name)
    recipe = work / "Dockerfile.base"
    recipe.write_text("FROM scratch\nCOPY . /\n")
    run("buildah", "bud", "--layers=false", "--pull-never", "-f", recipe, "-t", BASE, root)


def make_context(work: Path) -> Path:
    """A build context like a user's: the checkout, exported models, rendered configuration."""
    context = work / "context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    for name in CONTEXT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context)
    version = make_model(context / "models")
    (version / "assets.extra").mkdir(exist_ok=True)
    (version / "assets.extra/provenance.json").write_text(json.dumps({"source": "made on the spot"}))
    write(deployment_files(find_models(context / "models"), RuntimeOptions(cpus=1), kubernetes=True), context)
    return context


def build(context: Path, image: str, *options: str, **arguments: str) -> None:
    # All arguments, defaults too: older buildah skips stages that only a default leads to.
    arguments = {"SERVER": "embedded", "MODELS_FROM": "copy", "PYTHON_IMAGE": BASE, "SERVING_IMAGE": BASE} | arguments
    given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    labels = (context / "serving/image.labels").read_text().split()
    fixed = ("--layers=false", "--pull-never", "--format=docker", "-f", context / "Dockerfile.serving", "-t", image)
    started = time.monotonic()
    run("buildah", "bud", *fixed, *options, *given, *labels, context)
    print(f"built {image} in {time.monotonic() - started:.0f} s")


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root folder of a container made from ``image``; container and image are removed afterwards."""
    container = run("buildah", "from", "--pull-never", image)
    try:
        yield Path(run("buildah", "mount", container))
    finally:
        run("buildah", "rm", container)
        run("buildah", "rmi", image)


def try_stock_variant(context: Path, work: Path) -> None:
    """The variant for the stock server, without a model, over a base with a stand-in for `tensorflow_model_server`."""
    folder = work / "stock"
    folder.mkdir(exist_ok=True)
    (folder / "server").write_text('#!/bin/sh\necho "$$ $LD_PRELOAD $@"\n')
    (folder / "server").chmod(0o755)
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY server /usr/bin/tensorflow_model_server\n")
    stock = f"{BASE}-stock"
    run("buildah", "bud", "--layers=false", "--pull-never", "-t", stock, folder)
    build(context, f"{IMAGE}-stock", SERVER="tensorflow", MODELS_FROM="none", SERVING_IMAGE=stock)
    variables = dict(item.split("=", 1) for item in check_configuration(f"{IMAGE}-stock"))
    assert variables["SERVING_ENGINE"] == "tensorflow"
    with mounted(f"{IMAGE}-stock") as root:
        assert list((root / "models").iterdir()) == []
        sandbox = Sandbox(root, {"/models": context / "models"}, cpus=1)
        with sandbox.run(["/etc/serving/entrypoint"], variables, work / "log") as process:
            assert process.outer.wait(30) == 0, (work / "log").read_text()
    said = (work / "log").read_text()
    assert "\n1  --enable_profiler=false --port=8500 --rest_api_port=8501" in said, said
    run("buildah", "rmi", stock)


def try_model_image(context: Path) -> None:
    build(context, f"{IMAGE}-model", "--target=model-image")
    with mounted(f"{IMAGE}-model") as root:
        assert [path.name for path in root.iterdir()] == [MODEL]
        assert (root / MODEL / "1/saved_model.pb").is_file()


def check_configuration(image: str) -> list[str]:
    """User, command, ports, health check and labels of the image; returns its environment."""
    inspected = json.loads(run("buildah", "inspect", "--type=image", image))["Docker"]["config"]
    assert inspected["User"] == f"{USER}:{USER}", inspected["User"]
    assert inspected["Entrypoint"] == ["/etc/serving/entrypoint"]
    assert set(inspected["ExposedPorts"]) == {"8500/tcp", "8501/tcp"}
    assert inspected["Healthcheck"]["Test"] == ["CMD", "/etc/serving/healthcheck"]
    assert inspected["StopSignal"] == "SIGTERM"
    labels = inspected["Labels"]
    assert labels["org.opencontainers.image.title"] == MODEL
    assert labels["org.opencontainers.image.version"] == "1"
    assert labels[f"sentence-serving.{MODEL}.source"] == "made_on_the_spot"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    environment: list[str] = inspected["Env"]
    return environment


def try_out(root: Path, environment: list[str], work: Path) -> None:
    address = Address(*free_ports())
    variables = dict(item.split("=", 1) for item in environment)
    variables |= {"SERVING_GRPC_PORT": str(address.grpc), "SERVING_REST_PORT": str(address.rest)}
    log = work / "log"
    with Sandbox(root, cpus=1, memory=2 << 30).run(["/etc/serving/entrypoint"], variables, log) as process:
        started = time.monotonic()
        address.wait_until_ready(process)
        print(f"ready after {time.monotonic() - started:.1f} s")
        check_restrictions(process)
        assert "libjemalloc" in Path(f"/proc/{process.pid}/maps").read_text(), "jemalloc is not in use"
        check_answers(address)
        # the image's own health check, in the server's own mounts and as its user
        inside = ["nsenter", f"--target={process.pid}", "--mount", "--root", f"--setuid={USER}", f"--setgid={USER}"]
        variables_list = [f"{name}={value}" for name, value in variables.items()]
        subprocess.run([*inside, "env", "-i", *variables_list, "/etc/serving/healthcheck"], check=True, cwd="/")
        refused = subprocess.run(
            [*inside, "touch", "/etc/serving/x", "/models/x", "/x"], capture_output=True, text=True
        )
        assert refused.stderr.count("Read-only file system") == 3, refused.stderr
        print(check_sigterm_under_load(address, process))
    print(log.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build/image-test")
    parser.add_argument("--suite", default="bookworm", help="Debian release of the base image")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    make_base(work, options.suite)
    context = make_context(work)
    try_model_image(context)
    try_stock_variant(context, work)
    build(context, IMAGE, JEMALLOC="on")
    environment = check_configuration(IMAGE)
    with mounted(IMAGE) as root:
        try_out(root, environment, work)
    run("buildah", "rmi", BASE)
    print("the image is good")


if __name__ == "__main__":
    main()
