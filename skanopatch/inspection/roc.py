"""AnomalyRocDisplay: detections against false alarms, with the region that pAUC looks at."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from textwrap import fill
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import RocCurveDisplay, roc_curve

from skanopatch.inspection.style import anomaly_scores, new_axes, with_defaults
from skanopatch.metrics import auc_score, pauc_score
from skanopatch.metrics.roc import validate_scores

_LONGEST_LINE = 22  # characters of a name in the legend


class AnomalyRocDisplay:
    """ROC curve of anomaly scores, with the region of the partial AUC.

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

    Attributes
    ----------
    line_ : Line2D
        The curve.
    region_ : PolyCollection
        The area under the curve up to `max_fpr`.
    chance_level_ : Line2D or None
        The diagonal, if it was asked for.
    ax_ : Axes
        Axes with the curve.
    figure_ : Figure
        Figure with the axes.

    See Also
    --------
    metrics.auc_score : The area under the curve.
    metrics.pauc_score : The partial area, standardised so that 0.5 is chance.
    sklearn.metrics.RocCurveDisplay : What draws the curve.

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

    line_: Line2D
    region_: PolyCollection
    chance_level_: Line2D | None
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        *,
        fpr: NDArray[np.float64],
        tpr: NDArray[np.float64],
        roc_auc: float | None = None,
        pauc: float | None = None,
        max_fpr: float = 0.1,
        name: str | None = None,
    ):
        self.fpr = fpr
        self.tpr = tpr
        self.roc_auc = roc_auc
        self.pauc = pauc
        self.max_fpr = max_fpr
        self.name = name

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        curve_kwargs: Mapping[str, Any] | None = None,
        region_kwargs: Mapping[str, Any] | None = None,
        plot_chance_level: bool = False,
        chance_level_kw: Mapping[str, Any] | None = None,
        despine: bool = False,
    ) -> Self:
        """Draw the curve and the region; further curves go on the same `ax`.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; the legend goes to the right of it, for which ``layout="constrained"``
            makes room. None makes a figure.
        name : str, default=None
            Name of the curve in the legend. None is the one given at initialisation.
        curve_kwargs : dict, default=None
            Keywords for the curve, as of `matplotlib.axes.Axes.plot`.
        region_kwargs : dict, default=None
            Keywords for the region, as of `matplotlib.axes.Axes.fill_between`.
        plot_chance_level : bool, default=False
            Whether to draw the diagonal.
        chance_level_kw : dict, default=None
            Keywords for the diagonal, as of `matplotlib.axes.Axes.plot`.
        despine : bool, default=False
            Whether to leave out the top and right spines.

        Returns
        -------
        display : AnomalyRocDisplay
        """
        name = self.name if name is None else name
        auc = None if self.roc_auc is None else f"AUC = {self.roc_auc:.3f}"
        label = (
            "\n".join(line for line in (name and fill(name, _LONGEST_LINE), auc) if line) or None
        )
        curve = RocCurveDisplay(fpr=self.fpr, tpr=self.tpr).plot(
            new_axes((6.4, 4.2)) if ax is None else ax,
            curve_kwargs=with_defaults(curve_kwargs, {"label": label}, Line2D),
            plot_chance_level=plot_chance_level,
            chance_level_kw=chance_level_kw,
            despine=despine,
        )
        self.line_, self.chance_level_ = curve.line_, curve.chance_level_
        self.ax_, self.figure_ = curve.ax_, curve.figure_

        inside = self.fpr <= self.max_fpr  # all of a step that is at max_fpr
        tpr_at_end = np.interp(self.max_fpr, self.fpr, self.tpr)
        style = {
            "color": self.line_.get_color(),
            "alpha": 0.25,
            "linewidth": 0,
            "label": None
            if self.pauc is None
            else f"pAUC = {self.pauc:.3f} (up to {self.max_fpr:g})",
        }
        self.region_ = self.ax_.fill_between(
            np.append(self.fpr[inside], self.max_fpr),
            np.append(self.tpr[inside], tpr_at_end),
            **with_defaults(region_kwargs, style, PolyCollection),
        )
        self.ax_.set(xlabel="false-alarm rate", ylabel="detection rate")
        if self.ax_.get_legend_handles_labels()[1]:
            # Beside the square, where neither curve nor region can lie under it.
            self.ax_.set_anchor("W")
            self.ax_.legend(
                loc="upper left",
                bbox_to_anchor=(1.02, 1),
                borderaxespad=0,
                fontsize="small",
                frameon=False,
                handlelength=1.6,
                handletextpad=0.5,
            )
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        max_fpr: float = 0.1,
        pos_label: Hashable = -1,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        ax: Axes | None = None,
        curve_kwargs: Mapping[str, Any] | None = None,
        region_kwargs: Mapping[str, Any] | None = None,
        plot_chance_level: bool = False,
        chance_level_kw: Mapping[str, Any] | None = None,
        despine: bool = False,
    ) -> Self:
        """Draw the curve of an estimator's `decision_function`.

        Parameters
        ----------
        estimator : estimator
            Fitted detector, or pipeline that ends in one.
        X : sequence of clips, or array-like
            What the estimator takes.
        y : array-like of shape (n_clips,)
            Labels of two kinds.
        max_fpr : float, default=0.1
            The largest false-alarm rate that counts for pAUC.
        pos_label : hashable, default=-1
            The label of anomalous clips.
        name : str, default=None
            Name of the curve in the legend. None is the class of the estimator.
        params : dict, default=None
            Metadata for `decision_function`, such as ``{"groups": units}`` for
            `GroupedDetector`. A pipeline routes it where metadata routing is enabled.
        ax, curve_kwargs, region_kwargs, plot_chance_level, chance_level_kw, despine
            As for `plot`.

        Returns
        -------
        display : AnomalyRocDisplay

        Raises
        ------
        ValueError
            As `from_predictions` does.
        """
        return cls.from_predictions(
            y,
            anomaly_scores(estimator, X, params),
            max_fpr=max_fpr,
            pos_label=pos_label,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
            curve_kwargs=curve_kwargs,
            region_kwargs=region_kwargs,
            plot_chance_level=plot_chance_level,
            chance_level_kw=chance_level_kw,
            despine=despine,
        )

    @classmethod
    def from_predictions(
        cls,
        y: ArrayLike,
        anomaly_score: ArrayLike,
        *,
        max_fpr: float = 0.1,
        pos_label: Hashable = -1,
        name: str | None = None,
        ax: Axes | None = None,
        curve_kwargs: Mapping[str, Any] | None = None,
        region_kwargs: Mapping[str, Any] | None = None,
        plot_chance_level: bool = False,
        chance_level_kw: Mapping[str, Any] | None = None,
        despine: bool = False,
    ) -> Self:
        """Draw the curve of scores.

        Parameters
        ----------
        y : array-like of shape (n_clips,)
            Labels of two kinds.
        anomaly_score : array-like of shape (n_clips,)
            Higher is more anomalous.
        max_fpr : float, default=0.1
            The largest false-alarm rate that counts for pAUC.
        pos_label : hashable, default=-1
            The label of anomalous clips.
        name : str, default=None
            Name of the curve in the legend.
        ax, curve_kwargs, region_kwargs, plot_chance_level, chance_level_kw, despine
            As for `plot`.

        Returns
        -------
        display : AnomalyRocDisplay

        Raises
        ------
        ValueError
            If `y` does not hold `pos_label` and one other label, a score is NaN, there is not one
            score a clip, or `max_fpr` is not in (0, 1].
        """
        is_anomaly, scores = validate_scores(y, anomaly_score, pos_label)
        fpr, tpr, _ = roc_curve(is_anomaly, scores)
        display = cls(
            fpr=fpr,
            tpr=tpr,
            roc_auc=auc_score(y, anomaly_score, pos_label=pos_label),
            pauc=pauc_score(y, anomaly_score, max_fpr=max_fpr, pos_label=pos_label),
            max_fpr=max_fpr,
            name=name,
        )
        return display.plot(
            ax,
            curve_kwargs=curve_kwargs,
            region_kwargs=region_kwargs,
            plot_chance_level=plot_chance_level,
            chance_level_kw=chance_level_kw,
            despine=despine,
        )
