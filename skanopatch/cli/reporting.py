"""``skanopatch report``: a page that ranks, shows and plays clips."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from skanopatch.cli.clips import find_clips, folder_label, read_column
from skanopatch.cli.models import load
from skanopatch.cli.options import CLIPS, GROUP, MODEL, NEW_FILE, TABLE, example, write_text
from skanopatch.cli.scoring import say_what_is_used

# What a label of a table is beside the name of what is wrong.
_NORMAL_OR_NOT = {"normal": 1, "1": 1, "+1": 1, "-1": -1}


@click.command(
    epilog=example("skanopatch report fan.skano recordings/new -o report.html", clips="CLIPS")
)
@MODEL
@CLIPS
@click.option("-o", "--output", type=NEW_FILE, required=True, help="The page (HTML).")
@click.option(
    "--labels",
    "table",
    type=TABLE,
    metavar="CSV",
    help="A table with the columns file and label: normal or 1, -1 or what is wrong. It may leave "
    "out recordings, as labels.csv does that a report saves.",
)
@click.option("--title", help="The heading of the page.")
@click.option(
    "--players",
    type=click.IntRange(min=0),
    default=500,
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
    """Write a page that ranks, explains, shows and plays CLIPS by a MODEL file.

    Where clips lie in folders called normal and anomaly, or --labels names what is wrong with
    them, the page says how well the model does.
    """
    sounds = find_clips(clips, may_be_none=True)
    if not sounds:
        return
    names = [clip if isinstance(clip, str) else "-" for clip in sounds]
    labels: list[Any]
    if table is None:
        labels = [folder_label(Path(os.path.abspath(name)).parent.parts) for name in names]
    else:
        entries = read_column(table, "label", names, may_be_partial=True)
        labels = [_NORMAL_OR_NOT.get(entry.lower(), entry or None) for entry in entries]
        if None in labels:
            n_missing = labels.count(None)
            click.echo(
                f"{n_missing} of {len(labels)} recordings have no label in '{table}'.", err=True
            )
        if 1 not in labels:
            click.echo(f"Warning: no label in '{table}' is normal, or 1.", err=True)

    from skanopatch.inspection.decisions import decider
    from skanopatch.report import make_report

    loaded, group = load(model, group)
    say_what_is_used(sounds, loaded)
    if getattr(decider(loaded), "map_pipeline_", None) is None:
        click.echo(
            "The model has no maps: the page does not show where a clip is anomalous.", err=True
        )
    page = make_report(
        loaded,
        sounds,
        y=None if set(labels) == {None} else labels,
        groups=None if group is None else [group] * len(sounds),
        title=title,
        max_players=players,
        verbose=int(sys.stderr.isatty()),
    )
    write_text(output, page)
