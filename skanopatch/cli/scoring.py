"""``skanopatch score``: how anomalous clips are."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from skanopatch.cli import options
from skanopatch.cli.clips import describe_lengths, find_clips
from skanopatch.cli.exporting import is_onnx, onnx_table, open_onnx
from skanopatch.cli.models import load

if TYPE_CHECKING:
    import pandas as pd

    from skanopatch.audio import Clip

EXIT_UNREADABLE = 1
EXIT_ANOMALY = 3

_WORDS = {"anomaly": "yes", "normal": "no"}


@click.command(epilog=options.example("skanopatch score fan.skano recordings/new", clips="CLIPS"))
@options.MODEL
@options.CLIPS
@click.option("--csv", type=options.NEW_FILE_OR_STDOUT, help="Write CSV, to - for standard output.")
@click.option(
    "--json", "json_", type=options.NEW_FILE_OR_STDOUT, help="Write JSON, one line a clip."
)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="The score above which a clip is an anomaly.",
)
@click.option(
    "--false-alarm-rate",
    type=options.RATE,
    show_default="that of fit",
    help="Scale the scores so that 1 is the threshold of this rate: the share of new normal clips "
    "that may be called anomalies.",
)
@click.option(
    "--p-values",
    is_flag=True,
    help="Add p-values: the share of normal clips that are as anomalous, 1 / (clips + 1) at least.",
)
@click.option(
    "--each-window", is_flag=True, help="Score each window of a long clip, not the worst one only."
)
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 3 if there is an anomaly.")
@options.GROUP
def score(
    model: str,
    clips: tuple[str, ...],
    csv: str | None,
    json_: str | None,
    threshold: float,
    false_alarm_rate: float | None,
    p_values: bool,
    each_window: bool,
    fail_on_anomaly: bool,
    group: str | None,
) -> None:
    """Score CLIPS with a MODEL file, or with an ONNX file of `skanopatch export`.

    The score of a clip is its distance from normal over that of the threshold: above 1 is an
    anomaly.

    The table puts the most anomalous clip first; CSV and JSON keep the order of CLIPS. JSON is one
    object a line. A clip that cannot be read has no score; the reason is on standard error.

    Exit codes: 0 all clips were scored, or there was none; 1 one could not be read, or another
    error; 2 wrong usage; 3 with --fail-on-anomaly an anomaly was found, whatever else happened.
    """
    if csv == json_ == "-":
        raise click.UsageError("--csv and --json cannot both write to standard output.")
    if false_alarm_rate is not None and threshold != 1:
        raise click.UsageError("--false-alarm-rate and --threshold exclude each other.")
    sounds = find_clips(clips, may_be_none=True)
    if not sounds and csv is json_ is None:
        return
    if is_onnx(model):
        loaded = open_onnx(model, group=group, false_alarm_rate=false_alarm_rate)
    else:
        loaded, group = load(model, group)
    if each_window:
        sounds = _cut(sounds, loaded)
    else:
        say_what_is_used(sounds, loaded)
    if false_alarm_rate is not None:
        from skanopatch.inspection.decisions import decider

        decider(loaded).set_false_alarm_rate(false_alarm_rate)
    table = score_clips(loaded, sounds, group=group, p_values=p_values)
    if threshold != 1:
        is_anomaly = table.score > threshold
        table["decision"] = table.decision.replace("anomaly", "normal").mask(is_anomaly, "anomaly")

    if csv is not None:
        columns = table.assign(anomaly=table.decision.map(_WORDS))
        columns = columns[["file", "score", "anomaly", *_more_columns(table)]]
        options.write_text(csv, columns.to_csv(index=False, lineterminator="\n"))
    if json_ is not None:
        options.write_text(json_, _json_lines(table))
    if csv is json_ is None:
        click.echo(format_table(table, threshold, rows="windows" if each_window else "clips"))
    if fail_on_anomaly and (table.decision == "anomaly").any():
        click.get_current_context().exit(EXIT_ANOMALY)
    if (table.decision == "unreadable").any():
        click.get_current_context().exit(EXIT_UNREADABLE)


def say_what_is_used(clips: list[Clip], model: Any) -> None:
    """Say what part of clips is scored, where a model does not take them apart into windows."""
    from skanopatch.audio import clip_duration

    takes_windows, used, _ = _window_of(model)
    if takes_windows:
        return
    longer = []
    for clip in clips:
        try:
            length = clip_duration(clip, sample_rate=1)
        except ValueError:
            continue  # the table will say why it cannot be read
        if length > 1.001 * used:
            longer.append(length)
    if longer:
        part = f"the first {used:.4g} of {describe_lengths(longer)}"
        click.echo(f"Of {len(longer)} of {len(clips)} clips {part} are used.", err=True)


def _cut(clips: list[Clip], model: Any) -> list[Clip]:
    """Return the windows of files; what cannot be cut stays a clip."""
    from skanopatch.audio import split_recording

    windows: list[Clip] = []
    _, duration, hop = _window_of(model)
    for clip in clips:
        try:
            windows += split_recording(clip, duration, hop) if isinstance(clip, str) else [clip]
        except ValueError:  # the table will say why it cannot be read
            windows.append(clip)
    return windows


def _window_of(model: Any) -> tuple[bool, float, float | None]:
    """Return whether a model takes clips apart, and the length and the hop of a window."""
    if hasattr(model, "hop_"):  # an OnnxScorer
        return model.hop_ is not None, model.duration_, model.hop_
    from skanopatch.inspection.decisions import decider, split_model

    end = decider(model)
    return hasattr(end, "hop"), split_model(model)[0].duration_, getattr(end, "hop", None)


def score_clips(
    model: Any, clips: list[Clip], *, group: str | None = None, p_values: bool = False
) -> pd.DataFrame:
    """Return the `decision_table` of clips with a column `file`, having said what is unreadable."""
    import pandas as pd

    from skanopatch.audio import Segment, file_of, printable_path

    if not clips:
        numbers = ["score", "p_value"] if p_values else ["score"]
        return pd.DataFrame(columns=["file", "decision", "reason", *numbers], dtype=object)
    groups = None if group is None else [group] * len(clips)
    verbose = int(sys.stderr.isatty())
    if hasattr(model, "hop_"):  # an OnnxScorer
        table = onnx_table(model, clips, p_values=p_values)
    else:
        from skanopatch.inspection.decisions import decision_table

        table = decision_table(model, clips, groups=groups, p_values=p_values, verbose=verbose)
    files = [file_of(clip) for clip in clips]
    table.insert(0, "file", ["-" if file is None else printable_path(file) for file in files])
    for row, clip in enumerate(clips):
        if isinstance(clip, Segment):
            table.loc[row, ["start", "stop", "length"]] = clip.start, clip.stop, math.inf
    is_unreadable = table.decision == "unreadable"
    for name in {"start", "stop"} & set(table):
        table[name] = table[name].round(6).mask(is_unreadable)
    for row in table[is_unreadable].itertuples():
        click.echo(f"'{row.file}' cannot be used: {row.reason}.", err=True)
    return table


def _more_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in ("p_value", "start", "stop", "note") if name in table]


def _json_lines(table: pd.DataFrame) -> str:
    """Return an object a line; what has no score is null there."""
    lines = []
    for row in table.to_dict("records"):
        is_read = row["decision"] != "unreadable"
        line = {"file": row["file"], "score": None, "anomaly": None}
        numbers = ["score", *_more_columns(table)]
        line |= {name: row[name] if is_read else None for name in numbers}
        line |= {"anomaly": row["decision"] == "anomaly"} if is_read else {"error": row["reason"]}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def format_table(table: pd.DataFrame, threshold: float = 1.0, *, rows: str = "clips") -> str:
    """Return a table, the most anomalous clip first."""
    p_value_or_not = "p_value  " if "p_value" in table else ""
    lines = [f"{'score':>8}  {p_value_or_not}{'anomaly':10}  file"]
    ranked = table.sort_values("score", ascending=False, kind="stable")  # NaN comes last
    for row in ranked.to_dict("records"):
        is_read = row["decision"] != "unreadable"
        line = f"{row['score']:8.3f}  " if is_read else " " * 10
        if p_value_or_not:
            line += f"{row['p_value']:7.4f}  " if is_read else " " * 9
        line += f"{_WORDS.get(row['decision'], row['decision']):10}  {row['file']}"
        if row.get("stop", 0) - row.get("start", 0) < row.get("length", 0):
            line += f", {row['start']:.1f} to {row['stop']:.1f} s"
        lines.append(line + (f"  ({row['note']})" if row.get("note") else ""))
    n_anomalies, n_unread = ((table.decision == d).sum() for d in ("anomaly", "unreadable"))
    lines.append(
        f"\n{n_anomalies} of {len(table) - n_unread} {rows} are anomalies (score above "
        f"{threshold:g})." + (f" {n_unread} could not be read." if n_unread else "")
    )
    return "\n".join(lines)
