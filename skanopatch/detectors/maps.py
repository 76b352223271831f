"""What the detectors of patches share: tokens on their grid, metrics, and calibrated maps."""

from abc import abstractmethod
from collections.abc import Iterator
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from sklearn.covariance import ledoit_wolf
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skanopatch.detectors.base import FLOATS, BaseDetector, Members, spreads_of
from skanopatch.detectors.search import Labels, as_distance, find_nearest, prepare

# In which training clips are left out, where one by one takes too long.
N_FOLDS = 20

# Of a band's distances among normal clips.
_QUARTILES = (0.25, 0.5, 0.75)

# Of standardized tokens, in a direction in which those of `fit` do not vary.
_LEAST_VARIANCE = 1e-6

Space = tuple[NDArray, NDArray | None]
"""What is subtracted from tokens, and the matrix that they are then multiplied by."""


class MapDetector(BaseDetector):
    """Base class of detectors that tell where a clip is odd, not only how odd it is.

    A subclass writes `_fit_terms`, `_terms`, `_fit_scores` and `_score`. They get tokens on their
    grid, of shape (n_clips, n_time, n_freq, n_dims). Terms are distances of cells, of shapes that
    broadcast to (n_clips, n_time, n_freq); a cell is as odd as the sum of the logarithms of its
    terms, ``log(1 + d)``, each in quartile ranges of its band about the median of normal clips. One
    odd clip among the normal ones may be a hundred times as far as the others.
    """

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
        contamination: float = 0.1,
        threshold: str = "quantile",
    ):
        super().__init__(contamination=contamination, threshold=threshold)
        self.n_freq = n_freq
        self.metric = metric

    @abstractmethod
    def _fit_terms(self, X: NDArray, members: Members) -> list[NDArray[np.float64]]:
        """Learn from `X` and return the terms of each clip, as if it had not been learnt from."""

    @abstractmethod
    def _terms(self, X: NDArray) -> list[NDArray[np.float64]]:
        """Return the terms of clips that were not learnt from."""

    @abstractmethod
    def _fit_scores(self, terms: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the score of each training clip, when the maps are calibrated."""

    def _fit(self, X: NDArray, members: Members, as_new: NDArray) -> NDArray[np.float64]:
        minimum = 3 if self.metric == "mahalanobis" else 2
        self._check_domain_sizes({None: np.arange(len(X))}, minimum)
        distances = self._fit_terms(X, members)
        terms = [np.log1p(term) for term in distances]
        oddness = np.empty(np.broadcast_shapes(*(term.shape for term in terms)))
        for rest, fold in split_clips(len(X), N_FOLDS):
            self._learn_spreads([term[rest] for term in terms])
            oddness[fold] = self._add_up([term[fold] for term in terms])
        self._learn_spreads(terms)
        level = -self._quantile(-oddness.max(axis=(1, 2)))
        self.level_ = level if level > 0 else 1.0
        self._training_maps = oddness / self.level_
        return self._fit_scores(distances)

    def _oddness(self, X: NDArray) -> NDArray[np.float64]:
        """Return the maps of clips that were not learnt from."""
        return self._add_up([np.log1p(term) for term in self._terms(X)]) / self.level_

    def _learn_spreads(self, terms: list[NDArray[np.float64]]) -> None:
        # In the middle half of a band's cells a few odd clips do not show.
        low, self.term_centers_, high = np.stack(
            [np.quantile(term, _QUARTILES, axis=(0, 1)) for term in terms], axis=1
        )
        self.term_spreads_ = np.where(high > low, high - low, 1.0)

    def _add_up(self, terms: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the sum of terms, each in spreads of its band about the center."""
        of_bands = zip(terms, self.term_centers_, self.term_spreads_, strict=True)
        scaled = [(term - center) / spread for term, center, spread in of_bands]
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
            fresh normal clip of the length of those of `fit` has a cell above 1 with probability
            `contamination`. A clip that is bit-identical to a training clip gets the map that it
            had when it was left out; a clip of nothing but NaN a map of NaN.

        Raises
        ------
        ValueError
            If a clip holds an infinity, or NaN beside numbers, or has other bands than those of
            `fit`.
        """
        check_is_fitted(self)
        tokens, readable = self._validate_embeddings(X, reset=False)
        maps = np.full((len(readable), *tokens.shape[1:3]), np.nan)
        if readable.any():
            found = self._oddness(tokens)
            known, place = self._recognize(tokens)
            if known.any():  # else the clips may be of another length
                found[known] = self._training_maps[self._row_of_digest[place[known]]]
            maps[readable] = found
        return maps

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

    def _nearest(
        self, queries: NDArray, bank: NDArray, apart: Labels | None = None
    ) -> NDArray[np.float64]:
        """Return the distance of each query to the nearest reference, of what is projected."""

        def measure(squared: NDArray, *_: NDArray) -> NDArray:
            return as_distance(squared, self.metric)

        return find_nearest(queries, bank, 1, apart=apart, measure=measure)[0][:, 0]

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


def split_clips(n_clips: int, n_folds: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield (rest, fold) for each fold, in which neighbouring clips are of different folds."""
    fold_of = np.arange(n_clips) % n_folds
    for fold in range(min(n_folds, n_clips)):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
