"""KNNDetector: distance to the nearest of a bank of normal embeddings."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skanopatch.detectors.base import BaseDetector, Members, rows_by_label, spreads_of
from skanopatch.detectors.search import Bank, find_nearest, prepare

_SMOTE_NEIGHBORS = 5  # as in the paper on SMOTE
_LEAST_DENSITY = 1e-6  # of a bank's largest: that of copies of a clip would be 0


class KNNDetector(BaseDetector):
    """Score a clip by its distance to the nearest normal clips.

    Each domain has a bank of references: its normal clips. The score of a clip is minus the mean
    distance to its `n_neighbors` nearest references of one bank, the bank where that is least.

    Parameters
    ----------
    n_neighbors : int, default=1
        Number of references that a clip is compared with.
    metric : {"cosine", "euclidean"}, default="cosine"
        The distance between embeddings. The cosine distance from a vector of zeros, which has no
        direction, is 0 to another such vector and 1 to all others.
    standardize : bool, default=False
        Whether features are divided by their spread within the domains first. Features of
        different units need it.
    normalization : {"local_density", "variance_min"} or None, default=None
        Makes distances to references of dense and of sparse regions comparable. "local_density"
        divides the distance to a reference by the mean distance from that reference to its
        `n_density_neighbors` nearest others of the bank [1]_. "variance_min" subtracts `alpha_`
        times the distance from the reference to its nearest others. The nearest references are
        then those of least normalized distance.
    n_density_neighbors : int, default=8
        Neighbours by which "local_density" is measured, usually 4 to 16; at most half of a bank.
    smote : float or None, default=None
        Size in (0, 1], relative to the largest bank, to which smaller banks are enlarged: SMOTE
        [2]_ adds points between neighbouring clips of a domain, so that distances to few target
        clips compare with those to many source clips. None adds nothing. It needs imbalanced-learn
        and excludes `normalization`, which would measure the density of the added points.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` follows from the training scores, see :ref:`threshold-rules`.
    random_state : int, RandomState instance or None, default=None
        Draws the points of `smote`.

    Attributes
    ----------
    offset_, training_scores_, own_domain_scores_, session_weights_, domains_
        What every detector has, see :ref:`detector-attributes`.
    scale_ : ndarray of shape (n_features,)
        What features are divided by.
    banks_ : list of ndarray of shape (n_references, n_features) or (n_references, n_features + 1)
        The references of each domain, in the dtype of `X`; for "cosine" of unit length, with one
        more coordinate that is 1 for a vector of zeros. Points of SMOTE come last.
    densities_ : list of ndarray of shape (n_references,)
        Mean distance of each reference to its nearest others, by which `normalization` divides or
        of which it subtracts a part; 1 without normalization.
    alpha_ : float
        Factor of "variance_min" that leaves the training scores the least variance: Cov / Var of
        the leave-one-out distances of training clips and of their nearest references. Else 0.

    Notes
    -----
    The search is exhaustive and exact, in chunks of scikit-learn's `working_memory`. A reference
    that differs from a clip by rounding only is skipped, so that a clip of `fit` is compared with
    the others.

    References
    ----------
    .. [1] K. Wilkinghoff et al., "Local density-based anomaly score normalization for domain
       generalization", 2025, arXiv 2509.10951.
    .. [2] N. V. Chawla et al., "SMOTE: synthetic minority over-sampling technique", Journal of
       Artificial Intelligence Research 16, 2002.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.detectors import KNNDetector
    >>> normal = np.random.default_rng(0).normal(size=(200, 8)) + 3
    >>> detector = KNNDetector().fit(normal)
    >>> detector.predict([normal[0], -normal[0]])
    array([ 1, -1])
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "metric": [StrOptions({"cosine", "euclidean"})],
        "standardize": ["boolean"],
        "normalization": [StrOptions({"local_density", "variance_min"}), None],
        "n_density_neighbors": [Interval(Integral, 1, None, closed="left")],
        "smote": [Interval(Real, 0, 1, closed="right"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_neighbors: int = 1,
        *,
        metric: str = "cosine",
        standardize: bool = False,
        normalization: str | None = None,
        n_density_neighbors: int = 8,
        smote: float | None = None,
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(false_alarm_rate=false_alarm_rate, threshold=threshold)
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.standardize = standardize
        self.normalization = normalization
        self.n_density_neighbors = n_density_neighbors
        self.smote = smote
        self.random_state = random_state

    @property
    def _least_clips(self) -> int:  # type: ignore[override]
        # One clip is left out, a normalization compares two, and SMOTE adds points between two.
        least = self.n_neighbors + (1 if self.normalization is None else 2)
        return least if self.smote is None else max(least, 3)

    def _check_domain_sizes(self, members: Members) -> None:
        if self.smote is not None and self.normalization is not None:
            raise ValueError(
                f"smote={self.smote} and normalization={self.normalization!r} exclude each other: "
                "the density would be that of the points that SMOTE adds. Set one of them to None."
            )
        super()._check_domain_sizes(members)

    @property
    def banks_(self) -> list[NDArray]:
        """The references of each domain."""
        return [bank.rows for bank in self._banks]

    def _fit(self, X: NDArray, members: Members) -> None:
        largest = max(map(len, members.values()))
        size = 0 if self.smote is None else round(self.smote * largest)
        random_state = check_random_state(self.random_state)
        self.scale_ = np.ones(X.shape[1], dtype=X.dtype)
        if self.standardize:
            residuals = np.concatenate(
                [X[rows] - X[rows].mean(axis=0, dtype=np.float64) for rows in members.values()]
            )
            spreads = spreads_of(residuals, X)
            self.scale_ = np.where(spreads > 0, spreads, 1).astype(X.dtype)
        clips = [X[rows] / self.scale_ for rows in members.values()]
        enlarged = [_enlarge(own, size, random_state) for own in clips]
        self._banks = [Bank(prepare(own, self.metric)) for own in enlarged]
        self.alpha_ = 0.0
        self.densities_ = [np.ones(len(bank)) for bank in self._banks]
        if self.normalization is None or min(map(len, self._banks)) < 2:
            return
        neighbors = [self._search_others(bank) for bank in self._banks]
        self.densities_ = [distances[:, :-1].mean(axis=1) for distances, _ in neighbors]
        if self.normalization == "local_density":
            self.densities_ = [
                np.maximum(density, _LEAST_DENSITY * density.max() or 1.0)
                for density in self.densities_
            ]
        else:
            self.alpha_ = _variance_minimizing_alpha(neighbors)

    def _left_out_terms(self, X: NDArray, domains: list, folds: list) -> NDArray[np.float64]:
        members = rows_by_label(domains, len(X))
        fold_of = np.empty(len(X), dtype=np.intp)
        for fold, (_, left_out) in enumerate(folds):
            fold_of[left_out] = fold
        least = min(len(rows) - np.bincount(fold_of[rows]).max() for rows in members.values())
        is_plain = self.normalization is None and self.smote is None and not self.standardize
        if not is_plain or least < self.n_neighbors + 2:
            return super()._left_out_terms(X, domains, folds)
        # Clips that are left out change nothing but who is a neighbour: one search for all folds.
        queries = prepare(X, self.metric)
        distances = np.empty((len(X), len(members)))
        for domain, (bank, rows) in enumerate(zip(self._banks, members.values(), strict=True)):
            apart = (fold_of, fold_of[rows])
            nearest, _ = find_nearest(
                queries, bank, self.n_neighbors, metric=self.metric, folds=apart, skip_self=True
            )
            distances[:, domain] = nearest.mean(axis=1)
        return distances

    def _search_others(self, bank: Bank) -> tuple[NDArray, NDArray]:
        """Return the neighbours of each reference, one more than its density needs."""
        is_local = self.normalization == "local_density"
        size = self.n_density_neighbors if is_local else self.n_neighbors
        size = max(1, min(size, len(bank) // 2))
        n_others = min(size + 1, len(bank) - 1)
        rows = np.arange(len(bank))
        others = find_nearest(bank.rows, bank, n_others, metric=self.metric, folds=(rows, rows))
        if n_others > size:
            return others
        distances, neighbors = (np.hstack([part, part[:, -1:]]) for part in others)
        return distances, neighbors

    def _terms(self, X: NDArray) -> NDArray[np.float64]:
        queries = prepare(X / self.scale_, self.metric)
        distances = np.empty((len(X), len(self._banks)))
        for domain, (bank, density) in enumerate(zip(self._banks, self.densities_, strict=True)):
            nearest, _ = find_nearest(
                queries,
                bank,
                min(self.n_neighbors, len(bank)),
                metric=self.metric,
                normalize=None if self.normalization is None else self._normalization(density),
                skip_self=True,
            )
            distances[:, domain] = nearest.mean(axis=1)
        return distances

    def _normalization(self, density: NDArray):
        if self.normalization == "local_density":
            return lambda distances, references: distances / density[references]
        return lambda distances, references: distances - self.alpha_ * density[references]


def _enlarge(X: NDArray, size: int, random_state: np.random.RandomState) -> NDArray:
    """Append points of SMOTE to the rows of `X`, until there are `size` rows."""
    if size <= len(X) or len(X) < 2:
        return X
    try:
        from imblearn.over_sampling import SMOTE
    except ImportError as error:
        raise ImportError(
            "KNNDetector(smote=...) needs imbalanced-learn: pip install 'skanopatch[smote]'."
        ) from error
    # imbalanced-learn needs a second class, which it does not change: one row, removed afterwards.
    sampler = SMOTE(
        sampling_strategy={1: size},
        k_neighbors=min(_SMOTE_NEIGHBORS, len(X) - 1),
        random_state=random_state,
    )
    labels = np.arange(len(X) + 1) > 0
    return sampler.fit_resample(np.concatenate([X[:1], X]), labels.astype(int))[0][1:]


def _variance_minimizing_alpha(neighbors: list[tuple[NDArray, NDArray]]) -> float:
    """Return Cov(d, r) / Var(r): d is a clip's distance, r that of its nearest references."""
    own, nearest = [], []
    for distances, references in neighbors:
        size = distances.shape[1] - 1
        own.append(distances[:, :size].mean(axis=1))
        others = references[:, :size]
        rows = np.arange(len(references))[:, np.newaxis, np.newaxis]
        is_clip = references[others][:, :, :size] == rows
        # Distances of a reference to its neighbours; if the clip is one, the next takes its place.
        without = np.where(is_clip, distances[others][:, :, -1:], distances[others][:, :, :size])
        nearest.append(without.mean(axis=(1, 2)))
    variance = np.concatenate(nearest).var()
    if variance == 0:
        return 0.0
    covariance = np.cov(np.concatenate(own), np.concatenate(nearest), bias=True)[0, 1]
    return float(covariance / variance)
