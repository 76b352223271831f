"""TrendDisplay: the score of a machine over hours and weeks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from skanopatch.inspection.style import (
    BLUE,
    GREEN,
    THRESHOLD_STYLE,
    VERMILION,
    Display,
    legend_above_data,
    score_array,
    score_label,
)

_MOST_COLUMNS = 600  # stretches of time that are drawn apart
_LEAST_GAP = 200  # a gap is at least the time drawn over this
_STEPS_OF_GAP = 3  # and this many usual steps
_SECONDS = "datetime64[ms]"


@dataclass(kw_only=True, eq=False, repr=False)
class TrendDisplay(Display):
    """Draw scores over hours or weeks, with threshold, alarms, gaps and a slow rise.

    Make one with `from_predictions`. All parameters are stored as attributes. If there are too many
    windows to draw each, the line is the median of neighbouring windows, and the band goes from
    the lowest to the highest of them.

    Parameters
    ----------
    times : array-like of shape (n_windows,)
        Unix times in seconds, in any order.
    anomaly_score : array-like of shape (n_windows,)
        Higher is more anomalous, such as the distance in a `streaming.history.History`. NaN where
        a window could not be scored.
    in_alarm : array-like of shape (n_windows,), default=None
        Whether an alarm was on. None draws none.
    threshold : float, default=1.0
        The score above which a window is an anomaly. None draws none.
    rise : array-like of shape (n_points, 2), default=None
        Time and score of the points of a line, such as `streaming.drift.Drift.line`.
    gap : float, default=None
        Seconds without a score that are shown as a gap. None is three times the usual step, and at
        least 1/200 of the time that is drawn.

    Attributes
    ----------
    alarms_, gaps_ : ndarray of shape (n, 2)
        Start and end of each alarm and each gap, Unix times.
    line_ : Line2D
        The medians.
    band_ : PolyCollection
        From the lowest to the highest score.
    threshold_line_, rise_line_ : Line2D or None
        The threshold and the rise.
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import TrendDisplay
    >>> times = 1764288000 + 600.0 * np.arange(300)
    >>> scores = 0.6 + 0.05 * np.random.default_rng(0).normal(size=300)
    >>> scores[250:260] = 1.4
    >>> is_missing = (times > times[100]) & (times < times[130])
    >>> display = TrendDisplay.from_predictions(
    ...     times[~is_missing], scores[~is_missing], in_alarm=scores[~is_missing] > 1
    ... )
    >>> (display.alarms_ - times[0]) / 600, (display.gaps_ - times[0]) / 600
    (array([[250., 260.]]), array([[101., 130.]]))
    """

    times: ArrayLike
    anomaly_score: ArrayLike
    in_alarm: ArrayLike | None = None
    threshold: float | None = 1.0
    rise: ArrayLike | None = None
    gap: float | None = None

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the score over time.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Raises
        ------
        ValueError
            If `times` or `in_alarm` is not one per score, a time is NaN, or no window has a score.
        """
        times, scores, in_alarm = self._sorted()
        steps = np.diff(times)
        usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
        span = times[-1] - times[0] + usual
        gap = max(_STEPS_OF_GAP * usual, span / _LEAST_GAP) if self.gap is None else self.gap
        is_scored = np.isfinite(scores)
        self.gaps_ = _gaps(times, is_scored, gap, usual)
        self.alarms_ = _stretches(times, in_alarm, gap, usual)
        ax = self._set_axes(ax, (9.0, 3.2))
        self._draw_scores(times[is_scored], scores[is_scored], gap)
        self.threshold_line_: Line2D | None = None
        self.rise_line_: Line2D | None = None
        if self.threshold is not None:
            self.threshold_line_ = ax.axhline(self.threshold, **THRESHOLD_STYLE)
        if self.rise is not None and np.size(self.rise):
            points = np.asarray(self.rise, dtype=np.float64)
            (self.rise_line_,) = ax.plot(
                _dates(points[:, 0]), points[:, 1], color=GREEN, ls="-.", lw=2, label="slow rise"
            )
        self._shade(self.alarms_, "alarm", facecolor=VERMILION, alpha=0.3)
        self._shade(self.gaps_, "no score", facecolor="none", edgecolor="0.6", hatch="///")
        ax.set(xlim=_dates(times[0], times[-1] + usual), ylabel=score_label(self.threshold))
        ax.set_xlabel("time (UTC)")
        locator = AutoDateLocator()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        legend_above_data(ax)
        return self

    def _sorted(self) -> tuple[NDArray, NDArray, NDArray]:
        """Return times, scores and alarms in the order of the times."""
        scores = score_array(self.anomaly_score)
        times = np.asarray(self.times, dtype=np.float64)
        given = np.zeros(len(scores), bool) if self.in_alarm is None else np.asarray(self.in_alarm)
        if not (times.shape == given.shape == scores.shape) or not np.isfinite(times).all():
            raise ValueError(
                "times and in_alarm must have one entry per score, and no time may be NaN. "
                f"Got the shapes {times.shape} and {given.shape} for {len(scores)} scores, and "
                f"{int(np.sum(~np.isfinite(times)))} times without a value."
            )
        if not np.isfinite(scores).any():
            raise ValueError(f"No window has a score: all {len(scores)} are NaN.")
        order = np.argsort(times, kind="stable")
        return times[order], scores[order], given[order].astype(bool)

    def _draw_scores(self, times: NDArray, scores: NDArray, gap: float) -> None:
        """Draw the medians and the band of windows that lie together; gaps break both."""
        width = max((times[-1] - times[0]) / _MOST_COLUMNS, 1e-3)
        starts = np.unique(np.floor((times - times[0]) / width), return_index=True)[1]
        columns = list(zip(starts, [*starts[1:], len(times)], strict=True))
        rows: list[tuple[float, float, float, float]] = []
        for start, stop in columns:
            own = scores[start:stop]
            if rows and times[start] - times[start - 1] > gap:
                rows.append((times[start - 1], np.nan, np.nan, np.nan))
            rows.append((times[start:stop].mean(), np.median(own), own.min(), own.max()))
        middles, medians, lowest, highest = np.array(rows).T
        style: dict[str, Any] = {"color": BLUE, "linewidth": 1.5, "marker": "."}
        style["markersize"] = 3 if len(columns) == len(times) else 0
        (self.line_,) = self.ax_.plot(_dates(middles), medians, label="score", **style)
        self.band_: PolyCollection = self.ax_.fill_between(
            _dates(middles), lowest, highest, color=BLUE, alpha=0.25, linewidth=0
        )
        if len(columns) < len(times):
            self.line_.set_label("median score")
            self.band_.set_label("lowest to highest")

    def _shade(self, spans: NDArray, label: str, **style: Any) -> None:
        """Shade stretches of time over the whole height."""
        for i, (start, stop) in enumerate(spans):
            self.ax_.axvspan(
                *_dates(start, stop), label=label if i == 0 else None, zorder=0.5, **style
            )

    @classmethod
    def from_predictions(
        cls,
        times: ArrayLike,
        anomaly_score: ArrayLike,
        *,
        in_alarm: ArrayLike | None = None,
        threshold: float | None = 1.0,
        rise: ArrayLike | None = None,
        gap: float | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw scores over time, given the parameters of the class and of `plot`."""
        display = cls(
            times=times,
            anomaly_score=anomaly_score,
            in_alarm=in_alarm,
            threshold=threshold,
            rise=rise,
            gap=gap,
        )
        return display.plot(ax)


def _dates(*seconds: Any) -> Any:
    """Return Unix times as dates, an array for one argument."""
    dates = [(np.asarray(s) * 1000).astype("int64").astype(_SECONDS) for s in seconds]
    return dates[0] if len(dates) == 1 else dates


def _gaps(times: NDArray, is_scored: NDArray, gap: float, usual: float) -> NDArray[np.float64]:
    """Return where no window has a score for more than `gap` seconds."""
    edges = np.concatenate([[times[0] - usual], times[is_scored], [times[-1] + usual]])
    rows = np.flatnonzero(np.diff(edges) > gap)
    return np.column_stack([edges[rows] + usual, edges[rows + 1]])


def _stretches(times: NDArray, is_on: NDArray, gap: float, usual: float) -> NDArray[np.float64]:
    """Return from where to where something was on; a gap ends a stretch."""
    rows = np.flatnonzero(is_on)
    if not len(rows):
        return np.empty((0, 2))
    is_new = (np.diff(rows) > 1) | (np.diff(times[rows]) > gap)
    firsts = rows[np.concatenate([[True], is_new])]
    lasts = rows[np.concatenate([is_new, [True]])]
    return np.column_stack([times[firsts], times[lasts] + usual])
