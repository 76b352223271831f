"""``skanopatch report``: a page that ranks, shows and plays clips."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from skanopatch.cli.clips import NewFile, example, find_clips, read_column, write_text
from skanopatch.cli.scoring import GROUP, check_group

# What a label of a table is beside the name of what is wrong.
_NORMAL_OR_NOT = {"normal": 1, "1": 1, "+1": 1, "-1": -1}


@click.command(
    epilog=example("skanopatch report fan.skano recordings/new -o report.html", clips="CLIPS"),
)
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.argument("clips", nargs=-1, required=True, metavar="CLIPS...")
@click.option("-o", "--output", type=NewFile(), required=True, help="The page (HTML).")
@click.option(
    "--labels",
    "table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CSV",
    help="A table with the columns file and label: normal or 1, -1 or what is wrong.",
)
@click.option("--title", help="The heading of the page.")
@click.option(
    "--players",
    type=click.IntRange(min=0),
    default=500,
    show_default=True,
    help="How many clips, the most anomalous ones, are drawn and can be played.",
)
@GROUP
def report(
    model: str,
    clips: tuple[str, ...],
    output: str,
    table: Path | None,
    title: str | None,
    players: int,
    group: str | None,
) -> None:
    """Write a page that ranks, shows and plays CLIPS by a MODEL file.

    Where clips lie in folders called normal and anomaly, or --labels names what is wrong with
    them, the page says how well the model does.
    """
    files = find_clips(clips)
    labels: list[Any] | None
    if table is None:
        labels = _labels_of_folders(files)
    else:
        names = read_column(table, "label", files)
        labels = [_NORMAL_OR_NOT.get(name.lower(), name) for name in names]
        if 1 not in labels:
            click.echo(f"Warning: no label in '{table}' is normal, or 1.", err=True)

    from skanopatch.inspection.decisions import decider
    from skanopatch.persistence.model_files import load_model
    from skanopatch.report import make_report

    loaded = load_model(model)
    check_group(loaded, group)
    if getattr(decider(loaded), "map_pipeline_", None) is None:
        click.echo("The model has no maps: the page does not show where a clip is odd.", err=True)
    page = make_report(
        loaded,
        files,
        y=labels,
        groups=None if group is None else [group] * len(files),
        title=title,
        max_players=players,
        verbose=int(sys.stderr.isatty()),
    )
    write_text(output, page)


def _labels_of_folders(files: list[str]) -> list[int | None] | None:
    """Return +1 or -1 by the innermost folder of such a name, or None if no file lies in one."""
    from skanopatch.datasets.folder import LABELS

    labels = [
        next((LABELS[part.lower()] for part in parts if part.lower() in LABELS), None)
        for parts in (Path(file).resolve().parent.parts[::-1] for file in files)
    ]
    return None if set(labels) == {None} else labels
