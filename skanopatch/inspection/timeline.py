"""TimelineDisplay: the score of a long recording over time."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator
from numpy.typing import ArrayLike, NDArray

from skanopatch.audio import Clip, load_clip
from skanopatch.inspection.decisions import anomaly_scores, patcher_of
from skanopatch.inspection.style import (
    BLUE,
    EXCESS_COLORS,
    MAP_TOP,
    THRESHOLD_STYLE,
    Display,
    legend_above_data,
    score_array,
    score_label,
    unit_of_scores,
)

_LONGEST_IN_SECONDS = 180  # of a time axis that is labelled in seconds
_LONGEST_IN_MINUTES = 3 * 3600
_MOST_TICKS = 8
_TICK_SPACINGS = [30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400]


@dataclass(kw_only=True, eq=False, repr=False)
class TimelineDisplay(Display):
    """Draw the score of a long recording over time, with stretches above the threshold.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.
    A score is drawn from halfway to the one before it to halfway to the next. A tint says how far
    above the threshold it is, in the colours of anomaly maps: yellow just above, red at ten times
    the threshold and more, on a logarithmic scale.

    Parameters
    ----------
    times : array-like of shape (n_windows,)
        The middle of each window in seconds, ascending.
    anomaly_score : array-like of shape (n_windows,)
        Higher is more anomalous. A window that scores NaN leaves a gap.
    threshold : float, default=None
        The score above which a window is an anomaly. None draws none and flags nothing.
    window : float, default=None
        Seconds that the first and the last score cover. None is their distance to the next.

    Attributes
    ----------
    stretches_ : ndarray of shape (n_stretches, 2)
        Start and end in seconds of each stretch above the threshold.
    line_ : StepPatch
        The score, with the time axis in seconds whatever its labels are.
    threshold_line_ : Line2D or None
        The threshold.
    flagged_ : PolyCollection or None
        The tint of each window above the threshold, if there are any.
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanopatch import MahalanobisDetector, MelPatcher, MelStatistics, TimelineDisplay
    >>> sound = np.random.default_rng(0).normal(size=40 * 16000)
    >>> sound[35 * 16000 : 36 * 16000] *= 2
    >>> pipe = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), MahalanobisDetector())
    >>> pipe.fit(sound[: 30 * 16000].reshape(30, 16000))
    Pipeline(...)
    >>> display = TimelineDisplay.from_estimator(pipe, sound[30 * 16000 :])
    >>> float(display.times[display.anomaly_score.argmax()])
    5.5
    """

    times: ArrayLike
    anomaly_score: ArrayLike
    threshold: float | None = None
    window: float | None = None

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the score over time.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Raises
        ------
        ValueError
            If `times` do not ascend or are not one per score, or a single one has no `window`.
        """
        scores = score_array(self.anomaly_score)
        edges = self._edges(len(scores))
        ax = self._set_axes(ax, (8.0, 3.0))
        self.line_ = ax.stairs(
            scores, edges, baseline=None, color=BLUE, linewidth=1.5, label="score"
        )
        self.stretches_: NDArray[np.float64] = np.empty((0, 2))
        self.threshold_line_: Line2D | None = None
        self.flagged_: PolyCollection | None = None
        if self.threshold is not None:
            self.threshold_line_ = ax.axhline(self.threshold, **THRESHOLD_STYLE)
            # Padded, so that stretches at either end have a start and an end too.
            is_above = np.concatenate([[False], scores > self.threshold, [False]])
            self.stretches_ = edges[np.flatnonzero(np.diff(is_above))].reshape(-1, 2)
            self._tint(scores, edges, self.threshold)
        ax.set(xlim=(edges[0], edges[-1]), ylabel=score_label(self.threshold))
        _label_time(ax, edges[-1] - edges[0])
        legend_above_data(ax)
        return self

    def _tint(self, scores: NDArray, edges: NDArray, threshold: float) -> None:
        """Tint the windows above the threshold by how far above it they are."""
        rows = np.flatnonzero(scores > threshold)
        if not len(rows):
            return
        excess = (scores[rows] - threshold) / unit_of_scores(scores, threshold)
        colors = EXCESS_COLORS(np.clip(np.log1p(excess) / np.log(MAP_TOP), 0, 1))
        spans = [(edges[row], edges[row + 1] - edges[row]) for row in rows]
        bottom, top = self.ax_.get_ylim()
        style: dict[str, Any] = {"facecolors": colors, "linewidth": 0, "zorder": 0.5}
        label = "anomaly" + (f" (red: {MAP_TOP * threshold:g} and more)" if threshold > 0 else "")
        self.flagged_ = self.ax_.broken_barh(spans, (bottom, top - bottom), label=label, **style)
        self.ax_.set_ylim(bottom, top)

    def _edges(self, n_windows: int) -> NDArray[np.float64]:
        """Return where the stretch of each score starts, and where the last one ends."""
        times = np.asarray(self.times, dtype=np.float64)
        gaps = np.diff(times)
        if times.shape != (n_windows,) or not (gaps > 0).all():  # NaN is not above 0 either
            raise ValueError(
                "times must have one entry per score, ascending and without NaN. "
                f"Got shape {times.shape} for {n_windows} scores, least step "
                f"{gaps.min(initial=np.inf):g}."
            )
        if self.window is None and n_windows == 1:
            raise ValueError("window must be given where there is a single score. Got None.")
        first, last = (gaps[0], gaps[-1]) if self.window is None else (self.window, self.window)
        middles = times[:-1] + gaps / 2
        return np.concatenate([[times[0] - first / 2], middles, [times[-1] + last / 2]])

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        recording: Clip,
        *,
        window: float | None = None,
        hop: float | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Cut a recording into windows, and draw the scores of `ScoreDisplay.from_estimator`.

        The last window ends with the recording, so that all of it is scored.

        Parameters
        ----------
        estimator : estimator
            A fitted `AnomalousSoundDetector`, or a pipeline that starts with a `MelPatcher` and
            ends in a detector.
        recording : str, Path, array of shape (n_samples,) or (array, sample_rate)
            A bare array is at the `sample_rate` of the patcher.
        window : float, default=None
            Seconds a window. None is what the patcher uses of a clip, its `duration_`; windows
            that are shorter are repeated, as all clips are.
        hop : float, default=None
            Seconds from one window to the next. None is half a window.
        ax : Axes, default=None
            Where to draw.

        Raises
        ------
        ValueError
            If the recording cannot be read or is shorter than a window, or `window` or `hop` is out
            of range.
        """
        patcher = patcher_of(estimator)
        longest = patcher.duration_
        window = longest if window is None else window
        _check_seconds("window", window, longest, "which is what the pipeline uses of a clip")
        hop = window / 2 if hop is None else hop
        _check_seconds("hop", hop, window, "the window, so that nothing is missed")
        rate = patcher.sample_rate
        samples = load_clip(recording, sample_rate=rate, channel=patcher.channel)
        n_window, n_hop = round(window * rate), max(1, round(hop * rate))
        if len(samples) < n_window:
            raise ValueError(
                f"recording must be at least as long as a window of {window:g} seconds. "
                f"Got {len(samples) / rate:g} seconds instead."
            )
        last = len(samples) - n_window
        starts = np.append(np.arange(0, last, n_hop), last)
        windows = [samples[start:][:n_window] for start in starts]
        scores, threshold = anomaly_scores(estimator, windows)
        times = (starts + n_window / 2) / rate
        display = cls(times=times, anomaly_score=scores, threshold=threshold, window=window)
        return display.plot(ax)

    @classmethod
    def from_predictions(
        cls,
        times: ArrayLike,
        anomaly_score: ArrayLike,
        *,
        threshold: float | None = None,
        window: float | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw scores over time, given the parameters of the class and of `plot`."""
        display = cls(times=times, anomaly_score=anomaly_score, threshold=threshold, window=window)
        return display.plot(ax)


def _check_seconds(name: str, value: Any, most: float, reason: str) -> None:
    """Raise if a length in seconds is not above 0 and at most `most`."""
    if not (isinstance(value, Real) and 0 < float(value) <= most):
        raise ValueError(
            f"{name} must be a number of seconds above 0 and at most {most:g}, {reason}. "
            f"Got {value!r} instead."
        )


def _label_time(ax: Axes, duration: float) -> None:
    """Label the time axis, which is in seconds, in the unit that suits its length."""
    if duration <= _LONGEST_IN_SECONDS:
        ax.set_xlabel("time (s)")
        return
    spacing = next((s for s in _TICK_SPACINGS if duration / s <= _MOST_TICKS), _TICK_SPACINGS[-1])
    ax.xaxis.set_major_locator(MultipleLocator(spacing))
    is_short = duration <= _LONGEST_IN_MINUTES
    unit = 1 if is_short else 60
    ax.set_xlabel("time (min:s)" if is_short else "time (h:min)")
    ax.xaxis.set_major_formatter(
        lambda seconds, _: "{:.0f}:{:02.0f}".format(*divmod(round(seconds / unit), 60))
    )
