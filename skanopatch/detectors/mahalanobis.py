"""MahalanobisDetector: distance to the mean of the normal clips, in units of their covariance."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.utils._param_validation import Interval, StrOptions

from skanopatch.detectors.base import BaseDetector, Members, spreads_of
from skanopatch.detectors.thresholds import JointDistance

# The Ledoit-Wolf shrinkage of a single feature is 0, where a constant one would be singular.
_LEAST_SHRINKAGE = 1e-7
# The likelihood of features that depend on others grows without end as the shrinkage falls.
_LEAST_LIKELY = 1e-3
_LEAST_KEPT = 1e-7
_ROUNDING = 1e-9  # of the largest deviation of a direction
_SHARE_OF_DIRECTIONS = 0.9  # in which the clips of a fit vary; so many of new clips hold for sure


class MahalanobisDetector(BaseDetector):
    """Score a clip by its Mahalanobis distance to the nearest domain.

    Domains (units, operating states, source and target) have means of their own and share a
    covariance. Where clips are fewer than features, no covariance holds in all directions. The
    score therefore joins two distances, each in units of its spread over clips that were left out:

    * by the covariance of the leading principal components, which is the domain's own as far as
      its clips suffice: Hotelling's T² [1]_;
    * with fewer clips than features, the length of what these components do not explain, the
      squared prediction error Q of process monitoring [1]_; with more, by the shared covariance of
      all features, shrunk towards a multiple of the identity.

    Parameters
    ----------
    shrinkage : "likelihood", "ledoit-wolf" or float, default="likelihood"
        How far the covariance is moved towards a multiple of the identity: so far that each clip
        is likeliest by the covariance of the others [2]_, by the estimate of [3]_, or by a number
        in (0, 1]. It matters where clips are more than features.

    standardize : bool, default=True
        Whether features are divided by their spread within the domains first, so that the units of
        the features do not matter. False suits features of one unit, whose differences in spread
        mean something.

    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].

    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` is placed among the training scores, see
        `skanopatch.detectors.thresholds.place_threshold`.

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

    domains_ : list
        The domains in the order of first appearance.

    location_ : ndarray of shape (n_domains, n_features)
        The mean of each domain.

    scale_ : ndarray of shape (n_features,)
        What features are divided by; 1 for constant ones.

    components_ : ndarray of shape (rank, n_features)
        Principal components of the scaled deviations from the means, orthonormal.

    explained_variance_ : ndarray of shape (rank,)
        The variance of the training clips along each.

    n_components_ : int
        How many leading components Hotelling's T² takes.

    shrinkage_ : float
        The shrinkage in use.

    term_weights_ : ndarray of shape (3,)
        The share of each distance in the logarithm of the joint one: by the shrunk covariance, T²
        and Q. One of the first and the last is 0.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, where all are strings.

    Notes
    -----
    Of n clips of p features and of C domains, T² takes the least of ``0.9 n - C`` components, of
    p, and of the larger of ``n / 2`` and ``n p / (n + p)``. With few clips that is nearly all in
    which they vary, with more than 2 p clips it is all there are. The covariance of a domain of m
    clips along k components is the mean of its own and of the shared one, at the weights m and k:
    the prior counts as many clips as a covariance of full rank needs.

    The score is minus the joint distance, see `skanopatch.detectors.thresholds.JointDistance`: 1 is
    a typical normal clip.

    References
    ----------
    .. [1] J. E. Jackson and G. S. Mudholkar, "Control procedures for residuals associated with
       principal component analysis", Technometrics 21(3), 1979.
    .. [2] J. P. Hoffbeck and D. A. Landgrebe, "Covariance matrix estimation and classification with
       limited training data", IEEE Transactions on Pattern Analysis and Machine Intelligence
       18(7), 1996.
    .. [3] O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance
       matrices", Journal of Multivariate Analysis 88(2), 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.detectors import MahalanobisDetector
    >>> normal = np.random.default_rng(0).normal(size=(100, 4)) * [1, 10, 100, 1000]
    >>> detector = MahalanobisDetector().fit(normal)
    >>> detector.predict([[1, 10, 100, 1000], [9, 0, 0, 0]])
    array([ 1, -1])
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "shrinkage": [
            StrOptions({"likelihood", "ledoit-wolf"}),
            Interval(Real, 0, 1, closed="right"),
        ],
        "standardize": ["boolean"],
    }

    def __init__(
        self,
        shrinkage: float | str = "likelihood",
        *,
        standardize: bool = True,
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
    ):
        super().__init__(false_alarm_rate=false_alarm_rate, threshold=threshold)
        self.shrinkage = shrinkage
        self.standardize = standardize

    def _fit(self, X: NDArray, members: Members) -> None:
        n_clips, n_features = X.shape
        domains = list(members.values())
        self.location_ = np.stack([X[rows].mean(axis=0, dtype=np.float64) for rows in domains])
        residuals = np.empty(X.shape)
        for rows, location in zip(domains, self.location_, strict=True):
            residuals[rows] = X[rows] - location
        spreads = spreads_of(residuals, X)
        residuals[:, spreads == 0] = 0
        self.scale_ = np.where(spreads > 0, spreads, 1) if self.standardize else np.ones(n_features)
        residuals /= self.scale_

        vectors, sizes, components = np.linalg.svd(residuals, full_matrices=False)
        n_free = max(1, n_clips - len(domains))
        rank = min(int(np.sum(sizes > _ROUNDING * sizes[0])), n_free)
        vectors, sizes = vectors[:, :rank], sizes[:rank]
        self.components_ = components[:rank]
        self.explained_variance_ = sizes**2 / n_clips
        self.shrinkage_ = self._choose_shrinkage(residuals, vectors * sizes)
        self._variance = float(np.mean(residuals**2)) or 1.0

        n_shared = max(n_clips / 2, n_clips * n_features / (n_clips + n_features))
        n_most = min(_SHARE_OF_DIRECTIONS * n_clips - len(domains), n_shared)
        self.n_components_ = k = min(rank, max(1, int(n_most)))
        # Along the components, in units of their deviations, the shared covariance is the identity.
        along = vectors[:, :k] * np.sqrt(n_clips)
        self._precisions = np.empty((len(domains), k, k))
        for domain, rows in enumerate(domains):
            own = len(rows) / (len(rows) + k) if len(domains) > 1 else 0.0
            covariance = own * along[rows].T @ along[rows] / len(rows) + (1 - own) * np.eye(k)
            self._precisions[domain] = np.linalg.inv(covariance)
        self._has_rest = n_free < n_features

    def _choose_shrinkage(self, residuals: NDArray, projected: NDArray) -> float:
        if self.shrinkage == "likelihood":
            return _likeliest_shrinkage(projected, residuals.shape[1])
        if self.shrinkage == "ledoit-wolf" and len(residuals) == 1:
            return 1.0
        if self.shrinkage == "ledoit-wolf":
            found = float(ledoit_wolf_shrinkage(residuals, assume_centered=True))
            return max(found, _LEAST_SHRINKAGE)
        return float(self.shrinkage)

    def _terms(self, X: NDArray) -> NDArray[np.float64]:
        """Return the distances of each clip to each domain, (n_clips, n_domains, 3)."""
        k, floor = self.n_components_, self.shrinkage_ * self._variance
        shrunk = (1 - self.shrinkage_) * self.explained_variance_ + floor
        deviations = np.sqrt(self.explained_variance_[:k])
        terms = np.empty((len(X), len(self.location_), 3))
        for domain, location in enumerate(self.location_):
            offset = (X - location) / self.scale_
            along = offset @ self.components_.T
            rest = offset - along @ self.components_
            outside = np.einsum("ij,ij->i", rest, rest)
            terms[:, domain, 0] = np.sum(along**2 / shrunk, axis=1) + outside / floor
            leading = along[:, :k] / deviations
            terms[:, domain, 1] = np.einsum("ij,ij->i", leading @ self._precisions[domain], leading)
            terms[:, domain, 2] = outside + np.sum(along[:, k:] ** 2, axis=1)
        return np.sqrt(np.maximum(terms, 0))

    def _distances(self, X: NDArray) -> NDArray[np.float64]:
        terms = self._terms(X)
        return self._joint(terms) if hasattr(self, "_joint") else terms

    def _join_left_out(
        self, distances: NDArray, home: NDArray[np.intp], weights: NDArray
    ) -> NDArray[np.float64]:
        own = distances[np.arange(len(home)), home]
        own[:, 0 if self._has_rest else 2] = 1.0  # does not vary, so that it gets no weight
        self._joint = JointDistance(own, weights)
        self.term_weights_ = self._joint.weights
        return self._joint(distances)


def _likeliest_shrinkage(projected: NDArray, n_features: int) -> float:
    """Return the shrinkage at which clips that are left out, one at a time, are likeliest.

    Along the principal components each shrunk covariance is diagonal, and without a clip it is
    that less a matrix of rank one.

    Parameters
    ----------
    projected : ndarray of shape (n_clips, rank)
        Deviations from the mean along the principal components.
    n_features : int
        Of which the components explain all variance.
    """
    n_clips, rank = projected.shape
    if rank == 0:
        return 1.0
    squares = projected**2
    eigenvalues = squares.mean(axis=0)
    variance = eigenvalues.sum() / n_features
    grown = n_clips / (n_clips - 1)

    def minus_log_likelihood(log_shrinkage):
        shrinkage = np.exp(log_shrinkage)
        own = (1 - shrinkage) * grown
        shrunk = own * eigenvalues + shrinkage * variance
        distances = np.sum(squares / shrunk, axis=1)
        kept = np.maximum(1 - own / (n_clips - 1) * distances, _LEAST_KEPT)
        log_det = np.log(shrunk).sum() + np.log(kept)
        log_det += (n_features - rank) * np.log(shrinkage * variance)
        return np.mean(grown**2 * distances / kept + log_det)

    bounds = np.log(_LEAST_LIKELY), 0.0
    return float(np.exp(minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded").x))
