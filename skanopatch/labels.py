"""Labels: what tells clips apart, as integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# From fewer clips a network learns nothing that holds for others, and from less than so many it
# learns by heart what is not heard.
_LEAST_TO_LEARN_FROM, _FEW_TO_LEARN_FROM = 64, 500
_MOST_CLUSTERS = 16
_LEAST_KAPPA = 0.5  # of labels that are heard: half-way from chance to all of them


def encode_labels(labels: Any, n_clips: int) -> tuple[list[Any], NDArray[np.int_]]:
    """Return the distinct labels in the order of first appearance, and the index of each clip's.

    Parameters
    ----------
    labels : array-like of shape (n_clips,), or a DataFrame
        Any hashable a clip; rows of a DataFrame and lists become tuples.
    n_clips : int

    Raises
    ------
    ValueError
        If there are more or fewer labels than clips, or one is NaN or a tuple with NaN.
    """
    if hasattr(labels, "itertuples"):
        labels = list(labels.itertuples(index=False, name=None))
    elif hasattr(labels, "tolist"):
        labels = labels.tolist()
    labels = [tuple(label) if isinstance(label, list) else label for label in labels]
    if len(labels) != n_clips:
        raise ValueError(
            f"labels must have one entry a clip. Got {len(labels)} labels for {n_clips} clips."
        )
    nameless = [i for i, label in enumerate(labels) if _is_missing(label)]
    if nameless:
        raise ValueError(
            f"labels must not be NaN. Got {labels[nameless[0]]!r} for clip {nameless[0]}; give "
            "what is not known a name of its own, such as 'unknown'."
        )
    classes = list(dict.fromkeys(labels))
    index = {label: i for i, label in enumerate(classes)}
    return classes, np.array([index[label] for label in labels], dtype=int)


def _is_missing(label: Any) -> bool:
    if isinstance(label, tuple):
        return any(map(_is_missing, label))
    return label is not None and bool(pd.isna(label))


def cluster(features: NDArray, seed: int) -> NDArray[np.int_]:
    """Return labels for clips that have none: clusters of features (n_clips, n_features)."""
    n_clusters = min(_MOST_CLUSTERS, max(2, len(features) // 10))
    kmeans = KMeans(n_clusters, n_init=10, random_state=seed)
    return kmeans.fit_predict(StandardScaler().fit_transform(features))


def are_heard(target: NDArray[np.int_], features: NDArray) -> bool:
    """Return whether features tell the class of clips that were left out.

    Classes that are not heard in clips of their own would be learnt by heart, clip by clip.

    Parameters
    ----------
    target : ndarray of shape (n_clips,)
        The class of each clip. Classes of one clip do not count: nothing tells them apart.
    features : ndarray of shape (n_clips, n_features)
        What describes the clips, without NaN.
    """
    _, index, counts = np.unique(target, return_inverse=True, return_counts=True)
    counted = counts[index] >= 2
    if np.count_nonzero(counts >= 2) < 2:
        return False
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 4, 5)))
    n_folds = min(5, counts[counts >= 2].min())
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    told = cross_val_predict(classifier, features[counted], target[counted], cv=folds)
    return bool(cohen_kappa_score(target[counted], told) >= _LEAST_KAPPA)


def are_worth_learning(target: NDArray[np.int_], features: NDArray) -> bool:
    """Return whether a network learns from clips with labels what holds for other clips.

    Parameters
    ----------
    target : ndarray of shape (n_clips,)
        The class of each clip.
    features : ndarray of shape (n_clips, n_features)
        What describes the clips, without NaN.
    """
    if len(target) < _LEAST_TO_LEARN_FROM:
        return False
    return len(target) >= _FEW_TO_LEARN_FROM or are_heard(target, features)
