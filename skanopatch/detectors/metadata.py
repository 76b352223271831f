"""Metadata of clips, handed to the estimators that ask for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from skanopatch.audio.labels import label_list


class RoutedGroupsMixin:
    """Requests `groups` where metadata routing is enabled, as scikit-learn's group splitters do."""

    __metadata_request__fit = {"groups": True}
    __metadata_request__decision_function = {"groups": True}
    __metadata_request__predict = {"groups": True}


def list_metadata(n_clips: int, **metadata: Iterable | None) -> dict[str, list[Hashable]]:
    """Return the metadata that are given as lists, after checking their lengths."""
    return {
        name: label_list(values, n_clips, name)
        for name, values in metadata.items()
        if values is not None
    }


def rows_of(metadata: Mapping[str, list], rows: NDArray[np.intp]) -> dict[str, list]:
    """Return the metadata of some clips."""
    return {name: [values[row] for row in rows] for name, values in metadata.items()}


def fit_with(estimator: BaseEstimator, X: Any, metadata: Mapping[str, list]) -> Any:
    """Fit an estimator, or a pipeline, on clips and on the metadata that its `fit` takes."""
    with config_context(enable_metadata_routing=False):
        return estimator.fit(X, **accepted(estimator, metadata))


def accepted(estimator: Any, metadata: Mapping[str, list]) -> dict[str, list]:
    """Return the metadata that the `fit` of an estimator takes, named as a pipeline wants them."""
    if isinstance(estimator, Pipeline):
        return {
            f"{name}__{key}": values
            for name, step in estimator.steps
            for key, values in accepted(step, metadata).items()
        }
    return {key: v for key, v in metadata.items() if has_fit_parameter(estimator, key)}


def last_step(estimator: Any) -> Any:
    """Return the last step of a pipeline, of pipelines in it too; other estimators themselves."""
    while isinstance(estimator, Pipeline):
        estimator = estimator[-1]
    return estimator


def at_the_end(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Return the last step of a pipeline and what it gets; other estimators and `X` themselves."""
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    return estimator, X


def call_with_groups(estimator: Any, method: str, X: Any, groups: Iterable | None) -> Any:
    """Call a method of an estimator, or of the end of a pipeline, with the groups it takes."""
    estimator, X = at_the_end(estimator, X)
    takes_groups = groups is not None and has_fit_parameter(estimator, "groups")
    return getattr(estimator, method)(X, **({"groups": groups} if takes_groups else {}))


def select_group(estimator: Any, group: Hashable) -> Any:
    """Return what scores the clips of one group, of a fitted detector or a pipeline of groups."""
    if isinstance(estimator, Pipeline):
        name, end = estimator.steps[-1]
        return Pipeline([*estimator.steps[:-1], (name, select_group(end, group))])
    return estimator.select_group(group)
