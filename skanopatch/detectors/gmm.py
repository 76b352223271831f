"""GMMDetector: log-likelihood under a mixture of Gaussians."""

from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn import config_context
from sklearn.mixture import GaussianMixture
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skanopatch.detectors.base import BaseDetector, Members
from skanopatch.feature_notes import SeenClips

_LEAST_CLIPS_A_GAUSSIAN = 8  # of a class, for a mixture of its own


class GMMDetector(BaseDetector):
    """Score a clip by its log-likelihood under a Gaussian mixture of the normal clips.

    Features are first divided by their spread, and each domain has a mixture of its own. The
    score is the log-likelihood in nats, under the mixture that finds the clip most normal.

    Embeddings of labelled clips know the classes that were told apart. Where `fit` is given no
    domains, these are, if they have eight clips for each Gaussian.

    Parameters
    ----------
    n_components : int, default=2
        Gaussians per mixture. Each domain needs at least two clips for each.

    covariance_type : {"diag", "full"}, default="diag"
        Whether features are taken as independent within a Gaussian. "full" pays once there are
        many more clips than features; with fewer, `MahalanobisDetector` is the better choice.

    reg_covar : float, default=0.01
        Added to each variance, as a fraction of the feature's variance over all clips. It bounds
        the log-likelihood where a Gaussian holds fewer clips than there are features.

    contamination : float, default=0.1
        The false-alarm rate wanted on fresh normal clips, in (0, 0.5].

    threshold : {"quantile", "gamma"}, default="quantile"
        Place `offset_` at the `contamination` quantile of the leave-one-out training scores, or
        at that of a gamma distribution with their mean, spread and skewness, which needs fewer
        clips for a small `contamination`.

    random_state : int, RandomState instance or None, default=None
        Where the mixtures start from. Pass an int for the same fit each time.

    Attributes
    ----------
    offset_ : float
        The score below which a clip is an anomaly.

    training_scores_ : ndarray of shape (n_clips,)
        The leave-one-out score of each training clip; NaN for one that could not be read.

    location_, scale_ : ndarray of shape (n_features,)
        Mean and standard deviation of the features; the deviation of a constant feature is 1.

    mixtures_ : list of GaussianMixture
        The mixture of each domain, over standardized features.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, where all are strings.

    Notes
    -----
    To leave a clip out of its mixture, its weight is taken out of the last M-step in closed form,
    with all responsibilities and the standardization held fixed. Nothing is fitted again. The
    false-alarm rate comes out too high (0.12 for 0.1 was measured) where "full" Gaussians share
    one cluster, since their responsibilities would then change most.

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
        "reg_covar": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        covariance_type: str = "diag",
        reg_covar: float = 0.01,
        contamination: float = 0.1,
        threshold: str = "quantile",
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(contamination=contamination, threshold=threshold)
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.random_state = random_state

    def _domains_of(self, X: NDArray, seen: SeenClips) -> NDArray[np.intp] | None:
        return seen.nearest_classes(X, _LEAST_CLIPS_A_GAUSSIAN * self.n_components)

    def _fit(self, X: NDArray, members: Members, as_new: NDArray) -> NDArray[np.float64]:
        self._check_domain_sizes(
            members, 2 * self.n_components, f" with n_components={self.n_components}"
        )
        random_state = check_random_state(self.random_state)
        self.location_ = X.mean(axis=0, dtype=np.float64)
        spread = (X - self.location_).std(axis=0)
        self.scale_ = np.where(spread > 0, spread, 1)
        X = (X - self.location_) / self.scale_
        as_new = (as_new - self.location_) / self.scale_

        self.mixtures_ = []
        for rows in members.values():
            mixture = GaussianMixture(
                self.n_components,
                covariance_type=self.covariance_type,
                reg_covar=self.reg_covar,
                random_state=random_state.randint(np.iinfo(np.int32).max),
            )
            with config_context(array_api_dispatch=False):  # it starts from k-means, which has none
                self.mixtures_.append(mixture.fit(X[rows]))
        scores = np.full(len(X), -np.inf)
        for home, rows in enumerate(members.values()):
            for there, mixture in enumerate(self.mixtures_):
                if home == there:
                    found = _leave_one_out(mixture, X[rows], as_new[rows])
                else:
                    found = mixture.score_samples(as_new[rows])
                scores[rows] = np.maximum(scores[rows], found)
        return scores

    def _score(self, X: NDArray) -> NDArray[np.float64]:
        X = (X - self.location_) / self.scale_
        return np.max([mixture.score_samples(X) for mixture in self.mixtures_], axis=0)


def _leave_one_out(
    mixture: GaussianMixture, X: NDArray[np.float64], as_new: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the log-likelihood of each row of `as_new` under the mixture without that of `X`.

    For a Gaussian that holds weight N, mean m and covariance S (before `reg_covar` is added), and
    a clip of weight r at d = x - m, leaving the clip out gives

    * the weight N' = N - r,
    * the distance to the mean x - m' = d N / N', to which its change when new is added,
    * the covariance S' = N / N' S - N r / N'^2 d d^T.
    """
    n_clips, n_features = X.shape
    log_density = np.empty((mixture.n_components, n_clips))
    for k, r in enumerate(mixture.predict_proba(X).T):
        N = r.sum()
        rest = np.maximum(N - r, 1e-9)  # a Gaussian of this one clip vanishes with it
        grown = (N / rest)[:, np.newaxis]
        taken = N * r / rest**2
        d = X - r @ X / N
        y = grown * d + (as_new - X)
        if mixture.covariance_type == "diag":
            variance = grown * (r @ d**2 / N) - taken[:, np.newaxis] * d**2
            variance = np.maximum(variance, 0) + mixture.reg_covar
            log_det = np.log(variance).sum(axis=1)
            squared = np.sum(y**2 / variance, axis=1)
        else:
            # In the eigenvectors of S all but the rank-one term is diagonal, and that term is
            # Sherman-Morrison's for the inverse and the determinant.
            values, vectors = np.linalg.eigh((d * r[:, np.newaxis]).T @ d / N)
            variance = grown * np.maximum(values, 0) + mixture.reg_covar
            d, y = d @ vectors, y @ vectors
            kept = np.maximum(1 - taken * np.sum(d**2 / variance, axis=1), 1e-9)
            log_det = np.log(variance).sum(axis=1) + np.log(kept)
            squared = np.sum(y**2 / variance, axis=1)
            squared += taken * np.sum(d * y / variance, axis=1) ** 2 / kept
        log_density[k] = (
            np.log(rest / (n_clips - 1)) - (n_features * np.log(2 * np.pi) + log_det + squared) / 2
        )
    return logsumexp(log_density, axis=0)
