"""PatchKNNDetector: distance of each patch to the nearest of a bank of normal patches."""

import os
from numbers import Integral
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.random_projection import GaussianRandomProjection
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from tqdm.auto import tqdm

from skanopatch.detectors.base import Members
from skanopatch.detectors.maps import MapDetector
from skanopatch.detectors.thresholds import MAX_FOLDS

# Folds of clips that are left out in turn where the bank is chosen, which takes long.
_N_FOLDS_OF_CHOICES = 5

# A greedy choice needs distances to a few percent only.
_PROJECTED_DIMS = 64


class PatchKNNDetector(MapDetector):
    """Score each patch by its distance to the nearest normal patch, and a clip by its oddest one.

    The bank holds tokens of normal clips, of every time and band: PatchCore [1]_.

    Parameters
    ----------
    n_freq : int, default=8
        Frequency bands of the tokens: ``n_mels // patch_size`` of the `MelPatcher`.

    metric : {"mahalanobis", "euclidean", "cosine"}, default="mahalanobis"
        The distance between tokens: Euclidean where they are whitened with a shrunk covariance,
        Euclidean as they are, or cosine.

    max_bank_size : int or None, default=20_000
        Tokens that the bank holds at most. Of more, a greedy choice keeps those that are farthest
        from what it has already [2]_, so that what is rare stays. None keeps all.

    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5]; also how many
        have a cell above 1.

    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` and the 1 of maps are placed among the training clips' highest cells, see
        `skanopatch.detectors.thresholds.place_threshold`.

    random_state : int, RandomState instance or None, default=None
        Where the greedy choice begins, and the projection in which it measures distances.

    verbose : int, default=0
        1 says how much memory `fit` takes, and shows the progress of the greedy choice.

    Attributes
    ----------
    offset_ : float
        The score below which a clip is an anomaly: -1, as the score is minus the highest cell.

    training_scores_ : ndarray of shape (n_clips,)
        The score of each training clip when it is left out of the fit; NaN for one that could not
        be read.

    own_domain_scores_ : ndarray of shape (n_clips,)
        The same, compared with the clip's own domain.

    session_weights_ : ndarray of shape (n_clips,)
        What each training clip counts: 1, or 1 over the clips of its session.

    bank_ : ndarray of shape (n_references, n_features)
        The tokens that are kept, where `metric` compares them.

    band_median_, band_iqr_ : ndarray of shape (1, n_freq)
        Median and quartile range over normal clips of ``log(1 + d)``, of the distances d in each
        band.

    level_ : float
        The anomaly, in quartile ranges about the median, that is 1 in a map.

    n_features_in_ : int
        Dimensions of a token.

    Notes
    -----
    The search is exhaustive, in chunks that obey scikit-learn's `working_memory`. A greedy choice
    takes long, so training clips are left out in five folds where there is a choice to make, and
    else in up to twenty. `domains` make no difference.

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
    >>> normal = rng.normal(size=(50, 5 * 8, 4))
    >>> odd = rng.normal(size=(1, 5 * 8, 4))
    >>> odd[0, 2 * 8 + 6] += 9  # at the third moment, in the seventh band
    >>> anomaly_map = PatchKNNDetector(n_freq=8).fit(normal).anomaly_map(odd)[0]
    >>> [int(i) for i in np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)]
    [2, 6]
    """

    _parameter_constraints = {
        **MapDetector._parameter_constraints,
        "max_bank_size": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_freq: int = 8,
        *,
        metric: str = "mahalanobis",
        max_bank_size: int | None = 20_000,
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        super().__init__(
            n_freq, metric=metric, false_alarm_rate=false_alarm_rate, threshold=threshold
        )
        self.max_bank_size = max_bank_size
        self.random_state = random_state
        self.verbose = verbose

    def _n_folds(self, X: NDArray) -> int:
        n_tokens = X.shape[0] * X.shape[1] * X.shape[2]
        self._check_memory(n_tokens, X.shape[3], X.itemsize)
        is_chosen = self._bank_size(n_tokens) < n_tokens
        return _N_FOLDS_OF_CHOICES if is_chosen else MAX_FOLDS

    def _fit(self, X: NDArray, members: Members) -> None:
        tokens = X.reshape(-1, X.shape[3])
        self._space = self._fit_space(tokens)
        tokens = self._project(tokens, self._space)
        size = self._bank_size(len(tokens))
        if size < len(tokens):
            random_state = check_random_state(self.random_state)
            with tqdm(
                total=size, desc="Choosing tokens", unit="token", disable=not self.verbose
            ) as progress:
                tokens = tokens[_farthest_first(tokens, size, random_state, progress)]
        self.bank_ = tokens

    def _cells(self, X: NDArray) -> list[NDArray[np.float64]]:
        tokens = X.reshape(-1, X.shape[3])
        found = self._nearest(self._project(tokens, self._space), self.bank_)
        return [found.reshape(X.shape[:3])]

    def _clip_distances(
        self, cells: list[NDArray[np.float64]], maps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return maps.max(axis=(1, 2))

    def set_false_alarm_rate(self, rate: float) -> Self:
        """Move the threshold, which scores and maps are relative to, without fitting again.

        Parameters
        ----------
        rate : float
            The share of new normal clips that may be called anomalies, in (0, 0.5].

        Returns
        -------
        self : object
        """
        former = self.level_
        super().set_false_alarm_rate(rate)
        self.training_scores_ = self.training_scores_ * (former / self.level_)
        self.own_domain_scores_ = self.training_scores_.copy()
        self._place_offset()
        return self

    def _bank_size(self, n_tokens: int) -> int:
        return n_tokens if self.max_bank_size is None else min(n_tokens, self.max_bank_size)

    def _check_memory(self, n_tokens: int, n_dims: int, itemsize: int) -> None:
        """Say how much memory `fit` will take, and raise if there is less."""
        size = self._bank_size(n_tokens)
        # What is projected, once more in float64 on the way there; the bank, and that of a fold.
        n_bytes = n_tokens * n_dims * (8 + itemsize) + 2 * size * n_dims * itemsize
        if size < n_tokens:
            n_bytes += 4 * n_tokens * (min(n_dims, _PROJECTED_DIMS) + 3)
        n_bytes += int(get_config()["working_memory"] * 2**20)
        sizes = f"{size} of {n_tokens} tokens of {n_dims} dimensions"
        if self.verbose:
            tqdm.write(f"{type(self).__name__} keeps {sizes}; fit takes {n_bytes / 1e9:.2g} GB.")
        available = available_memory()
        if available is not None and n_bytes > available:
            raise MemoryError(
                f"{type(self).__name__} needs {n_bytes / 1e9:.2g} GB to keep {sizes}, and "
                f"{available / 1e9:.2g} GB are available. Set max_bank_size below "
                f"{self.max_bank_size}, give fewer clips, or float32 for float64."
            )


def available_memory() -> int | None:
    """Return the bytes of memory that are free or can be freed, None where nothing tells."""
    try:
        with open("/proc/meminfo") as file:
            kilobytes = dict(line.split()[:2] for line in file)
        return int(kilobytes["MemAvailable:"]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # all there is
    except (AttributeError, ValueError, OSError):
        return None


def _farthest_first(
    tokens: NDArray, size: int, random_state: np.random.RandomState, progress: tqdm
) -> NDArray[np.intp]:
    """Choose rows greedily, each the farthest from all before it."""
    rows = tokens.astype(np.float32)
    if rows.shape[1] > _PROJECTED_DIMS:
        projection = GaussianRandomProjection(_PROJECTED_DIMS, random_state=random_state)
        rows = projection.fit_transform(rows)
    squares = np.einsum("ij,ij->i", rows, rows)
    chosen = np.empty(size, dtype=np.intp)
    chosen[0] = random_state.randint(len(rows))
    nearest = np.full(len(rows), np.inf, dtype=np.float32)
    for i in range(size):
        if i > 0:
            chosen[i] = nearest.argmax()
        row = chosen[i]
        np.minimum(nearest, squares - 2 * (rows @ rows[row]) + squares[row], out=nearest)
        nearest[row] = -np.inf
        progress.update()
    return chosen
