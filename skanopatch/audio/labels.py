"""Labels of clips: as a list, as integers, and whether features separate them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._missing import is_pandas_na

LABELS = {"normal": 1, "anomaly": -1, "anomalous": -1, "abnormal": -1}
"""Words for labels, in lower case, and what they mean as `y`."""

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
        Whether an unknown label may be NaN. If not, it is a ValueError, as are labels that are not
        hashable, or not one a clip.
    """
    if hasattr(labels, "itertuples"):
        listed = list(labels.itertuples(index=False, name=None))
    else:
        # Python scalars rather than NumPy's: they print as what the user typed.
        listed = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    listed = [tuple(label) if isinstance(label, list) else label for label in listed]
    if len(listed) != n_clips:
        raise ValueError(f"{name} must have one entry per clip. Got {len(listed)} for {n_clips}.")
    try:
        distinct = dict.fromkeys(listed)
    except TypeError as error:
        i, label = next((i, label) for i, label in enumerate(listed) if not _has_hash(label))
        raise ValueError(f"{name} must be hashable. Got {label!r} for clip {i}.") from error
    for label in distinct:
        # One object that is NaN would be a label as any other, and two would be two labels.
        if not allow_nan and _is_missing(label):
            first = next(i for i, other in enumerate(listed) if other is label)
            raise ValueError(
                f"{name} must not be NaN. Got {label!r} for clip {first}; give what is not known a "
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


def _has_hash(label: Any) -> bool:
    try:
        hash(label)
    except TypeError:
        return False
    return True


def _is_missing(label: Any) -> bool:
    if isinstance(label, tuple):
        return any(map(_is_missing, label))
    return is_pandas_na(label) or bool(label != label)  # as NaN and NaT are


def warn_of_anomalies(y: Any) -> None:
    """Warn if `y` tells anomalies from normal clips, for the `fit` of detectors, which ignores it.

    Parameters
    ----------
    y : array-like of shape (n_clips,) or None
        Labels of clips. They tell anomalies if there is a -1 or a word such as "anomaly", and seem
        to if there are two or more strings, or 0 and 1.

    Warns
    -----
    UserWarning
        With the numbers of clips, once a call.
    """
    listed = [] if y is None else np.ravel(np.asarray(y, dtype=object)).tolist()
    counts = Counter(label for label in listed if isinstance(label, (Real, str)))
    n_clips = counts.total()
    named = [k for k in counts if k == -1 or LABELS.get(str(k).lower()) == -1]
    are_words = len(counts) > 1 and all(isinstance(label, str) for label in counts)
    if named:
        label = named[0]
        message = (
            f"y calls {counts[label]} of {n_clips} clips anomalies ({label!r}), but it is ignored "
            "here, so they are taken for normal. FitOnNormal(estimator"
            f"{'' if label == -1 else f', anomaly_label={label!r}'}) leaves them out of the fit."
        )
    elif are_words or set(counts) == {0, 1}:
        some = ", ".join(f"{label!r} ({n})" for label, n in counts.most_common(3))
        message = (
            f"y holds {some}{', ...' if len(counts) > 3 else ''}, but it is ignored here, so all "
            f"{n_clips} clips are taken for normal. If some are anomalies, FitOnNormal(estimator, "
            "anomaly_label=...) leaves them out of the fit."
        )
    else:
        return
    warnings.warn(message, UserWarning, stacklevel=4)  # to who calls a `fit` with _fit_context


def are_separable(target: NDArray[np.int_], features: NDArray) -> bool:
    """Return whether a linear classifier recognizes the classes of clips it was not trained on.

    Where it does not, a network would memorize single clips.

    Parameters
    ----------
    target : ndarray of shape (n_clips,)
        The class of each clip. Classes of one clip are left out.
    features : ndarray of shape (n_clips, n_features), without NaN

    Returns
    -------
    are_separable : bool
        Whether Cohen's kappa over (at most) five folds is at least 0.5: half-way from chance to
        all classes right.
    """
    # Imported here, since labels are also listed where no classifier is needed.
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.metrics import cohen_kappa_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _, index, counts = np.unique(target, return_inverse=True, return_counts=True)
    counted = counts[index] >= 2
    if np.count_nonzero(counts >= 2) < 2:
        return False
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 4, 5)))
    n_folds = min(5, counts[counts >= 2].min())
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    predicted = cross_val_predict(classifier, features[counted], target[counted], cv=folds)
    return bool(cohen_kappa_score(target[counted], predicted) >= _LEAST_KAPPA)
