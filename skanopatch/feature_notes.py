"""Embeddings that tell a detector what it cannot see of their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics.pairwise import euclidean_distances

from skanopatch.noted_array import NotedArray

_MOST_LEVERAGE = 0.98


@dataclass(frozen=True, eq=False)
class SeenClips:
    """How the clips that a `SharedSubspace` was fitted on would look to it if they were new.

    A clip turns the components towards itself, the more the further out it lies: without it, the
    mean square that is left of it would be larger by ``(1 - h) ** (-2 * exponent)``, with h its
    leverage. That is what leaving it out of a regression does at the exponent 1.

    Parameters
    ----------
    centers : ndarray of shape (n_classes, n_components)
        The coordinates of the class means.
    n_clips : int
        How many clips there were.
    exponent : float
        How far leaving clips out goes beyond their leverage, as measured.
    unit : float, default=1.0
        What the features are given in.
    """

    centers: NDArray
    n_clips: int
    exponent: float
    unit: float = 1.0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SeenClips)
            and np.array_equal(self.centers, other.centers)
            and (self.n_clips, self.exponent, self.unit)
            == (other.n_clips, other.exponent, other.unit)
        )

    def as_new(self, X: NDArray) -> NDArray:
        """Return features (n_clips, n_features) of seen clips as if these were new.

        The first are the coordinates along the components and the logarithm of what is left;
        others stay as they are.
        """
        found = X.copy()
        n_components = self.centers.shape[1]
        growth = self.exponent * self.growth(X[:, :n_components] / self.unit)
        found[:, n_components] += self.unit * growth
        return found

    def growth(self, coordinates: NDArray) -> NDArray:
        """Return the logarithm of what is left without a clip over that with it, at exponent 1."""
        squared = euclidean_distances(coordinates, self.centers, squared=True).min(axis=1)
        leverage = (squared + len(self.centers)) / self.n_clips
        return -2 * np.log1p(-np.minimum(leverage, _MOST_LEVERAGE))


class FeatureNotes(NamedTuple):
    """What is known of the features of an embedding."""

    blocks: tuple[int, ...]
    """How many features each block has, between which they do not covary."""
    seen: SeenClips | None = None
    """How the features of the first block change when a clip is new."""


class Embeddings(NotedArray):
    """An array of embeddings that tells what is known of its features, as do its rows.

    What `AnoPatchEmbedder` and `SharedSubspace` return where there is something to tell. Where an
    operation turns it into a plain array, they are features like any others.

    Attributes
    ----------
    notes : FeatureNotes or None
    """

    _note = "notes"
    notes: FeatureNotes | None = None

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """How many features each block has."""
        return None if self.notes is None else self.notes.blocks


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
