"""Labels of clips: as a list, as integers, and whether features separate them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._missing import is_pandas_na

_LEAST_KAPPA = 0.5


def label_list(
    labels: Any, n_clips: int, name: str = "labels", *, allow_nan: bool = False
) -> list[Hashable]:
    """Return labels, or other metadata that name something of each clip, as a list.

    Parameters
    ----------
    labels : iterable of length n_clips, or a DataFrame
        A hashable a clip; rows of a DataFrame and lists become tuples.
    n_clips : int
    name : str, default="labels"
        What errors call them.
    allow_nan : bool, default=False
        Whether what is not known may be NaN.

    Raises
    ------
    ValueError
        If there are more or fewer labels than clips, or one is not hashable, or is NaN or a tuple
        with NaN.
    """
    if hasattr(labels, "itertuples"):
        listed = list(labels.itertuples(index=False, name=None))
    else:
        # Python scalars rather than NumPy's: they print as what the user typed.
        listed = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    listed = [tuple(label) if isinstance(label, list) else label for label in listed]
    if len(listed) != n_clips:
        raise ValueError(f"{name} must have one entry per clip. Got {len(listed)} for {n_clips}.")
    for i, label in enumerate(listed):
        if not isinstance(label, Hashable):
            raise ValueError(f"{name} must be hashable. Got {label!r} for clip {i}.")
        # One object that is NaN would be a label as any other, and two would be two labels.
        if not allow_nan and _is_missing(label):
            raise ValueError(
                f"{name} must not be NaN. Got {label!r} for clip {i}; give what is not known a "
                "name of its own, such as 'unknown'."
            )
    return listed


def encode_labels(labels: Any, n_clips: int) -> tuple[list[Any], NDArray[np.int_]]:
    """Return the distinct labels in the order of first appearance, and the index of each clip's.

    Parameters and errors are those of `label_list`.
    """
    listed = label_list(labels, n_clips)
    classes = list(dict.fromkeys(listed))
    index = {label: i for i, label in enumerate(classes)}
    return classes, np.array([index[label] for label in listed], dtype=int)


def _is_missing(label: Any) -> bool:
    if isinstance(label, tuple):
        return any(map(_is_missing, label))
    return is_pandas_na(label) or bool(label != label)  # as NaN and NaT are


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
