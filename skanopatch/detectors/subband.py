"""SubbandKNNDetector: one bank of normal tokens a frequency band."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skanopatch.detectors.base import Members
from skanopatch.detectors.maps import MapDetector


class SubbandKNNDetector(MapDetector):
    """Score a clip band by band, by the distance to the nearest normal clip in each.

    The tokens of a band are averaged over time. In each band the nearest normal clip is sought
    for itself, and the score is minus the mean of the distances over all bands: BEAM [1]_.
    A normal clip need not resemble one other clip in all bands, and a loud band counts no more
    than a quiet one.

    A cell of the map is as odd as its band over the whole clip and its own token together, each
    measured by its distance to the nearest normal one of that band.

    Parameters
    ----------
    n_freq : int, default=8
        Frequency bands of the tokens: ``n_mels // patch_size`` of the `MelPatcher`.

    metric : {"mahalanobis", "euclidean", "cosine"}, default="mahalanobis"
        The distance between tokens: Euclidean where they are whitened, band by band, with a
        shrunk covariance [2]_; Euclidean as they are; or cosine, BEAM's, which suits tokens of
        large networks.

    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5]; also how many
        have a cell above 1.

    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` and the 1 of maps are placed among the training clips' scores and highest
        cells, see `skanopatch.detectors.thresholds.place_threshold`.

    Attributes
    ----------
    offset_ : float
        The score below which a clip is an anomaly.

    training_scores_ : ndarray of shape (n_clips,)
        The score of each training clip when it is left out of the fit; NaN for one that could not
        be read.

    own_domain_scores_ : ndarray of shape (n_clips,)
        The same, compared with the clip's own domain.

    session_weights_ : ndarray of shape (n_clips,)
        What each training clip counts: 1, or 1 over the clips of its session.

    band_median_, band_iqr_ : ndarray of shape (2, n_freq)
        Median and quartile range over normal clips of ``log(1 + d)``, where d are the distances
        that a cell is made of: that of the band over the clip, and that of the token.

    level_ : float
        The sum of both, in quartile ranges about the median, that is 1 in a map.

    n_features_in_ : int
        Dimensions of a token.

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
    >>> normal = rng.normal(size=(50, 5 * 8, 4))
    >>> odd = rng.normal(size=(1, 5 * 8, 4))
    >>> odd[0, 2 * 8 + 6] += 9  # at the third moment, in the seventh band
    >>> anomaly_map = SubbandKNNDetector(n_freq=8).fit(normal).anomaly_map(odd)[0]
    >>> anomaly_map.shape
    (5, 8)
    >>> [int(i) for i in np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)]
    [2, 6]
    """

    def _fit(self, X: NDArray, members: Members) -> None:
        self._domain_of_clip = np.empty(len(X), dtype=np.intp)
        for domain, rows in enumerate(members.values()):
            self._domain_of_clip[rows] = domain
        pooled, flat = X.mean(axis=1), [_flat(X[:, :, f]) for f in range(X.shape[2])]
        self._clip_spaces, self._token_spaces = [], []
        self._clip_banks, self._token_banks = [], []
        for f, tokens in enumerate(flat):
            self._clip_spaces.append(self._fit_space(pooled[:, f]))
            self._clip_banks.append(self._project(pooled[:, f], self._clip_spaces[f]))
            self._token_spaces.append(self._fit_space(tokens))
            self._token_banks.append(self._project(tokens, self._token_spaces[f]))

    def _cells(self, X: NDArray) -> list[NDArray[np.float64]]:
        cells = np.empty(X.shape[:3])
        for f, (space, bank) in enumerate(zip(self._token_spaces, self._token_banks, strict=True)):
            found = self._nearest(self._project(_flat(X[:, :, f]), space), bank)
            cells[:, :, f] = found.reshape(X.shape[:2])
        return [self._bands(X), cells]

    def _bands(self, X: NDArray) -> NDArray[np.float64]:
        """Return the distance of each band over the clip, of shape (n_clips, 1, n_freq)."""
        pooled = X.mean(axis=1)
        n_domains = self._domain_of_clip.max() + 1
        of_domains = np.empty((n_domains, *pooled.shape[:2]))
        for f, (space, bank) in enumerate(zip(self._clip_spaces, self._clip_banks, strict=True)):
            queries = self._project(pooled[:, f], space)
            for domain in range(n_domains):
                references = bank[self._domain_of_clip == domain]
                of_domains[domain, :, f] = self._nearest(queries, references)
        return _best_domain(of_domains)

    def _distances(self, X: NDArray) -> NDArray[np.float64]:
        return self._bands(X).mean(axis=(1, 2))[:, np.newaxis]  # without the cells, which take long

    def _clip_distances(
        self, cells: list[NDArray[np.float64]], maps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return cells[0].mean(axis=(1, 2))


def _flat(tokens: NDArray) -> NDArray:
    return tokens.reshape(-1, tokens.shape[-1])


def _best_domain(distances: NDArray) -> NDArray[np.float64]:
    """Return the bands (n_clips, 1, n_freq) of the domain that finds each clip most normal."""
    best = distances.mean(axis=2).argmin(axis=0)
    return distances[best, np.arange(distances.shape[1])][:, np.newaxis]
