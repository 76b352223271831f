"""What the detectors of patches share: tokens on their grid, and maps that are calibrated."""

from abc import abstractmethod
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skanopatch.detectors.base import FLOATS, BaseDetector, Members


class MapDetector(BaseDetector):
    """Base class of detectors that tell where a clip is odd, not only how odd it is.

    A subclass writes `_fit_cells`, `_cells` and `_score`. They get tokens on their grid, of shape
    (n_clips, n_time, n_freq, n_dims).

    Parameters
    ----------
    n_freq : int, default=8
        Frequency bands of the tokens.

    contamination, threshold
        As for `BaseDetector`.
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "n_freq": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_freq: int = 8, contamination: float = 0.1, threshold: str = "quantile"):
        super().__init__(contamination=contamination, threshold=threshold)
        self.n_freq = n_freq

    @abstractmethod
    def _fit_cells(self, X: NDArray, members: Members) -> NDArray[np.float64]:
        """Learn from `X`; return the distance of each cell of each clip, that clip left out."""

    @abstractmethod
    def _cells(self, X: NDArray) -> NDArray[np.float64]:
        """Return the distance of each cell, of shape (n_clips, n_time, n_freq)."""

    @abstractmethod
    def _fit_scores(self, X: NDArray, members: Members) -> NDArray[np.float64]:
        """Return the leave-one-out score of each row, after `_fit_cells` and the calibration."""

    def _fit(self, X: NDArray, members: Members) -> NDArray[np.float64]:
        cells = self._fit_cells(X, members)
        # A band whose clips hardly differ would otherwise never be seen beside one that does.
        band_levels = np.quantile(cells.max(axis=1), 1 - self.contamination, axis=0)
        band_levels = np.where(band_levels > 0, band_levels, 1.0)
        maxima = (cells / band_levels).max(axis=(1, 2))
        self.levels_ = band_levels * (self._map_level(maxima) or 1.0)
        self._training_maps = cells / self.levels_
        return self._fit_scores(X, members)

    def _map_level(self, maxima: NDArray[np.float64]) -> float:
        """Return what a fresh normal clip's highest cell exceeds with probability contamination."""
        return float(np.quantile(maxima, 1 - self.contamination, method="weibull"))

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
            Float64, higher = more odd. 1 is the threshold: a normal clip has a cell above 1 with
            probability `contamination`. A clip that is bit-identical to a training clip gets
            its leave-one-out map; one of nothing but NaN a map of NaN.

        Raises
        ------
        ValueError
            If a clip holds an infinity, or NaN beside numbers.
        """
        check_is_fitted(self)
        embeddings, readable = self._validate_embeddings(X, reset=False)
        maps = np.full((len(readable), *embeddings.shape[1:3]), np.nan)
        if readable.any():
            maps[readable] = self._maps(embeddings)
        return maps

    def _maps(self, X: NDArray) -> NDArray[np.float64]:
        maps = self._cells(X) / self.levels_
        known, place = self._recognize(X)
        maps[known] = self._training_maps[self._row_of_digest[place[known]]]
        return maps

    def _validate_rows(self, X: ArrayLike, *, reset: bool) -> NDArray:
        """Return the tokens of `X` on their grid of time and frequency."""
        ndim = np.ndim(X) if isinstance(X, (list, tuple)) else getattr(X, "ndim", 2)
        if ndim != 3:
            return super()._validate_rows(X, reset=reset)[:, np.newaxis, np.newaxis]
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
        elif n_dims != self.n_features_in_:
            raise ValueError(
                f"X has tokens of {n_dims} dimensions, but {type(self).__name__} was fitted on "
                f"tokens of {self.n_features_in_}."
            )
        return tokens.reshape(n_clips, -1, n_freq, n_dims)
