"""Builds Dockerfile.serving for real and tries the image as a restricted container. Run as root: `make image-test`.

Needs buildah and debootstrap (``apt-get install buildah debootstrap``) and the package registries of Debian and Python,
but no container engine and no image registry: the base image is made here, with ``debootstrap``, and stands in for
``python:slim``. The image serves a model made on the spot with the embedded server, in a sandbox where no shell can be
started; both APIs are asked, the health check is run, and SIGTERM is sent under load. The variant for the stock server
starts a stand-in for it. With ``--export`` another image exports a SentenceTransformer in its build and gets its labels
from there, which takes PyTorch: ``--wheels`` names a folder with one of its wheels for CPUs, where its own index is out
of reach.

Takes several minutes and about 10 GB of disk, most of it TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from deploy.sandbox import USER, Process, Sandbox, shells
from deploy.trial import (
    MODEL,
    Address,
    check_answers,
    check_restrictions,
    check_sigterm_under_load,
    free_ports,
    make_model,
)

from toolkit.deploy.render import RuntimeOptions, deployment_files, find_models, write

ROOT = Path(__file__).parents[2]
BASE = "localhost/serving-test-base"
IMAGE = "localhost/serving-test"
ENVIRONMENT = os.environ | {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
CONTEXT = ("toolkit", "k8s", "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, **options: object) -> str:
    print("$", *command, flush=True)
    result = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    return str(result.stdout).strip()


def make_base(work: Path, suite: str, wheels: Path | None) -> None:
    """An image with Python and nothing else, trusting what this machine trusts so that pip reaches its registry."""
    root = work / "base"
    if not (root / "usr/bin/python3").exists():
        shutil.rmtree(root, ignore_errors=True)
        packages = "python3,python3-venv,ca-certificates"
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", suite, root], check=True)
    for name in ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt"):
        if Path("/", name).exists():
            shutil.copyfile(Path("/", name), root / name)
    if wheels:
        shutil.rmtree(root / "wheels", ignore_errors=True)
        (root / "wheels").mkdir()
        (wheel,) = wheels.glob("torch-*.whl")
        shutil.copy(wheel, root / "wheels")
        (root / "wheels/constraints.txt").write_text(f"torch=={wheel.name.split('-')[1]}\n")
        with (root / "etc/pip.conf").open("a") as file:
            file.write("[install]\nfind-links = /wheels\nconstraint = /wheels/constraints.txt\n")
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


def make_checkpoint(folder: Path) -> None:
    """A SentenceTransformer of a few thousand parameters, in the build context."""
    from support import save_bert, sentence_transformer

    with tempfile.TemporaryDirectory() as bert:
        sentence_transformer(save_bert(Path(bert))).save(str(folder))


def build(context: Path, image: str, *options: str, labelled: bool = True, **arguments: str) -> None:
    # All arguments, defaults too: older buildah skips stages that only a default leads to.
    arguments = {"SERVER": "embedded", "MODELS_FROM": "copy", "PYTHON_IMAGE": BASE, "SERVING_IMAGE": BASE} | arguments
    given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    labels = (context / "serving/image.labels").read_text().split() if labelled else []
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
    configuration = check_configuration(f"{IMAGE}-stock")
    check_labels(configuration["Labels"])
    assert configuration["Entrypoint"] == ["/etc/serving/entrypoint"]
    assert configuration["Healthcheck"]["Test"] == ["CMD", "/etc/serving/healthcheck"]
    variables = dict(item.split("=", 1) for item in configuration["Env"])
    with mounted(f"{IMAGE}-stock") as root:
        assert list((root / "models").iterdir()) == []
        sandbox = Sandbox(root, {"/models": context / "models"}, cpus=1)
        with sandbox.run(configuration["Entrypoint"], variables, work / "log") as process:
            assert process.outer.wait(30) == 0, (work / "log").read_text()
    said = (work / "log").read_text()
    assert "\n1  --enable_profiler=false --port=8500 --rest_api_port=8501" in said, said
    run("buildah", "rmi", stock)


def try_model_image(context: Path) -> None:
    build(context, f"{IMAGE}-model", "--target=model-image")
    with mounted(f"{IMAGE}-model") as root:
        assert [path.name for path in root.iterdir()] == [MODEL]
        assert (root / MODEL / "1/saved_model.pb").is_file()


def check_configuration(image: str) -> dict[str, Any]:
    """The image's configuration, of which user, ports, signal and licence are checked."""
    inspected: dict[str, Any] = json.loads(run("buildah", "inspect", "--type=image", image))["Docker"]["config"]
    assert inspected["User"] == f"{USER}:{USER}", inspected["User"]
    assert set(inspected["ExposedPorts"]) == {"8500/tcp", "8501/tcp"}
    assert inspected["StopSignal"] == "SIGTERM"
    assert inspected["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    return inspected


def check_labels(labels: dict[str, str]) -> None:
    assert labels["org.opencontainers.image.title"] == MODEL
    assert labels["org.opencontainers.image.version"] == "1"
    assert labels[f"sentence-serving.{MODEL}.source"] == "made_on_the_spot"


def check_embedded(configuration: dict[str, Any]) -> None:
    assert configuration["Entrypoint"] == ["sentence-serving", "container", "start"]
    assert configuration["Healthcheck"]["Test"] == ["CMD", "sentence-serving", "container", "check"]


def try_export(context: Path, work: Path) -> None:
    """A model exported in the build: checked, configured, and the image labelled with its provenance afterwards."""
    make_checkpoint(context / "checkpoint")
    image = f"{IMAGE}-export"
    source = {"MODELS_FROM": "export", "MODEL_SOURCE": "checkpoint", "MODEL_NAME": "tiny", "CPUS": "1"}
    build(context, image, labelled=False, TORCH_INDEX="https://pypi.org/simple", **source)
    configuration = check_configuration(image)
    assert not any(name.startswith("sentence-serving.") for name in configuration["Labels"])
    container = run("buildah", "from", "--pull-never", image)
    labels = run("buildah", "run", container, "--", "cat", "/etc/serving/image.labels").split()
    run("buildah", "rm", container)
    (work / "Dockerfile.labels").write_text(f"FROM {image}\n")
    again = ("--layers=false", "--pull-never", "--format=docker", "-f", work / "Dockerfile.labels", "-t", image)
    run("buildah", "bud", *again, *labels, work / "stock")
    configuration = check_configuration(image)
    check_embedded(configuration)
    found = configuration["Labels"]
    print("labels:", json.dumps({name: found[name] for name in sorted(found)}, indent=1))
    assert found["org.opencontainers.image.title"] == "tiny"
    assert found["org.opencontainers.image.created"]
    with mounted(image) as root:
        (provenance,) = root.glob("models/tiny/*/assets.extra/provenance.json")
        stamped = json.loads(provenance.read_text())
        assert found["org.opencontainers.image.version"] == provenance.parts[-3]
        assert found["org.opencontainers.image.created"] == stamped["created"]
        assert found["sentence-serving.tiny.source.digest"] == stamped["source"]["digest"]
        started(root, configuration, work, lambda address, process: print(address.get("/v1/models/tiny")), "tiny")


def started(
    root: Path, configuration: dict[str, Any], work: Path, use: Callable[[Address, Process], None], model: str = MODEL
) -> None:
    """Starts the image's own entry point as a restricted container without a shell, and uses it."""
    address = Address(*free_ports())
    variables = dict(item.split("=", 1) for item in configuration["Env"])
    variables |= {"SERVING_GRPC_PORT": str(address.grpc), "SERVING_REST_PORT": str(address.rest)}
    found = shells(root)
    print("out of reach:", *found)
    assert Path("/usr/bin/dash") in found
    log = work / "log"
    sandbox = Sandbox(root, cpus=1, memory=2 << 30, shell=False)
    with sandbox.run([*configuration["Entrypoint"], *(configuration["Cmd"] or ())], variables, log) as process:
        started = time.monotonic()
        address.wait_until_ready(process, model=model)
        print(f"ready after {time.monotonic() - started:.1f} s")
        inside = ["nsenter", f"--target={process.pid}", "--mount", "--root", f"--setuid={USER}", f"--setgid={USER}"]
        for shell in found:
            refused = subprocess.run([*inside, str(shell), "-c", "exit 0"], capture_output=True, cwd="/")
            assert refused.returncode != 0, f"{shell} can be started"
        # the image's own health check, in the server's own mounts and as its user
        check = configuration["Healthcheck"]["Test"][1:]
        variables_list = [f"{name}={value}" for name, value in variables.items()]
        subprocess.run([*inside, "env", "-i", *variables_list, *check], check=True, cwd="/")
        refused = subprocess.run(
            [*inside, "touch", "/etc/serving/x", "/models/x", "/x"], capture_output=True, text=True
        )
        assert refused.stderr.count("Read-only file system") == 3, refused.stderr
        use(address, process)
    print(log.read_text())


def try_out(address: Address, process: Process) -> None:
    check_restrictions(process)
    assert "libjemalloc" in Path(f"/proc/{process.pid}/maps").read_text(), "jemalloc is not in use"
    check_answers(address)
    print(check_sigterm_under_load(address, process))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build/image-test")
    parser.add_argument("--suite", default="bookworm", help="Debian release of the base image")
    parser.add_argument("--export", action="store_true", help="also build an image that exports its model")
    parser.add_argument("--wheels", type=Path, help="folder with a wheel of PyTorch for CPUs")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    make_base(work, options.suite, options.wheels)
    context = make_context(work)
    try_model_image(context)
    try_stock_variant(context, work)
    build(context, IMAGE, JEMALLOC="on")
    configuration = check_configuration(IMAGE)
    check_labels(configuration["Labels"])
    check_embedded(configuration)
    with mounted(IMAGE) as root:
        started(root, configuration, work, try_out)
    if options.export:
        try_export(context, work)
    run("buildah", "rmi", BASE)
    print("the image is good")


if __name__ == "__main__":
    main()
