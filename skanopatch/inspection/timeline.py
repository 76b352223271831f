"""TimelineDisplay: the score of a long recording over time."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.ticker import FuncFormatter, MultipleLocator
from numpy.typing import ArrayLike, NDArray

from skanopatch.audio.clips import Clip, load_clip
from skanopatch.inspection.style import (
    BLUE,
    THRESHOLD_STYLE,
    VERMILION,
    anomaly_scores,
    legend_above_data,
    new_axes,
    score_array,
    with_defaults,
)

_LONGEST_IN_SECONDS = 180  # of a time axis that is labelled in seconds
_LONGEST_IN_MINUTES = 3 * 3600
_MOST_TICKS = 8
_TICK_SPACINGS = [30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400]


class TimelineDisplay:
    """Score of a long recording over time, with the stretches above the threshold.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.
    A score is drawn from halfway to the one before it to halfway to the next.

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
        The shade over the stretches, if there are any.
    ax_ : Axes
        Axes with the score.
    figure_ : Figure
        Figure with the axes.

    See Also
    --------
    AnomalyMapDisplay : Where a clip sounds odd in time and frequency.

    Examples
    --------
    >>> from skanopatch import TimelineDisplay
    >>> display = TimelineDisplay.from_predictions(
    ...     [1.0, 3.0, 5.0, 7.0], [0.2, 1.4, 1.2, 0.1], threshold=1.0
    ... )
    >>> display.stretches_
    array([[2., 6.]])
    """

    stretches_: NDArray[np.float64]
    line_: StepPatch
    threshold_line_: Line2D | None
    flagged_: PolyCollection | None
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        *,
        times: ArrayLike,
        anomaly_score: ArrayLike,
        threshold: float | None = None,
        window: float | None = None,
    ):
        self.times = times
        self.anomaly_score = anomaly_score
        self.threshold = threshold
        self.window = window

    def plot(
        self,
        ax: Axes | None = None,
        *,
        line_kwargs: Mapping[str, Any] | None = None,
        threshold_kwargs: Mapping[str, Any] | None = None,
        flag_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the score over time.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.
        line_kwargs : dict, default=None
            Keywords for the score, as of `matplotlib.axes.Axes.stairs`.
        threshold_kwargs : dict, default=None
            Keywords for the threshold, as of `matplotlib.axes.Axes.axhline`.
        flag_kwargs : dict, default=None
            Keywords for the shade, as of `matplotlib.axes.Axes.broken_barh`.

        Returns
        -------
        display : TimelineDisplay

        Raises
        ------
        ValueError
            If `times` do not ascend or are not one a score, or a single one has no `window`.
        """
        scores = score_array(self.anomaly_score)
        edges = self._edges(len(scores))
        ax = new_axes((8.0, 3.0)) if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        self.line_ = ax.stairs(
            scores,
            edges,
            baseline=None,
            **with_defaults(
                line_kwargs, {"color": BLUE, "linewidth": 1.5, "label": "score"}, StepPatch
            ),
        )
        self.stretches_ = np.empty((0, 2))
        self.threshold_line_, self.flagged_ = None, None
        if self.threshold is not None:
            style = with_defaults(
                threshold_kwargs, {"label": "threshold", **THRESHOLD_STYLE}, Line2D
            )
            self.threshold_line_ = ax.axhline(self.threshold, **style)
            # Padded, so that stretches at either end have a start and an end too.
            is_odd = np.concatenate([[False], scores > self.threshold, [False]])
            self.stretches_ = edges[np.flatnonzero(np.diff(is_odd))].reshape(-1, 2)
            if len(self.stretches_):
                style = {"color": VERMILION, "alpha": 0.25, "linewidth": 0.8, "label": "anomaly"}
                bottom, top = ax.get_ylim()
                self.flagged_ = ax.broken_barh(
                    [(start, end - start) for start, end in self.stretches_],
                    (bottom, top - bottom),
                    **with_defaults(flag_kwargs, style, PolyCollection),
                )
                ax.set_ylim(bottom, top)
        ax.set(xlim=(edges[0], edges[-1]), ylabel="anomaly score")
        _label_time(ax, edges[-1] - edges[0])
        legend_above_data(ax)
        return self

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
        line_kwargs: Mapping[str, Any] | None = None,
        threshold_kwargs: Mapping[str, Any] | None = None,
        flag_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Cut a recording into windows, and draw minus the `decision_function` of each.

        The last window ends with the recording, so that all of it is scored.

        Parameters
        ----------
        estimator : Pipeline
            A fitted `AnomalousSoundDetector`, or a pipeline that starts with a `MelPatcher` and
            ends in a detector.
        recording : str, Path, array of shape (n_samples,) or (array, sample_rate)
            A bare array is at the `sample_rate` of the patcher.
        window : float, default=None
            Seconds a window. None is what the patcher hears of a clip, its `duration_`; windows
            that are shorter are repeated, as all clips are.
        hop : float, default=None
            Seconds from one window to the next. None is half a window.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        line_kwargs, threshold_kwargs, flag_kwargs : dict, default=None
            As for `plot`.

        Returns
        -------
        display : TimelineDisplay

        Raises
        ------
        ValueError
            If the recording cannot be read or is shorter than a window, or `window` or `hop` is out
            of range.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.pipeline import make_pipeline
        >>> from skanopatch import MahalanobisDetector, MelPatcher, MelStatistics, TimelineDisplay
        >>> sound = np.random.default_rng(0).normal(size=40 * 16000)
        >>> pipe = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), MahalanobisDetector())
        >>> pipe.fit(sound[: 30 * 16000].reshape(30, 16000))
        Pipeline(...)
        >>> display = TimelineDisplay.from_estimator(pipe, sound[30 * 16000 :])
        >>> display.times[:3]
        array([0.5, 1. , 1.5])
        """
        patcher = getattr(estimator, "patcher_", None) or estimator[0]
        if window is None:
            window = patcher.duration_
        elif not isinstance(window, Real) or not 0 < window <= patcher.duration_:
            raise ValueError(
                "window must be a number of seconds above 0 and at most "
                f"{patcher.duration_:g}, which is what the pipeline hears of a clip. "
                f"Got {window!r} instead."
            )
        if hop is None:
            hop = window / 2
        elif not isinstance(hop, Real) or not 0 < hop <= window:
            raise ValueError(
                f"hop must be a number of seconds above 0 and at most window={window:g}, so that "
                f"nothing is missed. Got {hop!r} instead."
            )
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
        scores = anomaly_scores(estimator, [samples[start:][:n_window] for start in starts])
        return cls.from_predictions(
            (starts + n_window / 2) / rate,
            scores,
            threshold=0.0,
            window=window,
            ax=ax,
            line_kwargs=line_kwargs,
            threshold_kwargs=threshold_kwargs,
            flag_kwargs=flag_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        times: ArrayLike,
        anomaly_score: ArrayLike,
        *,
        threshold: float | None = None,
        window: float | None = None,
        ax: Axes | None = None,
        line_kwargs: Mapping[str, Any] | None = None,
        threshold_kwargs: Mapping[str, Any] | None = None,
        flag_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw scores over time.

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
        ax : Axes, default=None
            Where to draw. None makes a figure.
        line_kwargs, threshold_kwargs, flag_kwargs : dict, default=None
            As for `plot`.

        Returns
        -------
        display : TimelineDisplay

        Raises
        ------
        ValueError
            As `plot` does.
        """
        display = cls(times=times, anomaly_score=anomaly_score, threshold=threshold, window=window)
        return display.plot(
            ax,
            line_kwargs=line_kwargs,
            threshold_kwargs=threshold_kwargs,
            flag_kwargs=flag_kwargs,
        )


def _label_time(ax: Axes, duration: float) -> None:
    """Label the time axis, which is in seconds, in the unit that suits its length."""
    if duration <= _LONGEST_IN_SECONDS:
        ax.set_xlabel("time (s)")
        return
    spacing = next((s for s in _TICK_SPACINGS if duration / s <= _MOST_TICKS), _TICK_SPACINGS[-1])
    ax.xaxis.set_major_locator(MultipleLocator(spacing))
    if duration <= _LONGEST_IN_MINUTES:
        ax.set_xlabel("time (min:s)")
        unit = 1
    else:
        ax.set_xlabel("time (h:min)")
        unit = 60
    ax.xaxis.set_major_formatter(
        FuncFormatter(
            lambda seconds, _: "{:.0f}:{:02.0f}".format(*divmod(round(seconds / unit), 60))
        )
    )
