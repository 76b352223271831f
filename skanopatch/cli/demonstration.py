"""``skanopatch demo``: what the package does, in a minute."""

from __future__ import annotations

import os
from pathlib import Path

import click

from skanopatch.cli.clips import find_clips
from skanopatch.cli.fitting import (
    LONGEST,
    check_counts,
    check_files,
    describe_clips,
    find_normal,
    patcher_duration,
)
from skanopatch.cli.options import FOLDER, NEW_FOLDER, example
from skanopatch.cli.scoring import format_table, score_clips

PICTURE = "demo_scores.png"
_MOST_ROWS = 30  # of the picture


@click.command(epilog=example("skanopatch demo --clips recordings/normal --test recordings/new"))
@click.option("--clips", type=FOLDER, metavar="FOLDER", help="Normal recordings of one machine.")
@click.option("--test", type=FOLDER, metavar="FOLDER", help="Recordings to judge.")
@click.option(
    "-o",
    "--output",
    type=NEW_FOLDER,
    default=Path(),
    metavar="FOLDER",
    help=f"Where {PICTURE} goes.",
)
def demo(clips: Path | None, test: Path | None, output: Path) -> None:
    """Score a simulated park of machines, or folders of recordings of your own.

    It prints a table and draws the scores to demo_scores.png.
    """
    if (clips is None) != (test is None):
        raise click.UsageError("--clips (normal recordings) and --test need each other.")
    output.mkdir(parents=True, exist_ok=True)
    if clips is None or test is None:
        from skanopatch.cli.park import run_park

        run_park(output / PICTURE)
    else:
        _run_recordings(clips, test, output / PICTURE)


def _run_recordings(clips: Path, test: Path, picture: Path) -> None:
    """Fit on a folder of normal recordings, and rank those of another."""
    files, lengths = check_files(find_normal([str(clips)]), skip_unreadable=True)
    used = min(LONGEST, max(lengths))
    check_counts(lengths, used)
    new = find_clips([str(test)])

    from skanopatch.audio import printable_path
    from skanopatch.cli.park import draw_scores, make_model

    click.echo(describe_clips(lengths, used))
    model = make_model(patcher_duration(used, lengths)).fit(files)
    table = score_clips(model, new)
    click.echo(format_table(table))
    click.echo(
        "A score is the distance from the normal recordings over that of the threshold, which\n"
        f"about {model.false_alarm_rate:.0%} of new normal recordings exceed."
    )
    names = (os.path.relpath(file, printable_path(test)) for file in table.file)
    table["row"] = [name.replace("$", r"\$") for name in names]  # matplotlib would read formulas
    table["y"] = table.decision.map({"normal": 1, "anomaly": -1})
    shown = table[table.decision != "unreadable"].nlargest(_MOST_ROWS, "score")
    if len(shown):
        draw_scores({f"{len(shown)} of {len(table)} recordings": shown}, picture)
        click.echo(f"The scores are drawn in {picture}.")
