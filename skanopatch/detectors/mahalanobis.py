"""MahalanobisDetector: distance to the mean of the normal clips, in units of their covariance."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.utils._param_validation import Interval, StrOptions

from skanopatch.detectors.base import BaseDetector, Members, spreads_of
from skanopatch.detectors.thresholds import JointDistance

# Ledoit and Wolf's shrinkage of a single feature is 0: the covariance may be singular.
_LEAST_SHRINKAGE = 1e-7
# With features that depend on each other, the likelihood grows without limit towards 0.
_LEAST_LIKELY_SHRINKAGE = 1e-3
_ROUNDING = 1e-9  # relative to the largest singular value
# Of the directions in which training clips vary; the variance along the others is noise.
_SHARE_OF_DIRECTIONS = 0.9


class MahalanobisDetector(BaseDetector):
    """Score a clip by its Mahalanobis distance to the nearest domain.

    Domains (units, operating states, source and target) have means of their own and share a
    covariance. With fewer clips than features the covariance is not known in all directions. The
    score therefore joins two distances, each in units of its spread over left-out clips:

    * Hotelling's T² [1]_: the distance by the covariance of the leading principal components;
    * with fewer clips than features, the squared prediction error Q [1]_: the length of what these
      components do not explain; with more clips, the distance by the covariance of all features,
      shrunk towards a multiple of the identity.

    Parameters
    ----------
    shrinkage : "likelihood", "ledoit-wolf" or float, default="likelihood"
        Weight of the multiple of the identity: the one that gives left-out clips the greatest
        likelihood [2]_, the estimate of [3]_, or a number in (0, 1]. Only used with more clips than
        features.
    standardize : bool, default=True
        Whether features are divided by their spread within the domains first, so that their units
        do not matter.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` follows from the training scores, see :ref:`threshold-rules`.

    Attributes
    ----------
    offset_, training_scores_, own_domain_scores_, session_weights_, domains_
        What every detector has, see :ref:`detector-attributes`.
    location_ : ndarray of shape (n_domains, n_features)
        The mean of each domain.
    scale_ : ndarray of shape (n_features,)
        Spread of each feature within the domains; 1 for constant ones.
    components_ : ndarray of shape (rank, n_features)
        Principal components of the scaled deviations from the means, orthonormal.
    explained_variance_ : ndarray of shape (rank,)
        Variance of the training clips along each component.
    n_components_ : int
        Number of leading components in Hotelling's T².
    shrinkage_ : float
        The weight of the multiple of the identity.
    term_weights_ : ndarray of shape (3,)
        Weights of the logarithms of the distances in that of the joint one: the distance by the
        shrunk covariance, T², and Q. The first or the last is 0.

    Notes
    -----
    With n clips, p features and C domains, the number of leading components is the least of
    ``0.9 n - C``, p, and the larger of ``n / 2`` and ``n p / (n + p)``. Along these k components,
    the covariance of a domain of m clips is the mean of its own and of the shared one with the
    weights m and k. The score is minus the weighted geometric mean of the distances, which is 1 for
    a typical normal clip; :ref:`mahalanobis` has the reasons.

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
        self.variance_ = float(np.mean(residuals**2)) or 1.0

        n_shared = max(n_clips / 2, n_clips * n_features / (n_clips + n_features))
        n_most = min(_SHARE_OF_DIRECTIONS * n_clips - len(domains), n_shared)
        self.n_components_ = k = min(rank, max(1, int(n_most)))
        # Along the components, in units of their deviations, the shared covariance is the identity.
        along = vectors[:, :k] * np.sqrt(n_clips)
        self.precisions_ = np.empty((len(domains), k, k))
        for domain, rows in enumerate(domains):
            own = len(rows) / (len(rows) + k) if len(domains) > 1 else 0.0
            covariance = own * along[rows].T @ along[rows] / len(rows) + (1 - own) * np.eye(k)
            self.precisions_[domain] = np.linalg.inv(covariance)
        self._has_rest = n_free < n_features

    def _choose_shrinkage(self, residuals: NDArray, projected: NDArray) -> float:
        if self.shrinkage == "likelihood":
            return _likeliest_shrinkage(projected, residuals.shape[1])
        if self.shrinkage == "ledoit-wolf" and len(residuals) == 1:
            return 1.0
        if self.shrinkage == "ledoit-wolf":
            from sklearn.covariance import ledoit_wolf_shrinkage  # slow to import

            shrinkage = float(ledoit_wolf_shrinkage(residuals, assume_centered=True))
            return max(shrinkage, _LEAST_SHRINKAGE)
        return float(self.shrinkage)

    def _terms(self, X: NDArray) -> NDArray[np.float64]:
        """Return the distances of each clip to each domain, (n_clips, n_domains, 3)."""
        k, floor = self.n_components_, self.shrinkage_ * self.variance_
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
            terms[:, domain, 1] = np.einsum("ij,ij->i", leading @ self.precisions_[domain], leading)
            terms[:, domain, 2] = outside + np.sum(along[:, k:] ** 2, axis=1)
        return np.sqrt(terms)

    def _learn_to_join(self, own_terms: NDArray, weights: NDArray) -> None:
        own_terms[:, 0 if self._has_rest else 2] = 1.0  # a constant term gets the weight 0
        self.joint_ = JointDistance(own_terms, weights)
        self.term_weights_ = self.joint_.weights

    def _join(self, terms: NDArray) -> NDArray[np.float64]:
        return self.joint_(terms)


def _likeliest_shrinkage(projected: NDArray, n_features: int) -> float:
    """Return the shrinkage for which each clip, left out by itself, has the greatest likelihood.

    `projected` (n_clips, rank) are deviations from the mean along the principal components, where
    the shrunk covariance is diagonal. Leaving out a clip subtracts a matrix of rank one from it.
    """
    n_clips, rank = projected.shape
    if rank == 0:
        return 1.0
    squares = projected**2
    eigenvalues = squares.mean(axis=0)
    variance = eigenvalues.sum() / n_features
    growth = n_clips / (n_clips - 1)

    def minus_log_likelihood(log_shrinkage):
        shrinkage = np.exp(log_shrinkage)
        own = (1 - shrinkage) * growth
        shrunk = own * eigenvalues + shrinkage * variance
        distances = np.sum(squares / shrunk, axis=1)
        # 1 - leverage is at least shrinkage / n_features, if one clip alone spans a direction.
        remainders = 1 - own / (n_clips - 1) * distances
        log_det = np.log(shrunk).sum() + np.log(remainders)
        log_det += (n_features - rank) * np.log(shrinkage * variance)
        return np.mean(growth**2 * distances / remainders + log_det)

    bounds = np.log(_LEAST_LIKELY_SHRINKAGE), 0.0
    return float(np.exp(minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded").x))
