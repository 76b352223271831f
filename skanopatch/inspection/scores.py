"""ScoreDisplay: how scores are distributed, by machine and domain."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from textwrap import fill
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike

from skanopatch.detectors.base import rows_by_label
from skanopatch.inspection.style import (
    THRESHOLD_STYLE,
    anomaly_scores,
    clip_kinds,
    legend_above_data,
    new_axes,
    score_array,
    with_defaults,
)

# A machine has a row of height 1. In it, normal clips are drawn above anomalous ones.
_SHIFT = {"": 0.0, "normal": -0.22, "anomalous": 0.22}
_SPREAD = 0.16
_LONGEST_LINE = 20  # characters of a machine's name


class ScoreDisplay:
    """Scores of clips beside the threshold, a row a machine.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.

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
        Acoustic domain of each clip, such as "source" and "target", told by the marker.
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
    ax_ : Axes
        Axes with the scores.
    figure_ : Figure
        Figure with the axes.

    See Also
    --------
    AnomalyRocDisplay : What every other threshold would do.

    Examples
    --------
    >>> from skanopatch import ScoreDisplay
    >>> display = ScoreDisplay.from_predictions(
    ...     [1, 1, -1, 1, 1, -1],
    ...     [0.2, 0.4, 1.3, 0.3, 1.1, 0.8],
    ...     machine=["fan"] * 3 + ["pump"] * 3,
    ...     threshold=1.0,
    ... )
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['fan', 'pump']
    """

    scatter_: list[PathCollection]
    threshold_line_: LineCollection | None
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        *,
        anomaly_score: ArrayLike,
        y: Iterable | None = None,
        machine: Iterable | None = None,
        domain: Iterable | None = None,
        threshold: float | Mapping[Hashable, float] | None = None,
        pos_label: Hashable = -1,
    ):
        self.anomaly_score = anomaly_score
        self.y = y
        self.machine = machine
        self.domain = domain
        self.threshold = threshold
        self.pos_label = pos_label

    def plot(
        self,
        ax: Axes | None = None,
        *,
        scatter_kwargs: Mapping[str, Any] | None = None,
        threshold_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the scores.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure whose height suits the number of machines.
        scatter_kwargs : dict, default=None
            Keywords for the points, as of `matplotlib.axes.Axes.scatter`.
        threshold_kwargs : dict, default=None
            Keywords for the threshold, as of `matplotlib.collections.LineCollection`.

        Returns
        -------
        display : ScoreDisplay

        Raises
        ------
        ValueError
            If there is not one entry a clip, `y` holds two labels and neither is `pos_label`, or
            a machine has no threshold.
        """
        scores = score_array(self.anomaly_score)
        machines = rows_by_label(self.machine, len(scores), "machine")
        kinds = clip_kinds(len(scores), self.y, self.domain, self.pos_label)
        thresholds = self._thresholds(list(machines))
        if ax is None:
            ax = new_axes((7.0, 1.6 + 0.55 * len(machines)))
        self.ax_, self.figure_ = ax, ax.figure

        heights = np.random.default_rng(0).uniform(-_SPREAD, _SPREAD, len(scores))
        for place, rows in enumerate(machines.values()):
            heights[rows] += place
        is_split = len({kind.label for kind in kinds}) == 2
        size = np.clip(5000 * len(machines) / len(scores), 9, 20)
        self.scatter_ = []
        for kind in kinds:
            style = with_defaults(
                scatter_kwargs,
                {"s": size, "alpha": 0.8, "label": kind.name, **kind.style},
                PathCollection,
            )
            shift = _SHIFT[kind.label] if is_split else 0.0
            points = ax.scatter(scores[kind.rows], heights[kind.rows] + shift, **style)
            self.scatter_.append(points)

        self.threshold_line_ = None
        if thresholds is not None:
            ends = [[(t, row - 0.5), (t, row + 0.5)] for row, t in enumerate(thresholds)]
            style = with_defaults(
                threshold_kwargs, {"label": "threshold", **THRESHOLD_STYLE}, LineCollection
            )
            self.threshold_line_ = LineCollection(ends, **style)
            ax.add_collection(self.threshold_line_)
        n_missing = int(np.isnan(scores).sum())
        if n_missing:
            ax.plot([], [], " ", label=f"not drawn: {n_missing} without score")

        for row in range(1, len(machines)):
            ax.axhline(row - 0.5, color="0.85", linewidth=0.8, zorder=0)
        names = [] if self.machine is None else [fill(str(m), _LONGEST_LINE) for m in machines]
        ax.set_yticks(range(len(names)), names)
        ax.set(ylim=(len(machines) - 0.5, -0.5), xlabel="anomaly score")
        ax.tick_params(axis="y", length=0)
        legend_above_data(ax)
        return self

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
        machine: Iterable | None = None,
        domain: Iterable | None = None,
        pos_label: Hashable = -1,
        params: Mapping[str, Any] | None = None,
        ax: Axes | None = None,
        scatter_kwargs: Mapping[str, Any] | None = None,
        threshold_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw minus the `decision_function` of an estimator, whose threshold is 0.

        Parameters
        ----------
        estimator : estimator
            Fitted detector, or pipeline that ends in one.
        X : sequence of clips, or array-like
            What the estimator takes.
        y : array-like of shape (n_clips,), default=None
            Labels of at most two kinds. None draws all clips alike.
        machine : array-like of shape (n_clips,), default=None
            What each clip is a recording of. None is one row.
        domain : array-like of shape (n_clips,), default=None
            Acoustic domain of each clip.
        pos_label : hashable, default=-1
            The label of anomalous clips in `y`.
        params : dict, default=None
            Metadata for `decision_function`, such as ``{"groups": units}`` for
            `GroupedDetector`. A pipeline routes it where metadata routing is enabled.
        ax : Axes, default=None
            Where to draw. None makes a figure whose height suits the number of machines.
        scatter_kwargs : dict, default=None
            Keywords for the points, as of `matplotlib.axes.Axes.scatter`.
        threshold_kwargs : dict, default=None
            Keywords for the threshold, as of `matplotlib.collections.LineCollection`.

        Returns
        -------
        display : ScoreDisplay

        Raises
        ------
        ValueError
            As `plot` does.

        Examples
        --------
        >>> import numpy as np
        >>> from skanopatch import KNNDetector, ScoreDisplay
        >>> X = np.random.default_rng(0).normal(size=(40, 4))
        >>> detector = KNNDetector(metric="euclidean").fit(X)
        >>> display = ScoreDisplay.from_estimator(detector, X + 2, [-1] * 40)
        """
        return cls.from_predictions(
            y,
            anomaly_scores(estimator, X, params),
            machine=machine,
            domain=domain,
            threshold=0.0,
            pos_label=pos_label,
            ax=ax,
            scatter_kwargs=scatter_kwargs,
            threshold_kwargs=threshold_kwargs,
        )

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
        scatter_kwargs: Mapping[str, Any] | None = None,
        threshold_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw scores.

        Parameters
        ----------
        y : array-like of shape (n_clips,) or None
            Labels of at most two kinds. None draws all clips alike.
        anomaly_score : array-like of shape (n_clips,)
            Higher is more anomalous.
        machine : array-like of shape (n_clips,), default=None
            What each clip is a recording of. None is one row.
        domain : array-like of shape (n_clips,), default=None
            Acoustic domain of each clip.
        threshold : float or dict of float, default=None
            The score above which a clip is an anomaly, of all machines or by machine.
        pos_label : hashable, default=-1
            The label of anomalous clips in `y`.
        ax : Axes, default=None
            Where to draw. None makes a figure whose height suits the number of machines.
        scatter_kwargs : dict, default=None
            Keywords for the points, as of `matplotlib.axes.Axes.scatter`.
        threshold_kwargs : dict, default=None
            Keywords for the threshold, as of `matplotlib.collections.LineCollection`.

        Returns
        -------
        display : ScoreDisplay

        Raises
        ------
        ValueError
            As `plot` does.
        """
        display = cls(
            anomaly_score=anomaly_score,
            y=y,
            machine=machine,
            domain=domain,
            threshold=threshold,
            pos_label=pos_label,
        )
        return display.plot(ax, scatter_kwargs=scatter_kwargs, threshold_kwargs=threshold_kwargs)
