"""EmbeddingDisplay: how clips lie to each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.decomposition import PCA

from skanopatch.inspection.style import clip_kinds, legend_above_data, new_axes, with_defaults


class EmbeddingDisplay:
    """Embeddings of clips in a plane, told apart by label and domain.

    Make one with `from_estimator` or `from_predictions`. All parameters are stored as attributes.

    Parameters
    ----------
    coordinates : ndarray of shape (n_clips, 2)
        The embeddings in the plane; rows of NaN are not drawn, and the legend counts them.
    axis_labels : tuple of (str, str)
        What the two coordinates are.
    y : array-like of shape (n_clips,), default=None
        Labels of at most two kinds. None draws all clips alike.
    domain : array-like of shape (n_clips,), default=None
        Acoustic domain of each clip, such as "source" and "target", told by the marker.
    pos_label : hashable, default=-1
        The label of anomalous clips in `y`.

    Attributes
    ----------
    scatter_ : list of PathCollection
        The points of each label and domain.
    ax_ : Axes
        Axes with the points.
    figure_ : Figure
        Figure with the axes.

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

    scatter_: list[PathCollection]
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        *,
        coordinates: ArrayLike,
        axis_labels: tuple[str, str],
        y: Iterable | None = None,
        domain: Iterable | None = None,
        pos_label: Hashable = -1,
    ):
        self.coordinates = coordinates
        self.axis_labels = axis_labels
        self.y = y
        self.domain = domain
        self.pos_label = pos_label

    def plot(
        self, ax: Axes | None = None, *, scatter_kwargs: Mapping[str, Any] | None = None
    ) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a figure.
        scatter_kwargs : dict, default=None
            Keywords for the points, as of `matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ValueError
            If there is not one entry a clip, or `y` holds two labels and neither is `pos_label`.
        """
        points = np.asarray(self.coordinates)
        kinds = clip_kinds(len(points), self.y, self.domain, self.pos_label)
        ax = new_axes() if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        self.scatter_ = [
            ax.scatter(
                *points[kind.rows].T,
                **with_defaults(
                    scatter_kwargs,
                    {"s": 24, "alpha": 0.8, "label": kind.name, **kind.style},
                    PathCollection,
                ),
            )
            for kind in kinds
        ]
        n_missing = int(np.isnan(points).any(axis=1).sum())
        if n_missing:
            ax.plot([], [], " ", label=f"not drawn: {n_missing} without embedding")
        x_label, y_label = self.axis_labels
        ax.set(xlabel=x_label, ylabel=y_label)
        legend_above_data(ax)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Iterable | None = None,
        *,
        domain: Iterable | None = None,
        reducer: Any = None,
        pos_label: Hashable = -1,
        ax: Axes | None = None,
        scatter_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw what a transformer returns, or what the detector at the end of a pipeline gets.

        Parameters
        ----------
        estimator : Pipeline or transformer
            A fitted one. Of a pipeline that ends in a detector all steps but that are applied.
        X : sequence of clips, or array-like
            What the estimator takes.
        y : array-like of shape (n_clips,), default=None
            Labels of at most two kinds. None draws all clips alike.
        domain : array-like of shape (n_clips,), default=None
            Acoustic domain of each clip.
        reducer : transformer, default=None
            What is cloned and fitted to the embeddings of all clips to give two coordinates or
            more, of which the first two are drawn. None is `PCA`.
        pos_label : hashable, default=-1
            The label of anomalous clips in `y`.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        scatter_kwargs : dict, default=None
            Keywords for the points, as of `matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ValueError
            As `from_predictions` does.
        """
        embed = estimator if hasattr(estimator, "transform") else estimator[:-1]
        return cls.from_predictions(
            embed.transform(X),
            y,
            domain=domain,
            reducer=reducer,
            pos_label=pos_label,
            ax=ax,
            scatter_kwargs=scatter_kwargs,
        )

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
        scatter_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw embeddings.

        Parameters
        ----------
        embeddings : array-like of shape (n_clips, n_dims)
            Rows of NaN, of clips that could not be read, are not drawn.
        y : array-like of shape (n_clips,), default=None
            Labels of at most two kinds. None draws all clips alike.
        domain : array-like of shape (n_clips,), default=None
            Acoustic domain of each clip.
        reducer : transformer, default=None
            What is cloned and fitted to all embeddings to give two coordinates or more, of which
            the first two are drawn. None is `PCA`.
        pos_label : hashable, default=-1
            The label of anomalous clips in `y`.
        ax : Axes, default=None
            Where to draw. None makes a figure.
        scatter_kwargs : dict, default=None
            Keywords for the points, as of `matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ValueError
            If `embeddings` is not 2-D, the reducer gives fewer than two coordinates, there is not
            one entry a clip, or `y` holds two labels and neither is `pos_label`.
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
        shares = getattr(reducer, "explained_variance_ratio_", [None, None])
        display = cls(
            coordinates=coordinates,
            axis_labels=(_axis_label(1, shares[0]), _axis_label(2, shares[1])),
            y=y,
            domain=domain,
            pos_label=pos_label,
        )
        return display.plot(ax, scatter_kwargs=scatter_kwargs)


def _axis_label(place: int, share: float | None) -> str:
    """Name a component, with its share of the variance where that is known."""
    known = "" if share is None else f" ({100 * share:.0f} % of the variance)"
    return f"component {place}{known}"
