"""JoinedDetector: one score from several detectors."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, get_tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import _num_samples, check_is_fitted

from skanopatch.audio.labels import warn_of_anomalies
from skanopatch.detectors.base import THRESHOLD_CONSTRAINTS
from skanopatch.detectors.calibrated import calibrated
from skanopatch.detectors.metadata import (
    RoutedGroupsMixin,
    call_with_groups,
    fit_with,
    last_step,
    list_metadata,
    select_group,
)
from skanopatch.detectors.thresholds import JointDistance, ThresholdMixin


class JoinedDetector(RoutedGroupsMixin, ThresholdMixin, _BaseComposition):
    """Join the scores of several detectors, as `VotingClassifier` joins classifiers.

    Each member is a detector, or a pipeline that ends in one. Members have different scales, so the
    logarithms of their distances are standardized by left-out training clips. The joint distance
    is the weighted geometric mean, or follows from the smallest one. If the last step of a member
    leaves no clips out by itself, it is put into a `CalibratedDetector`. The steps before it are
    fitted once.

    Parameters
    ----------
    detectors : list of (str, estimator)
        Names and members. All are fitted on the same `X`.
    joining : {"mean", "min"}, default="mean"
        The mean of the standardized logarithms, or their minimum. With the minimum, the member for
        which a clip is most normal decides [1]_.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` follows from the training scores, see :ref:`threshold-rules`.

    Attributes
    ----------
    detectors_ : list of estimators
        The fitted members.
    named_detectors_ : Bunch
        The fitted members by name.
    weights_ : ndarray of shape (n_detectors,)
        Weight of each member in the logarithm of the joint distance.
    offset_, training_scores_, session_weights_
        What every detector has, see :ref:`detector-attributes`.

    References
    ----------
    .. [1] J. Zhou and M. Wang, "Scoring backends matter more than pooling: a systematic study of
       training-free anomalous sound detection under domain shift", 2026, arXiv 2606.19269. It
       standardizes the distances themselves.

    See Also
    --------
    sklearn.ensemble.VotingClassifier : The same for classifiers.
    sklearn.compose.ColumnTransformer : A first step for members that see some columns only.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import JoinedDetector, KNNDetector, MahalanobisDetector
    >>> normal = np.random.default_rng(0).normal(size=(60, 4))
    >>> members = [("spread", MahalanobisDetector()), ("near", KNNDetector(metric="euclidean"))]
    >>> JoinedDetector(members).fit(normal).predict([[0, 0, 0, 0], [5, 0, 0, 0]])
    array([ 1, -1])
    """

    _parameter_constraints = {
        "detectors": [list],
        "joining": [StrOptions({"mean", "min"})],
        **THRESHOLD_CONSTRAINTS,
    }

    def __init__(
        self,
        detectors: Sequence[tuple[str, BaseEstimator]],
        *,
        joining: str = "mean",
        false_alarm_rate: float = 0.1,
        threshold: str = "lognormal",
    ):
        self.detectors = detectors
        self.joining = joining
        self.false_alarm_rate = false_alarm_rate
        self.threshold = threshold

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with `deep` also those of the members, by their names."""
        return self._get_params("detectors", deep=deep)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, members (`near=KNNDetector(2)`) and theirs (`near__n_neighbors=2`)."""
        self._set_params("detectors", **params)
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        labels: Iterable | None = None,
        domains: Iterable | None = None,
        groups: Iterable | None = None,
        sessions: Iterable | None = None,
    ) -> Self:
        """Fit each member, and standardize its distances.

        Parameters
        ----------
        X : array-like
            Anything that all members take.
        y : Ignored
            Not used, present for API consistency.
        labels, domains, groups, sessions : iterable of hashables of length n_clips, default=None
            Passed to the steps of members whose `fit` takes them.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a member has no name or that of another, or metadata another length than `X`.
        """
        warn_of_anomalies(y)
        self._member_names()
        metadata = list_metadata(
            _num_samples(X), labels=labels, domains=domains, groups=groups, sessions=sessions
        )
        return self._join(
            [fit_with(_calibrated_end(member), X, metadata) for _, member in self.detectors]
        )

    def fit_ends(self, features: Sequence[NDArray], metadata: Mapping[str, list]) -> Self:
        """Fit the last step of each member, a pipeline whose other steps are fitted.

        Parameters
        ----------
        features : sequence of arrays
            What the last step of each member gets.
        metadata : mapping of lists
            As for `fit`.

        Returns
        -------
        self : object
        """
        fitted = []
        for (_, member), rows in zip(self.detectors, features, strict=True):
            name, end = member.steps[-1]
            end = fit_with(_calibrated_end(end), rows, metadata)
            fitted.append(Pipeline([*member.steps[:-1], (name, end)]))
        return self._join(fitted)

    def _join(self, fitted: list[BaseEstimator]) -> Self:
        """Standardize the distances of fitted members, and place the threshold."""
        names = self._member_names()
        self.detectors_ = fitted
        self.named_detectors_ = Bunch(**dict(zip(names, self.detectors_, strict=True)))
        ends = [last_step(member) for member in self.detectors_]
        distances = np.stack([-end.training_scores_ for end in ends], axis=1)
        self.session_weights_ = np.max([end.session_weights_ for end in ends], axis=0)
        self.joint_ = JointDistance(distances, self.session_weights_, self.joining)
        self.weights_ = self.joint_.weights
        self.training_scores_ = -self.joint_(distances)
        self._place_offset()
        return self

    def _member_names(self) -> list[str]:
        if not self.detectors:
            raise ValueError("detectors must have at least one member. Got [] instead.")
        for i, member in enumerate(self.detectors):
            is_pair = isinstance(member, (tuple, list)) and len(member) == 2
            if not (is_pair and isinstance(member[0], str)):
                raise ValueError(
                    "detectors must be a list of (name, detector) pairs, such as [('near', "
                    f"KNNDetector())]. Got {member!r} as its entry {i}."
                )
        self._validate_names(names := [name for name, _ in self.detectors])
        return names

    def score_samples(self, X: Any, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return minus the joint distance of each clip; near 1 for a typical normal one.

        Parameters
        ----------
        X : array-like
            Anything that all members take.
        groups : iterable of hashables of length n_clips, default=None
            The group of each clip, for members that end in a `GroupedDetector`.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal; NaN where a member's is NaN.
        """
        check_is_fitted(self)
        listed = list_metadata(_num_samples(X), groups=groups).get("groups")
        scores = [
            call_with_groups(member, "score_samples", X, listed) for member in self.detectors_
        ]
        return -self.joint_(-np.stack(scores, axis=1))

    def select_group(self, group: Hashable) -> Self:
        """Return a detector of one group alone, see `GroupedDetector.select_group`."""
        check_is_fitted(self)
        rows = last_step(self.detectors_[0]).group_rows_[group]
        selected = copy(self)
        selected.detectors_ = [select_group(member, group) for member in self.detectors_]
        names = self._member_names()
        selected.named_detectors_ = Bunch(**dict(zip(names, selected.detectors_, strict=True)))
        selected.training_scores_ = self.training_scores_[rows]
        selected.session_weights_ = self.session_weights_[rows]
        return selected

    @property
    def n_features_in_(self) -> int:
        """Number of features seen during `fit`, where the members count them."""
        return self.detectors_[0].n_features_in_

    @property
    def feature_names_in_(self) -> NDArray:
        """Names of the features seen during `fit`, where the members keep them."""
        return self.detectors_[0].feature_names_in_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        with suppress(TypeError, IndexError):  # `fit` says what is wrong with the detectors
            tags.input_tags = get_tags(self.detectors[0][1]).input_tags
        return tags


def _calibrated_end(member: BaseEstimator) -> BaseEstimator:
    """Return a clone of a member whose last step has a threshold."""
    if not isinstance(member, Pipeline):
        return calibrated(member)
    name, end = member.steps[-1]
    return clone(member).set_params(**{name: _calibrated_end(end)})
