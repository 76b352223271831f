"""PatchKNNDetector: distance of each patch to the nearest of a bank of normal patches."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import psutil
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.random_projection import GaussianRandomProjection
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from tqdm.auto import tqdm, trange

from skanopatch.detectors.base import PUT_PATCHER_FIRST, Members, Scores
from skanopatch.detectors.folds import MAX_FOLDS
from skanopatch.detectors.maps import Cells, MapDetector

_FOLDS_OF_CHOICES = 5  # the greedy choice of a bank takes long
_MATRICES = 4  # of n_dims x n_dims: a covariance, its factor, the factor's inverse, and a copy
_MANY_DIMS = 2000  # tokens of the largest ViTs have about 1,300 dimensions
_PROJECTED_DIMS = 64  # in which the greedy choice measures distances, to a few percent


class PatchKNNDetector(MapDetector):
    """Score each patch by its distance to the nearest normal patch, a clip by its farthest patch.

    The bank holds tokens of normal clips, of every time and band: PatchCore [1]_.

    Parameters
    ----------
    metric : {"mahalanobis", "euclidean", "cosine"}, default="mahalanobis"
        The distance between tokens: Euclidean where they are whitened with a shrunk covariance,
        Euclidean as they are, or cosine.
    max_bank_size : int or None, default=20_000
        Largest size of the bank. Of more tokens, a greedy choice takes the one that is farthest
        from those already taken [2]_, so that rare ones stay. None keeps all.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5]; also the share of
        those with a cell above 1.
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` and the 1 of maps follow from training clips, see :ref:`threshold-rules`.
    random_state : int, RandomState instance or None, default=None
        First token of the greedy choice, and projection in which it measures distances.
    verbose : int, default=0
        1 says how much memory `fit` takes, and shows the progress of the greedy choice.

    Attributes
    ----------
    offset_, training_scores_, own_domain_scores_, session_weights_, domains_
        What every detector has, see :ref:`detector-attributes`. `offset_` is -1: the score is
        minus the highest cell of the map.
    bank_ : ndarray of shape (n_references, n_dims)
        The tokens of the bank, in the space of `metric`.
    band_median_, band_iqr_ : ndarray of shape (1, n_freq)
        Median and interquartile range of ``log(1 + d)`` in each band, for the distances d of normal
        clips.
    level_ : float
        The sum of standardized logarithms that is 1 in a map.

    Notes
    -----
    The search is exhaustive, in chunks of scikit-learn's `working_memory`. Training clips are left
    out in 5 folds if the bank is chosen greedily, else in up to 20. `domains` make no difference.

    References
    ----------
    .. [1] K. Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022,
       arXiv 2106.08265.
    .. [2] T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
       Computer Science 38, 1985.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import PatchKNNDetector
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.normal(size=(50, 5, 8, 4))
    >>> faulty = rng.normal(size=(1, 5, 8, 4))
    >>> faulty[0, 2, 6] += 9  # at the third moment, in the seventh band
    >>> anomaly_map = PatchKNNDetector().fit(normal).anomaly_map(faulty)[0]
    >>> [int(i) for i in np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)]
    [2, 6]
    """

    _parameter_constraints = {
        **MapDetector._parameter_constraints,
        "max_bank_size": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _uses_domains = False

    def __init__(
        self,
        metric: str = "mahalanobis",
        *,
        max_bank_size: int | None = 20_000,
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        super().__init__(metric, false_alarm_rate=false_alarm_rate, threshold=threshold)
        self.max_bank_size = max_bank_size
        self.random_state = random_state
        self.verbose = verbose

    def _n_folds(self, X: NDArray) -> int:
        n_tokens = X[..., 0].size
        return _FOLDS_OF_CHOICES if self._bank_size(n_tokens) < n_tokens else MAX_FOLDS

    def _fit_scores(self, X: NDArray, domains: list, folds: list, weights: NDArray) -> Scores:
        self._check_memory(X[..., 0].size, X.shape[3], X.itemsize)
        return super()._fit_scores(X, domains, folds, weights)

    def _fit(self, X: NDArray, members: Members) -> None:
        self.space_, tokens = self._fit_bank(X.reshape(-1, X.shape[3]))
        size = self._bank_size(len(tokens))
        if size < len(tokens):
            random_state = check_random_state(self.random_state)
            steps = trange(size, desc="Choosing tokens", unit="token", disable=not self.verbose)
            tokens = tokens[_farthest_first(tokens, steps, random_state)]
        self.bank_ = tokens

    def _terms(self, X: NDArray) -> Cells:
        tokens = self._project(X.reshape(-1, X.shape[3]), self.space_)
        return [self._nearest(tokens, self.bank_, self.space_).reshape(X.shape[:3])]

    def _clip_distances(self, cells: Cells, maps: NDArray) -> NDArray[np.float64]:
        return maps.max(axis=(1, 2))

    def _set_rate(self, rate: float) -> None:
        former = self.level_
        super()._set_rate(rate)
        self.training_scores_ = self.training_scores_ * (former / self.level_)
        self.own_domain_scores_ = self.training_scores_.copy()
        self._place_offset()

    def _bank_size(self, n_tokens: int) -> int:
        return n_tokens if self.max_bank_size is None else min(n_tokens, self.max_bank_size)

    def _check_memory(self, n_tokens: int, n_dims: int, itemsize: int) -> None:
        """Raise if `fit` would take more memory than is available."""
        size = self._bank_size(n_tokens)
        # The projected tokens, and their float64 differences; the bank, and that of a fold.
        n_bytes = n_tokens * n_dims * (8 + itemsize) + 2 * size * n_dims * itemsize
        if size < n_tokens:
            n_bytes += 4 * n_tokens * (min(n_dims, _PROJECTED_DIMS) + 3)
        if self.metric == "mahalanobis":
            n_bytes += 8 * _MATRICES * n_dims**2
        n_bytes += int(get_config()["working_memory"] * 2**20)
        sizes = f"{size} of {n_tokens} tokens of {n_dims} dimensions"
        if self.verbose:
            tqdm.write(f"{type(self).__name__} keeps {sizes}; fit takes {n_bytes / 1e9:.2g} GB.")
        available = psutil.virtual_memory().available
        if n_bytes > available:
            hint = f" {PUT_PATCHER_FIRST}" if n_dims > _MANY_DIMS else ""
            raise MemoryError(
                f"{type(self).__name__} needs {n_bytes / 1e9:.2g} GB to keep {sizes}, and "
                f"{available / 1e9:.2g} GB are available. Set max_bank_size below "
                f"{self.max_bank_size}, give fewer clips, or float32 for float64.{hint}"
            )


def _farthest_first(
    tokens: NDArray, steps: Sequence[int], random_state: np.random.RandomState
) -> NDArray[np.intp]:
    """Return as many rows as there are steps, each the farthest from all rows before it."""
    rows = tokens.astype(np.float32)
    if rows.shape[1] > _PROJECTED_DIMS:
        projection = GaussianRandomProjection(_PROJECTED_DIMS, random_state=random_state)
        rows = projection.fit_transform(rows)
    squares = np.einsum("ij,ij->i", rows, rows)
    chosen = np.empty(len(steps), dtype=np.intp)
    nearest = np.full(len(rows), np.inf, dtype=np.float32)
    for i in steps:
        row = chosen[i] = random_state.randint(len(rows)) if i == 0 else nearest.argmax()
        np.minimum(nearest, squares - 2 * (rows @ rows[row]) + squares[row], out=nearest)
        nearest[row] = -np.inf
    return chosen
