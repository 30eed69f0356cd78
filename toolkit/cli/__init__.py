"""The ``sentence-serving`` command. One file per command; each is imported only when it is asked for.

Exit codes: 0 done; 1 a check failed; 2 wrong usage or input, or rows that have no embedding;
3 the source cannot be read or is not supported;
4 an artifact, its folder or a server's configuration is not usable; 5 a request to a server failed;
6 an optional package is missing; 7 a load test's figures are the generator's own; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from toolkit import __version__
from toolkit.errors import ToolkitError

__all__ = ["cli", "main"]

# command name -> (module, one-line help); the help stands here so that `--help` imports none of the modules
COMMANDS: dict[str, tuple[str, str]] = {
    "export": ("toolkit.cli.export", "Convert a SentenceTransformer to a SavedModel and prove it equal."),
    "models": ("toolkit.cli.models", "List the families, modules, tokenizers and public models that can be exported."),
    "check": ("toolkit.cli.check", "Compare a SavedModel with its original model."),
    "inspect": ("toolkit.cli.inspect", "Print an artifact's signatures, provenance and compatible servers."),
    "tune-artifact": ("toolkit.cli.tune_artifact", "Change an artifact's batching without the original model."),
    "serve": ("toolkit.cli.serve", "Serve models over TF Serving's gRPC and REST APIs."),
    "render": ("toolkit.cli.render", "Write the server's configuration and deployment for exported models."),
    "embed": ("toolkit.cli.embed", "Embed texts through a running server."),
    "loadtest": ("toolkit.cli.loadtest", "Measure what a deployment holds, and find the most it holds."),
    "tune": ("toolkit.cli.tune", "Find the settings with which a model's server holds the most."),
    "container": ("toolkit.cli.container", "Be the embedded server's container: its entry point, its health check."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of our output went away (`| head`): nothing is wrong here, and nobody reads a message. Met here
            # and not in `main`, since click makes exit code 1 of it, which is a check's that failed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=__doc__.split("\n\n", 1)[1] if __doc__ else None,
)
@click.version_option(__version__, prog_name="sentence-serving")
def cli() -> None:
    """From a SentenceTransformer to TensorFlow Serving: raw strings in, exact embeddings out."""


def main() -> None:
    """Entry point: runs a command, turns this package's errors into one line on stderr and an exit code."""
    # TensorFlow logs its build flags at import; only warnings and errors are of use at a command line.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        # where it is not standalone, click returns the status of an Exit instead of raising it
        status = cli.main(prog_name="sentence-serving", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ToolkitError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
