"""Labels of clips: as integers, and whether features separate them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_LEAST_KAPPA = 0.5


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


def are_separable(target: NDArray[np.int_], features: NDArray) -> bool:
    """Return whether a linear classifier finds the classes of clips that it was not trained on.

    Where it does not, a network would learn single clips by heart.

    Parameters
    ----------
    target : ndarray of shape (n_clips,)
        The class of each clip. Classes of one clip are left out.
    features : ndarray of shape (n_clips, n_features)
        Features of the clips, without NaN.

    Returns
    -------
    are_separable : bool
        Whether Cohen's kappa over (at most) five folds is at least 0.5: half-way from chance to
        all classes found.
    """
    _, index, counts = np.unique(target, return_inverse=True, return_counts=True)
    counted = counts[index] >= 2
    if np.count_nonzero(counts >= 2) < 2:
        return False
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 4, 5)))
    n_folds = min(5, counts[counts >= 2].min())
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    predicted = cross_val_predict(classifier, features[counted], target[counted], cv=folds)
    return bool(cohen_kappa_score(target[counted], predicted) >= _LEAST_KAPPA)
