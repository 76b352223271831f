"""KNNDetector: distance to the nearest of a bank of normal embeddings."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skanopatch.detectors.base import BaseDetector, Members
from skanopatch.detectors.search import as_distance, find_nearest, prepare

# As in the paper, unless there are fewer clips.
_SMOTE_NEIGHBORS = 5


class KNNDetector(BaseDetector):
    """Score a clip by its distance to the nearest normal clips.

    Each domain has a bank of its own. The score of a clip is minus the mean distance to its
    `n_neighbors` nearest references in a bank, for the bank that finds it most normal.

    Parameters
    ----------
    n_neighbors : int, default=1
        How many references of a bank a clip is compared with.

    metric : {"cosine", "euclidean"}, default="cosine"
        The distance between embeddings. The cosine distance from a vector of zeros, which has no
        direction, is 0 to another such vector and 1 to all others.

    normalization : {"local_density", "variance_min"} or None, default=None
        What makes references of crowded and of sparse regions comparable. With "local_density"
        the distance to a reference is divided by the mean distance from that reference to its
        `n_density_neighbors` nearest others of the bank [1]_. With "variance_min" a fraction
        `alpha_` of the reference's own leave-one-out distance is subtracted from it: the one that
        leaves the training scores the least variance. The nearest references are then those of
        least normalized distance.

    n_density_neighbors : int, default=8
        Size of the neighbourhood of "local_density"; 4 to 16 is usual. A bank of n references
        uses n - 2 if that is less. Ignored by the other normalizations.

    smote : float or None, default=None
        Size in (0, 1], relative to the largest bank, to which the smaller ones are enlarged: SMOTE
        [2]_ adds points between neighbouring clips of a domain, so that distances to few target
        clips compare with those to many source clips. None adds nothing; nor does a number
        without `domains`. It needs imbalanced-learn, and excludes `normalization`, which would
        measure the density of the points made up.

    contamination : float, default=0.1
        The false-alarm rate wanted on fresh normal clips, in (0, 0.5].

    threshold : {"quantile", "gamma"}, default="quantile"
        Place `offset_` at the `contamination` quantile of the leave-one-out training scores, or
        at that of a gamma distribution with their mean, spread and skewness, which needs fewer
        clips for a small `contamination`.

    random_state : int, RandomState instance or None, default=None
        Draws the points that `smote` adds.

    Attributes
    ----------
    offset_ : float
        The score below which a clip is an anomaly.

    training_scores_ : ndarray of shape (n_clips,)
        The leave-one-out score of each training clip; NaN for one that could not be read.

    bank_ : ndarray of shape (n_references, n_features) or (n_references, n_features + 1)
        The references, bank after bank, in the dtype of `X`: centred for "euclidean"; for "cosine"
        of unit length, with one more coordinate that is 1 for a vector of zeros. Within a bank,
        what SMOTE added comes last.

    bank_ends_ : ndarray of shape (n_domains,)
        The row of `bank_` after the last of each domain.

    center_ : ndarray of shape (n_features,)
        What is subtracted from embeddings before the search: their mean for "euclidean", so that
        float32 products lose nothing to a common offset, and 0 for "cosine".

    density_ : ndarray of shape (n_references,)
        What `normalization` divides by or subtracts a fraction of, one a reference; 1 without.

    alpha_ : float
        The fraction subtracted by "variance_min": Cov / Var of the leave-one-out distances of the
        training clips and of their nearest references. 0 for the other normalizations.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, where all are strings.

    Notes
    -----
    The search is exhaustive. Float32 matrix products, in chunks that obey scikit-learn's
    `working_memory`, propose two references more than asked for, and the distances to those are
    then computed from differences in float64: only references that are equally near to float32
    rounding may be mistaken for each other.

    In the leave-one-out scores a clip is also missing from the neighbourhoods that tell how
    crowded its references are; only `alpha_` is held fixed. SMOTE is done anew without each clip of
    an enlarged bank.

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
        normalization: str | None = None,
        n_density_neighbors: int = 8,
        smote: float | None = None,
        contamination: float = 0.1,
        threshold: str = "quantile",
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(contamination=contamination, threshold=threshold)
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.normalization = normalization
        self.n_density_neighbors = n_density_neighbors
        self.smote = smote
        self.random_state = random_state

    def _fit(self, X: NDArray, members: Members, as_new: NDArray) -> NDArray[np.float64]:
        self._check_settings(members)
        self.center_ = np.zeros(X.shape[1])
        if self.metric == "euclidean":
            self.center_ = X.mean(axis=0, dtype=np.float64)

        largest = max(map(len, members.values()))
        size = 0 if self.smote is None else round(self.smote * largest)
        random_state = check_random_state(self.random_state)
        clips = [X[rows] for rows in members.values()]
        banks = [self._prepare(_enlarge(domain, size, random_state)) for domain in clips]
        self.bank_ = np.concatenate(banks)
        self.bank_ends_ = np.cumsum([len(bank) for bank in banks])
        crowding = [self._measure_crowding(bank) for bank in banks]
        self.density_ = np.concatenate([c.density for c in crowding])
        self.alpha_ = 0.0
        if self.normalization == "variance_min":
            self.alpha_ = _variance_minimizing_alpha(crowding)

        distances = np.full(len(X), np.inf)
        for home, rows in enumerate(members.values()):
            queries = self._prepare(as_new[rows])
            for there, bank in enumerate(banks):
                if home != there:
                    seen = _Crowding.of_others(crowding[there].density)
                    found = self._search(queries, bank, self.n_neighbors, seen)[0]
                elif len(bank) == len(rows):
                    seen = crowding[there]
                    found = self._search(queries, bank, self.n_neighbors, seen, at_home=True)[0]
                else:
                    found = self._search_without_each(clips[home], queries, size, random_state)
                distances[rows] = np.minimum(distances[rows], found.mean(axis=1))
        return -distances

    def _check_settings(self, members: Members) -> None:
        settings = f" with n_neighbors={self.n_neighbors}"
        # One clip is left out, and a normalization leaves it out of a neighbourhood as well.
        minimum = self.n_neighbors + (1 if self.normalization is None else 2)
        if self.smote is not None:
            if self.normalization is not None:
                raise ValueError(
                    f"smote={self.smote} and normalization={self.normalization!r} exclude each "
                    "other: the density would be that of the points that SMOTE adds. Set one of "
                    "them to None."
                )
            settings += f" and smote={self.smote}"
            minimum = max(minimum, 3)  # of which two are left to add points between
        self._check_domain_sizes(members, minimum, settings)

    def _search_without_each(
        self, X: NDArray, queries: NDArray, size: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Return the distances of each query to a bank that was enlarged without its clip."""
        found = np.empty((len(X), self.n_neighbors))
        for row, query in enumerate(queries):
            rest = _enlarge(np.delete(X, row, axis=0), size, random_state)
            bank = self._prepare(rest)
            found[row] = self._search(query[np.newaxis], bank, self.n_neighbors)[0]
        return found

    def _score(self, X: NDArray) -> NDArray[np.float64]:
        queries = self._prepare(X)
        distances = np.full(len(X), np.inf)
        for bank, density in zip(self._split(self.bank_), self._split(self.density_), strict=True):
            found = self._search(queries, bank, self.n_neighbors, _Crowding.of_others(density))[0]
            distances = np.minimum(distances, found.mean(axis=1))
        return -distances

    def _prepare(self, X: NDArray) -> NDArray:
        return prepare(X - self.center_, self.metric).astype(X.dtype)

    def _split(self, references: NDArray) -> list[NDArray]:
        return np.split(references, self.bank_ends_[:-1])

    def _measure_crowding(self, bank: NDArray) -> "_Crowding":
        if self.normalization is None:
            return _Crowding.of_others(np.ones(len(bank)))
        size = self.n_neighbors
        if self.normalization == "local_density":
            size = min(self.n_density_neighbors, len(bank) - 2)
        distances, neighbors = self._search(bank, bank, size + 1, at_home=True)
        density = distances[:, :size].mean(axis=1)
        left_out = (distances.sum(axis=1, keepdims=True) - distances[:, :size]) / size
        if self.normalization == "local_density":
            # Twins may leave a reference at distance 0 from its neighbours: nothing divides by 0.
            least = 1e-6 * left_out.max() or 1.0
            density, left_out = np.maximum(density, least), np.maximum(left_out, least)
        return _Crowding(density, neighbors[:, :size], left_out)

    def _search(
        self,
        queries: NDArray,
        bank: NDArray,
        n_neighbors: int,
        crowding: "_Crowding | None" = None,
        *,
        at_home: bool = False,
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Find the nearest references of each query, nearest first.

        Distances are normalized if `crowding` is given. `at_home` says that the queries are those
        of the bank, one by one, and leaves each out of its own search.
        """

        def measure(squared: NDArray, rows: NDArray, references: NDArray) -> NDArray:
            distances = as_distance(squared, self.metric)
            if crowding is None:
                return distances
            return self._normalize(distances, crowding.without(rows, references))

        rank_by = None
        if crowding is not None and self.normalization is not None:

            def rank_by(squared: NDArray, batch: slice) -> NDArray:
                return self._normalize_block(as_distance(squared, self.metric), batch, crowding)

        return find_nearest(
            queries,
            bank,
            n_neighbors,
            measure=measure,
            rank_by=rank_by,
            apart=(np.arange(len(bank)),) * 2 if at_home else None,
        )

    def _normalize(self, distances: NDArray, density: NDArray) -> NDArray:
        if self.normalization == "local_density":
            return distances / density
        if self.normalization == "variance_min":
            return distances - self.alpha_ * density
        return distances

    def _normalize_block(self, distances: NDArray, batch: slice, crowding: "_Crowding") -> NDArray:
        """Normalize the distances from the rows of `batch` to all references."""
        normalized = self._normalize(distances, crowding.density.astype(np.float32))
        references, place = np.nonzero(
            (batch.start <= crowding.neighbors) & (crowding.neighbors < batch.stop)
        )
        at = crowding.neighbors[references, place] - batch.start, references
        normalized[at] = self._normalize(distances[at], crowding.left_out[references, place])
        return normalized


class _Crowding(NamedTuple):
    """How near the references of a bank are to each other."""

    density: NDArray[np.float64]
    """Mean distance of each reference to its nearest others, of shape (n,)."""
    neighbors: NDArray[np.intp]
    """The rows of the bank that these others are, of shape (n, size)."""
    left_out: NDArray[np.float64]
    """What `density` would be without each of them, of shape (n, size)."""

    @classmethod
    def of_others(cls, density: NDArray[np.float64]) -> "_Crowding":
        """Return what clips from outside the bank see: they are nobody's neighbour."""
        nobody = np.empty((len(density), 0))
        return cls(density, nobody.astype(np.intp), nobody)

    def without(self, rows: NDArray[np.intp], references: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the density of each row's `references` in a bank that lacks the row itself."""
        is_row = self.neighbors[references] == rows[:, np.newaxis, np.newaxis]
        return np.where(
            is_row.any(axis=2),
            np.sum(self.left_out[references], axis=2, where=is_row),
            self.density[references],
        )


def _enlarge(X: NDArray, size: int, random_state: np.random.RandomState) -> NDArray:
    """Append what SMOTE makes of the rows of `X`, until there are `size` rows."""
    if size <= len(X):
        return X
    try:
        from imblearn.over_sampling import SMOTE
    except ImportError as error:
        raise ImportError(
            "KNNDetector(smote=...) needs imbalanced-learn: pip install 'skanopatch[smote]'."
        ) from error
    # imbalanced-learn asks for a second class, which it leaves as it is: a row that is cut off.
    sampler = SMOTE(
        sampling_strategy={1: size},
        k_neighbors=min(_SMOTE_NEIGHBORS, len(X) - 1),
        random_state=random_state,
    )
    labels = np.arange(len(X) + 1) > 0
    return sampler.fit_resample(np.concatenate([X[:1], X]), labels.astype(int))[0][1:]


def _variance_minimizing_alpha(crowding: list[_Crowding]) -> float:
    own = np.concatenate([c.density for c in crowding])
    nearest = np.concatenate(
        [c.without(np.arange(len(c.density)), c.neighbors).mean(axis=1) for c in crowding]
    )
    variance = nearest.var()
    return float(np.cov(own, nearest, bias=True)[0, 1] / variance) if variance > 0 else 0.0
