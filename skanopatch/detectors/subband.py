"""SubbandKNNDetector: one bank of normal tokens a frequency band."""

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import StrOptions

from skanopatch.detectors.base import Members
from skanopatch.detectors.maps import MapDetector
from skanopatch.detectors.search import as_distance, find_nearest, prepare


class SubbandKNNDetector(MapDetector):
    """Score a clip band by band, by the distance to the nearest normal clip in each.

    The tokens of a band are averaged over time. In each band the nearest normal clip is sought
    for itself, and the score is minus the mean of the distances over all bands: BEAM [1]_.
    A normal clip need not resemble one other clip in all bands, and a loud band counts no more
    than a quiet one.

    Parameters
    ----------
    n_freq : int, default=8
        Frequency bands of the tokens: ``n_mels // patch_size`` of the `MelPatcher`.

    metric : {"cosine", "euclidean"}, default="cosine"
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
    .. [1] P. Saengthong and T. Shinozaki, "Sub-Band Spectral Matching with Localized Score
       Aggregation for Robust Anomalous Sound Detection", 2026, arXiv 2603.13749.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import SubbandKNNDetector
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.normal(size=(50, 5 * 8, 16)) + 3
    >>> odd = rng.normal(size=(1, 5 * 8, 16)) + 3
    >>> odd[0, 2 * 8 + 6] *= -1  # at the third moment, in the seventh band
    >>> detector = SubbandKNNDetector(n_freq=8).fit(normal)
    >>> anomaly_map = detector.anomaly_map(odd)
    >>> anomaly_map.shape
    (1, 5, 8)
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
        metric: str = "cosine",
        contamination: float = 0.1,
        threshold: str = "quantile",
    ):
        super().__init__(n_freq=n_freq, contamination=contamination, threshold=threshold)
        self.metric = metric

    def _fit_cells(self, X: NDArray, members: Members) -> NDArray[np.float64]:
        self._check_domain_sizes(members, 2)
        self._bank = np.stack([prepare(_flat(band), self.metric) for band in _bands(X)])
        self._owners = np.repeat(np.arange(len(X)), X.shape[1])
        cells = np.empty(X.shape[:3])
        for f, bank in enumerate(self._bank):
            apart = self._owners, self._owners
            found = find_nearest(bank, bank, 1, apart=apart, measure=self._measure)[0]
            cells[:, :, f] = found.reshape(X.shape[:2])
        return cells

    def _cells(self, X: NDArray) -> NDArray[np.float64]:
        cells = np.empty(X.shape[:3])
        for f, (bank, band) in enumerate(zip(self._bank, _bands(X), strict=True)):
            queries = prepare(_flat(band), self.metric)
            found = find_nearest(queries, bank, 1, measure=self._measure)[0]
            cells[:, :, f] = found.reshape(X.shape[:2])
        return cells

    def _measure(self, squared: NDArray, *_: NDArray) -> NDArray:
        return as_distance(squared, self.metric)

    def _fit_scores(self, X: NDArray, members: Members) -> NDArray[np.float64]:
        pooled = X.mean(axis=1)
        self._pooled = [
            np.stack([prepare(band, self.metric) for band in np.swapaxes(pooled[rows], 0, 1)])
            for rows in members.values()
        ]
        distances = np.full(len(X), np.inf)
        for home, rows in enumerate(members.values()):
            for there, banks in enumerate(self._pooled):
                apart = (np.arange(len(rows)),) * 2 if home == there else None
                found = self._match(self._pooled[home], banks, apart)
                distances[rows] = np.minimum(distances[rows], found)
        return -distances

    def _score(self, X: NDArray) -> NDArray[np.float64]:
        bands = np.swapaxes(X.mean(axis=1), 0, 1)
        queries = np.stack([prepare(band, self.metric) for band in bands])
        return -np.min([self._match(queries, banks, None) for banks in self._pooled], axis=0)

    def _match(self, queries: NDArray, banks: NDArray, apart) -> NDArray[np.float64]:
        """Return the mean over the bands of the distances to the nearest reference in each."""
        found = [
            find_nearest(band, bank, 1, apart=apart, measure=self._measure)[0][:, 0]
            for band, bank in zip(queries, banks, strict=True)
        ]
        return np.mean(found, axis=0)


def _bands(X: NDArray) -> NDArray:
    """Put the bands first: (n_freq, n_clips, n_time, n_dims)."""
    return np.moveaxis(X, 2, 0)


def _flat(X: NDArray) -> NDArray:
    return X.reshape(-1, X.shape[-1])
