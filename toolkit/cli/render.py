"""``sentence-serving render``: the runtime configuration, and on request the whole deployment, of exported models."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.deploy.render import RuntimeOptions, deployment_files, find_models, write
from toolkit.errors import InputError

__all__ = ["command"]

_DEFAULTS = RuntimeOptions()


def _parse_label(text: str) -> tuple[tuple[str, str], int]:
    model, _, rest = text.partition(":")
    label, _, version = rest.partition("=")
    if not (model and label and version.isascii() and version.isdigit()):
        raise InputError(f"--label is {text!r}; expected MODEL:LABEL=VERSION, for example minilm:stable=2")
    return (model, label), int(version)


@click.command()
@click.argument("models_dir", type=click.Path(path_type=Path))
@click.option("--output", default="deploy", show_default=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--name", "names", multiple=True, help="Model to serve; may be repeated. Default: all in MODELS_DIR.")
@click.option("--label", "labels", multiple=True, metavar="MODEL:LABEL=VERSION", help="Serve a version under a label.")
@click.option("--cpus", default=_DEFAULTS.cpus, show_default=True, help="Whole CPUs of one replica.")
@click.option(
    "--max-batch-size", default=_DEFAULTS.max_batch_size, show_default=True, help="Most rows computed together."
)
@click.option(
    "--max-request-rows", default=_DEFAULTS.max_request_rows, show_default=True, help="Most rows of one request."
)
@click.option(
    "--batch-timeout-micros",
    default=_DEFAULTS.batch_timeout_micros,
    show_default=True,
    help="Longest wait of a row for company, in microseconds.",
)
@click.option(
    "--models-path", default=_DEFAULTS.models_path, show_default=True, help="Where the server finds the models."
)
@click.option("--kubernetes", is_flag=True, help="Write k8s/ and Dockerfile.serving too: a whole deployment.")
@click.option("--force", is_flag=True, help="Replace files that differ.")
def command(
    models_dir: Path,
    output: Path,
    names: tuple[str, ...],
    labels: tuple[str, ...],
    cpus: int,
    max_batch_size: int,
    max_request_rows: int,
    batch_timeout_micros: int,
    models_path: str,
    kubernetes: bool,
    force: bool,
) -> None:
    """Write the server's configuration for the exported models in MODELS_DIR.

    OUTPUT/serving/ holds TensorFlow Serving's configuration files, the container's entry point and a kustomization
    that k8s/base takes its settings from. Existing files are kept unless --force is given.
    """
    options = RuntimeOptions(
        cpus=cpus,
        max_batch_size=max_batch_size,
        max_request_rows=max_request_rows,
        batch_timeout_micros=batch_timeout_micros,
        models_path=models_path,
        labels=dict(_parse_label(text) for text in labels),
    )
    models = find_models(models_dir, names)
    changed = write(deployment_files(models, options, kubernetes=kubernetes), output, force=force)
    for path in changed:
        click.echo(path)
    click.echo(f"{len(changed)} files written for {', '.join(model.name for model in models)}", err=True)
