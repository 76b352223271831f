"""Exhaustive search for nearest neighbours, in chunks that obey scikit-learn's working memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.utils import gen_batches

_SPARE_CANDIDATES = 2  # rounding of a float32 product may swap references
_FLOAT32_ERROR = 16 * np.finfo(np.float32).eps  # of a product, relative to the largest square
_N_EXACT = 32  # queries
_N_QUERIES = 512  # of a product, whose memory serves the next ones: to map it takes long as well
_N_IN_CACHE = 128  # rows of the bank
_N_FOR_CENTER = 1000  # rows
_ROUNDING = 32  # units in the last place by which a clip differs from itself in another batch

Normalize = Callable[[NDArray, NDArray[np.intp]], NDArray]
"""Takes distances and their references, of one shape, and returns normalized distances."""


class Bank:
    """References, and what each search among them needs, which the first one computes.

    Parameters
    ----------
    rows : ndarray of shape (n_references, n_features)
        From `prepare`.
    """

    def __init__(self, rows: NDArray):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, NDArray]:
        return {"rows": self.rows}

    @cached_property
    def center(self) -> NDArray:
        """The mean of some rows: float32 has few digits for differences of rows far from 0."""
        some_rows = self.rows[:: -(-len(self) // _N_FOR_CENTER)]
        return some_rows.mean(axis=0, dtype=np.float64).astype(self.rows.dtype)

    @cached_property
    def rounding(self) -> NDArray[np.float64]:
        """By how much a row may differ from itself in another batch, in each feature."""
        lowest, highest = self._extremes
        largest = np.maximum(highest, -lowest).astype(np.float64)
        return _ROUNDING * np.finfo(self.rows.dtype).eps * largest

    @cached_property
    def _extremes(self) -> tuple[NDArray, NDArray]:
        return self.rows.min(axis=0), self.rows.max(axis=0)

    @cached_property
    def fast(self) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
        """The unit of float32 rows, these rows less their center, and their squared lengths.

        Features at the end in which all rows are equal are left out: a product of 769 columns
        takes longer than one of 768 by far more than a column.
        """
        lowest, highest = self._extremes
        largest = float(max((highest - self.center).max(), (self.center - lowest).max())) or 1.0
        unit = 2.0 ** (math.frexp(largest)[1] - 1)  # exact; its square is in the range of float32
        varies = (lowest < self.center) | (highest > self.center)
        n_varying = int(np.flatnonzero(varies).max(initial=0)) + 1
        rows = np.empty((len(self), n_varying), dtype=np.float32)
        squares = np.empty(len(self), dtype=np.float32)
        for part in gen_batches(len(self), _N_IN_CACHE):
            rows[part] = ((self.rows[part] - self.center) / unit)[:, :n_varying]
            np.einsum("ij,ij->i", rows[part], rows[part], out=squares[part])
        return unit, rows, squares


def find_nearest(
    queries: NDArray,
    bank: NDArray | Bank,
    n_neighbors: int,
    *,
    metric: str = "euclidean",
    normalize: Normalize | None = None,
    folds: tuple[NDArray, NDArray] | None = None,
    skip_self: bool = False,
    tolerance: NDArray | float = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the distances and rows of the nearest references, each (n_queries, n_neighbors).

    `queries` and `bank` come from `prepare`; a `Bank` is faster for more than one search. Float32
    matrix products propose candidates, and their distances are computed from differences in
    float64. Where rounding of the products may have hidden a nearer reference, the query is
    compared with all references in float64.

    With `normalize`, neighbours are ranked by normalized distances, which are returned. `folds` are
    those of the queries and of the references, integers: a reference of the same fold as the query
    is no neighbour. With `skip_self`, one reference that equals the query but for rounding is no
    neighbour, if there are others; rounding may exceed that of the coordinates themselves by
    `tolerance`.
    """
    references = bank if isinstance(bank, Bank) else Bank(bank)
    bank = references.rows
    if normalize is None:
        center = references.center
        unit, fast_bank, squares = references.fast
    else:
        center = references.center.astype(np.float64)
        centred = bank - center
    n_references = len(bank) - (0 if folds is None else np.bincount(folds[1]).max())
    n_candidates = min(n_neighbors + _SPARE_CANDIDATES, n_references)
    row_bytes = (12 if normalize is None else 32) * len(bank) + 16 * n_candidates * bank.shape[1]
    n_rows = max(1, int(get_config()["working_memory"] * 2**20 // row_bytes))
    if normalize is None:
        n_rows = min(n_rows, _N_QUERIES, len(queries))
        products = np.empty((n_rows, len(bank)), dtype=np.float32)
    every, every_query = np.arange(len(bank)), np.arange(len(queries))
    # A tolerance for each feature: a large one does not hide differences in others.
    rounding = tolerance + references.rounding

    def squared_to(rows: slice | NDArray, columns: Any) -> NDArray[np.float64]:
        differences = np.subtract(bank[columns], queries[rows, np.newaxis], dtype=np.float64)
        squared = np.einsum("ijk,ijk->ij", differences, differences)
        if skip_self and squared.shape[1] > n_neighbors:
            every_row, first = np.arange(len(squared)), np.argmin(squared, axis=1)
            is_self = (np.abs(differences[every_row, first]) <= rounding).all(axis=1)
            squared[is_self, first[is_self]] = np.inf
        return squared

    distances = np.empty((len(queries), n_neighbors))
    neighbors = np.empty((len(queries), n_neighbors), dtype=np.intp)
    for batch in gen_batches(len(queries), n_rows):
        if normalize is None:
            fast = ((queries[batch] - center) / unit).astype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # such queries are searched again
                rank = np.matmul(
                    -2 * fast[:, : fast_bank.shape[1]], fast_bank.T, out=products[: len(fast)]
                )
            rank += squares  # the squared distance, but for the query's own square
        else:
            rows = queries[batch] - center
            rank = (-2 * rows) @ centred.T + np.einsum("ij,ij->i", centred, centred)
            rank += np.einsum("ij,ij->i", rows, rows)[:, np.newaxis]
            rank = as_distance(np.maximum(rank, 0, out=rank), metric)
            rank = normalize(rank, np.broadcast_to(every, rank.shape))
        if folds is not None:
            rank[folds[0][batch, np.newaxis] == folds[1]] = np.inf

        candidates = _smallest(rank, n_candidates)
        # Differences of few rows at a time stay in the processor's cache.
        parts = gen_batches(len(candidates), _N_EXACT)
        squared = [squared_to(every_query[batch][part], candidates[part]) for part in parts]
        exact = as_distance(np.concatenate(squared), metric)
        if normalize is not None:
            exact = normalize(exact, candidates)
        order = np.argsort(exact, axis=1)[:, :n_neighbors]
        distances[batch] = np.take_along_axis(exact, order, axis=1)
        neighbors[batch] = np.take_along_axis(candidates, order, axis=1)
        if normalize is not None or n_candidates == len(bank):
            continue
        # Others are at least as far as the last candidate, but for rounding.
        own = np.einsum("ij,ij->i", fast, fast, dtype=np.float64)
        last = np.take_along_axis(rank, candidates, axis=1).max(axis=1) + own
        error = _FLOAT32_ERROR * (own + float(squares.max()))
        kth = distances[batch, -1] * 2 if metric == "cosine" else distances[batch, -1] ** 2
        is_sure = kth / unit**2 <= last - error  # False where a product overflowed
        for row in batch.start + np.flatnonzero(~is_sure):
            others = every if folds is None else np.flatnonzero(folds[1] != folds[0][row])
            exact = squared_to(slice(row, row + 1), others[np.newaxis])[0]
            nearest = np.argpartition(exact, n_neighbors - 1)[:n_neighbors]
            nearest = nearest[np.argsort(exact[nearest])]
            neighbors[row] = others[nearest]
            distances[row] = as_distance(exact[nearest], metric)
    return distances, neighbors


def prepare(X: NDArray, metric: str) -> NDArray:
    """Return rows whose squared Euclidean distances rank as `metric` does.

    For "cosine" they have unit length, and one more coordinate that is 1 for a vector of zeros.
    """
    if metric == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))[:, np.newaxis]
        rows = np.empty((len(X), X.shape[1] + 1), dtype=X.dtype)
        np.divide(X, np.where(norms > 0, norms, 1), out=rows[:, :-1], casting="same_kind")
        rows[:, -1:] = norms == 0
        return rows
    return X


def as_distance(squared: NDArray, metric: str) -> NDArray:
    """Return the distances of `metric` for the squared distances of rows that are prepared."""
    # Between unit vectors, the squared Euclidean distance is twice the cosine distance.
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def _smallest(values: NDArray, k: int) -> NDArray[np.intp]:
    """Return the columns of the `k` smallest values of each row, in no order.

    They are in the k groups of columns with the least minima, or in no group. This is faster than
    argpartition, which takes as long as a third of the matrix product.
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
