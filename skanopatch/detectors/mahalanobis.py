"""MahalanobisDetector: distance to the mean of the normal clips, in units of their covariance."""

from collections.abc import Sequence
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize_scalar
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.utils._param_validation import Interval, StrOptions

from skanopatch.detectors.base import BaseDetector, Members, spreads_of
from skanopatch.feature_notes import SeenClips, notes_of

_LEAST_CLIPS = 2  # of a domain
# The Ledoit-Wolf shrinkage of a single feature is 0, where a constant one would be singular.
_LEAST_SHRINKAGE = 1e-7
# The likelihood of features that depend on others grows without end as the shrinkage falls.
_LEAST_LIKELY = 1e-3
_LEAST_KEPT = 1e-3  # of a feature's variance, without a clip


class MahalanobisDetector(BaseDetector):
    """Score a clip by its Mahalanobis distance to the nearest domain.

    Each domain has a mean and a covariance of its own, and the score is minus the least of the
    distances: the selective Mahalanobis distance of [1]_. A shrunk covariance makes it a
    detector for few clips, also for fewer than there are features.

    Embeddings of labelled clips know the classes that were told apart. Where `fit` is given no
    domains, these are: each clip is of the class that it sounds like.

    Parameters
    ----------
    shrinkage : "likelihood", "ledoit-wolf" or float, default="likelihood"
        How far the covariance is moved towards a multiple of the identity: so far that each clip
        is likeliest by the covariance of the others [2]_, by the estimate of [3]_, or by a number
        in (0, 1].

    standardize : bool, default=True
        Whether features are divided by their spread first, so that the covariance is moved
        towards a diagonal one and the units of the features do not matter. False suits
        features of one unit, whose differences in spread mean something.

    blocks : "auto" or sequence of int, default="auto"
        Sizes of blocks of features, in their order, between which the covariance is taken to be
        0. A network tells the clips that it was fine-tuned on from one another too well, and what
        it covaries with there is not what it covaries with on fresh clips. "auto" are the blocks
        that `X` knows of, where it comes from `AnoPatchEmbedder` and no step between made a plain
        array of it, or else one block. Their squared distances are added up in units of their
        spread, so that a large block does not drown a small one, see Notes.

    contamination : float, default=0.1
        The false-alarm rate wanted on fresh normal clips, in (0, 0.5].

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

    location_ : ndarray of shape (n_domains, n_features)
        The mean of each domain, in the order of first appearance.

    covariance_ : ndarray of shape (n_domains, n_features, n_features)
        The shrunk covariance of each domain, in the units of `X`.

    precision_ : ndarray of shape (n_domains, n_features, n_features)
        Inverse of `covariance_`, each block times its weight.

    shrinkage_ : tuple of float
        The shrinkage in use, of each block.

    block_sizes_ : tuple of int
        How many features each block has.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, where all are strings.

    Notes
    -----
    Ten target clips say little about a covariance, and are most often recordings of the machine
    that the source clips show. Before it is shrunk, the covariance of a domain of n clips is
    therefore averaged with the pooled covariance about the domain means, at weights n and
    `n_features`: the prior counts as many clips as a covariance of full rank needs.

    The squared distance of a block of n features is near to a chi-squared variable, which spreads
    by the root of 2 n. Equal weights would give a block of few features little say, and weights by
    the inverse root of n the same say as to one of many. Blocks are weighted halfway between, by
    the fourth root of the mean n over their n: a single block has the weight 1.

    Embeddings know classes where they come from a `SharedSubspace` or an `AnoPatchEmbedder` that
    learnt from labels, and no step between made a plain array of them. Up to 256 classes are taken
    for domains; of more, none. A class is one of the domains where it is nearest to two clips, and
    to half as many for each that it had in the training as the class of which there are most: a
    detector on clips of one unit has one domain, though now and then one of them sounds like
    another unit.

    The leave-one-out distances are in closed form, with the shrinkage held fixed. Leaving a clip
    out scales the covariances and subtracts a matrix of rank one, whose inverse is Sherman and
    Morrison's. So is what it does to the spread of each standardized feature by itself.

    References
    ----------
    .. [1] N. Harada et al., "First-shot anomaly sound detection for machine condition
       monitoring: a domain generalization baseline", EUSIPCO 2023, arXiv 2303.00455.
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
        "blocks": [StrOptions({"auto"}), tuple, list],
    }

    def __init__(
        self,
        shrinkage: float | str = "likelihood",
        *,
        standardize: bool = True,
        blocks: str | Sequence[int] = "auto",
        contamination: float = 0.1,
        threshold: str = "quantile",
    ):
        super().__init__(contamination=contamination, threshold=threshold)
        self.shrinkage = shrinkage
        self.standardize = standardize
        self.blocks = blocks

    def _validate_rows(self, X: ArrayLike, *, reset: bool) -> NDArray:
        rows = super()._validate_rows(X, reset=reset)
        if reset:
            n_features = rows.shape[1]
            if isinstance(self.blocks, str):
                notes = notes_of(X)
                self.block_sizes_ = (n_features,) if notes is None else notes.blocks
            else:
                self.block_sizes_ = tuple(self.blocks)
            are_sizes = all(isinstance(size, int | np.integer) for size in self.block_sizes_)
            if not are_sizes or sum(self.block_sizes_) != n_features or min(self.block_sizes_) < 1:
                raise ValueError(
                    "blocks must be integers of at least 1 that sum up to the number of features, "
                    f"{n_features}. Got {self.blocks!r} instead."
                )
        return rows

    def _domains_of(self, X: NDArray, seen: SeenClips) -> NDArray[np.intp] | None:
        return seen.nearest_classes(X, _LEAST_CLIPS)

    def _fit(self, X: NDArray, members: Members, as_new: NDArray) -> NDArray[np.float64]:
        self._check_domain_sizes(members, _LEAST_CLIPS)
        n_clips, n_features = X.shape
        domains = list(members.values())
        self.location_ = np.stack([X[rows].mean(axis=0, dtype=np.float64) for rows in domains])
        residuals = np.empty(X.shape)
        for rows, location in zip(domains, self.location_, strict=True):
            residuals[rows] = X[rows] - location
        spreads = spreads_of(residuals, X)
        residuals[:, spreads == 0] = 0
        scale = np.where(spreads > 0, spreads, 1) if self.standardize else np.ones(n_features)
        residuals /= scale
        locations, changes = self.location_ / scale, (as_new - X) / scale

        n_domains = len(domains)
        squared = np.zeros((n_clips, n_domains))
        shrinkages = []
        self.covariance_ = np.zeros((n_domains, n_features, n_features))
        self.precision_ = np.zeros((n_domains, n_features, n_features))
        stop = 0
        for size in self.block_sizes_:
            start, stop = stop, stop + size
            block = np.s_[start:stop]
            own = _Block(residuals[:, block], changes[:, block], locations[:, block], domains)
            shrinkages.append(own.shrinkage(self.shrinkage))
            units = np.outer(scale[block], scale[block])
            covariance, distances = own.fit(shrinkages[-1], is_standardized=self.standardize)
            self.covariance_[:, block, block] = covariance * units
            weight = (n_features / len(self.block_sizes_) / size) ** 0.25
            self.precision_[:, block, block] = weight * np.linalg.inv(covariance) / units
            squared += weight * distances
        self.shrinkage_ = tuple(shrinkages)
        return -np.sqrt(np.maximum(squared.min(axis=1), 0))

    def _score(self, X: NDArray) -> NDArray[np.float64]:
        squared = np.full(len(X), np.inf)
        for location, precision in zip(self.location_, self.precision_, strict=True):
            offset = X - location
            found = np.einsum("ij,ij->i", offset @ precision, offset)
            squared = np.minimum(squared, found)
        return -np.sqrt(np.maximum(squared, 0))


class _Block:
    """Features that covary, of clips in domains.

    Parameters
    ----------
    residuals : ndarray of shape (n_clips, n_features)
        Deviations from the mean of the own domain.
    changes : ndarray of shape (n_clips, n_features)
        What they are further from it when new.
    locations : ndarray of shape (n_domains, n_features)
        The means of the domains.
    domains : list of ndarray
        The rows of each domain.
    """

    def __init__(
        self, residuals: NDArray, changes: NDArray, locations: NDArray, domains: list[NDArray]
    ):
        self.residuals = residuals
        self.changes = changes
        self.locations = locations
        self.domains = domains

    def shrinkage(self, asked: float | str) -> float:
        """Return the shrinkage that the parameter of the detector asks for."""
        if asked == "likelihood":
            return _likeliest_shrinkage(self.residuals)
        if asked == "ledoit-wolf":
            found = float(ledoit_wolf_shrinkage(self.residuals, assume_centered=True))
            return max(found, _LEAST_SHRINKAGE)
        return float(asked)

    def fit(
        self, shrinkage: float, *, is_standardized: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the covariance of each domain, and each clip's squared distance to it without it.

        Returns
        -------
        covariance : ndarray of shape (n_domains, n_features, n_features)
        squared : ndarray of shape (n_clips, n_domains)
        """
        residuals, domains = self.residuals, self.domains
        n_clips, n_features = residuals.shape
        n = np.array([len(rows) for rows in domains])
        pooled = residuals.T @ residuals / n_clips
        own = np.stack([residuals[r].T @ residuals[r] / len(r) for r in domains])
        variance = np.trace(pooled) / n_features or 1.0
        target = shrinkage * variance * np.eye(n_features)
        # The weights of a domain's own covariance and of the pooled one.
        w_own = (1 - shrinkage) * n / (n + n_features)
        w_pooled = (1 - shrinkage) - w_own

        def mix(domain, own_factor=1.0, pooled_factor=1.0):
            return (
                w_own[domain] * own_factor * own[domain]
                + w_pooled[domain] * pooled_factor * pooled
                + target
            )

        covariance = np.stack([mix(domain) for domain in range(len(domains))])
        home = np.empty(n_clips, dtype=np.intp)
        for domain, rows in enumerate(domains):
            home[rows] = domain
        # Without a clip at d = x - m, the clip is n / (n - 1) d away from the new mean, the scatter
        # about it is less by n / (n - 1) d d^T, and one clip fewer divides it.
        grown = (n / (n - 1))[home]
        squared = np.empty((n_clips, len(domains)))
        for there, location in enumerate(self.locations):
            for is_home in (True, False):
                rows = np.flatnonzero((home == there) == is_home)
                if len(rows) == 0:  # no clip is away from the only domain
                    continue
                d, growth = residuals[rows], grown[rows]
                c = w_pooled[there] * growth / (n_clips - 1)
                if is_home:
                    own_factor = n[there] / (n[there] - 1)
                    c += w_own[there] * own_factor / (n[there] - 1)
                    y = own_factor * d
                else:
                    own_factor = 1.0
                    y = d + (self.locations[home[rows]] - location)
                A = mix(there, own_factor, n_clips / (n_clips - 1))
                y += self.changes[rows]
                factor = cho_factor(A)
                direction = _solve_without(factor, c, d, y)
                found = np.sum(y * direction, axis=1)
                if is_standardized:
                    # The target follows the features' variances, which lose the clip as well: a
                    # change of the diagonal, each entry of which is taken by itself.
                    change = (1 - growth[:, np.newaxis] * d**2) / (n_clips - 1) * target[0, 0]
                    inverse = np.diag(cho_solve(factor, np.eye(n_features)))
                    kept = np.maximum(1 + change * inverse, _LEAST_KEPT)
                    found -= np.sum(change / kept * direction**2, axis=1)
                squared[rows, there] = found
        return covariance, squared


