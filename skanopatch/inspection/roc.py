"""AnomalyRocDisplay: detections against false alarms, with the region of the partial AUC."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import RocCurveDisplay, roc_curve

from skanopatch.inspection.decisions import anomaly_scores
from skanopatch.inspection.style import Display, legend_beside
from skanopatch.metrics import auc_score, pauc_score
from skanopatch.metrics.roc import validate_scores

_LONGEST_LINE = 22  # characters of a name in the legend


@dataclass(kw_only=True, eq=False, repr=False)
class AnomalyRocDisplay(Display):
    """Draw the ROC curve of anomaly scores, with the region of the partial AUC.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.

    Parameters
    ----------
    fpr : ndarray of shape (n_thresholds,)
        False-alarm rates, ascending from 0 to 1.
    tpr : ndarray of shape (n_thresholds,)
        Detection rates.
    roc_auc : float, default=None
        Area under the curve, for the legend.
    pauc : float, default=None
        Standardised partial area, for the legend.
    max_fpr : float, default=0.1
        The false-alarm rate up to which the region is shaded.
    name : str, default=None
        Name of the curve in the legend.
    at_threshold : pair of float, default=None
        False-alarm rate and detection rate at the threshold of the detector. None draws no dot.

    Attributes
    ----------
    line_ : Line2D
        The curve.
    point_ : Line2D or None
        The dot at the threshold.
    region_ : PolyCollection
        The area under the curve up to `max_fpr`.
    chance_level_ : Line2D or None
        The diagonal, if it was asked for.
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    See Also
    --------
    metrics.auc_score : The area under the curve.
    metrics.pauc_score : The partial area, standardised so that 0.5 is chance.

    Examples
    --------
    >>> from skanopatch import AnomalyRocDisplay
    >>> display = AnomalyRocDisplay.from_predictions(
    ...     [1, 1, 1, -1, -1], [0.1, 0.4, 0.2, 0.3, 0.8], name="kNN"
    ... )
    >>> print(display.line_.get_label())
    kNN
    AUC = 0.833
    >>> display.region_.get_label()
    'pAUC = 0.737 (up to 0.1)'
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    roc_auc: float | None = None
    pauc: float | None = None
    max_fpr: float = 0.1
    name: str | None = None
    at_threshold: tuple[float, float] | None = None

    def plot(
        self,
        ax: Axes | None = None,
        *,
        curve_kwargs: Mapping[str, Any] | None = None,
        plot_chance_level: bool = False,
    ) -> Self:
        """Draw the curve, the region and the dot; further curves go on the same `ax`.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; the legend goes to the right of it, for which ``layout="constrained"``
            makes room. None makes a figure.
        curve_kwargs : dict, default=None
            Keywords for the curve, as of `matplotlib.axes.Axes.plot`. Region and dot take its
            colour.
        plot_chance_level : bool, default=False
            Whether to draw the diagonal.
        """
        ax = self._set_axes(ax, (6.4, 4.2))
        name = self.name and fill(self.name, _LONGEST_LINE)
        auc = None if self.roc_auc is None else f"AUC = {self.roc_auc:.3f}"
        label = "\n".join(filter(None, [name, auc])) or None
        curve = RocCurveDisplay(fpr=self.fpr, tpr=self.tpr).plot(
            ax,
            curve_kwargs={"label": label, **(curve_kwargs or {})},
            plot_chance_level=plot_chance_level,
        )
        self.line_, self.chance_level_ = curve.line_, curve.chance_level_

        inside = self.fpr <= self.max_fpr  # all of a step that is at max_fpr
        tpr_at_end = np.interp(self.max_fpr, self.fpr, self.tpr)
        pauc = None if self.pauc is None else f"pAUC = {self.pauc:.3f} (up to {self.max_fpr:g})"
        x, y = np.append(self.fpr[inside], self.max_fpr), np.append(self.tpr[inside], tpr_at_end)
        color = self.line_.get_color()
        self.region_ = ax.fill_between(x, y, color=color, alpha=0.25, linewidth=0, label=pauc)
        self.point_: Line2D | None = None
        if self.at_threshold is not None:
            false_alarms, hits = self.at_threshold
            label = f"at the threshold: {false_alarms:.1%}\nfalse alarms, {hits:.1%} found"
            (self.point_,) = ax.plot(
                [false_alarms], [hits], "o", color=color, label=label, clip_on=False, zorder=3
            )
        ax.set(xlabel="false-alarm rate", ylabel="detection rate")
        legend_beside(ax)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        **predictions_params: Any,
    ) -> Self:
        """Draw the curve of an estimator's `decision_function`, with a dot at its threshold.

        Parameters
        ----------
        estimator : estimator
            Fitted detector, or pipeline that ends in one.
        X : sequence of clips, or array-like
            What the estimator takes.
        y : array-like of shape (n_clips,)
            Labels of two kinds.
        name : str, default=None
            Name of the curve in the legend. None is the class of the estimator.
        params : dict, default=None
            Metadata for `decision_function`, such as ``{"groups": units}`` for
            `GroupedDetector`. A pipeline routes it where metadata routing is enabled.
        **predictions_params
            As for `from_predictions`.
        """
        scores, threshold = anomaly_scores(estimator, X, params)
        name = type(estimator).__name__ if name is None else name
        predictions_params = {"threshold": threshold, **predictions_params}
        return cls.from_predictions(y, scores, name=name, **predictions_params)

    @classmethod
    def from_predictions(
        cls,
        y: ArrayLike,
        anomaly_score: ArrayLike,
        *,
        max_fpr: float = 0.1,
        pos_label: Hashable = -1,
        threshold: float | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **plot_params: Any,
    ) -> Self:
        """Draw the curve of scores.

        Parameters
        ----------
        y : array-like of shape (n_clips,)
            Labels of two kinds.
        anomaly_score : array-like of shape (n_clips,)
            Higher is more anomalous.
        pos_label : hashable, default=-1
            The label of anomalous clips.
        threshold : float, default=None
            The score above which a clip is an anomaly, where the dot is drawn. None draws none.
        max_fpr, name, ax, **plot_params
            As for the class and for `plot`.

        Raises
        ------
        ValueError
            If `y` does not hold `pos_label` and one other label, a score is NaN, there is not one
            score per clip, or `max_fpr` is not in (0, 1].
        """
        is_anomaly, scores = validate_scores(y, anomaly_score, pos_label)
        fpr, tpr, _ = roc_curve(is_anomaly, scores)
        at_threshold = None
        if threshold is not None:
            is_alarm, is_anomaly = scores > threshold, np.asarray(is_anomaly, dtype=bool)
            at_threshold = float(is_alarm[~is_anomaly].mean()), float(is_alarm[is_anomaly].mean())
        display = cls(
            fpr=fpr,
            tpr=tpr,
            roc_auc=auc_score(y, anomaly_score, pos_label=pos_label),
            pauc=pauc_score(y, anomaly_score, max_fpr=max_fpr, pos_label=pos_label),
            max_fpr=max_fpr,
            name=name,
            at_threshold=at_threshold,
        )
        return display.plot(ax, **plot_params)
