"""Model selection when only normal clips may be trained on: FitOnNormal."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d, get_tags
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted, has_fit_parameter

from skanopatch.audio.labels import LABELS
from skanopatch.detectors.metadata import last_step

_N_NAMED = 3  # of the labels, in the warning

# The methods, besides fit, to which scikit-learn can route metadata.
_ROUTED = ("predict", "decision_function")


def _estimator_has(method: str) -> Callable[[Any], bool]:
    def check(self: FitOnNormal) -> bool:
        getattr(getattr(self, "estimator_", self.estimator), method)  # its own AttributeError
        return True

    return check


class FitOnNormal(MetaEstimatorMixin, BaseEstimator):
    """Fit an estimator on the normal clips only.

    Cross-validation of a detector needs anomalous clips to test on, but must not train on them.
    `FitOnNormal` drops them in each call of `fit`: in each fold, and in the final ``refit``. All
    other methods are those of the estimator.

    Parameters
    ----------
    estimator : estimator object
        A detector, or a pipeline that ends in one.
    anomaly_label : hashable, default=-1
        The label in `y` of the clips that are dropped. All other labels are of normal clips.

    Attributes
    ----------
    estimator_ : estimator object
        The clone that was fitted on the normal clips.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV, StratifiedKFold
    >>> from skanopatch import FitOnNormal, KNNDetector, make_anomaly_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(80, 4)), rng.normal(3, size=(20, 4))])
    >>> y = np.repeat([1, -1], [80, 20])
    >>> search = GridSearchCV(
    ...     FitOnNormal(KNNDetector(metric="euclidean")),
    ...     {"estimator__n_neighbors": [1, 5]},
    ...     scoring=make_anomaly_scorer("auc"),
    ...     cv=StratifiedKFold(shuffle=True, random_state=0),  # both kinds in each fold
    ... )
    >>> bool(search.fit(X, y).best_score_ > 0.95)
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods("fit")],
        "anomaly_label": "no_validation",
    }

    def __init__(self, estimator, *, anomaly_label: Hashable = -1):
        self.estimator = estimator
        self.anomaly_label = anomaly_label

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, **fit_params):
        """Fit a clone of the estimator on the normal clips.

        Parameters
        ----------
        X : sequence of clips or array-like
            Whatever the estimator takes.
        y : array-like of shape (n_clips,), default=None
            Labels; clips with `anomaly_label` are dropped. None means that all are normal. The
            estimator gets +1 for each normal clip.
        **fit_params : dict
            Metadata such as ``labels``, ``domains`` or ``groups``. Metadata with one entry per clip
            lose those of the dropped clips. The rest is passed unchanged.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If no clip is normal, or `y` is not one label a clip.

        Warns
        -----
        UserWarning
            If `y` holds several labels and none is `anomaly_label`, or a label such as "anomaly"
            that is not `anomaly_label`. These clips are then taken as normal.
        """
        fit_params = self._route("fit", fit_params)
        check_consistent_length(X, y)
        if y is not None:
            is_normal, n_clips = self._is_normal(y), _num_samples(X)
            y = np.ones(np.count_nonzero(is_normal), dtype=int)
            if len(y) < n_clips:
                X = _safe_indexing(X, is_normal)
                fit_params = {
                    name: _safe_indexing(value, is_normal)
                    if _is_one_a_clip(value, n_clips)
                    else value
                    for name, value in fit_params.items()
                }
        self.estimator_ = clone(self.estimator).fit(X, y, **fit_params)
        return self

    def fit_predict(self, X, y=None, **fit_params):
        """Fit on the normal clips, then predict all clips, with ``groups`` if there are any.

        Parameters
        ----------
        X, y, **fit_params
            As for `fit`.

        Returns
        -------
        y_pred : ndarray of shape (n_clips,)
            +1 normal, -1 anomaly.
        """
        self.fit(X, y, **fit_params)
        groups = [v for name, v in fit_params.items() if name.rpartition("__")[2] == "groups"]
        takes_groups = has_fit_parameter(last_step(self.estimator_), "groups")
        return self.predict(X, **({"groups": groups[0]} if groups and takes_groups else {}))

    @available_if(_estimator_has("score_samples"))
    def score_samples(self, X, **params):
        """Score clips; higher is more normal.

        Parameters
        ----------
        X : sequence of clips or array-like
            Whatever the estimator takes.
        **params : dict
            Metadata for the estimator's method.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
        """
        return self._delegate("score_samples", X, params)

    @available_if(_estimator_has("anomaly_score"))
    def anomaly_score(self, X, **params):
        """Score clips; higher is more anomalous. Takes and returns what `score_samples` does."""
        return self._delegate("anomaly_score", X, params)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X, **params):
        """Score clips, with 0 at the threshold. Takes and returns what `score_samples` does."""
        return self._delegate("decision_function", X, params)

    @available_if(_estimator_has("predict"))
    def predict(self, X, **params):
        """Judge clips: +1 normal, -1 anomaly. Takes what `score_samples` does."""
        return self._delegate("predict", X, params)

    def _delegate(self, method: str, X: Any, params: dict[str, Any]) -> Any:
        check_is_fitted(self)
        if method in _ROUTED:
            params = self._route(method, params)
        return getattr(self.estimator_, method)(X, **params)

    def _is_normal(self, y: Any) -> np.ndarray:
        y = column_or_1d(y)
        counts = Counter(y.tolist())
        warning = _find_fault(counts, self.anomaly_label)
        if warning:
            warnings.warn(warning, UserWarning, stacklevel=4)  # to the caller of fit
        is_normal = y != self.anomaly_label
        if not is_normal.any():
            raise ValueError(
                f"There is no normal clip to fit on: all {len(y)} have the label "
                f"{self.anomaly_label!r}."
            )
        return is_normal

    def _route(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if _routing_enabled():
            return dict(process_routing(self, method, **params).estimator[method])
        return params

    def get_metadata_routing(self):
        """Return the routing of metadata: all of it goes to the estimator."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping.add(caller="fit_predict", callee="fit")
        for method in _ROUTED:
            mapping.add(caller=method, callee=method)
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.estimator_type = inner.estimator_type
        tags.input_tags = inner.input_tags
        return tags

    @property
    def n_features_in_(self):
        """Number of features seen in `fit`, where the estimator counts them."""
        return self.estimator_.n_features_in_

    @property
    def offset_(self):
        """The score below which a clip is predicted anomalous."""
        return self.estimator_.offset_


def _is_one_a_clip(value: Any, n_clips: int) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str) and len(value) == n_clips


def _find_fault(counts: Counter, anomaly_label: Hashable) -> str:
    """Say which labels but `anomaly_label` seem to be those of anomalies; "" where none does."""
    n_clips = counts.total()
    by_name = [k for k in counts if k != anomaly_label and LABELS.get(str(k).lower()) == -1]
    if anomaly_label in counts and by_name:
        return (
            f"y calls {counts[by_name[0]]} of {n_clips} clips {by_name[0]!r}. They pass for normal "
            f"with anomaly_label={anomaly_label!r}. Give all anomalies one label."
        )
    if anomaly_label in counts or (len(counts) == 1 and not by_name):
        return ""
    named = ", ".join(f"{label!r} ({n})" for label, n in counts.most_common(_N_NAMED))
    more = f" and {len(counts) - _N_NAMED} more labels" if len(counts) > _N_NAMED else ""
    advice = "Give +1 for each normal clip and -1 for each anomaly as y"
    if len(counts) == 2:
        advice = "; ".join(
            f"FitOnNormal(estimator, anomaly_label={label!r}) drops {counts[label]} clips and fits "
            f"on the other {n_clips - counts[label]}"
            for label in (by_name if len(by_name) == 1 else counts)
        )
    return (
        f"y is made of {named}{more} while anomaly_label={anomaly_label!r}, so all {n_clips} clips "
        f"pass for normal. {advice}."
    )
