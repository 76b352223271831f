"""What the displays share: their colours, and how each kind of clip is drawn."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cbook import normalize_kwargs
from numpy.typing import NDArray

from skanopatch.audio.labels import label_list
from skanopatch.detectors.base import rows_by_label

# Okabe and Ito's colours, which colour-blind readers tell apart
# (https://jfly.uni-koeln.de/color/). Shape or fill tells apart what the colour does, too.
BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"

THRESHOLD_STYLE: dict[str, Any] = {"color": "0.2", "linestyle": "--", "linewidth": 1}

# What is anomalous is filled, and each domain has a marker of its own.
_STYLES: dict[str, dict[str, Any]] = {
    "": {"facecolor": "0.4", "edgecolor": "0.4"},
    "normal": {"facecolor": "none", "edgecolor": BLUE},
    "anomalous": {"facecolor": VERMILION, "edgecolor": VERMILION},
}
_MARKERS = "o^sDv"


def new_axes(figsize: tuple[float, float] | None = None) -> Axes:
    """Return axes in a figure of their own, whose curves differ by colour and by dashes."""
    _, ax = plt.subplots(figsize=figsize, layout="constrained")
    lines = cycler(color=[BLUE, VERMILION, GREEN, PURPLE]) + cycler(
        linestyle=["-", "--", "-.", ":"]
    )
    ax.set_prop_cycle(lines)
    return ax


def legend_above_data(ax: Axes) -> None:
    """Put the legend inside the axes, in a room of its own above what is drawn."""
    labels = ax.get_legend_handles_labels()[1]
    if not labels:
        return
    ax.figure.figure.draw_without_rendering()  # lays the axes out, so that they have a size
    room = ax.get_window_extent()
    for n_columns in range(len(labels), 0, -1):
        legend = ax.legend(
            loc="upper center",
            ncols=n_columns,
            fontsize="small",
            frameon=False,
            borderaxespad=0.2,
            columnspacing=1.2,
            handlelength=1.6,
            handletextpad=0.5,
        )
        size = legend.get_window_extent()
        if size.width <= room.width:
            break
    share = min(1.1 * size.height / room.height, 0.7)
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + (top - bottom) * share / (1 - share))


def with_defaults(
    given: Mapping[str, Any] | None, defaults: Mapping[str, Any], artist: type[Artist]
) -> dict[str, Any]:
    """Return the keywords for an artist, those given first; aliases such as "lw" are known."""
    return {**defaults, **normalize_kwargs(dict(given or {}), artist)}


def anomaly_scores(
    estimator: Any, X: Any, params: Mapping[str, Any] | None = None
) -> NDArray[np.float64]:
    """Return how far each clip is above the threshold of a detector, 0 being the threshold.

    `score_samples` would need the threshold too, which wrappers and pipelines do not give.
    """
    return -np.asarray(estimator.decision_function(X, **(params or {})), dtype=np.float64)


def score_array(anomaly_score: Any) -> NDArray[np.float64]:
    """Return scores as an array, or say that they are not one a clip."""
    scores = np.asarray(anomaly_score, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(
            "anomaly_score must have shape (n_clips,) with at least one clip. "
            f"Got an array of shape {scores.shape} instead."
        )
    return scores


class Kind(NamedTuple):
    """Clips that are drawn alike."""

    label: str  # "normal", "anomalous", or "" where no label is known
    name: str  # for the legend
    rows: NDArray[np.bool_]
    style: dict[str, Any]  # for scatter


def clip_kinds(
    n_clips: int, y: Iterable | None, domain: Iterable | None, pos_label: Hashable
) -> list[Kind]:
    """Sort clips by label and domain.

    Parameters
    ----------
    n_clips : int
    y : iterable of length n_clips or None
        Labels of at most two kinds. None is one kind without a name.
    domain : iterable of hashables of length n_clips or None
    pos_label : hashable
        The label of anomalous clips.

    Returns
    -------
    kinds : list of Kind
        Those that have a clip, normal ones before anomalous ones.

    Raises
    ------
    ValueError
        If there is not one entry a clip, or `y` holds two labels and neither is `pos_label`.
    """
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
            if rows.any():
                kinds.append(
                    Kind(label, ", ".join(words), rows, {**_STYLES[label], "marker": marker})
                )
    return kinds


def _is_anomaly(labels: list[Hashable], pos_label: Hashable) -> NDArray[np.bool_]:
    """Return which labels are `pos_label`; unlike for a metric, all may be alike."""
    different = list(dict.fromkeys(labels))
    if len(different) > 2 or (len(different) == 2 and pos_label not in different):
        raise ValueError(
            "y must hold at most two labels, that of anomalous clips (pos_label) and that of "
            f"normal ones. Got the labels {different} with pos_label={pos_label!r}."
        )
    return np.array([label == pos_label for label in labels])
