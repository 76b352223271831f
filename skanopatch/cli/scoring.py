"""``skanopatch score``: how anomalous clips are."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from skanopatch.cli.clips import NewFile, example, find_clips, write_text
from skanopatch.cli.fitting import FALSE_ALARM_RATE

if TYPE_CHECKING:
    import pandas as pd

GROUP = click.option(
    "--group",
    metavar="NAME",
    help="The machine that all clips are of, where the model knows several. Without it a clip is "
    "judged by the one that finds it most normal.",
)

EXIT_UNREADABLE = 1
EXIT_ANOMALY = 3

_WORDS = {"anomaly": "yes", "normal": "no"}


@click.command(
    epilog=example("skanopatch score fan.skano recordings/new", clips="CLIPS"),
)
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.argument("clips", nargs=-1, required=True, metavar="CLIPS...")
@click.option("--csv", type=NewFile(allow_dash=True), help="Write CSV, to - for standard output.")
@click.option("--json", "json_", type=NewFile(allow_dash=True), help="Write JSON, one line a clip.")
@click.option(
    "--false-alarm-rate",
    type=FALSE_ALARM_RATE,
    help="Move the threshold: the share of new normal clips that may be called anomalies."
    "  [default: that of fit]",
)
@click.option(
    "--p-values",
    is_flag=True,
    help="Add p-values: the share of normal clips that are as odd, 1 / (clips + 1) at least.",
)
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 3 if there is an anomaly.")
@GROUP
def score(
    model: str,
    clips: tuple[str, ...],
    csv: str | None,
    json_: str | None,
    false_alarm_rate: float | None,
    p_values: bool,
    fail_on_anomaly: bool,
    group: str | None,
) -> None:
    """Score CLIPS with a MODEL file.

    The score of a clip is its distance from normal over that of the threshold: above 1 is an
    anomaly.

    The table puts the most anomalous clip first; CSV and JSON keep the order of CLIPS. JSON is one
    object a line. A clip that cannot be read has no score; the reason is on standard error.

    Exit codes: 0 all clips were scored, 1 one could not be read, or another error, 2 wrong usage,
    3 with --fail-on-anomaly an anomaly was found, whatever else happened.
    """
    if csv == json_ == "-":
        raise click.UsageError("--csv and --json cannot both write to standard output.")
    files = find_clips(clips)

    from skanopatch.inspection.decisions import decider, decision_table
    from skanopatch.persistence.model_files import load_model

    loaded = load_model(model)
    check_group(loaded, group)
    if false_alarm_rate is not None:
        decider(loaded).set_false_alarm_rate(false_alarm_rate)
    table = decision_table(
        loaded,
        files,
        groups=None if group is None else [group] * len(files),
        p_values=p_values,
        verbose=int(sys.stderr.isatty()),
    )
    table.insert(0, "file", files)
    unreadable = table[table.decision == "unreadable"]
    for row in unreadable.itertuples():
        click.echo(f"'{row.file}' cannot be used: {row.reason}.", err=True)

    if csv is not None:
        columns = table.assign(anomaly=table.decision.map(_WORDS))
        columns = columns[["file", "score", "anomaly", *(["p_value"] if p_values else [])]]
        write_text(csv, columns.to_csv(index=False, lineterminator="\n"))
    if json_ is not None:
        write_text(json_, _json_lines(table))
    if csv is json_ is None:
        click.echo(_format(table))
    if fail_on_anomaly and (table.decision == "anomaly").any():
        click.get_current_context().exit(EXIT_ANOMALY)
    if len(unreadable):
        click.get_current_context().exit(EXIT_UNREADABLE)


def check_group(model: Any, group: str | None) -> None:
    """Refuse a group that a model does not know."""
    from skanopatch.inspection.decisions import known_groups

    groups = known_groups(model)
    if group is not None and group not in groups:
        known = ", ".join(map(repr, groups)) or "none"
        raise ValueError(
            f"--group must be a machine that the model knows ({known}). Got {group!r}."
        )


def _json_lines(table: pd.DataFrame) -> str:
    """Return an object a line; what has no score is null there."""
    numbers = [name for name in ("score", "p_value") if name in table]
    lines = []
    for row in table.to_dict("records"):
        is_read = row["decision"] != "unreadable"
        line = {"file": row["file"], "score": None, "anomaly": None}
        line |= {name: row[name] if is_read else None for name in numbers}
        line |= {"anomaly": row["decision"] == "anomaly"} if is_read else {"error": row["reason"]}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _format(table: pd.DataFrame) -> str:
    """Return a table, the most anomalous clip first."""
    has_p_values = "p_value" in table
    lines = [f"{'score':>8}  {'p_value  ' if has_p_values else ''}{'anomaly':10}  file"]
    ranked = table.sort_values("score", ascending=False, kind="stable")  # NaN comes last
    for row in ranked.to_dict("records"):
        is_read = row["decision"] != "unreadable"
        number = f"{row['score']:.3f}" if is_read else ""
        p_value = f"{row['p_value']:.4f}" if has_p_values and is_read else ""
        word = _WORDS.get(row["decision"], row["decision"])
        shown = f"{p_value:>7}  " if has_p_values else ""
        lines.append(f"{number:>8}  {shown}{word:10}  {row['file']}")
    n_anomalies = int((table.decision == "anomaly").sum())
    lines.append(f"\n{n_anomalies} of {len(table)} clips are anomalies (score above 1).")
    return "\n".join(lines)
