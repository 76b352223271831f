"""SubbandKNNDetector: one bank of normal tokens a frequency band."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from skanopatch.detectors.base import Members
from skanopatch.detectors.maps import Cells, MapDetector


class SubbandKNNDetector(MapDetector):
    """Score a clip band by band, by the distance to the nearest normal clip in each.

    The tokens of a band are averaged over time. Each mean is compared with those of the normal
    clips in the same band. The score is minus the mean over all bands of the distance to the
    nearest clip, a method named BEAM [1]_. The nearest clip may differ from band to band, and a
    loud band counts as much as a quiet one.

    The map has two parts for each cell: the distance of the mean token of its band, and the
    distance of the token of the cell. Both are distances to the nearest normal one in the band.

    Parameters
    ----------
    metric : {"mahalanobis", "euclidean", "cosine"}, default="mahalanobis"
        The distance between tokens. "mahalanobis" is the Euclidean distance after each band is
        whitened with a shrunk covariance [2]_. "cosine" is that of BEAM; it suits tokens of large
        networks.
    max_bank_size : int or None, default=128
        Largest number of tokens that the bank of a band keeps for maps. Of more tokens, it keeps a
        random choice, the same in each fit: maps change little, and models get small. None keeps
        all. The score of a clip does not depend on it.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5]. It is also the
        share of new normal clips that may have a cell above 1 in the map.
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` and the 1 of maps follow from training clips, see :ref:`threshold-rules`.

    Attributes
    ----------
    offset_, training_scores_, own_domain_scores_, session_weights_, domains_
        What every detector has, see :ref:`detector-attributes`.
    band_median_, band_iqr_ : ndarray of shape (2, n_freq)
        Median and interquartile range of ``log(1 + d)`` in each band, for the distances d of
        normal clips. The first row is for the mean tokens of bands, the second for single tokens.
    level_ : float
        The threshold of maps: the sum of standardized logarithms that becomes 1 in a map.

    Notes
    -----
    The anomaly of a cell is the sum of ``log(1 + d)`` of its two distances. Each logarithm is first
    reduced by `band_median_` and divided by `band_iqr_`.

    References
    ----------
    .. [1] P. Saengthong and T. Shinozaki, "Sub-Band Spectral Matching with Localized Score
       Aggregation for Robust Anomalous Sound Detection", 2026, arXiv 2603.13749.
    .. [2] O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance
       matrices", Journal of Multivariate Analysis 88, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import SubbandKNNDetector
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.normal(size=(50, 5, 8, 4))
    >>> faulty = rng.normal(size=(1, 5, 8, 4))
    >>> faulty[0, 2, 6] += 9  # at the third moment, in the seventh band
    >>> anomaly_map = SubbandKNNDetector().fit(normal).anomaly_map(faulty)[0]
    >>> anomaly_map.shape
    (5, 8)
    >>> [int(i) for i in np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)]
    [2, 6]
    """

    _parameter_constraints = {
        **MapDetector._parameter_constraints,
        "max_bank_size": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        metric: str = "mahalanobis",
        *,
        max_bank_size: int | None = 128,
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
    ):
        super().__init__(metric, false_alarm_rate=false_alarm_rate, threshold=threshold)
        self.max_bank_size = max_bank_size

    def _fit(self, X: NDArray, members: Members) -> None:
        self.domain_of_clip_ = np.empty(len(X), dtype=np.intp)
        for domain, rows in enumerate(members.values()):
            self.domain_of_clip_[rows] = domain
        pooled, bands = X.mean(axis=1), range(X.shape[2])
        self.clip_banks_ = [self._fit_bank(pooled[:, f]) for f in bands]
        kept = np.random.RandomState(0).permutation(X[:, :, 0, 0].size)[: self.max_bank_size]
        spaces = [self._fit_space(_flat(X[:, :, f])) for f in bands]
        self.token_banks_ = [
            (space, self._project(_flat(X[:, :, f])[kept], space)) for f, space in enumerate(spaces)
        ]

    def _terms(self, X: NDArray) -> Cells:
        cells = np.empty(X.shape[:3])
        for f, (space, bank) in enumerate(self.token_banks_):
            tokens = self._project(_flat(X[:, :, f]), space)
            cells[:, :, f] = self._nearest(tokens, bank, space).reshape(X.shape[:2])
        return [self._bands(X), cells]

    def _bands(self, X: NDArray) -> NDArray[np.float64]:
        """Return the distance of each band over the clip, of shape (n_clips, 1, n_freq)."""
        pooled = X.mean(axis=1)
        distances = np.empty((self.domain_of_clip_.max() + 1, *pooled.shape[:2]))
        for f, (space, bank) in enumerate(self.clip_banks_):
            queries = self._project(pooled[:, f], space)
            for domain, of_domain in enumerate(distances):
                references = bank[self.domain_of_clip_ == domain]
                of_domain[:, f] = self._nearest(queries, references, space)
        nearest = distances.mean(axis=2).argmin(axis=0)
        return distances[nearest, np.arange(len(X))][:, np.newaxis]

    def _distances(self, X: NDArray) -> NDArray[np.float64]:
        return self._bands(X).mean(axis=(1, 2))[:, np.newaxis]  # without cells, which take long

    def _clip_distances(self, cells: Cells, maps: NDArray) -> NDArray[np.float64]:
        return cells[0].mean(axis=(1, 2))


def _flat(tokens: NDArray) -> NDArray:
    return tokens.reshape(-1, tokens.shape[-1])
