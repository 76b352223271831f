"""What the displays share: their axes and legends, and how each kind of clip is drawn.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish
(https://jfly.uni-koeln.de/color/). What differs by colour differs by shape or fill as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import cycle
from numbers import Real
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from numpy.typing import ArrayLike, NDArray

from skanopatch.audio.labels import label_list
from skanopatch.detectors.base import rows_by_label

BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
_LINES = cycler(color=[BLUE, VERMILION, GREEN, PURPLE]) + cycler(linestyle=["-", "--", "-.", ":"])

# How far above the threshold: from yellow, at 1, to red, at MAP_TOP times the threshold and more.
# It gets denser as well. Maps, timelines and reports share it, so that colours can be compared.
MAP_TOP = 10.0
EXCESS_COLORS = LinearSegmentedColormap.from_list(
    "anomaly", [(0.94, 0.75, 0.15, 0.4), (0.84, 0.37, 0.0, 0.5), (0.65, 0.0, 0.15, 0.6)]
).with_extremes(under=(0, 0, 0, 0))

THRESHOLD_STYLE: dict[str, Any] = {"label": "threshold", "color": "0.2", "ls": "--", "lw": 1}

# Anomalous clips are filled, and each domain has its own marker.
_STYLES: dict[str, dict[str, Any]] = {
    "": {"facecolor": "0.4", "edgecolor": "0.4"},
    "normal": {"facecolor": "none", "edgecolor": BLUE},
    "anomalous": {"facecolor": VERMILION, "edgecolor": VERMILION},
}
_MARKERS = "o^sDv"

_LEGEND: dict[str, Any] = {"fontsize": "small", "frameon": False, "handlelength": 1.6}
_LARGEST_LEGEND = 0.7  # of the height of the axes


class Display:
    """Base class of the displays: a subclass stores what it draws, and has `plot`."""

    ax_: Axes
    figure_: Figure | SubFigure

    def _set_axes(self, ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
        """Store the axes to draw on; None makes them, in a figure of their own."""
        if ax is None:
            _, ax = plt.subplots(figsize=figsize, layout="constrained")
            ax.set_prop_cycle(_LINES)
        self.ax_, self.figure_ = ax, ax.figure
        return ax


def score_label(threshold: Any, remark: str = "") -> str:
    """Return the label of an axis of scores, with the threshold where it is one number."""
    number = f"{threshold:g} = threshold" if isinstance(threshold, Real) else ""
    words = "; ".join(filter(None, [number, remark]))
    return "anomaly score" + (f" ({words})" if words else "")


def legend_beside(ax: Axes) -> None:
    """Put the legend to the right of square axes, which move to the left."""
    if ax.get_legend_handles_labels()[1]:
        ax.set_anchor("W")
        _write_as_is(
            ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, **_LEGEND)
        )


def _write_as_is(legend: Legend) -> None:
    """Take a dollar sign in a name for itself, and not for the beginning of a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def legend_above_data(ax: Axes, missing: Sequence | NDArray = (), reason: str = "") -> None:
    """Put the legend inside the axes, above all data; clips that are `missing` are counted."""
    n_missing = int(np.sum(missing))
    if n_missing:
        ax.plot([], [], " ", label=f"not drawn: {n_missing} {reason}")
    labels = ax.get_legend_handles_labels()[1]
    if not labels:
        return
    ax.figure.figure.draw_without_rendering()  # the layout gives the axes their size
    axes_size = ax.get_window_extent()
    for n_columns in range(len(labels), 0, -1):
        legend = ax.legend(
            loc="upper center", ncols=n_columns, borderaxespad=0.2, columnspacing=1.2, **_LEGEND
        )
        _write_as_is(legend)
        size = legend.get_window_extent()
        if size.width <= axes_size.width:
            break
    share = min(1.1 * size.height / axes_size.height, _LARGEST_LEGEND)
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + (top - bottom) * share / (1 - share))


def unit_of_scores(scores: NDArray[np.float64], threshold: float) -> float:
    """Return what distances from a threshold are counted in: the threshold, if it is above 0.

    Else it is the median distance of the scores from the threshold, or 1 if that is 0.
    """
    if threshold > 0:
        return threshold
    finite = scores[np.isfinite(scores)]
    return float(np.median(np.abs(finite - threshold))) or 1.0 if len(finite) else 1.0


def score_array(anomaly_score: ArrayLike) -> NDArray[np.float64]:
    """Return scores as an array, or raise if they are not one row of at least one score."""
    scores = np.asarray(anomaly_score, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(
            "anomaly_score must have shape (n_clips,) with at least one clip. "
            f"Got an array of shape {scores.shape} instead."
        )
    return scores


class Kind(NamedTuple):
    """Clips of one label and one domain, which are drawn alike."""

    label: str  # "normal", "anomalous", or "" where no label is known
    rows: NDArray[np.bool_]
    style: dict[str, Any]  # for scatter

    def scatter(self, ax: Axes, x: NDArray, y: NDArray, size: float) -> PathCollection:
        """Draw the clips of this kind."""
        return ax.scatter(x[self.rows], y[self.rows], s=size, alpha=0.8, **self.style)


def clip_kinds(
    n_clips: int, y: Iterable | None, domain: Iterable | None, pos_label: Hashable
) -> list[Kind]:
    """Group clips by label and domain, normal clips first; kinds without a clip are left out."""
    rows_of_label = {"": np.ones(n_clips, dtype=bool)}
    if y is not None:
        is_anomaly = _is_anomaly(label_list(y, n_clips, "y", allow_nan=True), pos_label)
        rows_of_label = {"normal": ~is_anomaly, "anomalous": is_anomaly}
    rows_of_domain = rows_by_label(domain, n_clips, "domain")
    kinds = []
    for label, of_label in rows_of_label.items():
        for (name, members), marker in zip(rows_of_domain.items(), cycle(_MARKERS)):
            rows = of_label & np.isin(np.arange(n_clips), members)
            words = [label] * bool(label) + [str(name)] * (domain is not None)
            style = {"label": ", ".join(words), "marker": marker, **_STYLES[label]}
            if rows.any():
                kinds.append(Kind(label, rows, style))
    return kinds


def _is_anomaly(labels: list[Hashable], pos_label: Hashable) -> NDArray[np.bool_]:
    """Return which labels are `pos_label`; unlike for a metric, all may be alike."""
    distinct = list(dict.fromkeys(labels))
    if len(distinct) > 2 or (len(distinct) == 2 and pos_label not in distinct):
        raise ValueError(
            "y must hold at most two labels, that of anomalous clips (pos_label) and that of "
            f"normal ones. Got the labels {distinct} with pos_label={pos_label!r}."
        )
    return np.array([label == pos_label for label in labels])
