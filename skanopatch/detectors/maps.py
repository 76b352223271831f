"""What the detectors of patches share: tokens on their grid, metrics, and anomaly maps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from sklearn.base import clone
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from skanopatch.detectors.base import (
    BaseDetector,
    Members,
    Scores,
    expand,
    members_among,
    rows_by_label,
    spreads_of,
)
from skanopatch.detectors.folds import cross_fit
from skanopatch.detectors.search import Bank, as_distance, find_nearest, prepare

_QUARTILES = (0.25, 0.5, 0.75)
_ROUNDING = 8 * np.finfo(np.float64).eps  # of a product, relative to the sum of absolute products
_LEAST_VARIANCE = 1e-6  # of standardized tokens, in directions in which those of `fit` do not vary

Cells = list[NDArray[np.float64]]
"""Distances of cells, each of a shape that broadcasts to (n_clips, n_time, n_freq)."""

Space = tuple[NDArray, NDArray | None, NDArray]
"""The center that is subtracted from tokens, the matrix by which they are then multiplied, and the
rounding error of a projected token: by how much it may differ from batch to batch."""


class MapDetector(BaseDetector):
    """Base class of detectors of tokens on their grid (n_clips, n_time, n_freq, n_dims).

    A subclass writes `_fit`, `_terms` and `_clip_distances`. `_terms` returns `Cells`. The anomaly
    of a cell is the sum of their logarithms ``log(1 + d)``, each less the median of its band and
    divided by the band's interquartile range. A few anomalous clips in `fit` hardly change these.
    """

    _uses_domains = True  # in `fit`

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "metric": [StrOptions({"mahalanobis", "euclidean", "cosine"})],
    }

    def __init__(
        self,
        metric: str = "mahalanobis",
        *,
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
    ):
        super().__init__(false_alarm_rate=false_alarm_rate, threshold=threshold)
        self.metric = metric

    @property
    def _least_clips(self) -> int:  # type: ignore[override]
        return 3 if self.metric == "mahalanobis" else 2

    @abstractmethod
    def _clip_distances(self, cells: Cells, maps: NDArray) -> NDArray[np.float64]:
        """Return the distance of each clip, of shape (n_clips,), by its cells and its map."""

    def _check_domain_sizes(self, members: Members) -> None:
        n_clips = sum(map(len, members.values()))
        super()._check_domain_sizes({None: np.arange(n_clips)})

    def _fit_scores(self, X: NDArray, domains: list, folds: list, weights: NDArray) -> Scores:
        domains = domains if self._uses_domains else [None] * len(X)
        members = rows_by_label(domains, len(X))
        self._fit(X, members)

        def evaluate(kept: NDArray, left_out: NDArray) -> Cells:
            part = clone(self)
            part._fit(X[kept], members_among(members, kept))
            return part._terms(X[left_out])

        cells = cross_fit(folds, domains, evaluate)
        logs = [np.log1p(cell) for cell in cells]
        (counted,) = np.nonzero(~np.isnan(logs[0].max(axis=(1, 2))))
        anomalies = np.empty(np.broadcast_shapes(*(log.shape for log in logs)))
        for kept, left_out in folds:
            self._learn_spreads([log[np.intersect1d(kept, counted)] for log in logs])
            anomalies[left_out] = self._add_up([log[left_out] for log in logs])
        self._learn_spreads([log[counted] for log in logs])
        self._highest = anomalies.max(axis=(1, 2))
        self._map_weights = weights
        self._place_level()
        scores = -self._clip_distances(cells, anomalies / self.level_)
        return scores, scores

    def _place_level(self) -> None:
        level = self._threshold_of(self._highest, self._map_weights)
        self.level_ = level if level > 0 else 1.0

    def _maps(self, cells: Cells) -> NDArray[np.float64]:
        return self._add_up([np.log1p(cell) for cell in cells]) / self.level_

    def _join(self, terms: Cells) -> NDArray[np.float64]:
        return self._clip_distances(terms, self._maps(terms))[:, np.newaxis]

    def _columns(self, domains: Any) -> list[int]:
        raise ValueError(
            f"{type(self).__name__} compares a clip with all domains at once. Got domains for "
            f"{len(domains)} clips; leave them out."
        )

    def _learn_spreads(self, logs: Cells) -> None:
        low, self.band_median_, high = np.stack(
            [np.quantile(log, _QUARTILES, axis=(0, 1)) for log in logs], axis=1
        )
        self.band_iqr_ = np.where(high > low, high - low, 1.0)

    def _add_up(self, logs: Cells) -> NDArray[np.float64]:
        """Return the sum of terms, each less the median of its band, in interquartile ranges."""
        bands = zip(logs, self.band_median_, self.band_iqr_, strict=True)
        scaled = [(log - median) / iqr for log, median, iqr in bands]
        return np.sum(np.broadcast_arrays(*scaled), axis=0)

    def anomaly_map(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the anomaly of each cell of time and frequency.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, n_dims) or (n_clips, n_dims)
            Tokens on their grid; 2-D stands for one token per clip. `n_time` may differ from that
            of `fit`.

        Returns
        -------
        maps : ndarray of shape (n_clips, n_time, n_freq)
            Float64, higher = more anomalous. 0 is a typical normal cell, 1 the threshold: a new
            normal clip of the length of those of `fit` has a cell above 1 with probability
            `false_alarm_rate`. A clip of nothing but NaN gets a map of NaN.

        Raises
        ------
        ValueError
            If a clip holds an infinity, or NaN beside numbers, or has other bands than those of
            `fit`.
        """
        check_is_fitted(self)
        tokens, readable = self._validate(X, reset=False)
        if not readable.any():
            return np.full((len(readable), *tokens.shape[1:3]), np.nan)
        return expand(self._maps(self._terms(tokens)), readable)

    def _set_rate(self, rate: float) -> None:
        super()._set_rate(rate)
        self._place_level()

    def _fit_space(self, tokens: NDArray) -> Space:
        """Return the space in which squared Euclidean distances rank as `metric` does."""
        from sklearn.covariance import ledoit_wolf  # slow to import

        center = np.zeros(tokens.shape[1])
        if self.metric == "cosine":
            return center, None, np.zeros(1)
        center = tokens.mean(axis=0, dtype=np.float64)
        if self.metric == "euclidean":
            return center, None, np.zeros(1)
        residuals = tokens - center
        spreads = spreads_of(residuals, tokens)
        varies = spreads > 0
        residuals[:, ~varies] = 0
        scale = np.where(varies, spreads, 1.0)
        covariance, _ = ledoit_wolf(residuals / scale, assume_centered=True)
        covariance += np.diag(np.where(varies, _LEAST_VARIANCE, 1.0))
        root = np.linalg.cholesky(covariance)
        matrix = solve_triangular(root, np.eye(len(root)), lower=True).T / scale[:, np.newaxis]
        largest = np.abs(residuals).max(axis=0) @ np.abs(matrix)
        return center, matrix.astype(tokens.dtype), _ROUNDING * largest

    def _project(self, tokens: NDArray, space: Space) -> NDArray:
        center, matrix, _ = space
        rows = prepare(tokens - center, self.metric)
        return (rows if matrix is None else rows @ matrix).astype(tokens.dtype)  # in float64

    def _fit_bank(self, tokens: NDArray) -> tuple[Space, NDArray]:
        space = self._fit_space(tokens)
        return space, self._project(tokens, space)

    def _nearest(self, queries: NDArray, bank: NDArray, space: Space) -> NDArray[np.float64]:
        """Return the distance of each projected query to the nearest reference."""
        metric = "cosine" if self.metric == "cosine" else "euclidean"
        references = Bank(bank)
        distances, _ = find_nearest(
            queries, references, 1, metric=metric, skip_self=True, tolerance=space[2]
        )
        # A distance of rounding errors is none. Bands are divided by the spread of their distances.
        rounding = np.square(space[2] + references.rounding).sum(keepdims=True)
        least = as_distance(rounding, metric)
        return np.where(distances[:, 0] > least, distances[:, 0], 0.0)

    def _validate_rows(self, X: ArrayLike, *, reset: bool) -> NDArray:
        """Return the tokens of `X`, of shape (n_clips, n_time, n_freq, n_dims)."""
        tokens = super()._validate_rows(X, reset=reset)
        if tokens.ndim == 2:
            tokens = tokens[:, np.newaxis, np.newaxis]
        elif tokens.ndim == 3:
            tokens = tokens[:, :, np.newaxis]
        elif tokens.ndim != 4:
            raise ValueError(
                "X must have the shape (n_clips, n_time, n_freq, n_dims), (n_clips, n_time, "
                f"n_dims) for tokens of one band, or (n_clips, n_dims) for one token a clip. "
                f"Got the shape {tokens.shape} instead."
            )
        n_freq, n_dims = tokens.shape[2:]
        if reset:
            self._n_bands = n_freq
        elif (n_dims, n_freq) != (self.n_features_in_, self._n_bands):
            raise ValueError(
                f"X has tokens of {n_dims} dimensions in {n_freq} bands, but "
                f"{type(self).__name__} was fitted on tokens of {self.n_features_in_} dimensions "
                f"in {self._n_bands} bands."
            )
        return tokens
