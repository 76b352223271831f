"""Where the score of an `AnomalousSoundDetector` comes from, in a graph of ONNX.

The same as `skanopatch.detectors.contributions` and `skanopatch.recipes.explanation.score_maps`,
whose docstrings have the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np

from skanopatch.detectors import (
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
)
from skanopatch.detectors.gain_tolerance import GainTolerantDetector
from skanopatch.detectors.metadata import last_step
from skanopatch.detectors.search import find_nearest
from skanopatch.detectors.thresholds import DistanceScale
from skanopatch.persistence.onnx_detectors import DetectorGraph
from skanopatch.persistence.onnx_features import Features, refuse
from skanopatch.persistence.onnx_graph import Graph, Tensor

_WIDTHS = (32, 16)  # most bands of the loud moments and of the fluctuations in `BandStatistics`
_LEAST_MOMENT = 1e-3
_TINY = 1e-300
_ROUNDING = 1e-6

Parts = tuple[Tensor, Tensor]
"""The distance of a typical clip (n_clips,), and what each feature adds (n_clips, n_features)."""


def add_score_map(
    parts: DetectorGraph, model: Any, features: Features, score: Tensor, moments: Tensor
) -> Tensor:
    """Return where in time and frequency the score of clips comes from (n_clips, n_time, n_freq).

    Parameters
    ----------
    parts : DetectorGraph
    model : AnomalousSoundDetector
        With the statistics among its members.
    features : Features
        The spectrograms.
    score : Tensor of shape (n_clips,)
    moments : Tensor of shape (n_clips, n_time, n_freq)
        The map of moments.
    """
    assert features.grid is not None
    n_freq, n_mels = features.grid.n_freq, features.grid.n_mels
    _, added = _Contributions(parts, model).of(model.detector_, features)
    n_columns = model.normal_statistics_.shape[1]
    if len(model.members_) > 1:
        n_columns += model.embeddings_.shape[1]
    # The mean spectrum, the loud moments and the fluctuations.
    widths = n_mels, *(math.gcd(n_mels, most) for most in _WIDTHS)
    of_causes, start = np.zeros((3, n_columns, n_freq)), 0
    for band_of, width in zip(of_causes, widths, strict=True):
        for band in range(n_freq):
            columns = slice(start + band * width // n_freq, start + (band + 1) * width // n_freq)
            band_of[columns, band] = 1
        start += width
    graph = parts.graph
    steady, passing = added @ (of_causes[0] + of_causes[2]), added @ of_causes[1]
    profile = graph.maximum(moments, _LEAST_MOMENT)
    peaks = profile.max(1, keepdims=True)
    # What belongs to no band goes where moments stand out.
    of_no_band = added.sum(1, keepdims=True) - (steady + passing).sum(1, keepdims=True)
    passing = passing + of_no_band * (peaks / peaks.sum(2, keepdims=True)).squeeze(1)
    steady, passing = graph.maximum(steady, 0.0), graph.maximum(passing, 0.0)
    own = steady.expand_dims(1) + passing.expand_dims(1) * (profile / peaks)
    most = own.max((1, 2), keepdims=True)
    shares = own / graph.where(most > 0.0, most, 1.0)
    shares = graph.where(most > 0.0, shares, own * 0.0 + 1.0)
    return shares * (score / model.offset_).expand_dims(1, 2)


class _Contributions:
    """What each feature adds to the distance of a clip, as nodes of a graph."""

    def __init__(self, parts: DetectorGraph, model: Any) -> None:
        self.parts = parts
        self.graph: Graph = parts.graph
        normal = model.normal_statistics_
        self.normal = normal[np.isfinite(normal).all(axis=1)]
        n_mels = model.statistics_.n_mels_
        ends = np.cumsum([n_mels, *(math.gcd(n_mels, most) for most in _WIDTHS)])
        bounds = [0, *ends.tolist(), normal.shape[1]]
        self.blocks = [np.arange(a, b) for a, b in pairwise(bounds)]

    def of(self, detector: Any, features: Features) -> Parts:
        """Return the parts of any detector, or of a pipeline that ends in one."""
        detector, features = self.parts.at_the_end(detector, features)
        if isinstance(detector, GainTolerantDetector):
            features = self.parts.best_statistics(detector, features)
            detector = detector.detector_
        if isinstance(detector, JoinedDetector):
            return self._of_joined(detector, features)
        if isinstance(detector, GroupedDetector):
            return self._of_grouped(detector, features)
        return self._of_detector(detector, features, None)

    def _of_detector(self, detector: Any, features: Features, columns: list[int] | None) -> Parts:
        if isinstance(detector, MahalanobisDetector):
            return self._of_mahalanobis(detector, features, columns)
        if isinstance(detector, KNNDetector):
            return self._of_knn(detector, features, columns)

        def distances(rows: Features) -> Tensor:
            if columns is None:
                return -self.parts.score(detector, rows)
            end, inputs = self.parts.at_the_end(detector, rows)
            return self.parts.distances(end, inputs).take(np.array(columns), axis=1).min(1)

        X = features.values
        if self.normal.shape[1:] != features.shape:
            typical = self._like(_typical(last_step(detector)), X)
            total = distances(features) - typical
            return typical, total.expand_dims(1) * np.full(
                (1, *features.shape), 1 / features.shape[0]
            )
        return self._by_blocks(distances, X)

    def _like(self, value: float, X: Tensor) -> Tensor:
        """Return a number for each clip."""
        return X.cut(0, 1, 1).squeeze(1) * 0.0 + value

    def _scaled(self, added: Tensor, totals: Tensor, n_features: int) -> Tensor:
        """Scale the parts of each clip so that they add up to its total; even ones if all are 0."""
        sums = added.sum(1, keepdims=True)
        is_lost = sums.abs() <= added.abs().sum(1, keepdims=True) * 1e-12
        total = totals.expand_dims(1)
        scaled = added * (total / self.graph.where(is_lost, 1.0, sums))
        return self.graph.where(is_lost, total / n_features, scaled)

    def _slopes(
        self, transform: Callable[[Tensor], Tensor], values: Tensor, ends: Tensor
    ) -> Tensor:
        """Return the slope of the chord of a function, from `ends` to each value."""
        is_near = (ends.abs() * 1e-6) > (values - ends).abs()
        values = self.graph.where(is_near, ends * (1 + 1e-6) + _TINY, values)
        return (transform(values) - transform(ends)) / (values - ends)

    def _nearest(
        self, detector: Any, features: Features, columns: list[int] | None
    ) -> tuple[list[int], Tensor, Tensor]:
        """Return the domains that count, which of them is nearest, and the distance to it."""
        allowed = list(range(len(detector.domains_))) if columns is None else columns
        distances = self.parts.distances(detector, features).take(np.array(allowed), axis=1)
        return allowed, distances.argmin(1).expand_dims(1), distances.min(1)

    def _choose(self, index: Tensor, values: list[Tensor]) -> Tensor:
        """Return the value of each clip that its index (n_clips, 1) names."""
        chosen = values[0]
        for i, value in enumerate(values[1:], start=1):
            chosen = self.graph.where(index.equals(i), value, chosen)
        return chosen

    def _of_mahalanobis(
        self, detector: MahalanobisDetector, features: Features, columns: list[int] | None
    ) -> Parts:
        X, n_features = features.values, features.shape[0]
        allowed, nearest, distances = self._nearest(detector, features, columns)
        joint, k = detector.joint_, detector.n_components_
        components = detector.components_
        floor = detector.shrinkage_ * detector.variance_
        shrunk = (1 - detector.shrinkage_) * detector.explained_variance_ + floor
        deviations = np.sqrt(detector.explained_variance_[:k])
        leverages = np.sum(components[:k] ** 2, axis=0)
        expected = [np.ones(n_features), leverages, 1 - leverages]
        ones, of_domains = self._like(1.0, X), []
        for domain in allowed:
            offset = (X - detector.location_[domain]) / detector.scale_
            along = offset @ components.T
            rest = offset - along @ components
            precision = detector.precisions_[domain] / np.outer(deviations, deviations)
            beyond = rest
            if k < len(components):
                beyond = rest + along.cut(k, len(components), 1) @ components[k:]
            gradients = [
                (along / shrunk) @ components + rest / floor,
                along.cut(0, k, 1) @ (precision @ components[:k]),
                beyond,
            ]
            added = offset * 0.0
            for scale, power, gradient, usual in zip(
                joint.scales, joint.powers, gradients, expected, strict=True
            ):
                if power:
                    squares, typical = offset * gradient, math.exp(2 * scale.center)
                    usual = np.maximum(usual, 0) if usual.max() > 0 else np.ones_like(usual)
                    sums = self.graph.maximum(squares.sum(1), _TINY)
                    slopes = self._slopes(Tensor.log, sums, ones * typical)
                    excess = squares - usual / usual.sum() * typical
                    added = added + slopes.expand_dims(1) * (power / 2) * excess
            of_domains.append(added)
        added = self._choose(nearest, of_domains)
        return ones, self._scaled(added, distances - 1.0, n_features)

    def _of_knn(
        self, detector: KNNDetector, features: Features, columns: list[int] | None
    ) -> Parts:
        X, n_features = features.values, features.shape[0]
        allowed, nearest, distances = self._nearest(detector, features, columns)
        typical, of_domains = _typical(detector), []
        for domain in allowed:
            bank, density = detector.banks_[domain], detector.densities_[domain]
            queries, references = self.parts.nearest_references(detector, domain, X)
            usual = np.ones(n_features)
            if len(bank) > 1:
                rows = np.arange(len(bank))
                _, others = find_nearest(bank, bank, 1, metric=detector.metric, folds=(rows, rows))
                usual += 1e9 * np.mean((bank - bank[others[:, 0]]) ** 2, axis=0)[:n_features]
            chosen = self.graph.constant(bank, bank.dtype).take(references, axis=0)
            differences = queries.expand_dims(1) - chosen.cast(np.float64)
            squares = differences * differences
            if detector.metric == "cosine":
                squares = squares / 2.0
            else:
                lengths = squares.sum(2, keepdims=True).sqrt()
                squares = squares / self.graph.where(lengths > 0.0, lengths, 1.0)
            if detector.normalization == "local_density":
                own_density = self.graph.constant(density).take(references, axis=0)
                squares = squares / own_density.expand_dims(2)
            own = squares.mean(1).cut(0, n_features, 1)
            excess = own.sum(1) - (distances - typical)
            of_domains.append(own - excess.expand_dims(1) * (usual / usual.sum()))
        return self._like(typical, X), self._choose(nearest, of_domains)

    def _by_blocks(self, distances: Callable[[Features], Tensor], X: Tensor) -> Parts:
        """Return Shapley values of blocks of features, each shared among its features."""
        n_features, n_blocks = self.normal.shape[1], len(self.blocks)
        spreads, largest = self.normal.std(axis=0), np.abs(self.normal).max(axis=0)
        # The deviation of equal float32 numbers need not be 0.
        spreads = np.where(spreads > _ROUNDING * largest, spreads, 1)
        kept = np.array(list(product([False, True], repeat=n_blocks)))
        number = {tuple(row): i for i, row in enumerate(kept.tolist())}
        scaled_normal = (self.normal / spreads).astype(np.float64)
        scaled = X / spreads
        products = scaled @ scaled_normal.T
        nearest = (products * -2.0 + (scaled_normal**2).sum(axis=1)).argmin(1)
        normal = self.graph.constant(self.normal, self.normal.dtype).take(nearest, axis=0)
        normal = normal.cast(np.float64)
        is_clip = np.zeros((len(kept), n_features))
        for block, is_kept in zip(self.blocks, kept.T, strict=True):
            is_clip[np.ix_(is_kept, block)] = 1
        difference = (X - normal).expand_dims(1)
        mixed = normal.expand_dims(1) + difference * is_clip
        rows = Features(mixed.reshape(-1, n_features), (n_features,))
        values = distances(rows).reshape(-1, len(kept))
        weights = np.zeros((len(kept), n_blocks))  # of the distances in the value of each block
        for i in range(n_blocks):
            for subset in kept[~kept[:, i]]:
                size, joined = int(subset.sum()), subset.copy()
                joined[i] = True
                weight = 1 / (math.comb(n_blocks - 1, size) * n_blocks)
                weights[number[tuple(joined)], i] += weight
                weights[number[tuple(subset)], i] -= weight
        of_blocks = values @ weights
        squares = (X - normal) / spreads
        squares = squares * squares
        added = [
            self._scaled(
                squares.cut(int(block[0]), int(block[-1]) + 1, 1),
                of_blocks.cut(i, i + 1, 1).squeeze(1),
                len(block),
            )
            for i, block in enumerate(self.blocks)
        ]
        return values.cut(0, 1, 1).squeeze(1), self.graph.concatenate(added, 1)

    def _of_grouped(self, detector: GroupedDetector, features: Features) -> Parts:
        scores = self.parts.of_groups(detector, features)
        best = self.graph.stack(list(scores.values()), 1).argmax(1).expand_dims(1)
        usual, added = [], []
        for group, score in scores.items():
            columns = list(detector.columns_[group]) if detector.pooled_ else None
            member = detector.detectors_[group]
            typical, own = self._of_detector(member, features, columns)
            typical = self.parts.relative(detector, typical, group)
            usual.append(typical.expand_dims(1))
            added.append(self._scaled(own, -score - typical, features.shape[0]))
        return self._choose(best, usual).squeeze(1), self._choose(best, added)

    def _of_joined(self, detector: JoinedDetector, features: Features) -> Parts:
        joint = detector.joint_
        if joint.joining == "min":
            raise refuse(detector, "joining='min' has no bands in ONNX")
        usual, own, added, width = [], [], [], 0
        for member, scale, power in zip(
            detector.detectors_, joint.scales, joint.powers, strict=True
        ):
            typical, of_member = self.of(member, features)
            distances = typical + of_member.sum(1)

            def transform(values: Tensor, scale: Any = scale) -> Tensor:
                return self.graph.maximum(values, scale.floor).log() if scale.is_log else values

            slopes = self._slopes(transform, distances, typical)
            added.append(of_member * slopes.expand_dims(1) * power)
            usual.append(typical)
            own.append(distances)
            width += self.parts.at_the_end(member, features)[1].shape[0]
        typical = self.parts.joint(usual, joint)
        totals = self.parts.joint(own, joint) - typical
        return typical, self._scaled(self.graph.concatenate(added, 1), totals, width)


def _typical(detector: Any) -> float:
    """Return the distance of a typical normal clip that was left out."""
    scale = DistanceScale(-detector.training_scores_, detector.session_weights_)
    return math.exp(scale.center) if scale.is_log else scale.center
