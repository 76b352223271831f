"""GroupedDetector: one detector a machine, with scores that compare across machines."""

from collections.abc import Hashable, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    OutlierMixin,
    _fit_context,
    clone,
)
from sklearn.utils import check_array
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from skanopatch.detectors.base import FLOATS, label_list, rows_by_label
from skanopatch.detectors.mahalanobis import MahalanobisDetector
from skanopatch.feature_notes import notes_of, with_notes

_ROUNDING = 1e-12  # of scores that are the same number, over it


class GroupedDetector(MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    """Fit one detector per group of clips, such as one per machine.

    A group's scores are its detector's `decision_function`, divided by their standard deviation
    over the group's training clips: 0 is the threshold in each group, and 1 is one spread above.

    Parameters
    ----------
    detector : outlier detector, default=None
        What is cloned and fitted for each group. None is `MahalanobisDetector()`. A pipeline that
        ends in a detector will do.

    Attributes
    ----------
    detectors_ : dict
        The fitted detector of each group, in the order of first appearance. The one key is None
        if no groups were given.

    spreads_ : dict
        The standard deviation that the decisions of each group are divided by; 1 for a group
        whose training clips all score the same.

    training_scores_ : ndarray of shape (n_clips,)
        The score of each training clip in its own group; leave-one-out scores if `detector` is
        one of this package.

    offset_ : float
        The score below which a clip is an anomaly: 0.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, where all are strings.

    Notes
    -----
    `groups` is requested by default where metadata routing is enabled, as scikit-learn's group
    splitters do. `domains` goes to the detector, which has to request it.

    Without `groups` at scoring time, as in `Pipeline.score_samples`, which passes no metadata, a
    clip is judged by the group that finds it most normal. The false-alarm rate is then at most
    what was asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.detectors import GroupedDetector, KNNDetector
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(0, 1, (50, 4)), rng.normal(8, 1, (50, 4))])
    >>> machines = ["fan"] * 50 + ["pump"] * 50
    >>> detector = GroupedDetector(KNNDetector(metric="euclidean")).fit(X, groups=machines)
    >>> detector.predict([[8, 8, 8, 8], [8, 8, 8, 8]], groups=["pump", "fan"])
    array([ 1, -1])
    """

    _parameter_constraints = {
        "detector": [HasMethods(["fit", "decision_function"]), None],
    }

    # As in scikit-learn's group splitters: who asks for groups need not ask for their routing.
    __metadata_request__fit = {"groups": True}
    __metadata_request__score_samples = {"groups": True}
    __metadata_request__decision_function = {"groups": True}
    __metadata_request__predict = {"groups": True}

    def __init__(self, detector: BaseEstimator | None = None):
        self.detector = detector

    @_fit_context(prefer_skip_nested_validation=False)  # each detector validates its parameters
    def fit(
        self, X: ArrayLike, y: Any = None, *, groups: Iterable | None = None, **metadata: Iterable
    ) -> Self:
        """Fit one clone of `detector` to the clips of each group.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per normal clip; for a detector of maps, the tokens of shape
            (n_clips, n_tokens, n_features).

        y : Ignored
            Not used, present for API consistency.

        groups : iterable of hashables of length n_clips, default=None
            What each clip is a recording of, such as the id of the machine. None puts all clips
            in one group.

        **metadata : dict of iterables of length n_clips
            What the detector's `fit` takes besides, such as `domains`. Each detector gets the
            entries of its group. Where metadata routing is enabled, `detector` has to request it.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If the detector of a group cannot be fitted, such as for want of clips: the message
            names the group. If `groups` or metadata has another length than `X`.
        """
        embeddings = with_notes(self._validate(X, reset=True), notes_of(X))
        n_clips = len(embeddings)
        if _routing_enabled():
            metadata = process_routing(self, "fit", **metadata).detector.fit
        listed = {name: label_list(values, n_clips, name) for name, values in metadata.items()}

        self.detectors_: dict[Hashable, Any] = {}
        self.spreads_: dict[Hashable, float] = {}
        self.training_scores_ = np.empty(n_clips)
        self.offset_ = 0.0
        for group, rows in rows_by_label(groups, n_clips, "groups").items():
            detector = MahalanobisDetector() if self.detector is None else clone(self.detector)
            own = {name: [values[row] for row in rows] for name, values in listed.items()}
            try:
                detector.fit(embeddings[rows], **own)
            except ValueError as error:
                if groups is None:
                    raise
                raise ValueError(f"The detector of group {group!r} has no fit: {error}") from error
            decision = detector.decision_function(embeddings[rows])
            self.detectors_[group] = detector
            spread = float(np.nanstd(decision))
            largest = np.nanmax(np.abs(decision)) + abs(getattr(detector, "offset_", 0.0))
            is_rounding = spread <= _ROUNDING * largest
            self.spreads_[group] = 1.0 if is_rounding else spread
            self.training_scores_[rows] = decision / self.spreads_[group]
        return self

    def fit_predict(
        self, X: ArrayLike, y: Any = None, *, groups: Iterable | None = None, **metadata: Iterable
    ) -> NDArray[np.int_]:
        """Fit to `X` and tell its normal clips (+1) from its anomalies (-1).

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        y : Ignored
            Not used, present for API consistency.

        groups : iterable of hashables of length n_clips, default=None
            The group of each clip.

        **metadata : dict of iterables of length n_clips
            As in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_clips,)
            +1 or -1.
        """
        return self.fit(X, groups=groups, **metadata).predict(X, groups=groups)

    def score_samples(self, X: ArrayLike, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return how normal each clip is for its group, in spreads above the threshold.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip. A row of nothing but NaN scores NaN.

        groups : iterable of hashables of length n_clips, default=None
            The group of each clip. None judges a clip by the group that finds it most normal.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal.

        Raises
        ------
        ValueError
            If `groups` holds a group that `fit` has not seen.
        """
        check_is_fitted(self)
        embeddings = self._validate(X, reset=False)
        if groups is None:
            return np.max([self._score(embeddings, group) for group in self.detectors_], axis=0)
        scores = np.empty(len(embeddings))
        for group, rows in rows_by_label(groups, len(embeddings), "groups").items():
            if group not in self.detectors_:
                known = ", ".join(map(repr, self.detectors_))
                raise ValueError(f"Group {group!r} was not seen in fit. The groups are: {known}.")
            scores[rows] = self._score(embeddings[rows], group)
        return scores

    def _validate(self, X: ArrayLike, *, reset: bool) -> NDArray:
        # Each detector refuses NaN and infinities for itself, and tokens of another length.
        checks: dict[str, Any] = {"dtype": FLOATS, "ensure_all_finite": False}
        checks["ensure_min_samples"] = 2 if reset else 1
        if getattr(X, "ndim", 2) != 3:
            return validate_data(self, X, reset=reset, **checks)
        tokens = check_array(X, allow_nd=True, estimator=self, **checks)
        if reset:
            self.n_features_in_ = tokens.shape[2]
        return tokens

    def _score(self, X: NDArray, group: Hashable) -> NDArray[np.float64]:
        return self.detectors_[group].decision_function(X) / self.spreads_[group]

    def decision_function(
        self, X: ArrayLike, *, groups: Iterable | None = None
    ) -> NDArray[np.float64]:
        """Return `score_samples(X) - offset_`: negative for anomalies.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        groups : iterable of hashables of length n_clips, default=None
            The group of each clip.

        Returns
        -------
        decision : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return self.score_samples(X, groups=groups) - self.offset_

    def predict(self, X: ArrayLike, *, groups: Iterable | None = None) -> NDArray[np.int_]:
        """Tell normal clips (+1) from anomalies (-1).

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        groups : iterable of hashables of length n_clips, default=None
            The group of each clip.

        Returns
        -------
        labels : ndarray of shape (n_clips,)
            +1 where `decision_function` is at least 0; -1 below, and for a row of NaN.
        """
        return np.where(self.decision_function(X, groups=groups) >= 0, 1, -1)

    def anomaly_score(self, X: ArrayLike, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return `-score_samples(X)`: higher = more anomalous, as challenge files want it.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        groups : iterable of hashables of length n_clips, default=None
            The group of each clip.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return -self.score_samples(X, groups=groups)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what metadata is consumed here and what goes on to the detector.

        Returns
        -------
        routing : MetadataRouter
            `groups` is consumed here; what `detector.fit` requests is passed on.
        """
        detector = MahalanobisDetector() if self.detector is None else self.detector
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping.add(caller="fit_predict", callee="fit")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(detector=detector, method_mapping=mapping)
        )
