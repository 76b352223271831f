"""Labels: what tells clips apart, as integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
        If there are more or fewer labels than clips, or one is NaN.
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
    nameless = [i for i, label in enumerate(labels) if label != label]
    if nameless:
        raise ValueError(
            f"labels must not be NaN. Got NaN for clip {nameless[0]}; give clips without a "
            "label one of their own, such as 'unknown'."
        )
    classes = list(dict.fromkeys(labels))
    index = {label: i for i, label in enumerate(classes)}
    return classes, np.array([index[label] for label in labels], dtype=int)
