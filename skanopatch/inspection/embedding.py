"""EmbeddingDisplay: how clips lie to each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.decomposition import PCA

from skanopatch.inspection.decisions import detector_input
from skanopatch.inspection.style import Display, clip_kinds, legend_above_data

_SIZE = 24  # of a point, in square points


@dataclass(kw_only=True, eq=False, repr=False)
class EmbeddingDisplay(Display):
    """Draw embeddings of clips in a plane, marked by label and domain.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.

    Parameters
    ----------
    coordinates : ndarray of shape (n_clips, 2)
        The embeddings in the plane; rows of NaN are not drawn, and the legend counts them.
    axis_labels : tuple of (str, str)
        Names of the two coordinates.
    y : array-like of shape (n_clips,), default=None
        Labels of at most two kinds. None draws all clips alike.
    domain : array-like of shape (n_clips,), default=None
        Acoustic domain of each clip, such as "source" and "target": each has its marker.
    pos_label : hashable, default=-1
        The label of anomalous clips in `y`.

    Attributes
    ----------
    scatter_ : list of PathCollection
        The points of each label and domain.
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    Notes
    -----
    Two components show a small part of an embedding: what overlaps here may be far apart, and the
    scores need not follow the picture. The axes of a PCA say how much they show.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import EmbeddingDisplay
    >>> embeddings = np.random.default_rng(0).normal(size=(20, 4)) * [4, 2, 0, 0]
    >>> display = EmbeddingDisplay.from_predictions(embeddings, [1] * 15 + [-1] * 5)
    >>> display.ax_.get_xlabel()
    'component 1 (78 % of the variance)'
    """

    coordinates: ArrayLike
    axis_labels: tuple[str, str]
    y: Iterable | None = None
    domain: Iterable | None = None
    pos_label: Hashable = -1

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.

        Raises
        ------
        ValueError
            If there is not one entry per clip, or `y` holds two labels and neither is `pos_label`.
        """
        points = np.asarray(self.coordinates)
        kinds = clip_kinds(len(points), self.y, self.domain, self.pos_label)
        ax = self._set_axes(ax)
        self.scatter_ = [kind.scatter(ax, points[:, 0], points[:, 1], _SIZE) for kind in kinds]
        x_label, y_label = self.axis_labels
        ax.set(xlabel=x_label, ylabel=y_label)
        legend_above_data(ax, np.isnan(points).any(axis=1), "without embedding")
        return self

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Iterable | None = None, **params: Any
    ) -> Self:
        """Draw the output of a transformer, or the input of the detector of a pipeline.

        Parameters
        ----------
        estimator : estimator
            Fitted. For a transformer, its output is drawn. For a pipeline that ends in a detector,
            the input of the detector. For an `AnomalousSoundDetector`, the input of the last of its
            `members_`: the embeddings of the network if it joined, else the statistics or the
            output of the embedder.
        X : sequence of clips, or array-like
            What the estimator takes.
        y : array-like of shape (n_clips,), default=None
            Labels of at most two kinds. None draws all clips alike.
        **params
            As for `from_predictions`.
        """
        is_transformer = hasattr(estimator, "transform")
        embeddings = estimator.transform(X) if is_transformer else detector_input(estimator, X)
        return cls.from_predictions(embeddings, y, **params)

    @classmethod
    def from_predictions(
        cls,
        embeddings: ArrayLike,
        y: Iterable | None = None,
        *,
        domain: Iterable | None = None,
        reducer: Any = None,
        pos_label: Hashable = -1,
        ax: Axes | None = None,
    ) -> Self:
        """Draw embeddings.

        Parameters
        ----------
        embeddings : array-like of shape (n_clips, n_dims)
            Rows of NaN, of clips that could not be read, are not drawn.
        y, domain, pos_label
            As for the class.
        reducer : transformer, default=None
            A clone is fitted to all embeddings. The first two of its coordinates are drawn. None is
            `PCA`.
        ax : Axes, default=None
            Where to draw.

        Raises
        ------
        ValueError
            If `embeddings` is not 2-D, the reducer gives fewer than two coordinates, or as `plot`
            does.
        """
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2:
            raise ValueError(
                "embeddings must have shape (n_clips, n_dims). "
                f"Got an array of shape {embeddings.shape} instead."
            )
        reducer = PCA(n_components=2) if reducer is None else clone(reducer)
        readable = ~np.isnan(embeddings).all(axis=1)
        reduced = np.asarray(reducer.fit_transform(embeddings[readable]))
        if reduced.ndim != 2 or reduced.shape[1] < 2:
            raise ValueError(
                "reducer must give at least two coordinates a clip. "
                f"Got an array of shape {reduced.shape} from {reducer!r}."
            )
        coordinates = np.full((len(embeddings), 2), np.nan)
        coordinates[readable] = reduced[:, :2]
        shares = getattr(reducer, "explained_variance_ratio_", [])
        labels = [f"component {i + 1}" for i in range(2)]
        for i, share in enumerate(shares[:2]):
            labels[i] += f" ({100 * share:.0f} % of the variance)"
        display = cls(
            coordinates=coordinates,
            axis_labels=(labels[0], labels[1]),
            y=y,
            domain=domain,
            pos_label=pos_label,
        )
        return display.plot(ax)
