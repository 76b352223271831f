"""Pseudo-attributes: classes for machines whose clips have no attribute labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster import hierarchy
from scipy.stats import norm
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from skanopatch.audio.labels import label_list

_N_SIMULATIONS = 30  # whose mean and deviation are used, so that few are enough


@validate_params(
    {
        "embeddings": ["array-like"],
        "machines": [object],
        "labels": [object],
        "significance": [Interval(Real, 0, 1, closed="neither")],
        "n_least": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_pseudo_attributes(
    embeddings: ArrayLike,
    *,
    machines: Iterable | None = None,
    labels: Iterable | None = None,
    significance: float = 0.05,
    n_least: int = 10,
    random_state: int | np.random.RandomState | None = None,
) -> list[Hashable]:
    """Make labels by clustering the clips of each machine.

    Ward's clustering [1]_ of the clips of a machine is cut from the top: a cluster is split if its
    two parts are significantly more compact than those of a normal distribution with the same
    covariance [2]_. A machine in one state stays one class.

    Parameters
    ----------
    embeddings : array-like of shape (n_clips, n_dims)
        Of normal clips, from a frozen network or `BandStatistics`, on one scale.
    machines : iterable of hashables of length n_clips, default=None
        The machine of each clip. None is one machine.
    labels : iterable of length n_clips, default=None
        The attributes that are known: any hashable, None where they are not. Clips with a label
        keep it and take no part in the clustering. None means that no clip has one.
    significance : float, default=0.05
        Probability with which a machine in one state is split.
    n_least : int, default=10
        Clips of the smallest cluster that may be split.
    random_state : int, RandomState instance or None, default=None
        Draws the normal distributions.

    Returns
    -------
    labels : list of tuple
        For each clip ``(machine, "label", label)`` or ``(machine, "cluster", number)``; without
        `machines`, ``("label", label)`` or ``("cluster", number)``. What
        `AnoPatchEmbedder.fit` takes as `labels`. Clusters are numbered by their first clip.

    Raises
    ------
    ValueError
        If `machines` or `labels` have another length than `embeddings`, or an embedding is NaN.

    Notes
    -----
    The test is SigClust's in each node of the tree. The level of a node is `significance` times its
    share of the clips, the correction of Meinshausen (2008) that [2]_ takes. The null distribution
    has the eigenvalues of the sample, which makes the test conservative.

    References
    ----------
    .. [1] J. H. Ward, "Hierarchical grouping to optimize an objective function", Journal of the
       American Statistical Association 58, 1963.
    .. [2] P. K. Kimes et al., "Statistical significance for hierarchical clustering", Biometrics
       73(3), 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import make_pseudo_attributes
    >>> rng = np.random.default_rng(0)
    >>> slow, fast = rng.normal(0, 1, size=(20, 3)), rng.normal(9, 1, size=(20, 3))
    >>> labels = make_pseudo_attributes(np.concatenate([slow, fast]), random_state=0)
    >>> labels[0], labels[-1]
    (('cluster', 0), ('cluster', 1))
    """
    X = check_array(embeddings, dtype=np.float64, input_name="embeddings")
    n_clips = len(X)
    of_machine = [()] * n_clips if machines is None else label_list(machines, n_clips, "machines")
    known = [None] * n_clips if labels is None else label_list(labels, n_clips, "labels")
    rng = check_random_state(random_state)
    made: list[Any] = [("label", label) for label in known]
    for machine in dict.fromkeys(of_machine):
        rows = np.array(
            [i for i in range(n_clips) if of_machine[i] == machine and known[i] is None], dtype=int
        )
        clusters = _clusters(X[rows], significance, n_least, rng)
        for row, cluster in zip(rows, clusters, strict=True):
            made[row] = ("cluster", int(cluster))
    if machines is None:
        return made
    return [(machine, *label) for machine, label in zip(of_machine, made, strict=True)]


def _clusters(
    X: NDArray[np.float64], significance: float, n_least: int, rng: np.random.RandomState
) -> NDArray[np.intp]:
    """Return the cluster of each row, numbered in the order of their first rows."""
    cluster_of = np.zeros(len(X), dtype=np.intp)
    if len(X) < n_least:
        return cluster_of
    todo = [hierarchy.to_tree(hierarchy.ward(X))]
    leaves: list[list[int]] = []
    while todo:
        node = todo.pop()
        rows = node.pre_order()
        level = significance * (len(rows) - 1) / (len(X) - 1)  # Meinshausen 2008
        if len(rows) >= n_least and _p_value(X[rows], rng) < level:
            todo += [node.left, node.right]
        else:
            leaves.append(rows)
    for number, rows in enumerate(sorted(leaves, key=min)):
        cluster_of[rows] = number
    return cluster_of


def _p_value(X: NDArray[np.float64], rng: np.random.RandomState) -> float:
    """Return how likely Ward's two clusters of one normal distribution are as compact as of `X`."""
    offset = X - X.mean(axis=0)
    deviations = np.linalg.svd(offset, compute_uv=False) / np.sqrt(len(X) - 1)
    deviations = deviations[deviations > 1e-10 * max(deviations[0], 1e-300)]
    if not deviations.any():
        return 1.0  # copies of one clip
    simulated = [
        _cluster_index(rng.standard_normal((len(X), len(deviations))) * deviations)
        for _ in range(_N_SIMULATIONS)
    ]
    return float(norm.cdf(_cluster_index(X), np.mean(simulated), np.std(simulated, ddof=1)))


def _cluster_index(X: NDArray[np.float64]) -> float:
    """Return the squares within Ward's two clusters over the squares around the mean."""
    cluster = hierarchy.fcluster(hierarchy.ward(X), 2, "maxclust")
    within = sum(
        float(np.square(X[cluster == c] - X[cluster == c].mean(0)).sum())
        for c in (1, 2)
        if (cluster == c).any()
    )
    return within / float(np.square(X - X.mean(axis=0)).sum())
