"""ScoreDisplay: how scores are distributed, by machine and domain."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray

from skanopatch.detectors.base import rows_by_label
from skanopatch.inspection.decisions import anomaly_scores
from skanopatch.inspection.style import (
    THRESHOLD_STYLE,
    VERMILION,
    Display,
    clip_kinds,
    legend_above_data,
    score_array,
    score_label,
    unit_of_scores,
)

# A machine has a row of height 1. In it, normal clips are drawn above anomalous ones.
_SHIFT = {"": 0.0, "normal": -0.22, "anomalous": 0.22}
_SPREAD = 0.16
_LONGEST_LINE = 20  # characters of a machine's name

# In units of the threshold. Beyond the first, the axis is logarithmic far from the threshold; what
# is beyond the second is marked at the end of the axis.
_FAR, _FARTHEST = 10.0, 100.0
_TICKS = np.array([0, 0.5, 1, 2, 5, 10, 20, 50, 100])


@dataclass(kw_only=True, eq=False, repr=False)
class ScoreDisplay(Display):
    """Draw the scores of clips and the threshold, with one row per machine.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.
    Where scores lie far above the threshold, the axis is linear near the threshold and logarithmic
    far from it.

    Parameters
    ----------
    anomaly_score : array-like of shape (n_clips,)
        Higher is more anomalous. Clips that score NaN are not drawn; the legend counts them.
    y : array-like of shape (n_clips,), default=None
        Labels of at most two kinds. None draws all clips alike.
    machine : array-like of shape (n_clips,), default=None
        What each clip is a recording of: each has a row, in the order of first appearance. None
        is one row.
    domain : array-like of shape (n_clips,), default=None
        Acoustic domain of each clip, such as "source" and "target": each has its marker.
    threshold : float or dict of float, default=None
        The score above which a clip is an anomaly, of all machines or by machine. None draws none.
    pos_label : hashable, default=-1
        The label of anomalous clips in `y`.

    Attributes
    ----------
    scatter_ : list of PathCollection
        The points of each label and domain.
    threshold_line_ : LineCollection or None
        The threshold in each row.
    beyond_ : PathCollection or None
        The marks of clips beyond the end of the axis, which is at 100 times the threshold.
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import KNNDetector, ScoreDisplay
    >>> X = np.random.default_rng(0).normal(size=(40, 4))
    >>> detector = KNNDetector(metric="euclidean").fit(X)
    >>> ScoreDisplay.from_estimator(detector, X + 2, [-1] * 40).ax_.get_xlabel()
    'anomaly score (1 = threshold)'
    """

    anomaly_score: ArrayLike
    y: Iterable | None = None
    machine: Iterable | None = None
    domain: Iterable | None = None
    threshold: float | Mapping[Hashable, float] | None = None
    pos_label: Hashable = -1

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the scores.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure whose height suits the number of machines.

        Raises
        ------
        ValueError
            If there is not one entry per clip, `y` holds two labels and neither is `pos_label`, or
            a machine has no threshold.
        """
        scores = score_array(self.anomaly_score)
        machines = rows_by_label(self.machine, len(scores), "machine")
        kinds = clip_kinds(len(scores), self.y, self.domain, self.pos_label)
        thresholds = self._thresholds(list(machines))
        ax = self._set_axes(ax, (7.0, 1.6 + 0.55 * len(machines)))

        heights = np.random.default_rng(0).uniform(-_SPREAD, _SPREAD, len(scores))
        for row, members in enumerate(machines.values()):
            heights[members] += row
        if len({kind.label for kind in kinds}) == 2:
            for kind in kinds:
                heights[kind.rows] += _SHIFT[kind.label]
        size = float(np.clip(5000 * len(machines) / len(scores), 9, 20))
        self.scatter_ = [kind.scatter(ax, scores, heights, size) for kind in kinds]

        self.threshold_line_: LineCollection | None = None
        if thresholds is not None:
            ends = [[(t, row - 0.5), (t, row + 0.5)] for row, t in enumerate(thresholds)]
            self.threshold_line_ = LineCollection(ends, **THRESHOLD_STYLE)
            ax.add_collection(self.threshold_line_)

        for row in range(1, len(machines)):
            ax.axhline(row - 0.5, color="0.85", linewidth=0.8, zorder=0)
        names = [] if self.machine is None else [fill(str(m), _LONGEST_LINE) for m in machines]
        ax.set_yticks(range(len(names)), names, parse_math=False)
        ax.set(ylim=(len(machines) - 0.5, -0.5), xlabel=score_label(self.threshold))
        self.beyond_: PathCollection | None = None
        if thresholds is not None:
            self._stretch_axis(scores, heights, float(np.median(thresholds)))
        ax.tick_params(axis="y", length=0)
        legend_above_data(ax, np.isnan(scores), "without score")
        return self

    def _stretch_axis(self, scores: NDArray, heights: NDArray, threshold: float) -> None:
        """Keep the scores near the threshold apart where others are far above it."""
        ax, unit = self.ax_, unit_of_scores(scores, threshold)
        end = threshold + (_FARTHEST - 1) * unit
        if not (scores > threshold + (_FAR - 1) * unit).any():
            return
        beyond = np.flatnonzero(scores > end)
        shown = scores[np.isfinite(scores) & (scores <= end)]
        lowest = shown.min(initial=threshold - unit)
        highest = end if len(beyond) else shown.max()

        def forward(x: NDArray) -> NDArray:
            return np.arcsinh(2 * (np.asarray(x) - threshold) / unit)

        def inverse(x: NDArray) -> NDArray:
            return threshold + np.sinh(x) * unit / 2

        ax.set_xscale("function", functions=(forward, inverse))
        low, high = forward(np.array([lowest, highest]))
        margin = 0.03 * (high - low)
        left, right = inverse(low - margin), end if len(beyond) else inverse(high + margin)
        ticks = threshold + (_TICKS - 1) * unit
        ticks = ticks[(left <= ticks) & (ticks <= right)]
        ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlim=(left, right), xlabel=score_label(self.threshold, "logarithmic far from it"))
        if len(beyond):
            self.beyond_ = ax.scatter(
                np.full(len(beyond), end),
                heights[beyond],
                s=40,
                marker=">",
                color=VERMILION,
                clip_on=False,
                zorder=3,
                label=f"{len(beyond)} beyond {end:.3g} (highest: {scores[beyond].max():.3g})",
            )

    def _thresholds(self, machines: list[Hashable]) -> list[float] | None:
        """Return the threshold of each row."""
        if not isinstance(self.threshold, Mapping):
            return None if self.threshold is None else [self.threshold] * len(machines)
        missing = [machine for machine in machines if machine not in self.threshold]
        if missing:
            raise ValueError(
                "threshold must be a number, or a dict with one for each machine. "
                f"It has none for {', '.join(map(repr, missing))}."
            )
        return [self.threshold[machine] for machine in machines]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Iterable | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        **predictions_params: Any,
    ) -> Self:
        """Draw the scores of clips over that of the threshold, ``score_samples(X) / offset_``.

        Above 1 is an anomaly. Where `offset_` of the detector is not negative, as of likelihoods,
        minus the `decision_function` is drawn, whose threshold is 0. The axis says which.

        Parameters
        ----------
        estimator : estimator
            Fitted detector, or pipeline that ends in one.
        X : sequence of clips, or array-like
            What the estimator takes.
        y : array-like of shape (n_clips,), default=None
            Labels of at most two kinds. None draws all clips alike.
        params : dict, default=None
            Metadata for `decision_function`, such as ``{"groups": units}`` for
            `GroupedDetector`. A pipeline routes it where metadata routing is enabled.
        **predictions_params
            As for `from_predictions`.
        """
        scores, threshold = anomaly_scores(estimator, X, params)
        return cls.from_predictions(y, scores, threshold=threshold, **predictions_params)

    @classmethod
    def from_predictions(
        cls,
        y: Iterable | None,
        anomaly_score: ArrayLike,
        *,
        machine: Iterable | None = None,
        domain: Iterable | None = None,
        threshold: float | Mapping[Hashable, float] | None = None,
        pos_label: Hashable = -1,
        ax: Axes | None = None,
    ) -> Self:
        """Draw scores, given the parameters of the class and of `plot`."""
        display = cls(
            anomaly_score=anomaly_score,
            y=y,
            machine=machine,
            domain=domain,
            threshold=threshold,
            pos_label=pos_label,
        )
        return display.plot(ax)
