"""The share of each feature in the distance of a clip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skanopatch.detectors.base import BaseDetector
from skanopatch.detectors.gain_tolerance import GainTolerantDetector
from skanopatch.detectors.grouped import GroupedDetector
from skanopatch.detectors.joined import JoinedDetector
from skanopatch.detectors.knn import KNNDetector
from skanopatch.detectors.mahalanobis import MahalanobisDetector
from skanopatch.detectors.metadata import at_the_end, last_step
from skanopatch.detectors.search import Bank, find_nearest, prepare
from skanopatch.detectors.thresholds import DistanceScale

_ROUNDING = 1e-6  # relative deviation of a feature that is constant but for rounding in float32

Parts = tuple[NDArray[np.float64], NDArray[np.float64]]
Blocks = Sequence[NDArray[np.intp]]


def contributions(
    detector: Any,
    X: Any,
    *,
    groups: Iterable | None = None,
    normal: NDArray | None = None,
    blocks: Blocks | None = None,
) -> Parts:
    """Return what each feature adds to the distance of a clip, beyond a typical normal clip.

    Parameters
    ----------
    detector : detector or Pipeline
        Fitted; also a `GroupedDetector` or a `JoinedDetector`. The features are those that the last
        step of a pipeline gets; that step may be a pipeline, which has no closed form.
    X : array-like
        What `detector` takes, without clips that could not be read.
    groups : iterable of hashables of length n_clips, default=None
        The group of each clip. None takes the group of the highest score, as the detector does.
    normal : ndarray of shape (n_normal, n_features), default=None
        Normal clips, with which clips are compared where a detector has no closed form.
    blocks : list of int ndarrays, default=None
        Features that a detector without closed form replaces together, at most 8. None is all.

    Returns
    -------
    typical : ndarray of shape (n_clips,)
        The distance of a typical normal clip.
    parts : ndarray of shape (n_clips, n_features)
        `typical` and the parts of a clip add up to its distance, that is minus its score. A part
        below 0 is of a feature that deviates less than in a typical normal clip. The features of
        the members of a `JoinedDetector` are side by side.

    Notes
    -----
    A quadratic form z'Az is the sum of z_i (Az)_i, the partial decomposition contributions of [1]_.
    For `MahalanobisDetector`, the part of a feature in each of its two distances is that less what
    it is in a typical normal clip, and the two join by their powers in the geometric mean.
    Changes of a product are split by the logarithmic mean [2]_, which leaves no remainder. For
    `KNNDetector` the squared differences from the nearest references add up.

    Of another detector, the features of blocks are replaced by those of the nearest normal clip:
    the part of a block is its Shapley value [3]_ over all combinations, and is shared among its
    features by their squared differences, in units of their deviations. A detector without
    `normal` gets one block.

    References
    ----------
    .. [1] C. F. Alcala and S. J. Qin, "Analysis and generalization of fault diagnosis methods for
       process monitoring", Journal of Process Control 21(3), 2011.
    .. [2] B. W. Ang, "Decomposition analysis for policymaking in energy: which is the preferred
       method?", Energy Policy 32(9), 2004.
    .. [3] L. S. Shapley, "A value for n-person games", Contributions to the Theory of Games 2,
       1953.
    """
    end, rows = detector, X
    if isinstance(detector, Pipeline):
        end, rows = detector[-1], detector[:-1].transform(X)
    check_is_fitted(end)
    listed = None if groups is None else list(groups)
    if isinstance(end, GainTolerantDetector):
        end, rows = end.detector_, end.best_statistics(np.asarray(rows), listed)
    if isinstance(end, JoinedDetector):
        return _of_joined(end, rows, listed, normal, blocks)
    rows = np.asarray(rows)  # of the type of fit, by which a detector recognizes its own rows
    if rows.dtype.kind != "f":
        rows = rows.astype(np.float64)
    if isinstance(end, GroupedDetector):
        return _of_grouped(end, rows, listed, normal, blocks)
    return _of_detector(end, rows, None, normal, blocks)


def _of_detector(
    detector: Any, X: NDArray, columns: list[int] | None, normal: NDArray | None, blocks: Any
) -> Parts:
    """Return the parts of a single detector, which compares with the domains in `columns`."""
    if isinstance(detector, MahalanobisDetector):
        return _of_mahalanobis(detector, X, columns)
    if isinstance(detector, KNNDetector):
        return _of_knn(detector, X, columns)

    def distances(rows: NDArray) -> NDArray[np.float64]:
        end, inputs = at_the_end(detector, rows)
        if columns is None:
            return -end.score_samples(inputs)
        return end._distances(inputs)[:, columns].min(axis=1)

    if normal is None or normal.shape[1:] != X.shape[1:]:
        typical = np.full(len(X), _typical(last_step(detector)))
        return typical, _scaled(np.ones(X.shape), distances(X) - typical)
    return _by_blocks(distances, X, normal, blocks or [np.arange(X.shape[1])])


def _of_mahalanobis(detector: MahalanobisDetector, X: NDArray, columns: list[int] | None) -> Parts:
    nearest, distances = _nearest_domain(detector, X, columns)
    joint, k = detector.joint_, detector.n_components_
    floor = detector.shrinkage_ * detector.variance_
    shrunk = (1 - detector.shrinkage_) * detector.explained_variance_ + floor
    deviations = np.sqrt(detector.explained_variance_[:k])
    leading, trailing = detector.components_[:k], detector.components_[k:]
    leverages = np.sum(leading**2, axis=0)
    expected = [np.ones(X.shape[1]), leverages, 1 - leverages]
    parts = np.zeros(X.shape)
    for domain in np.unique(nearest):
        rows = nearest == domain
        offset = (X[rows] - detector.location_[domain]) / detector.scale_
        along = offset @ detector.components_.T
        rest = offset - along @ detector.components_
        precision = detector.precisions_[domain] / np.outer(deviations, deviations)
        gradients = [
            (along / shrunk) @ detector.components_ + rest / floor,
            along[:, :k] @ precision @ leading,
            rest + along[:, k:] @ trailing,
        ]
        for scale, power, gradient, usual in zip(
            joint.scales, joint.powers, gradients, expected, strict=True
        ):
            if power:
                squares, typical = offset * gradient, math.exp(2 * scale.center)
                usual = np.maximum(usual, 0) if usual.max() > 0 else np.ones_like(usual)
                excess = squares - usual / usual.sum() * typical
                slopes = _slopes(np.log, np.maximum(squares.sum(axis=1), 1e-300), typical)
                parts[rows] += power / 2 * slopes[:, np.newaxis] * excess
    return np.ones(len(X)), _scaled(parts, distances - 1)


def _of_knn(detector: KNNDetector, X: NDArray, columns: list[int] | None) -> Parts:
    nearest, distances = _nearest_domain(detector, X, columns)
    queries = prepare(X / detector.scale_, detector.metric)
    typical, parts = _typical(detector), np.empty(X.shape)
    for domain in np.unique(nearest):
        rows, bank = nearest == domain, detector.banks_[domain]
        density = detector.densities_[domain]
        plain = detector.normalization is None
        _, references = find_nearest(
            queries[rows].astype(bank.dtype),
            bank,
            min(detector.n_neighbors, len(bank)),
            metric=detector.metric,
            normalize=None if plain else detector._normalization(density),
            skip_self=True,
        )
        usual = np.ones(X.shape[1])
        if len(bank) > 1:
            _, others = detector._search_others(Bank(bank))
            usual += 1e9 * np.mean((bank - bank[others[:, 0]]) ** 2, axis=0)[: len(usual)]
        squares = (queries[rows, np.newaxis] - bank[references].astype(np.float64)) ** 2
        if detector.metric == "cosine":
            squares = squares / 2
        else:
            lengths = np.sqrt(squares.sum(axis=2, keepdims=True))
            squares = squares / np.where(lengths > 0, lengths, 1)
        if detector.normalization == "local_density":
            squares = squares / density[references][..., np.newaxis]
        own = squares.mean(axis=1)[:, : X.shape[1]]
        excess = own.sum(axis=1) - (distances[rows] - typical)
        parts[rows] = own - usual / usual.sum() * excess[:, np.newaxis]
    return np.full(len(X), typical), parts


def _by_blocks(distances: Any, X: NDArray, normal: NDArray, blocks: Blocks) -> Parts:
    """Return Shapley values of blocks of features, each shared among its features."""
    spreads = normal.std(axis=0, dtype=np.float64)
    is_rounding = spreads <= _ROUNDING * np.abs(normal).max(axis=0)
    spreads = np.where(is_rounding, 1, spreads)
    kept = np.array(list(product([False, True], repeat=len(blocks))))
    number = {tuple(row): i for i, row in enumerate(kept.tolist())}
    typical, parts = np.empty(len(X)), np.zeros(X.shape)
    for row, clip in enumerate(X):
        differences = ((clip - normal) / spreads) ** 2
        nearest = differences.sum(axis=1).argmin()
        mixed = np.repeat(normal[nearest][np.newaxis].astype(np.float64), len(kept), axis=0)
        for block, is_kept in zip(blocks, kept.T, strict=True):
            mixed[np.ix_(is_kept, block)] = clip[block]
        values = distances(mixed)
        typical[row] = values[0]
        for i, block in enumerate(blocks):
            value = 0.0
            for subset in kept[~kept[:, i]]:
                size, joined = int(subset.sum()), subset.copy()
                joined[i] = True
                weight = math.comb(len(blocks) - 1, size) * len(blocks)
                gain = values[number[tuple(joined)]] - values[number[tuple(subset)]]
                value += gain / weight
            squares = differences[nearest, block][np.newaxis]
            parts[row, block] = _scaled(squares, np.array([value]))[0]
    return typical, parts


def _of_grouped(
    detector: GroupedDetector, X: NDArray, groups: list | None, normal: Any, blocks: Any
) -> Parts:
    known = list(detector.detectors_)
    if groups is None:
        scores = [detector.score_samples(X, groups=[group] * len(X)) for group in known]
        groups = [known[index] for index in np.argmax(scores, axis=0)]
    distances = -detector.score_samples(X, groups=groups)
    typical, parts = np.empty(len(X)), np.empty(X.shape)
    for group in dict.fromkeys(groups):
        rows = np.array([own == group for own in groups])
        columns = detector.columns_[group] if detector.pooled_ else None
        usual, own = _of_detector(detector.detectors_[group], X[rows], columns, normal, blocks)
        typical[rows] = detector._relative(usual, group)
        parts[rows] = _scaled(own, distances[rows] - typical[rows])
    return typical, parts


def _of_joined(
    detector: JoinedDetector, X: Any, groups: list | None, normal: Any, blocks: Any
) -> Parts:
    joint, usual, own, parts, standardized = detector.joint_, [], [], [], []
    for member, scale, power in zip(detector.detectors_, joint.scales, joint.powers, strict=True):
        typical, of_member = contributions(member, X, groups=groups, normal=normal, blocks=blocks)
        distances = typical + of_member.sum(axis=1)
        slopes = _slopes(scale.transform, distances, typical)
        parts.append(power * slopes[:, np.newaxis] * of_member)
        standardized.append(scale.standardize(distances))
        usual.append(typical)
        own.append(distances)
    typical = joint(np.stack(usual, axis=1))
    if joint.joining == "min":
        weights = joint.weights if joint.weights.any() else np.ones(len(parts))
        least = np.where(weights > 0, np.stack(standardized, axis=1), np.inf).argmin(axis=1)
        parts = [part * (least == i)[:, np.newaxis] for i, part in enumerate(parts)]
    return typical, _scaled(np.hstack(parts), joint(np.stack(own, axis=1)) - typical)


def _nearest_domain(
    detector: BaseDetector, X: NDArray, columns: list[int] | None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the nearest of the domains in `columns`, and the distance to it."""
    allowed = np.arange(len(detector.domains_)) if columns is None else np.array(columns)
    distances = detector._distances(X)[:, allowed]
    return allowed[distances.argmin(axis=1)], distances.min(axis=1)


def _typical(detector: Any) -> float:
    """Return the distance of a typical normal clip that was left out."""
    scale = DistanceScale(-detector.training_scores_, detector.session_weights_)
    return math.exp(scale.center) if scale.is_log else scale.center


def _slopes(transform: Any, values: NDArray, typical: Any) -> NDArray[np.float64]:
    """Return the slope of the chord of a function, from `typical` to each value."""
    ends = np.broadcast_to(np.asarray(typical, dtype=np.float64), values.shape)
    is_near = np.abs(values - ends) <= 1e-6 * np.abs(ends)
    values = np.where(is_near, ends * (1 + 1e-6) + 1e-300, values)
    return (transform(values) - transform(ends)) / (values - ends)


def _scaled(parts: NDArray, totals: NDArray) -> NDArray[np.float64]:
    """Scale the parts of each clip so that they add up to its total; even ones if all are 0."""
    sums = parts.sum(axis=1)
    is_lost = np.abs(sums) <= 1e-12 * np.abs(parts).sum(axis=1)
    scaled = parts * (totals / np.where(is_lost, 1, sums))[:, np.newaxis]
    scaled[is_lost] = (totals[is_lost] / parts.shape[1])[:, np.newaxis]
    return scaled
