"""SharedSubspace: how clips vary within their classes, and what does not fit that."""

from __future__ import annotations

import warnings
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import KFold
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from skanopatch.feature_notes import FeatureNotes, SeenClips, with_notes
from skanopatch.labels import encode_labels

LEARNT = ("components_", "explained_variance_", "class_means_", "scale_")  # arrays, by `fit`

_CLIPS_PER_COMPONENT = 2
_LEAST_SHARE_FREE = 0.25  # of clips beyond the first of their class
_LEAST_RESIDUAL = 1e-6
_ROUNDING = 1e-13
_FOLDS = 10  # in which clips are left out to see how new ones differ
# Of how much further from their class new clips lie. With all of it too few of them were called
# anomalies and with none too many, by nearest neighbours, mixtures and Mahalanobis distances alike.
_SHARE_OF_DISTANCE = 0.5


class SharedSubspace(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Describe clips by what varies within their classes, and by the rest in one number.

    Units of one machine vary alike: with load, speed, temperature and the place of the microphone.
    Clips of all of them together tell in which directions, where those of one unit are too few
    for a covariance. The directions in which normal clips hardly vary are noisy one by one, and
    are told by their common length: the residual. The pair is that of Hotelling's T² and the
    squared prediction error of process monitoring [1]_, of which `MahalanobisDetector` then makes
    one distance.

    Parameters
    ----------
    n_components : int, default=48
        Principal components of the standardized deviations from the class means; at most half as
        many as clips, as clips without one a class, and fewer than the features.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Orthonormal directions among standardized features.
    explained_variance_ : ndarray of shape (n_components,)
        The variance of the training clips along each.
    class_means_ : ndarray of shape (n_classes, n_features)
        The mean of each class in the order of first appearance, in the units of `X`.
    scale_ : ndarray of shape (n_features,)
        The deviation of each feature within the classes.
    class_sizes_ : ndarray of shape (n_classes,) or None
        How many clips of each class it was fitted on; None in models of earlier versions.
    n_samples_seen_ : int
        How many clips it was fitted on.
    optimism_ : float
        How much more is left of clips that are left out than of those that `fit` saw: the mean
        logarithm, over that which their leverage accounts for. What `transform` returns knows how
        the clips of `fit` would look if they were new, and detectors place their thresholds by it.
    distance_optimism_ : float
        The same of the squared distance to the nearest class mean.
    marks_ : ndarray of shape (`n_samples_seen_`, 2) or None
        By what the clips of `fit` are known again; None in models of earlier versions, to which
        every clip is one of them.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, where all are strings.

    See Also
    --------
    sklearn.decomposition.PCA : The same for one class, without the residual.

    References
    ----------
    .. [1] J. E. Jackson and G. S. Mudholkar, "Control procedures for residuals associated with
       principal component analysis", Technometrics 21(3), 1979.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import SharedSubspace
    >>> rng = np.random.default_rng(0)
    >>> along = rng.normal(size=(60, 2)) @ [[1, 1, 1, 1], [1, -1, 1, -1]]
    >>> X = along + 0.01 * rng.normal(size=(60, 4))
    >>> subspace = SharedSubspace(n_components=2).fit(X)
    >>> subspace.transform([[5, 5, 5, 5], [0, 0, 1, -1]])[:, -1].round().tolist()
    [-10.0, -2.0]
    """

    _parameter_constraints: dict = {"n_components": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_components=48):
        self.n_components = n_components

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, labels=None):
        """Find the components.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            Numbers that describe clips. Rows with NaN are left out.
        y : None
            Ignored.
        labels : array-like of shape (n_clips,), default=None
            The class of each clip: any hashable, such as the unit of a machine. None is one class.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there are not as many labels as clips, one is NaN, or every row of `X` has NaN.

        Warns
        -----
        UserWarning
            If nearly every clip has a label of its own.
        """
        X = validate_data(
            self, X, dtype=np.float64, ensure_min_samples=2, ensure_all_finite="allow-nan"
        )
        target = np.zeros(len(X), dtype=int)
        if labels is not None:
            _, target = encode_labels(labels, len(X))
        usable = np.isfinite(X).all(axis=1)
        if not usable.any():
            raise ValueError("Every clip has NaN: there is nothing to learn from.")
        X, (_, target) = X[usable], np.unique(target[usable], return_inverse=True)
        n_clips, n_features = X.shape
        n_classes = target.max() + 1
        n_free = n_clips - n_classes
        if labels is not None and n_free < _LEAST_SHARE_FREE * n_clips:
            warnings.warn(
                f"labels tell {n_clips} clips apart into {n_classes} classes, so that how clips of "
                "one class vary is hardly seen. Give labels that more clips share, such as the "
                "unit, or none.",
                stacklevel=3,  # past _fit_context
            )
        most = min(self.n_components, n_clips // _CLIPS_PER_COMPONENT, n_free, n_features - 1)
        self._find(X, target, max(1, most))
        self.optimism_, self.distance_optimism_ = self._measure_optimism(X, target)
        seen = SeenClips(self._centers(), self.class_sizes_)
        self.marks_ = seen.marks_of(self._project(X).astype(np.float32))
        return self

    def _find(self, X: NDArray, target: NDArray[np.int_], n_components: int) -> None:
        self.class_means_ = np.stack([X[target == k].mean(axis=0) for k in range(target.max() + 1)])
        deviations = X - self.class_means_[target]
        spread = np.sqrt(np.mean(deviations**2, axis=0))
        varies = spread > _ROUNDING * np.abs(X).max(axis=0)
        self.scale_ = np.where(varies, spread, 1)
        self.class_sizes_ = np.bincount(target)
        _, sizes, directions = np.linalg.svd(deviations / self.scale_, full_matrices=False)
        self.components_ = directions[:n_components]
        self.explained_variance_ = sizes[:n_components] ** 2 / len(X)
        self.n_samples_seen_ = len(X)

    def _measure_optimism(self, X: NDArray, target: NDArray[np.int_]) -> tuple[float, float]:
        seen, growth = self._logarithms(X)
        grown, expected = [], []
        folds = KFold(max(2, min(_FOLDS, len(X))), shuffle=True, random_state=0)
        for kept, out in folds.split(X) if len(X) > 1 else ():
            classes, of_class = np.unique(target[kept], return_inverse=True)
            out = out[np.isin(target[out], classes)]  # a class that was left out has no mean
            if len(out):
                without = clone(self)
                without._find(X[kept], of_class, len(self.components_))
                new, _ = without._logarithms(X[out])
                grown.extend(new - seen[out])
                expected.extend(growth[out])
        if not grown:
            return 0.0, 0.0
        residual, distance = np.sum(grown, axis=0) / np.sum(expected)
        return float(residual), float(distance)

    def _logarithms(self, X: NDArray) -> tuple[NDArray, NDArray]:
        """Return the logarithms of what grows where clips are left out, and of leverages' part."""
        projected, centers = self._project(X), self._centers()
        squared = euclidean_distances(projected[:, :-1], centers, squared=True).min(axis=1)
        distance = np.log(np.maximum(squared, _LEAST_RESIDUAL))
        growth = SeenClips(centers, self.class_sizes_).growth(projected[:, :-1])
        return np.column_stack([projected[:, -1], distance]), growth

    def _centers(self) -> NDArray:
        return self._project(self.class_means_)[:, :-1]

    def seen_clips(self, unit: float = 1.0) -> SeenClips:
        """Return how the clips that `fit` saw would look if they were new.

        Parameters
        ----------
        unit : float, default=1.0
            What the features of `transform` are multiplied by afterwards.
        """
        sizes = self.class_sizes_
        if sizes is None:
            n_classes = len(self.class_means_)
            sizes = np.full(n_classes, self.n_samples_seen_ / n_classes)
        return SeenClips(
            self._centers(),
            sizes,
            exponent=self.optimism_,
            distance_exponent=_SHARE_OF_DISTANCE * self.distance_optimism_,
            marks=self.marks_,
            unit=unit,
        )

    def transform(self, X):
        """Project clips, and measure what is left of them.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            Numbers that describe clips.

        Returns
        -------
        X_new : ndarray of shape (n_clips, n_components + 1), float32
            Coordinates along the components, of variance 1 within the classes; then the logarithm
            of the mean square over the features of what is left, about the class mean that leaves
            least. NaN for rows with NaN. The array also knows the classes, and which of its clips
            `fit` saw and how they would look if they were new.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
        usable = np.isfinite(X).all(axis=1)
        found = np.full((len(X), self._n_features_out), np.nan, dtype=np.float32)
        found[usable] = self._project(X[usable])
        return with_notes(found, FeatureNotes((self._n_features_out,), self.seen_clips()))

    def _project(self, X: NDArray) -> NDArray:
        center = self.class_means_.mean(axis=0)
        standardized = (X - center) / self.scale_
        coordinates = standardized @ self.components_.T
        means = (self.class_means_ - center) / self.scale_
        left = standardized - coordinates @ self.components_
        left_of_means = means - means @ self.components_.T @ self.components_
        squared = np.full(len(left), np.inf)
        if len(left):
            squared = euclidean_distances(left, left_of_means, squared=True).min(axis=1)
        residual = np.log(np.maximum(squared / X.shape[1], _LEAST_RESIDUAL))
        deviation = np.sqrt(self.explained_variance_)
        coordinates /= np.where(deviation > _ROUNDING, deviation, 1)
        return np.column_stack([coordinates, residual])

    @property
    def _n_features_out(self) -> int:
        return len(self.components_) + 1

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
