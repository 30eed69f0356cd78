"""``sentence-serving export``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from toolkit.artifact.compatibility import DEFAULT_OLDEST
from toolkit.cli.display import check_table, notices_shown, quiet_tensorflow, stage_progress
from toolkit.cli.listed import Listed
from toolkit.cli.tune_artifact import batching_changes, batching_options
from toolkit.encoder.layout import AIMS
from toolkit.encoder.target import TARGETS
from toolkit.proof.precision import PRECISIONS
from toolkit.signatures import QUANTIZED
from toolkit.source.settings import POOLING_MODES
from toolkit.source.tasks import TASKS
from toolkit.tokenizer import COMPILED, ENGINES, Engine

__all__ = ["command"]


@click.command("export")
@click.argument("source")
@click.argument("models_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="Model name that clients will ask for.")
@click.option(
    "--task",
    type=click.Choice(tuple(TASKS)),
    help="What the model is for, where the folder of an encoder alone leaves it open.  [default: as its class says]",
)
@click.option("--version", type=int, help="Version number.  [default: next free]")
@click.option("--revision", help="Branch, tag or commit, where SOURCE is a hub id.")
@click.option(
    "--truncate-dim", type=int, help="Keep so many numbers of each vector: the first ones, not normalized again."
)
@click.option("--max-seq-length", type=int, help="Cut texts to so many tokens.  [default: the checkpoint's]")
@click.option(
    "--prompt-name",
    help="Put this prompt of the checkpoint before each text, as encode(prompt_name=...) does.  [default: its default]",
)
@click.option(
    "--pooling",
    type=click.Choice(POOLING_MODES),
    help="For an encoder's folder without modules.json.  [default: mean, as sentence-transformers takes it]",
)
@click.option(
    "--prompts",
    type=Listed(click.STRING),
    help="Prompts (and adapters) that become signatures embed_<name>, with commas between.  [default: all there are]",
)
@click.option(
    "--dims",
    type=Listed(click.INT),
    default=(),
    help="Sizes that vectors are cut to, as signatures embedding_<dim>; normalized again where the model normalizes.",
)
@click.option(
    "--quantize",
    type=Listed(click.Choice(tuple(QUANTIZED))),
    default=(),
    help="Kinds of quantized vectors, as signatures embedding_<kind>: int8, uint8 (by ranges calibrated on "
    "--calibration), binary, ubinary.",
)
@click.option(
    "--no-check", is_flag=True, help="Skip the proof; the artifact is then marked as unproved in its provenance."
)
@click.option(
    "--tokenizer-sample",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the tokenizer's proof to run. All of it is most of an export's time, which is 1.5 minutes for "
    "all-MiniLM-L6-v2 and over 3 for multilingual-e5-small on two free CPUs.",
)
@click.option(
    "--tokenizer-engine",
    type=click.Choice(ENGINES),
    default=COMPILED,
    show_default=True,
    help="What finds the tokens: our compiled tables, or a slower tokenizer of tensorflow-text, for WordPiece, if the "
    "proof admits it.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Of the encoder's products. bfloat16 is for processors that have it in hardware (AMX, AVX512_BF16); int8 for "
    "x86 with VNNI and TF Serving 2.17 and later.",
)
@click.option(
    "--min-cosine",
    type=float,
    help="Smallest cosine with the original's vectors to accept.  [default: 0.995 for int8, 0.9999 for bfloat16]",
)
@click.option(
    "--max-difference",
    type=float,
    help="Largest difference from the original's scores to accept, of a score above 1 that share of it: for a "
    "CrossEncoder, in the place of --min-cosine.  [default: 0.05 for int8, 0.02 for bfloat16]",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Texts to calibrate int8 (and the ranges of --quantize) on, one a line, UTF-8: like those that will be "
    "embedded; for a CrossEncoder a query, a tab and a document each.  [default: a built-in set]",
)
@click.option(
    "--target",
    type=click.Choice(tuple(TARGETS)),
    default="cpu",
    show_default=True,
    help="What the graph is laid out for. One for a GPU makes few large products; it runs on a CPU too, slower, and is "
    "proved there.",
)
@click.option(
    "--oldest-server",
    metavar="RELEASE",
    default=DEFAULT_OLDEST,
    show_default=True,
    help="Oldest TF Serving that the artifact is for. An older one than 2.17, down to 2.12, costs a little speed.",
)
@click.option(
    "--optimize",
    type=click.Choice(AIMS),
    help="latency: keep the weights once more in the server's memory, in the order that answers one short text "
    "soonest (in bfloat16 all texts, on processors with AVX512 alone), which needs a server built with oneDNN; memory: "
    "do not.  [default: latency, in float32 for a CPU, for encoders of at most 500 MB, where the TensorFlow at hand "
    "has oneDNN]",
)
@click.option("--no-batching", is_flag=True, help="Do not batch requests inside the graph.")
@batching_options
@click.option("--trust-remote-code", is_flag=True, help="Run code that the checkpoint brings along.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def command(
    source: str,
    models_dir: Path,
    name: str,
    task: str | None,
    version: int | None,
    revision: str | None,
    truncate_dim: int | None,
    max_seq_length: int | None,
    prompt_name: str | None,
    pooling: str | None,
    prompts: tuple[str, ...] | None,
    dims: tuple[int, ...],
    quantize: tuple[str, ...],
    no_check: bool,
    tokenizer_sample: float,
    tokenizer_engine: Engine,
    precision: str,
    min_cosine: float | None,
    max_difference: float | None,
    calibration: Path | None,
    target: str,
    oldest_server: str,
    optimize: str | None,
    no_batching: bool,
    trust_remote_code: bool,
    as_json: bool,
    **batching: int | None,
) -> None:
    """Convert SOURCE to MODELS_DIR/NAME/VERSION and prove it equal to the original.

    SOURCE is a folder written by save of a SentenceTransformer or CrossEncoder, one of an encoder alone as transformers
    writes it, a model id on the Hugging Face hub, or the .keras file of a model that to_keras made.

    The tokenizer's tables are compared with the original tokenizer on over a million texts, every Unicode code point
    among them. Then the SavedModel is reloaded in a fresh process and compared with the original on a built-in corpus:
    token ids must be identical, vectors within 1e-5 (largest absolute difference) and 1e-6 (cosine distance). Where
    they are not, nothing is left in MODELS_DIR, the first diverging stage is named and the exit code is 1. In bfloat16
    and int8 a smallest cosine is asked for instead, or a largest difference of scores.
    """
    changes = batching_changes(batching)
    if no_batching and changes:
        raise click.UsageError(f"--no-batching and --batch-{next(iter(changes)).replace('_', '-')} exclude each other")
    quiet_tensorflow()
    from toolkit.convert import export
    from toolkit.encoder.batching_options import Batching

    if no_check:
        click.secho("warning: --no-check: nothing proves that this artifact equals its original", fg="yellow", err=True)
    with notices_shown(), stage_progress() as progress:
        result = export(
            source,
            models_dir,
            name,
            task=task,
            version=version,
            verify=not no_check,
            tokenizer_sample=tokenizer_sample,
            tokenizer_engine=tokenizer_engine,
            precision=precision,
            min_cosine=min_cosine,
            max_difference=max_difference,
            calibration=calibration,
            target=target,
            oldest_server=oldest_server,
            optimize=optimize,
            batching=None if no_batching else Batching(**changes),
            truncate_dim=truncate_dim,
            max_seq_length=max_seq_length,
            prompt_name=prompt_name,
            pooling=pooling,
            prompts=prompts,
            dims=dims,
            quantize=quantize,
            revision=revision,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        report = result.report.to_json() if result.report else None
        value = {"path": str(result.path), "name": result.name, "version": result.version, "check": report}
        click.echo(json.dumps(value, ensure_ascii=False))
        return
    click.echo(str(result.spec))
    if result.report:
        click.echo(f"token ids   {result.tokenizer_report}")
        check_table(result.report)
    click.echo(f"wrote {result.path}")
