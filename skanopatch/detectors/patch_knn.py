"""PatchKNNDetector: distance of each patch to the nearest of a bank of normal patches."""

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import StrOptions

from skanopatch.detectors.base import Members
from skanopatch.detectors.maps import MapDetector
from skanopatch.detectors.search import as_distance, find_nearest, prepare


class PatchKNNDetector(MapDetector):
    """Score each patch by its distance to the nearest normal patch, and a clip by its oddest one.

    The bank holds the tokens of all normal clips, of every time and band: PatchCore [1]_.

    Parameters
    ----------
    n_freq : int, default=8
        Frequency bands of the tokens: ``n_mels // patch_size`` of the `MelPatcher`.

    metric : {"cosine", "euclidean"}, default="euclidean"
        The distance between tokens.

    contamination : float, default=0.1
        The false-alarm rate wanted on fresh normal clips, in (0, 0.5]; also how often a normal
        clip's map has a cell above 1.

    threshold : {"quantile", "gamma"}, default="quantile"
        Place `offset_` at the `contamination` quantile of the leave-one-out training scores, or
        at that of a gamma distribution with their mean, spread and skewness, which needs fewer
        clips for a small `contamination`.

    Attributes
    ----------
    offset_ : float
        The score below which a clip is an anomaly.

    training_scores_ : ndarray of shape (n_clips,)
        The leave-one-out score of each training clip; NaN for one that could not be read.

    levels_ : ndarray of shape (n_freq,)
        The distance that is 1 in a map, one a band.

    n_features_in_ : int
        Dimensions of a token.

    References
    ----------
    .. [1] K. Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022,
       arXiv 2106.08265.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import PatchKNNDetector
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.normal(size=(50, 5 * 8, 16)) + 3
    >>> odd = rng.normal(size=(1, 5 * 8, 16)) + 3
    >>> odd[0, 2 * 8 + 6] *= -1  # at the third moment, in the seventh band
    >>> detector = PatchKNNDetector(n_freq=8).fit(normal)
    >>> anomaly_map = detector.anomaly_map(odd)
    >>> np.argwhere(anomaly_map[0] > 1).tolist()
    [[2, 6]]
    """

    _parameter_constraints = {
        **MapDetector._parameter_constraints,
        "metric": [StrOptions({"cosine", "euclidean"})],
    }

    def __init__(
        self,
        n_freq: int = 8,
        *,
        metric: str = "euclidean",
        contamination: float = 0.1,
        threshold: str = "quantile",
    ):
        super().__init__(n_freq=n_freq, contamination=contamination, threshold=threshold)
        self.metric = metric

    def _fit_cells(self, X: NDArray, members: Members) -> NDArray[np.float64]:
        self._check_domain_sizes(members, 2)
        self._bank = prepare(X.reshape(-1, X.shape[-1]), self.metric)
        owners = np.repeat(np.arange(len(X)), X.shape[1] * X.shape[2])
        apart = owners, owners
        found = find_nearest(self._bank, self._bank, 1, apart=apart, measure=self._measure)[0]
        return found.reshape(X.shape[:3])

    def _cells(self, X: NDArray) -> NDArray[np.float64]:
        queries = prepare(X.reshape(-1, X.shape[-1]), self.metric)
        return find_nearest(queries, self._bank, 1, measure=self._measure)[0].reshape(X.shape[:3])

    def _measure(self, squared: NDArray, *_: NDArray) -> NDArray:
        return as_distance(squared, self.metric)

    def _fit_scores(self, X: NDArray, members: Members) -> NDArray[np.float64]:
        return -self._training_maps.max(axis=(1, 2))

    def _score(self, X: NDArray) -> NDArray[np.float64]:
        return -(self._cells(X) / self.levels_).max(axis=(1, 2))
