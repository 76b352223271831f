"""What the detectors of patches share: tokens on their grid, metrics, and calibrated maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from sklearn.base import clone
from sklearn.covariance import ledoit_wolf
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skanopatch.detectors.base import FLOATS, BaseDetector, Members, spreads_of
from skanopatch.detectors.search import find_nearest, prepare
from skanopatch.detectors.thresholds import cross_fit, place_threshold

# Of a band's distances among normal clips.
_QUARTILES = (0.25, 0.5, 0.75)

# Of standardized tokens, in a direction in which those of `fit` do not vary.
_LEAST_VARIANCE = 1e-6

Space = tuple[NDArray, NDArray | None]
"""What is subtracted from tokens, and the matrix that they are then multiplied by."""


class MapDetector(BaseDetector):
    """Base class of detectors that say where a clip is odd, not only how odd it is.

    A subclass writes `_fit`, `_cells` and `_clip_distances`. They get tokens on their grid, of
    shape (n_clips, n_time, n_freq, n_dims). `_cells` returns distances of cells, each of a shape
    that broadcasts to (n_clips, n_time, n_freq). The anomaly of a cell is the sum of their
    logarithms, ``log(1 + d)``, each in quartile ranges of its band about the median of normal
    clips: one odd clip among the normal ones may be a hundred times as far as the others.
    """

    _compares_domains = False

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "n_freq": [Interval(Integral, 1, None, closed="left")],
        "metric": [StrOptions({"mahalanobis", "euclidean", "cosine"})],
    }

    def __init__(
        self,
        n_freq: int = 8,
        *,
        metric: str = "mahalanobis",
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
    ):
        super().__init__(false_alarm_rate=false_alarm_rate, threshold=threshold)
        self.n_freq = n_freq
        self.metric = metric

    @property
    def _least_clips(self) -> int:  # type: ignore[override]
        return 3 if self.metric == "mahalanobis" else 2

    @abstractmethod
    def _cells(self, X: NDArray) -> list[NDArray[np.float64]]:
        """Return the distances that the cells of clips are made of."""

    @abstractmethod
    def _clip_distances(
        self, cells: list[NDArray[np.float64]], maps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the distance of each clip, of shape (n_clips,), by its cells and its map."""

    def _check_domain_sizes(self, members: Members) -> None:
        n_clips = sum(map(len, members.values()))
        super()._check_domain_sizes({None: np.arange(n_clips)})

    def _fit_scores(
        self, X: NDArray, members: Members, folds: list, weights: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        self._fit(X, members)

        def evaluate(kept: NDArray[np.intp], left_out: NDArray[np.intp]) -> list[NDArray]:
            part = clone(self)
            part._fit(X[kept], _members_of(members, kept))
            return part._cells(X[left_out])

        cells = cross_fit(folds, len(X), evaluate)
        logs = [np.log1p(cell) for cell in cells]
        anomalies = np.empty(np.broadcast_shapes(*(log.shape for log in logs)))
        for kept, left_out in folds:
            self._learn_spreads([log[kept] for log in logs])
            anomalies[left_out] = self._add_up([log[left_out] for log in logs])
        self._learn_spreads(logs)
        self._highest = anomalies.max(axis=(1, 2))
        self._map_weights = weights
        self._place_level()
        scores = -self._clip_distances(cells, anomalies / self.level_)
        return scores, scores

    def _place_level(self) -> None:
        level = place_threshold(
            self._highest, self.false_alarm_rate, self.threshold, self._map_weights
        )
        self.level_ = level if level > 0 else 1.0

    def _maps(self, cells: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return self._add_up([np.log1p(cell) for cell in cells]) / self.level_

    def _distances(self, X: NDArray) -> NDArray[np.float64]:
        cells = self._cells(X)
        return self._clip_distances(cells, self._maps(cells))[:, np.newaxis]

    def _nearest_domain(self, distances: NDArray, domains: Any) -> NDArray[np.float64]:
        return distances[:, 0]  # domains have no distances of their own

    def _learn_spreads(self, logs: list[NDArray[np.float64]]) -> None:
        # In the middle half of a band's cells a few odd clips do not show.
        low, self.band_median_, high = np.stack(
            [np.quantile(log, _QUARTILES, axis=(0, 1)) for log in logs], axis=1
        )
        self.band_iqr_ = np.where(high > low, high - low, 1.0)

    def _add_up(self, logs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the sum of terms, each in quartile ranges of its band about the median."""
        of_bands = zip(logs, self.band_median_, self.band_iqr_, strict=True)
        scaled = [(log - median) / iqr for log, median, iqr in of_bands]
        return np.sum(np.broadcast_arrays(*scaled), axis=0)

    def anomaly_map(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return how odd each cell of time and frequency is.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_tokens, n_dims) or (n_clips, n_dims)
            Tokens in the order of time; 2-D stands for one token a clip. Clips may have another
            number of tokens than those of `fit`, in the same bands.

        Returns
        -------
        maps : ndarray of shape (n_clips, n_time, n_freq)
            Float64, higher = more odd. 0 is what a normal cell has on average, 1 the threshold: a
            new normal clip of the length of those of `fit` has a cell above 1 with probability
            `false_alarm_rate`. A clip of nothing but NaN gets a map of NaN.

        Raises
        ------
        ValueError
            If a clip holds an infinity, or NaN beside numbers, or has other bands than those of
            `fit`.
        """
        check_is_fitted(self)
        tokens, readable = self._validate(X, reset=False)
        maps = np.full((len(readable), *tokens.shape[1:3]), np.nan)
        if readable.any():
            maps[readable] = self._maps(self._cells(tokens))
        return maps

    def set_false_alarm_rate(self, rate: float) -> Any:
        """Move the threshold and the 1 of maps to another false-alarm rate, without fitting again.

        Parameters
        ----------
        rate : float
            The share of new normal clips that may be called anomalies, in (0, 0.5].

        Returns
        -------
        self : object
        """
        super().set_false_alarm_rate(rate)
        self._place_level()
        return self

    def _fit_space(self, tokens: NDArray) -> Space:
        """Return what takes tokens to where squared Euclidean distance ranks as `metric` does."""
        center = np.zeros(tokens.shape[1])
        if self.metric == "cosine":
            return center, None
        center = tokens.mean(axis=0, dtype=np.float64)
        if self.metric == "euclidean":
            return center, None
        residuals = tokens - center
        spreads = spreads_of(residuals, tokens)
        varies = spreads > 0
        residuals[:, ~varies] = 0
        scale = np.where(varies, spreads, 1.0)
        covariance, _ = ledoit_wolf(residuals / scale, assume_centered=True)
        covariance += np.diag(np.where(varies, _LEAST_VARIANCE, 1.0))
        root = np.linalg.cholesky(covariance)
        whitening = solve_triangular(root, np.eye(len(root)), lower=True).T
        return center, whitening / scale[:, np.newaxis]

    def _project(self, tokens: NDArray, space: Space) -> NDArray:
        center, matrix = space
        rows = prepare(tokens - center, self.metric)
        return (rows if matrix is None else rows @ matrix).astype(tokens.dtype)

    def _nearest(self, queries: NDArray, bank: NDArray) -> NDArray[np.float64]:
        """Return the distance of each query to the nearest reference, of what is projected."""
        metric = "cosine" if self.metric == "cosine" else "euclidean"
        return find_nearest(queries, bank, 1, metric=metric, skip_self=True)[0][:, 0]

    def _validate_rows(self, X: ArrayLike, *, reset: bool) -> NDArray:
        """Return the tokens of `X` on their grid of time and frequency."""
        if isinstance(X, (list, tuple)):
            X = np.asarray(X)
        if getattr(X, "ndim", 2) != 3:
            tokens = super()._validate_rows(X, reset=reset)[:, np.newaxis]
        else:
            tokens = check_array(
                X,
                dtype=FLOATS,
                allow_nd=True,
                ensure_all_finite="allow-nan",
                ensure_min_samples=2 if reset else 1,
                estimator=self,
                input_name="X",
            )
        n_clips, n_tokens, n_dims = tokens.shape
        n_freq = self.n_freq if n_tokens > 1 else 1
        if n_tokens % n_freq:
            raise ValueError(
                f"The number of tokens must be a multiple of n_freq={n_freq}. "
                f"Got {n_tokens} tokens a clip instead."
            )
        if reset:
            self.n_features_in_ = n_dims
            self._n_bands = n_freq
        elif (n_dims, n_freq) != (self.n_features_in_, self._n_bands):
            raise ValueError(
                f"X has tokens of {n_dims} dimensions in {n_freq} bands, but "
                f"{type(self).__name__} was fitted on tokens of {self.n_features_in_} dimensions "
                f"in {self._n_bands} bands."
            )
        return tokens.reshape(n_clips, -1, n_freq, n_dims)


def _members_of(members: Members, kept: Iterable[int]) -> Members:
    """Return the rows of each domain among those that are kept, leaving out empty domains."""
    place = {row: i for i, row in enumerate(kept)}
    found = {
        domain: np.array([place[row] for row in rows if row in place], dtype=np.intp)
        for domain, rows in members.items()
    }
    return {domain: rows for domain, rows in found.items() if len(rows)}
