"""GMMDetector: how far a clip is from the peak of a mixture of Gaussians."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn import config_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skanopatch.detectors.base import BaseDetector, Members, spreads_of

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


class GMMDetector(BaseDetector):
    """Score a clip by its likelihood under a Gaussian mixture of the normal clips.

    Features are divided by their spread, and each domain has a mixture of its own. The distance of
    a clip is ``sqrt(2 (peak - log-likelihood))`` under the mixture for which it is least. The peak
    is the sum of the Gaussians' peaks, of the domain with the highest one: no likelihood is above
    it. For one Gaussian this is the Mahalanobis distance.

    Parameters
    ----------
    n_components : int, default=4
        Gaussians per mixture, at most half as many as a domain has clips.
    covariance_type : {"diag", "full"}, default="diag"
        "diag" takes features as independent within a Gaussian. "full" needs many more clips than
        features; with fewer, `MahalanobisDetector` is the better choice.
    reg_covar : "scott" or float, default="scott"
        Fraction of a feature's variance over all clips that is added to each variance of a
        Gaussian. It bounds the likelihood where a Gaussian has fewer clips than features. "scott"
        is the squared bandwidth of Scott's rule [1]_ for n clips of p features,
        ``n ** (-2 / (p + 4))``: near 1 where features are many.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` follows from the training scores, see :ref:`threshold-rules`.
    random_state : int, RandomState instance or None, default=None
        Initial values of the mixtures.

    Attributes
    ----------
    offset_, training_scores_, own_domain_scores_, session_weights_, domains_
        What every detector has, see :ref:`detector-attributes`.
    reg_covar_ : float
        The fraction in use.
    location_, scale_ : ndarray of shape (n_features,)
        Mean and standard deviation of the features; the deviation of a constant feature is 1.
    mixtures_ : list of GaussianMixture
        The mixture of each domain, over standardized features.

    References
    ----------
    .. [1] D. W. Scott, "Multivariate Density Estimation", Wiley 1992, eq. 6.42.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.detectors import GMMDetector
    >>> rng = np.random.default_rng(0)
    >>> normal = np.vstack([rng.normal(-3, 1, (100, 4)), rng.normal(3, 1, (100, 4))])
    >>> detector = GMMDetector(random_state=0).fit(normal)
    >>> detector.predict([[3, 3, 3, 3], [0, 0, 0, 0]])
    array([ 1, -1])
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions({"diag", "full"})],
        "reg_covar": [StrOptions({"scott"}), Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int = 4,
        *,
        covariance_type: str = "diag",
        reg_covar: float | str = "scott",
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(false_alarm_rate=false_alarm_rate, threshold=threshold)
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.random_state = random_state

    def _fit(self, X: NDArray, members: Members) -> None:
        from sklearn.mixture import GaussianMixture  # slow to import

        random_state = check_random_state(self.random_state)
        self.location_ = X.mean(axis=0, dtype=np.float64)
        spreads = spreads_of(X - self.location_, X)
        self.scale_ = np.where(spreads > 0, spreads, 1)
        X = (X - self.location_) / self.scale_
        n_clips, n_features = X.shape
        is_rule = isinstance(self.reg_covar, str)
        self.reg_covar_ = n_clips ** (-2 / (n_features + 4)) if is_rule else float(self.reg_covar)
        self.mixtures_ = []
        for rows in members.values():
            mixture = GaussianMixture(
                min(self.n_components, max(1, len(rows) // 2)),
                covariance_type=self.covariance_type,
                reg_covar=self.reg_covar_,
                random_state=random_state.randint(np.iinfo(np.int32).max),
            )
            with config_context(array_api_dispatch=False):  # it starts from k-means, which has none
                own = X[rows] if len(rows) > 1 else np.repeat(X[rows], 2, axis=0)
                self.mixtures_.append(mixture.fit(own))
        self.peak_ = max(map(_peak, self.mixtures_))

    def _terms(self, X: NDArray) -> NDArray[np.float64]:
        X = (X - self.location_) / self.scale_
        log_likelihoods = np.stack([m.score_samples(X) for m in self.mixtures_], axis=1)
        return np.sqrt(2 * np.maximum(self.peak_ - log_likelihoods, 0))


def _peak(mixture: GaussianMixture) -> float:
    """Return the logarithm of the sum of the Gaussians' densities, each at its own mean."""
    n_features = mixture.means_.shape[1]
    cholesky = mixture.precisions_cholesky_
    if mixture.covariance_type == "full":
        cholesky = np.diagonal(cholesky, axis1=1, axis2=2)
    log_peaks = np.log(cholesky).sum(axis=1) - n_features * np.log(2 * np.pi) / 2
    return float(logsumexp(np.log(mixture.weights_) + log_peaks))
