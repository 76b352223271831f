"""Exhaustive search for nearest neighbours, in chunks that obey scikit-learn's working memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.utils import gen_batches

# A float32 product may swap references that are equally near but for rounding.
_SPARE_CANDIDATES = 2
# Of the largest squares in it: what a sum of rounded products may be off by, with a margin.
_FLOAT32_ERROR = 16 * np.finfo(np.float32).eps

_ROUNDING = 32  # units in the last place by which a clip differs from itself in another batch

Labels = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The label of each query, and that of each reference."""

Normalize = Callable[[NDArray, NDArray[np.intp]], NDArray]
"""Takes distances and the references that they are to, of one shape, to normalized distances."""


def find_nearest(
    queries: NDArray,
    bank: NDArray,
    n_neighbors: int,
    *,
    metric: str = "euclidean",
    normalize: Normalize | None = None,
    apart: Labels | None = None,
    skip_self: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Find the nearest references of each query, nearest first.

    Float32 matrix products propose more references than asked for, and the distances to those
    are computed from differences in float64. Where rounding of the products could have hidden a
    nearer reference, the query is compared with all references in float64.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, n_dims)
        What `prepare` returns.

    bank : ndarray of shape (n_references, n_dims)
        What `prepare` returns.

    n_neighbors : int
        How many are found; each query must have as many references left by `apart`.

    metric : {"euclidean", "cosine"}, default="euclidean"

    normalize : callable, default=None
        What neighbours are ranked by, and returned, in place of the distance itself.

    apart : pair of int ndarrays, default=None
        A label for each query and one for each reference: where they are equal, such as for what
        is of one clip, the reference is no neighbour of the query.

    skip_self : bool, default=False
        Whether one reference that equals the query but for rounding is no neighbour, if there are
        others: a clip that was fitted on is then compared with the other clips.

    Returns
    -------
    distances : ndarray of shape (n_queries, n_neighbors)
        Float64.

    neighbors : ndarray of shape (n_queries, n_neighbors)
        Rows of `bank`.
    """
    # What all have in common would leave few digits to what they differ by.
    center = bank.mean(axis=0, dtype=np.float64)
    centred = bank - center
    unit = float(np.abs(centred).max()) or 1.0  # squares of it are in the range of float32
    fast_bank = (centred / unit).astype(np.float32)
    squares = np.einsum("ij,ij->i", fast_bank, fast_bank)
    n_apart = 0 if apart is None else int(np.unique(apart[1], return_counts=True)[1].max())
    n_candidates = min(n_neighbors + _SPARE_CANDIDATES, len(bank) - n_apart)
    row_bytes = (12 if normalize is None else 32) * len(bank) + 16 * n_candidates * bank.shape[1]
    n_rows = max(1, int(get_config()["working_memory"] * 2**20 // row_bytes))
    every = np.arange(len(bank))
    # Each feature by itself: a large one does not make all that differs in others one clip.
    tolerance = _ROUNDING * np.finfo(queries.dtype).eps * np.abs(bank).max(axis=0)

    def squared_to(rows: slice | int, references: Any) -> NDArray[np.float64]:
        differences = np.subtract(bank[references], queries[rows, np.newaxis], dtype=np.float64)
        squared = np.einsum("ijk,ijk->ij", differences, differences)
        if skip_self and squared.shape[1] > n_neighbors:
            every_row, first = np.arange(len(squared)), np.argmin(squared, axis=1)
            is_self = (np.abs(differences[every_row, first]) <= tolerance).all(axis=1)
            squared[is_self, first[is_self]] = np.inf
        return squared

    distances = np.empty((len(queries), n_neighbors))
    neighbors = np.empty((len(queries), n_neighbors), dtype=np.intp)
    for batch in gen_batches(len(queries), n_rows):
        if normalize is None:
            fast = ((queries[batch] - center) / unit).astype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # such queries are searched again
                rank = (-2 * fast) @ fast_bank.T
            rank += squares  # the squared distance, but for the query's own square
        else:
            exact = queries[batch] - center
            rank = (-2 * exact) @ centred.T + np.einsum("ij,ij->i", centred, centred)
            rank += np.einsum("ij,ij->i", exact, exact)[:, np.newaxis]
            rank = as_distance(np.maximum(rank, 0, out=rank), metric)
            rank = normalize(rank, np.broadcast_to(every, rank.shape))
        if apart is not None:
            rank[apart[0][batch, np.newaxis] == apart[1]] = np.inf

        candidates = _smallest(rank, n_candidates)
        found = as_distance(squared_to(batch, candidates), metric)
        if normalize is not None:
            found = normalize(found, candidates)
        order = np.argsort(found, axis=1)[:, :n_neighbors]
        distances[batch] = np.take_along_axis(found, order, axis=1)
        neighbors[batch] = np.take_along_axis(candidates, order, axis=1)
        if normalize is not None or n_candidates == len(bank) - n_apart:
            continue
        # Others are at least as far as the last candidate, but for rounding.
        own = np.einsum("ij,ij->i", fast, fast, dtype=np.float64)
        last = np.take_along_axis(rank, candidates, axis=1).max(axis=1) + own
        error = _FLOAT32_ERROR * (own + float(squares.max()))
        kth = distances[batch, -1] * 2 if metric == "cosine" else distances[batch, -1] ** 2
        is_sure = kth / unit**2 <= last - error  # False where a product overflowed
        for row in batch.start + np.flatnonzero(~is_sure):
            exact = squared_to(slice(row, row + 1), every[np.newaxis])[0]
            if apart is not None:
                exact[apart[0][row] == apart[1]] = np.inf
            nearest = np.argpartition(exact, n_neighbors - 1)[:n_neighbors]
            nearest = nearest[np.argsort(exact[nearest])]
            neighbors[row] = nearest
            distances[row] = as_distance(exact[nearest], metric)
    return distances, neighbors


def prepare(X: NDArray, metric: str) -> NDArray:
    """Map rows to where squared Euclidean distance ranks as `metric` does.

    For "cosine" to unit length, with one more coordinate that is 1 for a vector of zeros.
    """
    if metric == "cosine":
        norms = np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
        X = np.hstack([X / np.where(norms > 0, norms, 1), norms == 0]).astype(X.dtype)
    return X


def as_distance(squared: NDArray, metric: str) -> NDArray:
    """Return the distances of `metric` for the squared distances of rows that are prepared."""
    # Between unit vectors, the squared Euclidean distance is twice the cosine distance.
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def _smallest(values: NDArray, k: int) -> NDArray[np.intp]:
    """Return the columns of the `k` smallest values of each row, in no order.

    A row's k smallest are found within the k of its column groups that have the least minima,
    and in what no group holds. That reads `values` once, where argpartition takes as long as
    a third of the matrix product.
    """
    group_size = 32
    n_groups = values.shape[1] // group_size
    if n_groups <= 4 * k:
        return np.argpartition(values, k - 1, axis=1)[:, :k]
    grouped = values[:, : n_groups * group_size].reshape(len(values), group_size, n_groups)
    groups = np.argpartition(grouped.min(axis=1), k - 1, axis=1)[:, :k]
    members = groups[:, np.newaxis] + n_groups * np.arange(group_size)[:, np.newaxis]
    rest = np.arange(n_groups * group_size, values.shape[1])
    columns = np.hstack(
        [members.reshape(len(values), -1), np.broadcast_to(rest, (len(values), len(rest)))]
    )
    best = np.argpartition(np.take_along_axis(values, columns, axis=1), k - 1, axis=1)[:, :k]
    return np.take_along_axis(columns, best, axis=1)
