"""make_trend_page: the history of a machine as an HTML page."""

from __future__ import annotations

import io
from base64 import b64encode
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import skanopatch
from skanopatch.inspection.trend import TrendDisplay
from skanopatch.streaming.drift import DAY, Drift, drift_test

_PARTS = (("The last 7 days", 7 * DAY), ("The last 24 hours", DAY))
_LEAST_LONGER = 1.5  # times as long as a part, for a picture of the part
_MOST_LISTED = 200  # alarms, the newest ones


def make_trend_page(windows: pd.DataFrame, *, title: str = "Trend", period: float = DAY) -> str:
    """Write a page about the windows of a history.

    Parameters
    ----------
    windows : DataFrame
        As `streaming.history.History.windows` returns it.
    title : str, default="Trend"
        The heading.
    period : float, default=86400
        As of `streaming.drift.drift_test`.

    Returns
    -------
    html : str
        The page. It refers to no other file and to no network.

    Raises
    ------
    ValueError
        If no window has a score.
    """
    drift = drift_test(windows.time, windows.distance, period=period)
    newest, oldest = windows.time.max(), windows.time.min()
    parts = [("All of it", windows)]
    for name, seconds in _PARTS:
        part = windows[windows.time > newest - seconds]
        if newest - oldest > _LEAST_LONGER * seconds and part.distance.notna().any():
            parts.append((name, part))
    displays = [(name, _display(part, drift)) for name, part in parts]
    alarms = _alarm_rows(displays[0][1], windows)
    options: dict[str, Any] = {
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, **options)
    return environment.get_template("trend.html.jinja").render(
        title=title,
        style=Markup((files(__package__) / "report.css").read_text(encoding="utf-8")),
        drift=drift.sentence(),
        is_rising=drift.is_rising,
        facts=_facts(windows, len(displays[0][1].alarms_), len(displays[0][1].gaps_)),
        pictures=[(name, _picture(display)) for name, display in displays],
        alarms=alarms[::-1][:_MOST_LISTED],
        n_alarms=len(alarms),
        notes=windows.note[windows.note != ""].value_counts().head(10).to_dict(),
        version=skanopatch.__version__,
        today=date.today().isoformat(),
    )


def _display(windows: pd.DataFrame, drift: Drift) -> TrendDisplay:
    times = windows.time.to_numpy()
    line = drift.line if drift.is_rising else np.empty((0, 2))
    if len(line):  # its stretch within the time that is drawn
        ends = np.clip(line[:, 0], times.min(), times.max())
        line = np.column_stack([ends, np.interp(ends, *line.T)])
    _, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
    return TrendDisplay.from_predictions(
        times,
        windows.distance.to_numpy(),
        in_alarm=windows.in_alarm.to_numpy(),
        rise=line,
        ax=ax,
    )


def _picture(display: TrendDisplay) -> str:
    """Return a picture as the data URL of an SVG, and close its figure."""
    file = io.BytesIO()
    figure = display.ax_.figure.figure
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "data:image/svg+xml;base64," + b64encode(file.getvalue()).decode("ascii")


def _alarm_rows(display: TrendDisplay, windows: pd.DataFrame) -> list[dict[str, str]]:
    """Return what the page says of each alarm."""
    rows = []
    for start, stop in display.alarms_:
        own = windows[(windows.time >= start) & (windows.time < stop)]
        worst = own.loc[own.distance.idxmax()] if own.distance.notna().any() else own.iloc[0]
        rows.append(
            {
                "began": _moment(start),
                "lasted": _duration(stop - start),
                "highest": f"{worst.distance:.2f}",
                "source": worst.source,
                "at": f"{worst.start:.1f} s",
            }
        )
    return rows


def _facts(windows: pd.DataFrame, n_alarms: int, n_gaps: int) -> list[tuple[str, str]]:
    n_scored = int(windows.distance.notna().sum())
    return [
        ("from", _moment(windows.time.min())),
        ("to", _moment(windows.time.max())),
        ("windows", f"{len(windows):,}"),
        ("above the threshold", f"{(windows.distance > 1).sum() / n_scored:.1%}"),
        ("without a score", f"{len(windows) - n_scored:,}"),
        ("alarms", f"{n_alarms:,}"),
        ("gaps", f"{n_gaps:,}"),
    ]


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
