"""GroupedDetector: one detector a machine, with scores that compare across machines."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.utils import check_array
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import check_is_fitted, validate_data

from skanopatch.detectors.base import FLOATS, rows_by_label
from skanopatch.detectors.calibrated import calibrated
from skanopatch.detectors.mahalanobis import MahalanobisDetector
from skanopatch.detectors.metadata import (
    at_the_end,
    fit_with,
    last_step,
    list_metadata,
    rows_of,
)
from skanopatch.detectors.thresholds import (
    DistanceScale,
    ThresholdMixin,
    conformal_p_values,
    exp,
)


class GroupedDetector(ThresholdMixin, MetaEstimatorMixin, BaseEstimator):
    """Fit one detector per group of clips, such as one per machine.

    The distances of a group are divided by its threshold and raised to a power at which they
    spread as those of the other groups do: 1 is the threshold in each group.

    Parameters
    ----------
    detector : outlier detector, default=None
        What is cloned and fitted for each group. None is `MahalanobisDetector()`. A pipeline that
        ends in a detector will do. A detector of another package is put into a
        `CalibratedDetector`.

    pooled : bool, default=False
        Fit one detector to the clips of all groups, to which the groups are domains, and compare a
        clip with the domains of its group. Groups that are alike, such as units of one machine,
        then share what they have in common. It needs a detector that takes `domains`.

    Attributes
    ----------
    detectors_ : dict
        The fitted detector of each group, in the order of first appearance. The one key is None
        if no groups were given. If `pooled`, it is the same for all groups.

    offset_ : float
        The score below which a clip is an anomaly: -1.

    training_scores_ : ndarray of shape (n_clips,)
        The score of each training clip in its own group when it is left out of the fit.

    session_weights_ : ndarray of shape (n_clips,)
        What each training clip counts: 1, or 1 over the clips of its session.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features seen during `fit`, where all are strings.

    Notes
    -----
    `groups` is requested by default where metadata routing is enabled, as scikit-learn's group
    splitters do.

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
        "detector": [HasMethods(["fit", "score_samples"]), None],
        "pooled": ["boolean"],
    }

    # As in scikit-learn's group splitters: who asks for groups need not ask for their routing.
    __metadata_request__fit = {"groups": True}
    __metadata_request__decision_function = {"groups": True}
    __metadata_request__predict = {"groups": True}

    def __init__(self, detector: BaseEstimator | None = None, *, pooled: bool = False):
        self.detector = detector
        self.pooled = pooled

    @_fit_context(prefer_skip_nested_validation=False)  # each detector validates its parameters
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        *,
        groups: Iterable | None = None,
        domains: Iterable | None = None,
        sessions: Iterable | None = None,
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

        domains, sessions : iterable of hashables of length n_clips, default=None
            Handed to the detector of each group, if its `fit` takes them.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If the detector of a group cannot be fitted, such as for want of clips: the message
            names the group. If metadata has another length than `X`, or the detector does not
            compare clips with domains as `pooled` needs it.
        """
        rows = self._validate(X, reset=True)
        n_clips = len(rows)
        metadata = list_metadata(n_clips, domains=domains, sessions=sessions)
        members = rows_by_label(groups, n_clips, "groups")
        detector = calibrated(MahalanobisDetector() if self.detector is None else self.detector)
        self.offset_ = -1.0
        self.detectors_: dict[Hashable, Any] = {}
        self.session_weights_ = np.zeros(n_clips)
        if self.pooled:
            self._fit_pooled(detector, rows, members, metadata)
        else:
            for group, own in members.items():
                fitted = clone(detector)
                try:
                    fit_with(fitted, rows[own], rows_of(metadata, own))
                except ValueError as error:
                    if groups is None:
                        raise
                    raise ValueError(
                        f"The detector of group {group!r} has no fit: {error}"
                    ) from error
                self.detectors_[group] = fitted
                self.session_weights_[own] = last_step(fitted).session_weights_
        self._members = members
        self._place_offset()
        return self

    def _fit_pooled(
        self, detector: Any, X: NDArray, members: dict, metadata: dict[str, list]
    ) -> None:
        """Fit one detector to the domains of all groups."""
        if not getattr(last_step(detector), "_compares_domains", False):
            raise ValueError(
                "With pooled=True, detector must compare a clip with domains, as "
                f"MahalanobisDetector() does. Got {self.detector!r} instead."
            )
        inner = metadata.get("domains", [None] * len(X))
        pairs: list[Any] = [None] * len(X)
        for group, own in members.items():
            for row in own:
                pairs[row] = (group, inner[row])
        fit_with(detector, X, {**metadata, "domains": pairs})
        self.detectors_ = dict.fromkeys(members, detector)
        seen = last_step(detector).domains_  # not those of which no clip could be read
        self._domains = {group: [pair for pair in seen if pair[0] == group] for group in members}
        self.session_weights_ = last_step(detector).session_weights_
        for group, own in members.items():
            if np.isnan(last_step(detector).own_domain_scores_[own]).all():
                raise ValueError(
                    f"Group {group!r} has no clips to place its threshold by. Give it clips of two "
                    "sessions or more that can be read, or set pooled=False."
                )

    def _place_offset(self) -> None:
        """Place the threshold of each group at a distance of 1."""
        self._thresholds, self._scales, distances = {}, {}, {}
        for group, own in self._members.items():
            end, weights = last_step(self.detectors_[group]), self.session_weights_[own]
            if self.pooled:
                distances[group] = -end.own_domain_scores_[own]
                self._thresholds[group] = end._threshold_of(distances[group], weights)
            else:
                distances[group] = -end.training_scores_
                self._thresholds[group] = -float(end.offset_)
            self._scales[group] = DistanceScale(distances[group], weights)
        self._unit = float(np.mean([scale.deviation for scale in self._scales.values()])) or 1.0
        self.training_scores_ = np.empty(len(self.session_weights_))
        for group, own in self._members.items():
            self.training_scores_[own] = -self._relative(distances[group], group)

    def _relative(self, distances: NDArray, group: Hashable) -> NDArray[np.float64]:
        scale = self._scales[group]
        placed = scale.standardize(np.array(self._thresholds[group]))
        return exp(self._unit * (scale.standardize(distances) - placed))

    def set_false_alarm_rate(self, rate: float) -> Self:
        """Move the threshold of each group to another false-alarm rate, without fitting again.

        Parameters
        ----------
        rate : float
            The share of new normal clips that may be called anomalies, in (0, 0.5].

        Returns
        -------
        self : object
        """
        check_is_fitted(self)
        for detector in self.detectors_.values():
            last_step(detector).set_false_alarm_rate(rate)
        self._place_offset()
        return self

    def score_samples(self, X: ArrayLike, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return how normal each clip is for its group: minus its distance over the threshold.

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
        return self._by_group(X, groups, self._score)

    def p_values(  # type: ignore[override]
        self, X: ArrayLike, *, groups: Iterable | None = None
    ) -> NDArray[np.float64]:
        """Return conformal p-values: the share of the group's normal clips that are as odd.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        groups : iterable of hashables of length n_clips, default=None
            The group of each clip. None takes the largest of all groups.

        Returns
        -------
        p_values : ndarray of shape (n_clips,)
            Float64 in (0, 1]; NaN for a row of NaN.
        """

        def p_values(rows: NDArray, group: Hashable) -> NDArray[np.float64]:
            own = self._members[group]
            return conformal_p_values(
                self._score(rows, group), self.training_scores_[own], self.session_weights_[own]
            )

        return self._by_group(X, groups, p_values)

    def anomaly_map(self, X: ArrayLike, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return how odd each cell of time and frequency is, where the detectors have maps.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_tokens, n_dims)
            Tokens.

        groups : iterable of hashables of length n_clips, default=None
            The group of each clip. None takes the group that finds it most normal.

        Returns
        -------
        maps : ndarray of shape (n_clips, n_time, n_freq)
            Float64, 1 is the threshold.
        """

        def maps(rows: NDArray, group: Hashable) -> NDArray[np.float64]:
            end, rows = at_the_end(self.detectors_[group], rows)
            return end.anomaly_map(rows)

        check_is_fitted(self)
        if groups is None:
            rows = self._validate(X, reset=False)
            scores = np.stack([self._score(rows, group) for group in self._members])
            best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=0)
            names = list(self._members)
            groups = [names[place] for place in best]
        return self._by_group(X, groups, maps)

    def _by_group(self, X: ArrayLike, groups: Iterable | None, method: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        rows = self._validate(X, reset=False)
        if groups is None:
            return np.max([method(rows, group) for group in self._members], axis=0)
        found: Any = None
        for group, own in rows_by_label(groups, len(rows), "groups").items():
            if group not in self._members:
                known = ", ".join(map(repr, self._members))
                raise ValueError(f"Group {group!r} was not seen in fit. The groups are: {known}.")
            part = method(rows[own], group)
            found = np.empty((len(rows), *part.shape[1:])) if found is None else found
            found[own] = part
        return found

    def _score(self, X: NDArray, group: Hashable) -> NDArray[np.float64]:
        detector = self.detectors_[group]
        if not self.pooled:
            return -self._relative(-detector.score_samples(X), group)
        end, X = at_the_end(detector, X)
        of_domains = [
            end.score_samples(X, domains=[domain] * len(X)) for domain in self._domains[group]
        ]
        return -self._relative(-np.max(of_domains, axis=0), group)

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
