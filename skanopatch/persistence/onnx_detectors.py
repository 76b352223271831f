"""From features to scores, p-values and maps in a graph of ONNX, in float64."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline

from skanopatch.detectors import (
    CalibratedDetector,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    PatchKNNDetector,
    SubbandKNNDetector,
)
from skanopatch.detectors.gain_tolerance import GainTolerantDetector
from skanopatch.persistence.onnx_features import Features, add_step, refuse
from skanopatch.persistence.onnx_graph import Graph, Tensor

# A training clip is not compared with itself. Its features here differ from those of `fit` by
# rounding, so a reference counts as the clip if it is nearer than the next one by this factor.
# In few dimensions another clip may be as near.
_SELF, _SELF_OF_FEW, _FEW_DIMS = 1e-2, 1e-4, 8
# A score that equals that of a training clip but for rounding is no higher.
_TIE = 1e-5
_LARGEST_EXPONENT = 700.0  # as in `skanopatch.detectors.thresholds.exp`


class DetectorGraph:
    """The scores, p-values and maps of detectors, as nodes of a graph.

    Parameters
    ----------
    graph : Graph
    group : hashable or None
        The group of all clips; None takes the highest score of all groups.
    int8 : bool
        Whether networks are quantized.
    """

    def __init__(self, graph: Graph, *, group: Hashable | None, int8: bool) -> None:
        self.graph = graph
        self.group = group
        self.int8 = int8
        # What two outputs need is computed once.
        self._made: dict[tuple[int, str], Tensor] = {}
        self._features: dict[tuple[int, str], Features] = {}

    def score(self, detector: Any, features: Features) -> Tensor:
        """Return scores (n_clips,) of any detector, or of a pipeline that ends in one."""
        if isinstance(detector, Pipeline):
            return self.score(*self.at_the_end(detector, features))
        key = id(detector), features.values.name
        if key not in self._made:
            self._made[key] = self._score(detector, features)
        return self._made[key]

    def _score(self, detector: Any, features: Features) -> Tensor:
        if isinstance(detector, CalibratedDetector):
            return self.score(detector.detector_, features)
        if isinstance(detector, GainTolerantDetector):
            given, reduced = self._gains(detector, features)
            scores = self.score(detector.detector_, given)
            if reduced is None:
                return scores
            return self.graph.maximum(scores, self.score(detector.detector_, reduced))
        if isinstance(detector, JoinedDetector):
            distances = [-self.score(member, features) for member in detector.detectors_]
            return -self.joint(distances, detector.joint_)
        if isinstance(detector, GroupedDetector):
            return self._highest(self.of_groups(detector, features))
        if isinstance(detector, GaussianMixture):
            return self._log_likelihood(features.rows(detector).values, detector)
        if isinstance(detector, PCA):
            return self._pca_likelihood(features.rows(detector).values, detector)
        return -self.distances(detector, features).min(1)

    def distances(self, detector: Any, features: Features) -> Tensor:
        """Return the distances (n_clips, n_domains) of a detector with domains."""
        if isinstance(detector, MahalanobisDetector):
            return self._mahalanobis(detector, features.rows(detector).values)
        if isinstance(detector, KNNDetector):
            return self._knn(detector, features.rows(detector).values)
        if isinstance(detector, GMMDetector):
            return self._gmm(detector, features.rows(detector).values)
        if isinstance(detector, SubbandKNNDetector):
            return self._bands(detector, features.tokens()).mean((1, 2)).expand_dims(1)
        if isinstance(detector, PatchKNNDetector):
            return self.map(detector, features).max((1, 2)).expand_dims(1)
        raise refuse(detector)

    def at_the_end(self, detector: Any, features: Features) -> tuple[Any, Features]:
        """Return the last step of a pipeline, and what it gets."""
        while isinstance(detector, Pipeline):
            for _, step in detector.steps[:-1]:
                features = self.transform(step, features)
            detector = detector.steps[-1][1]
        return detector, features

    def transform(self, step: Any, features: Features) -> Features:
        """Return what a transformer makes of features; of equal ones the same."""
        key = id(step), features.values.name
        if key not in self._features:
            self._features[key] = add_step(self.graph, step, features, int8=self.int8)
        return self._features[key]

    def p_values(self, detector: Any, features: Features) -> Tensor:
        """Return conformal p-values (n_clips,)."""
        detector, features = self.at_the_end(detector, features)
        if isinstance(detector, GainTolerantDetector):
            given, reduced = self._gains(detector, features)
            values = self.p_values(detector.detector_, given)
            if reduced is None:
                return values
            return self.graph.maximum(values, self.p_values(detector.detector_, reduced))
        if isinstance(detector, GroupedDetector):
            members = detector.group_rows_
            scores, weights = detector.training_scores_, detector.session_weights_
            return self._highest(
                {
                    group: self._conformal(score, scores[members[group]], weights[members[group]])
                    for group, score in self.of_groups(detector, features).items()
                }
            )
        return self._conformal(
            self.score(detector, features), detector.training_scores_, detector.session_weights_
        )

    def _conformal(self, scores: Tensor, training_scores: NDArray, weights: NDArray) -> Tensor:
        counted = ~np.isnan(training_scores)
        known = training_scores[counted] - _TIE * np.abs(training_scores[counted])
        is_below = scores.expand_dims(1) >= known
        below = is_below.cast(np.float64) @ weights[counted].reshape(-1, 1)
        return ((below + 1.0) / (1 + float(weights[counted].sum()))).squeeze(1)

    # --- Several detectors --------------------------------------------------------------------

    def _gains(
        self, detector: GainTolerantDetector, features: Features
    ) -> tuple[Features, Features | None]:
        """Return statistics as they are and with a reduced gain, None where it stays."""
        X = features.rows(detector).values
        key = id(detector), f"{X.name} reduced"
        tolerance = detector.gain_tolerance
        kept = detector.gain_deviation_ / tolerance if tolerance else 1.0
        if not kept < 1:
            return features, None
        if key not in self._made:
            n_mels, n_level = detector.n_mels, detector.n_level
            locations = detector.locations_of(self.group)
            deviations = X.expand_dims(1) - locations
            spectra = deviations.cut(0, n_mels, 2)
            ordered, _ = spectra.smallest(n_mels // 2 + 1)
            middle = ordered.cut((n_mels - 1) // 2, n_mels // 2 + 1, 2)
            gains = middle.mean(2)
            shapes = (spectra - gains.expand_dims(2)).abs().mean(2)
            is_nearest = shapes.argmin(1).is_index(len(locations)).cast(np.float64)
            gain = (gains * is_nearest).sum(1, keepdims=True)
            shifted = (np.arange(features.shape[0]) < n_level) * (1 - kept)
            self._made[key] = X - gain * shifted
        return features, Features(self._made[key], features.shape)

    def best_statistics(self, detector: GainTolerantDetector, features: Features) -> Features:
        """Return for each clip those of its statistics that score higher: given, or reduced."""
        given, reduced = self._gains(detector, features)
        if reduced is None:
            return given
        is_better = self.score(detector.detector_, reduced) > self.score(detector.detector_, given)
        best = self.graph.where(is_better.expand_dims(1), reduced.values, given.values)
        return Features(best, features.shape)

    def joint(self, distances: Sequence[Tensor], joint: Any) -> Tensor:
        """Return the joint distance, as `JointDistance`."""
        total = None
        for distance, scale, weight in zip(distances, joint.scales, joint.weights, strict=True):
            if weight or not joint.weights.any():
                term = self._standardize(distance, scale)
                if total is None:
                    total = term
                elif joint.joining == "min":
                    total = self.graph.minimum(total, term)
                else:
                    total = total + term
        assert total is not None
        return self._exp(total * joint.unit)

    def _standardize(self, distances: Tensor, scale: Any) -> Tensor:
        """Add `DistanceScale.standardize`."""
        if scale.is_log:
            distances = self.graph.maximum(distances, scale.floor).log()
        return (distances - scale.center) / (scale.deviation or 1.0)

    def _exp(self, values: Tensor) -> Tensor:
        return self.graph.minimum(values, _LARGEST_EXPONENT).exp()

    def groups_of(self, detector: GroupedDetector) -> list[Hashable]:
        """Return the groups that a clip is compared with."""
        return list(detector.detectors_) if self.group is None else [self.group]

    def of_groups(self, detector: GroupedDetector, features: Features) -> dict[Hashable, Tensor]:
        """Return the scores of each group that counts."""
        scores = {}
        for group in self.groups_of(detector):
            member = detector.detectors_[group]
            if detector.pooled_:
                end, inputs = self.at_the_end(member, features)
                key = id(end), f"{inputs.values.name} domains"
                if key not in self._made:
                    self._made[key] = self.distances(end, inputs)
                columns = np.array(detector.columns_[group])
                distances = self._made[key].take(columns, axis=1).min(1)
            else:
                distances = -self.score(member, features)
            scores[group] = -self.relative(detector, distances, group)
        return scores

    def relative(self, detector: GroupedDetector, distances: Tensor, group: Hashable) -> Tensor:
        """Return the distances of a group on the scale of all groups, where 1 is the threshold."""
        scale = detector.scales_[group]
        threshold = float(scale.standardize(np.array(detector.thresholds_[group])))
        relative = (self._standardize(distances, scale) - threshold) * detector.unit_
        return self._exp(relative)

    def _highest(self, values: dict[Hashable, Tensor]) -> Tensor:
        """Return the highest value of all groups."""
        first, *others = values.values()
        for other in others:
            first = self.graph.maximum(first, other)
        return first

    # --- Single detectors ---------------------------------------------------------------------

    def _mahalanobis(self, detector: MahalanobisDetector, X: Tensor) -> Tensor:
        k = detector.n_components_
        floor = detector.shrinkage_ * detector.variance_
        shrunk = (1 - detector.shrinkage_) * detector.explained_variance_ + floor
        deviations = np.sqrt(detector.explained_variance_[:k])
        joint, components = detector.joint_, detector.components_
        rank, columns = len(components), []
        for location, precision in zip(detector.location_, detector.precisions_, strict=True):
            offset = (X - location) / detector.scale_
            along = offset @ components.T
            rest = offset - along @ components
            outside = (rest * rest).sum(1)
            squares = along * along
            leading = along.cut(0, k, 1) / deviations
            terms = [
                (squares / shrunk).sum(1) + outside / floor,
                ((leading @ precision) * leading).sum(1),
                outside + squares.cut(k, rank, 1).sum(1) if k < rank else outside,
            ]
            roots = [self.graph.maximum(term, 0.0).sqrt() for term in terms]
            columns.append(self.joint(roots, joint))
        return self.graph.stack(columns, 1)

    def _knn(self, detector: KNNDetector, X: Tensor) -> Tensor:
        columns = [
            self._search(detector, domain, X)[1].mean(1) for domain in range(len(detector.banks_))
        ]
        return self.graph.stack(columns, 1)

    def nearest_references(
        self, detector: KNNDetector, domain: int, X: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return prepared queries, and the rows (n_clips, k) of their nearest references."""
        queries, _, rows = self._search(detector, domain, X)
        return queries, rows

    def _search(
        self, detector: KNNDetector, domain: int, X: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return prepared queries, their distances to the nearest references, and these' rows."""
        bank, density = detector.banks_[domain], detector.densities_[domain]
        scaled = X.cast(bank.dtype) / detector.scale_
        queries = self.prepare(scaled.cast(np.float64), detector.metric, bank.dtype)
        k = min(detector.n_neighbors, len(bank))
        normalize = self._normalization(detector, density)
        return queries, *self.nearest(queries, bank, k, detector.metric, normalize)

    def _normalization(
        self, detector: KNNDetector, density: NDArray
    ) -> Callable[[Tensor], Tensor] | None:
        if detector.normalization == "local_density":
            return lambda distances: distances / density
        if detector.normalization == "variance_min":
            return lambda distances: distances - detector.alpha_ * density
        return None

    def prepare(self, X: Tensor, metric: str, dtype: np.dtype) -> Tensor:
        """Add `skanopatch.detectors.search.prepare`, with rows rounded as those of the bank."""
        if metric == "cosine":
            norms = (X * X).sum(1, keepdims=True).sqrt()
            is_zero = norms.equals(0.0)
            units = X / self.graph.where(is_zero, 1.0, norms)
            X = self.graph.concatenate([units, is_zero.cast(np.float64)], 1)
        return X.cast(dtype).cast(np.float64)

    def nearest(
        self,
        queries: Tensor,
        bank: NDArray,
        k: int,
        metric: str,
        normalize: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the distances (n_queries, k) to the nearest references, and the rows of these.

        A reference that equals a query is skipped if there are others.
        """
        references = self.graph.constant(bank, bank.dtype).cast(np.float64)
        squares = np.einsum("ij,ij->i", bank, bank, dtype=np.float64)
        products = queries @ references.transpose(1, 0)
        own = (queries * queries).sum(1, keepdims=True)
        squared = self.graph.maximum(products * -2.0 + squares + own, 0.0)
        skips_self = len(bank) > k
        ordered, indices = squared.smallest(max(2, k + 1) if skips_self else k)
        if skips_self:
            ratio = _SELF if bank.shape[1] >= _FEW_DIMS else _SELF_OF_FEW
            is_self = ordered.cut(0, 1, 1) <= ordered.cut(1, 2, 1) * ratio**2
        if normalize is None:
            if skips_self:
                ordered, indices = (
                    self.graph.where(is_self, part.cut(1, k + 1, 1), part.cut(0, k, 1))
                    for part in (ordered, indices)
                )
            return (ordered / 2.0 if metric == "cosine" else ordered.sqrt()), indices
        if skips_self:
            is_first = indices.cut(0, 1, 1).squeeze(1).is_index(len(bank))
            squared = self.graph.where(is_self & is_first, np.inf, squared)
        distances = normalize(squared / 2.0 if metric == "cosine" else squared.sqrt())
        return distances.smallest(k)

    def _gmm(self, detector: GMMDetector, X: Tensor) -> Tensor:
        X = (X - detector.location_) / detector.scale_
        peak = detector.peak_
        columns = [
            (self.graph.maximum(-self._log_likelihood(X, mixture) + peak, 0.0) * 2.0).sqrt()
            for mixture in detector.mixtures_
        ]
        return self.graph.stack(columns, 1)

    def _log_likelihood(self, X: Tensor, mixture: GaussianMixture) -> Tensor:
        """Return the log-likelihood (n_clips,) under a mixture."""
        n_features = mixture.means_.shape[1]
        columns = []
        for i, (weight, mean) in enumerate(zip(mixture.weights_, mixture.means_, strict=True)):
            root = mixture.precisions_cholesky_
            root = root if mixture.covariance_type == "tied" else root[i]
            if np.ndim(root) == 2:
                scaled, diagonal = X @ root - mean @ root, np.diagonal(root)
            else:
                scaled = (X - mean) * root
                diagonal = np.broadcast_to(root, (n_features,))
            constant = np.log(weight) + np.log(diagonal).sum() - n_features * np.log(2 * np.pi) / 2
            columns.append((scaled * scaled).sum(1) * -0.5 + constant)
        return self.graph.stack(columns, 1).logsumexp(1)

    def _pca_likelihood(self, X: Tensor, pca: PCA) -> Tensor:
        precision = pca.get_precision()
        offset = X - pca.mean_
        squares = (offset * (offset @ precision)).sum(1)
        _, log_det = np.linalg.slogdet(precision)
        return squares * -0.5 - 0.5 * (len(precision) * np.log(2 * np.pi) - log_det)

    # --- Maps ---------------------------------------------------------------------------------

    def has_map(self, detector: Any) -> bool:
        """Return whether a detector has maps."""
        return hasattr(detector, "anomaly_map")

    def map(self, detector: Any, features: Features) -> Tensor:
        """Return maps (n_clips, n_time, n_freq), where 1 is the threshold."""
        detector, features = self.at_the_end(detector, features)
        if isinstance(detector, GroupedDetector):
            return self._map_of_groups(detector, features)
        tokens = features.tokens()
        key = id(detector), f"{features.values.name} map"
        if key not in self._made:
            total = None
            for cells, median, iqr in zip(
                self._cells(detector, tokens),
                detector.band_median_,
                detector.band_iqr_,
                strict=True,
            ):
                term = ((cells + 1.0).log() - median) / iqr
                total = term if total is None else total + term
            assert total is not None
            self._made[key] = total / detector.level_
        return self._made[key]

    def _map_of_groups(self, detector: GroupedDetector, features: Features) -> Tensor:
        scores = self.of_groups(detector, features)
        best = self.graph.stack(list(scores.values()), 1).argmax(1).expand_dims(1, 2)
        chosen = None
        for i, group in enumerate(scores):
            own = self.map(detector.detectors_[group], features)
            chosen = own if chosen is None else self.graph.where(best.equals(i), own, chosen)
        assert chosen is not None
        return chosen

    def _cells(self, detector: Any, tokens: Features) -> list[Tensor]:
        n_time, n_freq, n_dims = tokens.shape
        if isinstance(detector, PatchKNNDetector):
            flat = tokens.values.reshape(-1, n_dims)
            cells = self._nearest_token(detector, flat, detector.space_, detector.bank_)
            return [cells.reshape(-1, n_time, n_freq)]
        columns = []
        for f, (space, bank) in enumerate(detector.token_banks_):
            flat = tokens.values.take(np.array(f), axis=2).reshape(-1, n_dims)
            columns.append(self._nearest_token(detector, flat, space, bank).reshape(-1, n_time))
        return [self._bands(detector, tokens), self.graph.stack(columns, 2)]

    def _bands(self, detector: SubbandKNNDetector, tokens: Features) -> Tensor:
        """Return the distance of each band over the clip, of shape (n_clips, 1, n_freq)."""
        key = id(detector), f"{tokens.values.name} bands"
        if key in self._made:
            return self._made[key]
        pooled = tokens.values.mean(1)
        domain_of_clip = detector.domain_of_clip_
        distances = []
        for domain in range(domain_of_clip.max() + 1):
            own = domain_of_clip == domain
            columns = [
                self._nearest_token(detector, pooled.take(np.array(f), axis=1), space, bank[own])
                for f, (space, bank) in enumerate(detector.clip_banks_)
            ]
            distances.append(self.graph.stack(columns, 1))
        stacked = self.graph.stack(distances, 1)  # (n_clips, n_domains, n_freq)
        is_nearest = stacked.mean(2).argmin(1).is_index(len(distances)).cast(np.float64)
        bands = (stacked * is_nearest.expand_dims(2)).sum(1, keepdims=True)
        self._made[key] = bands
        return bands

    def _nearest_token(self, detector: Any, tokens: Tensor, space: Any, bank: NDArray) -> Tensor:
        """Return the distance (n_tokens,) of each token to the nearest reference."""
        center, matrix, _ = space
        rows = self.prepare(tokens - center, detector.metric, np.dtype(np.float64))
        if matrix is not None:
            rows = rows @ matrix.astype(np.float64)
        rows = rows.cast(bank.dtype).cast(np.float64)
        metric = "cosine" if detector.metric == "cosine" else "euclidean"
        return self.nearest(rows, bank, 1, metric)[0].squeeze(1)
