"""What several commands print alike: progress of long work on a terminal, and the table of a check."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from toolkit.errors import MissingExtraError, SourceNotice

if TYPE_CHECKING:
    from toolkit.encoder.batching_options import Batching
    from toolkit.proof.comparison import CheckReport

__all__ = [
    "batching_words",
    "check_table",
    "notices_shown",
    "precision_words",
    "quality_words",
    "quiet_tensorflow",
    "rows_bar",
    "stage_progress",
    "target_words",
]

_WORTH_SAYING = 10.0  # seconds left of a stage


def quiet_tensorflow(extra: str = "convert") -> None:
    """Import TensorFlow without the lines on build flags and absent GPUs that it prints whatever the log level is.

    They come from C++ before its logging is set up, so stderr itself is put aside; it is shown if the import fails.
    Raises ``MissingExtraError`` naming ``extra`` where TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryFile() as aside:
        stderr = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "tensorflow", extra) from error
        except BaseException:
            aside.seek(0)
            os.write(stderr, aside.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def notices_shown() -> Iterator[None]:
    """Print each ``SourceNotice`` warning as a note on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", SourceNotice)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, SourceNotice):
                click.secho(f"note: {message}", fg="yellow", err=True)
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


class _Estimate:
    """How long the present stage will still take, if it goes on as it did since its first step was done."""

    def __init__(self) -> None:
        self._stage, self._since, self._first = "", 0.0, 0

    def seconds_left(self, stage: str, done: int, total: int) -> float | None:
        """``None`` where it is too early to tell."""
        if not done or not total:  # being prepared: a model may be loading
            return None
        if stage != self._stage:
            self._stage, self._since, self._first = stage, time.monotonic(), done
        passed, steps = time.monotonic() - self._since, done - self._first
        if steps < 0.02 * total or passed < 4.0:
            return None
        return passed * (total - done) / steps


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (stage, done, total) that moves a progress bar on stderr, with an estimate of the time left.

    Where stderr is no terminal, the estimate is printed once for each stage that takes long.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    estimate, told = _Estimate(), set[str]()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None, left="")

        def move(stage: str, done: int, total: int) -> None:
            seconds = estimate.seconds_left(stage, done, total)
            left = "" if seconds is None else f"about {seconds:.0f} s left"
            bar.update(task, description=stage, completed=done, total=total or None, left=left)
            if not console.is_terminal and seconds is not None and seconds > _WORTH_SAYING and stage not in told:
                told.add(stage)
                click.echo(f"{stage}: {left}", err=True)

        yield move


def check_table(report: CheckReport) -> None:
    """Print a check's figures, stage by stage."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{report.texts} texts, alone and in mixed batches: {report.comparisons} {report.unit}", min_width=64
    )
    table.add_column("stage")
    table.add_column("max abs difference", justify="right")
    table.add_column("largest value", justify="right")
    table.add_row("token ids", "identical" if report.token_ids_equal else "[red]different[/red]", "")
    for figure in report.stages:
        table.add_row(figure.stage, f"{figure.max_abs:.2e}", f"{figure.magnitude:.3g}")
    for quantized in report.quantized:
        table.add_row(quantized.signature, str(quantized), "")
    for sparse in report.sparse:
        table.add_row(sparse.signature, str(sparse), "")
    for pooled in report.pooled:
        table.add_row(pooled.signature, str(pooled), "")
    console = Console()
    console.print(table)
    bounds = report.bounds
    largest = "" if bounds.max_abs is None else f" (bound {bounds.max_abs:.0e})"
    word = "close enough" if bounds.relative or bounds.max_abs is None else "equal"
    verdict = f"[green]{word}[/green]" if report.passed else f"[red]NOT {word}[/red]"
    console.print(
        f"{verdict}: max abs difference {report.max_abs:.2e}{largest}"
        + (
            f", cosine distance {report.max_cosine_distance:.2e} (bound {bounds.max_cosine_distance:.1g})"
            if report.max_cosine_distance is not None
            else ""
        ),
        soft_wrap=True,
        highlight=False,
    )
    if bounds.max_abs is None:
        console.print(quality_words(report.to_json()), soft_wrap=True, highlight=False)


def quality_words(report: Mapping[str, Any]) -> str:
    """How close the vectors of lower precision are, in one line; ``report`` is a check's, as JSON values."""
    kept, order = report["neighbours"], report.get("rank_correlation")
    return (
        f"cosine with the original: smallest {1 - report['max_cosine_distance']:.5f}, "
        f"mean {1 - report['mean_cosine_distance']:.5f}"
        + ("" if kept is None else f"; of the 10 nearest texts {kept:.1%} are the same")
        # artifacts of earlier exports do not say
        + ("" if order is None else f"; similarities of all pairs correlate in rank by {order:.4f}")
    )


def target_words(stamp: Mapping[str, Any]) -> str:
    """What a graph is laid out for; ``stamp`` is of the provenance."""
    words = f"{stamp['name']}: chunks of {stamp['chunk_tokens']} tokens, {stamp['chunks_at_a_time']} at a time"
    needed = " ".join(f"{name}={value}" for name, value in stamp["environment"].items())
    return f"{words}; as proved with {needed} in the server's environment" if needed else words


def precision_words(stamp: Mapping[str, Any]) -> str:
    """Which products are in which precision, and what they were calibrated on; ``stamp`` is of the provenance."""
    products = {name: found for name, found in stamp["products"].items() if found}
    parts = [
        f"{len(found)} products in {name}"
        + (f" ({', '.join(found)})" if len(products) > 1 and len(found) == min(map(len, products.values())) else "")
        for name, found in products.items()
    ]
    difference = stamp.get("max_difference")
    allowed = (
        f"largest difference of a score allowed {difference}"
        if difference is not None
        else f"smallest cosine allowed {stamp['min_cosine']}"
    )
    words = f"{stamp['name']}: {', '.join(parts)}; {allowed}"
    calibration = stamp.get("calibration")
    if not calibration:
        return words
    return (
        f"{words}; calibrated on {calibration['texts']} texts ({calibration['source']}); needs oneDNN on x86 with VNNI"
    )


def batching_words(batching: Batching | None) -> str:
    """Batching inside the graph in one line."""
    if batching is None:
        return "none inside the graph"
    wait = f"waiting at most {batching.timeout_micros} µs" if batching.timeout_micros else "waiting for nobody"
    return (
        f"inside the graph: at most {batching.max_tokens} tokens at a time, {wait}, {batching.threads} at once, "
        f"{batching.max_queued_batches} more in the queue"
    )


@contextmanager
def rows_bar(title: str, count: Callable[[], int | None] | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar with rows/s and time left, where stderr is a terminal; call what is yielded with the rows done,
    and their total where ``count`` does not tell it."""
    if not sys.stderr.isatty():
        yield lambda rows, total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=count() if count is not None else None, rate="")

        def show(rows: int, total: int | None = None) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=rows, total=total, rate=f"{speed:,.0f} rows/s" if speed else "")

        yield show
