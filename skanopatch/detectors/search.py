"""Exhaustive search for nearest neighbours, in chunks that obey scikit-learn's working memory."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.utils import gen_batches

# A float32 product may swap references that are equally near but for rounding.
_SPARE_CANDIDATES = 2

Labels = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The label of each query, and that of each reference."""


def find_nearest(
    queries: NDArray,
    bank: NDArray,
    n_neighbors: int,
    *,
    measure: Callable[[NDArray, NDArray, NDArray], NDArray],
    rank_by: Callable[[NDArray, slice], NDArray] | None = None,
    apart: Labels | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Find the nearest references of each query, nearest first.

    Float32 matrix products propose two references more than asked for; the distances to those
    are computed from differences in float64.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, n_dims)

    bank : ndarray of shape (n_references, n_dims)

    n_neighbors : int
        How many are found; each query must have as many references left by `apart`.

    measure : callable
        Takes squared distances, the rows of the queries and those of the references, of shapes
        (n, n_candidates), (n,) and (n, n_candidates), to distances.

    rank_by : callable, default=None
        Takes the squared distances of the queries in a slice to all references to what they are
        ranked by. None ranks by the squared distance itself.

    apart : pair of int ndarrays, default=None
        A label for each query and one for each reference: where they are equal, such as for what
        is of one clip, the reference is no neighbour of the query.

    Returns
    -------
    distances : ndarray of shape (n_queries, n_neighbors)
        Float64.

    neighbors : ndarray of shape (n_queries, n_neighbors)
        Rows of `bank`.
    """
    # What all have in common would leave few digits to what they differ by.
    center = bank.mean(axis=0, dtype=np.float64).astype(bank.dtype)
    fast_bank = (bank - center).astype(np.float32, copy=False)
    squares = np.einsum("ij,ij->i", fast_bank, fast_bank)
    n_apart = 0 if apart is None else np.unique(apart[1], return_counts=True)[1].max()
    n_candidates = min(n_neighbors + _SPARE_CANDIDATES, len(bank) - n_apart)
    row_bytes = 12 * len(bank) + 16 * n_candidates * bank.shape[1]
    n_rows = max(1, int(get_config()["working_memory"] * 2**20 // row_bytes))

    distances = np.empty((len(queries), n_neighbors))
    neighbors = np.empty((len(queries), n_neighbors), dtype=np.intp)
    for batch in gen_batches(len(queries), n_rows):
        fast = (queries[batch] - center).astype(np.float32, copy=False)
        rank = (-2 * fast) @ fast_bank.T
        rank += squares  # the squared distance, but for the query's own square
        if rank_by is not None:
            # Now the query's square counts.
            rank += np.einsum("ij,ij->i", fast, fast)[:, np.newaxis]
            rank = rank_by(np.maximum(rank, 0, out=rank), batch)
        if apart is not None:
            rank[apart[0][batch, np.newaxis] == apart[1]] = np.inf

        candidates = _smallest(rank, n_candidates)
        differences = np.subtract(bank[candidates], queries[batch, np.newaxis], dtype=np.float64)
        squared = np.einsum("ijk,ijk->ij", differences, differences)
        exact = measure(squared, np.arange(batch.start, batch.stop), candidates)
        order = np.argsort(exact, axis=1)[:, :n_neighbors]
        distances[batch] = np.take_along_axis(exact, order, axis=1)
        neighbors[batch] = np.take_along_axis(candidates, order, axis=1)
    return distances, neighbors


def prepare(X: NDArray, metric: str) -> NDArray:
    """Map rows to where squared Euclidean distance ranks as `metric` does.

    For "cosine" to unit length, with one more coordinate that is 1 for a vector of zeros.
    """
    if metric == "cosine":
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        X = np.hstack([X / np.where(norms > 0, norms, 1), norms == 0])
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
