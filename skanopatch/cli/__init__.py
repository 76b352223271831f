"""The command line: ``skanopatch <command>``.

Commands import what they need when they run, so that ``--help`` does not wait for torch.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import click

import skanopatch
from skanopatch.cli.demonstration import demo
from skanopatch.cli.evaluation import evaluate
from skanopatch.cli.exporting import export
from skanopatch.cli.fitting import fit
from skanopatch.cli.information import backbones, info
from skanopatch.cli.reporting import report
from skanopatch.cli.scoring import score
from skanopatch.cli.trending import trend
from skanopatch.cli.updating import forget, update
from skanopatch.cli.watching import watch

_INTERRUPTED = 130  # what shells call a program that ctrl-C ended


class _Group(click.Group):
    """Commands whose errors and warnings are one sentence, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("Interrupted.", err=True)
                ctx.exit(_INTERRUPTED)
            except BrokenPipeError:  # the reader of our output has enough: click ends quietly
                raise
            except (MemoryError, OSError, ValueError) as error:
                raise click.ClickException(_one_sentence(error)) from error


def _one_sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"'{error.filename}': {error.strerror}."
    return " ".join(str(error).split()) or "there is not enough memory."


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit codes: 0 done, 1 an error, 2 wrong usage, 3 an anomaly was found (score "
    "--fail-on-anomaly), 130 interrupted.",
)
@click.version_option(skanopatch.__version__, package_name="skanopatch")
def main() -> None:
    """Learn from recordings of machines that run well, and say which new ones sound wrong."""


for command in (
    fit,
    score,
    watch,
    trend,
    update,
    forget,
    report,
    evaluate,
    demo,
    info,
    backbones,
    export,
):
    main.add_command(command)
