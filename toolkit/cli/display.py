"""What several commands print alike: progress of long work on a terminal, and the table of a check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.comparison import CheckReport

__all__ = ["check_table", "quiet_tensorflow", "stage_progress"]


def quiet_tensorflow() -> None:
    """Set, before TensorFlow is imported, that only its errors reach stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (stage, done, total) that moves a progress bar on stderr; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def move(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        yield move


def check_table(report: CheckReport) -> None:
    """Print a check's figures, stage by stage."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report.texts} texts, alone and in mixed batches: {report.comparisons} vectors", min_width=64)
    table.add_column("stage")
    table.add_column("max abs difference", justify="right")
    table.add_column("largest value", justify="right")
    table.add_row("token ids", "identical" if report.token_ids_equal else "[red]different[/red]", "")
    for figure in report.stages:
        table.add_row(figure.stage, f"{figure.max_abs:.2e}", f"{figure.magnitude:.3g}")
    console = Console()
    console.print(table)
    bounds = report.bounds
    verdict = "[green]equal[/green]" if report.passed else "[red]NOT equal[/red]"
    console.print(
        f"{verdict}: max abs difference {report.max_abs:.2e} (bound {bounds.max_abs:.0e}), "
        f"cosine distance {report.max_cosine_distance:.2e} (bound {bounds.max_cosine_distance:.0e})",
        soft_wrap=True,
        highlight=False,
    )