def _likeliest_shrinkage(residuals: NDArray) -> float:
    """Return the shrinkage at which clips that were left out, one at a time, are likeliest.

    In the basis of the singular vectors each shrunk covariance is diagonal, and without a clip it
    is that less a matrix of rank one.
    """
    varying = residuals[:, residuals.any(axis=0)]
    n_clips, n_features = varying.shape
    if n_features == 0:
        return 1.0
    vectors, sizes, _ = np.linalg.svd(varying, full_matrices=False)
    squares = (vectors * sizes) ** 2
    variance = np.mean(varying**2)
    grown = n_clips / (n_clips - 1)

    def minus_log_likelihood(log_shrinkage):
        shrinkage = np.exp(log_shrinkage)
        own = (1 - shrinkage) * grown
        eigenvalues = own * sizes**2 / n_clips + shrinkage * variance
        distances = np.sum(squares / eigenvalues, axis=1)
        kept = np.maximum(1 - own / (n_clips - 1) * distances, _LEAST_SHRINKAGE)
        log_det = np.log(eigenvalues).sum() + np.log(kept)
        log_det += (n_features - len(sizes)) * np.log(shrinkage * variance)
        return np.mean(grown**2 * distances / kept + log_det)

    bounds = np.log(_LEAST_LIKELY), 0.0
    return float(np.exp(minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded").x))


def _solve_without(
    factor: tuple[NDArray, bool], c: NDArray, d: NDArray, y: NDArray
) -> NDArray[np.float64]:
    """Return (A - c d d^T)^-1 y for each of `c` and row of `d` and `y`, by Sherman and Morrison.

    `factor` is what `cho_factor` makes of A.
    """
    A_d = cho_solve(factor, d.T).T
    A_y = cho_solve(factor, y.T).T
    kept = np.maximum(1 - c * np.sum(d * A_d, axis=1), _LEAST_SHRINKAGE)
    return A_y + (c * np.sum(y * A_d, axis=1) / kept)[:, np.newaxis] * A_d
