"""``skanopatch demo``: what the package does, in a minute."""

from __future__ import annotations

from pathlib import Path

import click

from skanopatch.cli.clips import NewFolder, example

_FOLDER = click.Path(path_type=Path)


@click.command(
    epilog=example("skanopatch demo --clips recordings/normal --test recordings/new"),
)
@click.option("--clips", type=_FOLDER, metavar="FOLDER", help="Normal recordings of one machine.")
@click.option("--test", type=_FOLDER, metavar="FOLDER", help="Recordings to judge.")
@click.option(
    "-o",
    "--output",
    type=NewFolder(),
    default=Path(),
    metavar="FOLDER",
    help="Where the picture goes.  [default: the current folder]",
)
def demo(clips: Path | None, test: Path | None, output: Path) -> None:
    """Score a simulated park of machines, or folders of recordings of your own.

    It prints a table and draws the scores to demo_scores.png.
    """
    from skanopatch.cli.park import PICTURE, InputError, run

    output.mkdir(parents=True, exist_ok=True)
    try:
        run(clips, test, picture=output / PICTURE)
    except InputError as error:
        raise click.ClickException(str(error)) from error
