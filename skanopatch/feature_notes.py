"""Embeddings that tell a detector what it cannot see of their features."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from sklearn.metrics import pairwise_distances_argmin
from sklearn.metrics.pairwise import euclidean_distances

from skanopatch.noted_array import NotedArray

_MOST_LEVERAGE = 0.98
_SAME = 1e-5  # as the features are float32
MOST_CLASSES = 256  # that detectors model apart: time and memory grow with their number
_LEAST_SHARE = 0.5  # of the clips of a class, over the largest such share


@dataclass(frozen=True, eq=False)
class SeenClips:
    """The clips that features were learnt from: their classes, and how new ones differ.

    A clip turns the components of a `SharedSubspace` towards itself, the more the further out it
    lies: without it, the mean square that is left of it would be larger by
    ``(1 - h) ** (-2 * exponent)``, with h its leverage, and so would its squared distance to the
    mean of its class, with an exponent of its own. That is what leaving it out of a regression
    does at the exponent 1.

    Parameters
    ----------
    centers : ndarray of shape (n_classes, n_coordinates)
        The class means among the first features.
    class_sizes : ndarray of shape (n_classes,)
        How many clips each class had.
    exponent : float, default=0.0
        How far leaving clips out goes beyond their leverage, as measured. 0 where that is not
        known: new clips are then taken to be like those that were seen.
    distance_exponent : float, default=0.0
        The same of the squared distance to the mean of the class.
    marks : ndarray of shape (n_clips, 2) or None, default=None
        What seen clips are known by: their `marks_of`. None takes all clips for seen ones.
    unit : float, default=1.0
        What the features are given in.
    """

    centers: NDArray
    class_sizes: NDArray
    exponent: float = 0.0
    distance_exponent: float = 0.0
    marks: NDArray | None = None
    unit: float = 1.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeenClips) and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )

    def as_new(self, X: NDArray) -> NDArray:
        """Return features (n_clips, n_features), those of seen clips as if these were new.

        The first are the coordinates along the components and the logarithm of what is left;
        others stay as they are.
        """
        if self.exponent == self.distance_exponent == 0:
            return X
        found, seen = X.copy(), self._are_seen(X)
        if not seen.any():
            return found
        coordinates = self._coordinates(X[seen])
        growth = self.growth(coordinates)
        nearest = self.centers[pairwise_distances_argmin(coordinates, self.centers)]
        stretch = np.exp(0.5 * self.distance_exponent * growth)[:, np.newaxis]
        n_components = self.centers.shape[1]
        found[seen, :n_components] = self.unit * (nearest + stretch * (coordinates - nearest))
        found[seen, n_components] += self.unit * self.exponent * growth
        return found

    def marks_of(self, X: NDArray) -> NDArray:
        """Return by what clips are known again: their distance to a class mean, and what is left.

        Both are the same to rounding, in whatever batch a clip was embedded.
        """
        squared = euclidean_distances(self._coordinates(X), self.centers, squared=True).min(axis=1)
        return np.column_stack([np.sqrt(squared), X[:, self.centers.shape[1]] / self.unit])

    def _are_seen(self, X: NDArray) -> NDArray[np.bool_]:
        if self.marks is None:
            return np.ones(len(X), dtype=bool)
        distance, _ = KDTree(self.marks).query(
            self.marks_of(X), distance_upper_bound=_SAME * (1 + np.abs(self.centers).max())
        )
        return np.isfinite(distance)

    def growth(self, coordinates: NDArray) -> NDArray:
        """Return the logarithm of what is left without a clip over that with it, at exponent 1."""
        squared = euclidean_distances(coordinates, self.centers, squared=True).min(axis=1)
        leverage = (squared + len(self.centers)) / self.class_sizes.sum()
        return -2 * np.log1p(-np.minimum(leverage, _MOST_LEVERAGE))

    def nearest_classes(self, X: NDArray, n_least: int) -> NDArray[np.intp] | None:
        """Return the class that each clip sounds like, among those of which there are clips.

        Some clips of one class lie nearest to another. Of a class there are clips where `n_least`
        are nearest to it, and, by the clips that it had in the training, at least half as many as
        to the class with the most. None stands for no such class, or for more than 256 classes in
        the training.
        """
        if len(self.centers) > MOST_CLASSES:
            return None
        squared = euclidean_distances(self._coordinates(X), self.centers, squared=True)
        n_nearest = np.bincount(squared.argmin(axis=1), minlength=len(self.centers))
        share = n_nearest / self.class_sizes
        there = np.flatnonzero((share >= _LEAST_SHARE * share.max()) & (n_nearest >= n_least))
        return there[squared[:, there].argmin(axis=1)] if len(there) else None

    def _coordinates(self, X: NDArray) -> NDArray:
        return X[:, : self.centers.shape[1]] / self.unit


class FeatureNotes(NamedTuple):
    """What is known of the features of an embedding."""

    blocks: tuple[int, ...]
    """How many features each block has, between which they do not covary."""
    seen: SeenClips | None = None
    """What the features of the first block were learnt from."""


class Embeddings(NotedArray):
    """An array of embeddings that tells what is known of its features, as do its rows.

    What `AnoPatchEmbedder` and `SharedSubspace` return where there is something to tell. Where
    columns are picked, or an operation changes the numbers, they are features like any others.

    Attributes
    ----------
    notes : FeatureNotes or None
    """

    _note = "notes"
    notes: FeatureNotes | None = None

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        columns = key[1:] if isinstance(key, tuple) else ()
        if all(part is Ellipsis or _is_everything(part) for part in columns):
            return found
        return found.view(np.ndarray) if isinstance(found, np.ndarray) else found

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """How many features each block has."""
        return None if self.notes is None else self.notes.blocks


def _is_everything(part: Any) -> bool:
    return isinstance(part, slice) and part == slice(None)


def with_notes(embeddings: NDArray, notes: FeatureNotes | None) -> NDArray:
    """Return the array with the notes, or as it is where there are none."""
    if notes is None:
        return embeddings
    found = embeddings.view(Embeddings)
    found.notes = notes
    return found


def notes_of(X: Any) -> FeatureNotes | None:
    """Return what an array knows of its features; None where these are not its columns."""
    if isinstance(X, Embeddings) and X.ndim == 2 and sum(X.blocks or ()) == X.shape[1]:
        return X.notes
    return None
