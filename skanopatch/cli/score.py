"""``skanopatch score``: how anomalous clips are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from skanopatch.cli.clips import NewFile, example, find_clips, write_text

if TYPE_CHECKING:
    import pandas as pd

    from skanopatch.model_file import Model

_AT_A_TIME = 32  # clips between two steps of the progress bar

GROUP = click.option(
    "--group",
    metavar="NAME",
    help="The machine that all clips are of, where the model knows several. Without it a clip is "
    "judged by the one that finds it most normal.",
)

EXIT_UNREADABLE = 1
EXIT_ANOMALY = 3


@click.command(
    epilog=example("skanopatch score fan.skano recordings/new", clips="CLIPS"),
)
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.argument("clips", nargs=-1, required=True, metavar="CLIPS...")
@click.option("--csv", type=NewFile(allow_dash=True), help="Write CSV, to - for standard output.")
@click.option("--json", "json_", type=NewFile(allow_dash=True), help="Write JSON, one line a clip.")
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 3 if there is an anomaly.")
@GROUP
def score(
    model: str,
    clips: tuple[str, ...],
    csv: str | None,
    json_: str | None,
    fail_on_anomaly: bool,
    group: str | None,
) -> None:
    """Score CLIPS with a MODEL file.

    The score of a clip is its distance from normal over that of the threshold: above 1 is an
    anomaly. Where the detector knows no distance (gmm, models of several machines), it is the
    distance above the threshold, and above 0 is an anomaly.

    The table puts the most anomalous clip first; CSV and JSON keep the order of CLIPS. JSON is one
    object a line. A clip that cannot be read has no score; the reason is on standard error.

    Exit codes: 0 all clips were scored, 1 one could not be read, or another error, 2 wrong usage,
    3 with --fail-on-anomaly an anomaly was found, whatever else happened.
    """
    if csv == json_ == "-":
        raise click.UsageError("--csv and --json cannot both write to standard output.")
    files = find_clips(clips)

    import pandas as pd

    from skanopatch.model_file import load_model
    from skanopatch.verdicts import embed_readable, judge_clips

    loaded = load_model(model)
    check_group(loaded, group)
    batches = []
    with tqdm(total=len(files), desc="Scoring", unit="clip", disable=None, leave=False) as bar:
        for start in range(0, len(files), _AT_A_TIME):
            batch = files[start : start + _AT_A_TIME]
            judged, threshold = judge_clips(
                loaded.pipeline,
                batch,
                embed_readable(loaded.pipeline, batch),
                groups=None if group is None else [group] * len(batch),
            )
            batches.append(judged)
            bar.update(len(batch))
    verdicts = pd.concat(batches, ignore_index=True)
    verdicts.insert(0, "file", files)
    unreadable = verdicts.verdict == "unreadable"
    for row in verdicts[unreadable].itertuples():
        click.echo(f"'{row.file}' cannot be used: {row.reason}.", err=True)

    verdicts["anomaly"] = verdicts.verdict == "anomaly"
    if csv is not None:
        verdicts["anomaly"] = verdicts.verdict.map({"anomaly": "yes", "normal": "no"})
        table = verdicts[["file", "score", "anomaly"]]
        write_text(csv, table.to_csv(index=False, lineterminator="\n"))
    if json_ is not None:
        write_text(json_, _json_lines(verdicts))
    if csv is json_ is None:
        click.echo(_format(verdicts, threshold))
    if fail_on_anomaly and (verdicts.verdict == "anomaly").any():
        click.get_current_context().exit(EXIT_ANOMALY)
    if unreadable.any():
        click.get_current_context().exit(EXIT_UNREADABLE)


def check_group(model: Model, group: str | None) -> None:
    """Refuse a group that a model does not know."""
    groups = getattr(model.pipeline[-1], "detectors_", {None: None})
    if group is not None and group not in groups:
        known = ", ".join(map(repr, filter(None, groups))) or "none"
        raise ValueError(
            f"--group must be a machine that the model knows ({known}). Got {group!r}."
        )


def _json_lines(verdicts: pd.DataFrame) -> str:
    """Return an object a line; what has no score is null there."""
    lines = (
        {"file": row.file, "score": None, "anomaly": None, "error": row.reason}
        if row.verdict == "unreadable"
        else {"file": row.file, "score": row.score, "anomaly": row.verdict == "anomaly"}
        for row in verdicts.itertuples()
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _format(verdicts: pd.DataFrame, threshold: int) -> str:
    """Return a table, the most anomalous clip first."""
    ranked = verdicts.sort_values("score", ascending=False, kind="stable")  # NaN comes last
    lines = [f"{'score':>8}  {'anomaly':10}  file"]
    for row in ranked.itertuples():
        number = "" if row.verdict == "unreadable" else f"{row.score:.3f}"
        word = {"anomaly": "yes", "normal": "no"}.get(row.verdict, row.verdict)
        lines.append(f"{number:>8}  {word:10}  {row.file}")
    n_anomalies = int((verdicts.verdict == "anomaly").sum())
    lines.append(
        f"\n{n_anomalies} of {len(verdicts)} clips are anomalies (score above {threshold})."
    )
    return "\n".join(lines)
