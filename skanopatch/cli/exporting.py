"""``skanopatch export``, and what ``skanopatch score`` does with its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skanopatch.cli import options
from skanopatch.cli.models import load

if TYPE_CHECKING:
    import pandas as pd

    from skanopatch.audio import Clip
    from skanopatch.persistence.onnx_scorer import OnnxScorer


@click.command(epilog=options.example("skanopatch export fan.skano fan.onnx"))
@options.MODEL
@click.argument("onnx", type=options.NEW_FILE)
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    help="Of the matrices of a network; int8 is smaller, faster and less exact.",
)
@click.option(
    "--maps/--no-maps", default=True, help="Whether the file has maps of time and frequency."
)
@click.option("--group", metavar="NAME", help="The machine that all clips will be of.")
def export(model: str, onnx: str, precision: str, maps: bool, group: str | None) -> None:
    """Write a MODEL file as an ONNX file, which needs neither Python nor this package.

    It takes samples and gives scores, decisions, p-values and maps, in any runtime of ONNX.
    `skanopatch score` takes it in place of a model file.
    """
    from skanopatch.persistence.onnx_export import export_onnx

    loaded, group = load(model, group)
    export_onnx(loaded, onnx, precision=precision, maps=maps, group=group)
    size = Path(onnx).stat().st_size / 1e6
    click.echo(f"Wrote {onnx} ({size:.3g} MB).", err=True)


def is_onnx(path: str) -> bool:
    """Return whether a model is an ONNX file, by its name."""
    return Path(path).suffix.lower() == ".onnx"


def open_onnx(path: str, *, group: str | None, false_alarm_rate: float | None) -> OnnxScorer:
    """Open an ONNX file, or say which option it cannot follow."""
    from skanopatch.persistence.onnx_scorer import OnnxScorer

    for name, value in (("--group", group), ("--false-alarm-rate", false_alarm_rate)):
        if value is not None:
            raise ValueError(
                f"{name} needs the model file itself: the ONNX file {path!r} has one threshold, "
                "for the group that it was exported for."
            )
    return OnnxScorer(path, on_error="nan")


def onnx_table(scorer: OnnxScorer, clips: list[Clip], *, p_values: bool) -> pd.DataFrame:
    """Return the table of `skanopatch.inspection.decisions.decision_table`, by an ONNX file."""
    import warnings

    import pandas as pd
    from tqdm.auto import tqdm

    rows: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        # Both are said on standard error, once for all clips.
        warnings.filterwarnings("ignore", message=".*clips cannot be used and score NaN")
        warnings.filterwarnings("ignore", message=".*clips are longer than the")
        for clip in tqdm(clips, desc="Scoring", disable=None, leave=False):
            columns = scorer.examine([clip])
            columns.pop("map", None)
            rows.append({name: values[0] for name, values in columns.items()})
    table = pd.DataFrame(rows)
    decision = (table.score < scorer.offset_).map({True: "anomaly", False: "normal"})
    table.insert(1, "decision", decision.mask(table.score.isna(), "unreadable"))
    table.insert(2, "reason", table.pop("error"))
    table["score"] = scorer.relative_scores(table.score.to_numpy())
    return table if p_values else table.drop(columns="p_value")
