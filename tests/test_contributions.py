"""What each feature adds to a distance, against definitions by whole covariances and loops."""

from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch.detectors import (
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
)
from skanopatch.detectors.contributions import _scaled, _slopes, contributions
from skanopatch.detectors.gain_tolerance import GainTolerantDetector


def clips(n, n_features=6, seed=0):
    """Clips whose features depend on each other and vary unequally."""
    mixing = np.random.default_rng(7).normal(size=(n_features, n_features))
    X = np.random.default_rng(seed).normal(size=(n, n_features)) @ mixing + 3
    return X * np.linspace(1, 4, n_features)


def typical_of(detector):
    """The geometric mean of the distances of clips that were left out; plain if one is negative."""
    weights = detector.session_weights_ / detector.session_weights_.sum()
    distances = -detector.training_scores_
    if distances.min() < 0:
        return weights @ distances
    return np.exp(weights @ np.log(distances))


def domains_of(X, names):
    return [None] * len(X) if names is None else [names[i % len(names)] for i in range(len(X))]


def assert_columns_add_up(typical, parts, detector, X, **metadata):
    expected = -detector.score_samples(X, **metadata)
    assert_allclose(typical + parts.sum(axis=1), expected, rtol=1e-9)


# --- KNNDetector ---------------------------------------------------------------------------------


def parts_of_neighbours(detector, normal, domains, x):
    """Return the parts of one clip, feature by feature and reference by reference."""
    names = np.array(domains, dtype=object)
    means = {d: normal[names == d].mean(axis=0) for d in detector.domains_}
    residuals = normal - np.array([means[d] for d in domains])
    scale = residuals.std(axis=0) if detector.standardize else np.ones(len(x))

    def unit(rows):
        return rows / np.linalg.norm(rows) if detector.metric == "cosine" else rows

    best = None
    for index, name in enumerate(detector.domains_):
        bank = [unit(row / scale) for row in normal[names == name]]
        query, density = unit(x / scale), detector.densities_[index]
        squares = [(query - reference) ** 2 for reference in bank]
        if detector.metric == "cosine":
            shares = [square / 2 for square in squares]
        else:
            shares = [square / np.sqrt(square.sum()) for square in squares]
        distances = [share.sum() for share in shares]
        if detector.normalization == "local_density":
            shares = [share / d for share, d in zip(shares, density, strict=True)]
            distances = [share.sum() for share in shares]
        elif detector.normalization == "variance_min":
            distances = [d - detector.alpha_ * b for d, b in zip(distances, density, strict=True)]
        nearest = np.argsort(distances)[: detector.n_neighbors]
        distance = np.mean([distances[i] for i in nearest])
        if best is None or distance < best[0]:
            best = distance, np.mean([shares[i] for i in nearest], axis=0), bank
    distance, own, bank = best
    # What a normal clip would have: as much of each feature as nearest normal clips differ in it.
    usual = np.zeros(len(x))
    for i, row in enumerate(bank):
        others = [np.sum((row - other) ** 2) if j != i else np.inf for j, other in enumerate(bank)]
        usual += (row - bank[np.argmin(others)]) ** 2
    excess = own.sum() - (distance - typical_of(detector))
    return own - usual / usual.sum() * excess


@pytest.mark.parametrize("domains", [None, ("source", "target", "source")])
@pytest.mark.parametrize(
    "detector",
    [
        KNNDetector(),
        KNNDetector(3, metric="euclidean"),
        KNNDetector(metric="euclidean", standardize=True),
        KNNDetector(2, standardize=True),
        KNNDetector(2, metric="euclidean", normalization="local_density"),
        KNNDetector(normalization="local_density"),
        KNNDetector(2, normalization="variance_min", standardize=True),
    ],
    ids=repr,
)
def test_parts_of_neighbours_are_squared_differences_less_usual_ones(detector, domains):
    normal, new = clips(30), clips(7, seed=1)
    listed = domains_of(normal, domains)
    detector.fit(normal, domains=listed)
    typical, parts = contributions(detector, new)
    assert_allclose(typical, typical_of(detector))
    expected = [parts_of_neighbours(detector, normal, listed, x) for x in new]
    assert_allclose(parts, expected, rtol=1e-4, atol=1e-6)
    assert_columns_add_up(typical, parts, detector, new)


def test_a_clip_of_fit_is_compared_with_the_others():
    normal = clips(30)
    detector = KNNDetector(metric="euclidean").fit(normal)
    typical, parts = contributions(detector, normal)
    assert_columns_add_up(typical, parts, detector, normal)
    for row in (3, 17):
        others = np.delete(normal, row, axis=0)
        squares = (normal[row] - others) ** 2
        nearest = squares[squares.sum(axis=1).argmin()]
        own = nearest / np.sqrt(nearest.sum())
        usual = own - parts[row]  # for all clips in the same proportion
        assert_allclose(usual / usual.sum(), usual_shares(normal), rtol=1e-4)
    twins = np.vstack([normal, normal[:1]])
    detector.fit(twins)
    typical, parts = contributions(detector, twins[:1])  # at a distance of 0
    assert_allclose(parts.sum(axis=1), -typical)
    assert np.isfinite(parts).all()


def usual_shares(bank):
    squares = (bank[:, np.newaxis] - bank) ** 2
    totals = squares.sum(axis=2)
    np.fill_diagonal(totals, np.inf)
    usual = squares[np.arange(len(bank)), totals.argmin(axis=1)].mean(axis=0)
    return usual / usual.sum()


def test_a_bank_of_one_clip_has_even_usual_parts():
    normal, new = clips(5), clips(3, seed=1)
    detector = GroupedDetector(KNNDetector(metric="euclidean")).fit(normal)
    (inner,) = detector.detectors_.values()
    inner._banks = [type(inner._banks[0])(normal[:1])]
    typical, parts = contributions(inner, new)
    squares = (new - normal[0]) ** 2
    own = squares / np.sqrt(squares.sum(axis=1, keepdims=True))
    assert_allclose(own - parts, np.repeat(typical[:, np.newaxis] / 6, 6, axis=1))


# --- MahalanobisDetector -------------------------------------------------------------------------


def mahalanobis_parts(detector, normal, domains, x, shrinkage):
    """Return the parts of one clip by whole covariances, those of `reference_terms`."""
    n, p = normal.shape
    names = np.array(domains, dtype=object)
    means = [normal[names == d].mean(axis=0) for d in detector.domains_]
    index = [detector.domains_.index(d) for d in domains]
    residuals = normal - np.array(means)[index]
    scale = np.sqrt((residuals**2).mean(axis=0))
    Z = residuals / scale
    S = Z.T @ Z / n
    P = np.linalg.inv((1 - shrinkage) * S + shrinkage * np.trace(S) / p * np.eye(p))
    k = detector.n_components_
    values, vectors = np.linalg.eigh(S)
    V, deviations = vectors[:, ::-1][:, :k], np.sqrt(values[::-1][:k])
    best = None
    for j, name in enumerate(detector.domains_):
        own = Z[names == name] @ V / deviations
        weight = len(own) / (len(own) + k) if len(means) > 1 else 0
        T = np.linalg.inv(weight * own.T @ own / len(own) + (1 - weight) * np.eye(k))
        forms = [P, V / deviations @ T @ (V / deviations).T, np.eye(p) - V @ V.T]
        z = (x - means[j]) / scale
        squares = [z * (form @ z) for form in forms]
        logs = [
            (np.log(square.sum()) / 2 - distance.center) * weight if weight else 0
            for square, distance, weight in zip(
                squares, detector.joint_.scales, detector.term_weights_, strict=True
            )
        ]
        if best is None or sum(logs) < best[0]:
            best = sum(logs), squares
    # Of a typical normal clip each principal axis has as much: diagonals of what projects on them.
    usual = [np.ones(p), np.diag(V @ V.T), np.diag(np.eye(p) - V @ V.T)]
    total, parts = best[0], np.zeros(p)
    for square, of_form, distance, weight in zip(
        best[1], usual, detector.joint_.scales, detector.term_weights_, strict=True
    ):
        if not weight:
            continue
        typical = np.exp(2 * distance.center)
        # The logarithmic mean of the two ends shares the change of the logarithm.
        mean = (square.sum() - typical) / np.log(square.sum() / typical)
        parts += weight / 2 * (square - typical * of_form / of_form.sum()) / mean
    assert parts.sum() == pytest.approx(total)
    return parts * (np.exp(total) - 1) / parts.sum()


@pytest.mark.parametrize("domains", [None, ("source", "target", "source")])
@pytest.mark.parametrize(("n_clips", "n_features"), [(60, 6), (18, 24)])
def test_parts_of_mahalanobis_are_those_of_its_quadratic_forms(n_clips, n_features, domains):
    normal, new = clips(n_clips, n_features), clips(7, n_features, seed=1)
    listed = domains_of(normal, domains)
    if domains:
        normal[1::3] += 5
        new[::2] += 5
    detector = MahalanobisDetector(0.3).fit(normal, domains=listed)
    typical, parts = contributions(detector, new)
    assert_array_equal(typical, 1)  # the geometric mean in units of typical distances
    expected = [mahalanobis_parts(detector, normal, listed, x, 0.3) for x in new]
    assert_allclose(parts, expected, rtol=1e-6, atol=1e-9)
    assert_columns_add_up(typical, parts, detector, new)


@pytest.mark.parametrize(("n_clips", "n_features"), [(60, 6), (18, 24)])
def test_a_clip_at_the_mean_of_normal_ones_has_finite_parts(n_clips, n_features):
    detector = MahalanobisDetector().fit(clips(n_clips, n_features))
    typical, parts = contributions(detector, detector.location_)
    assert (parts < 0).all()
    assert_columns_add_up(typical, parts, detector, detector.location_)


# --- other detectors -----------------------------------------------------------------------------


class Product(KNNDetector):
    """No closed form, in the eyes of `contributions`: a distance of features that interact."""

    def _terms(self, X):
        return np.stack([1 + np.abs(X).prod(axis=1) ** 0.3 + np.abs(X[:, 0])] * 1, axis=1)


def shapley(distance, clip, reference, blocks):
    """Return the Shapley value of each block, over all orders in which blocks may come."""
    values = np.zeros(len(blocks))
    orders = list(permutations(range(len(blocks))))
    for order in orders:
        mixed = reference.copy()
        before = distance(mixed)
        for block in order:
            mixed[blocks[block]] = clip[blocks[block]]
            after = distance(mixed)
            values[block] += (after - before) / len(orders)
            before = after
    return values


@pytest.mark.parametrize(
    "blocks",
    [[np.arange(6)], [np.array([0, 5]), np.array([1, 2, 3]), np.array([4])]],
    ids=["one", "three"],
)
def test_blocks_have_their_shapley_values_shared_by_squared_differences(blocks):
    normal, new = clips(40), clips(5, seed=1)
    normal[:, 3] = new[:, 3] = 7.0
    new[1, 3] = 7.5  # of a feature that is constant, by its plain difference
    detector = GMMDetector(2, random_state=0).fit(normal)
    typical, parts = contributions(detector, new, normal=normal, blocks=blocks)
    spread = np.where(np.arange(6) == 3, 1, normal.std(axis=0))
    for row, clip in enumerate(new):
        squares = ((clip - normal) / spread) ** 2
        nearest = squares.sum(axis=1).argmin()

        def distance(x):
            return detector.anomaly_score(x[np.newaxis])[0]

        assert typical[row] == pytest.approx(distance(normal[nearest]))
        values = shapley(distance, clip, normal[nearest], blocks)
        for block, value in zip(blocks, values, strict=True):
            own = squares[nearest, block]
            assert_allclose(parts[row, block], value * own / own.sum(), rtol=1e-7, atol=1e-9)
    if len(blocks) == 1:
        found = contributions(detector, new, normal=normal)
        assert_allclose(found[1], parts)


def test_float32_rounding_of_a_constant_feature_is_no_deviation():
    normal, new = clips(40).astype(np.float32), clips(3, seed=1).astype(np.float32)
    normal[:, 3], new[:, 3] = 1000, 1000.01
    normal[::2, 3] = np.nextafter(np.float32(1000), np.float32(2000))
    detector = GMMDetector(1).fit(normal)
    _, parts = contributions(detector, new, normal=normal)
    assert (np.abs(parts[:, 3]) < 0.01 * np.abs(parts).sum(axis=1)).all()


def test_without_normal_clips_of_its_features_a_detector_has_even_parts():
    normal, new = clips(40), clips(5, seed=1)
    for detector in (GMMDetector(2, random_state=0), GMMDetector(1)):
        detector.fit(normal)
        for given in (None, normal[:, :3]):
            typical, parts = contributions(detector, new, normal=given)
            assert_allclose(typical, typical_of(detector))
            even = (detector.anomaly_score(new) - typical) / 6
            assert_allclose(parts, np.repeat(even[:, np.newaxis], 6, axis=1))


def test_the_typical_distance_counts_sessions_and_not_clips():
    normal, new = clips(40), clips(5, seed=1)
    sessions = [*range(20), *[20] * 20]
    detector = KNNDetector(metric="euclidean").fit(normal, sessions=sessions)
    typical, _ = contributions(detector, new)
    assert_allclose(typical, typical_of(detector))
    assert typical[0] != pytest.approx(np.exp(np.mean(np.log(-detector.training_scores_))))


# --- groups, pipelines, gains --------------------------------------------------------------------


def groups_of(n):
    return [("fan", "pump", "fan")[i % 3] for i in range(n)]


@pytest.mark.parametrize(
    "inner",
    [KNNDetector(metric="euclidean"), MahalanobisDetector(), GMMDetector(1)],
    ids=repr,
)
def test_groups_have_the_parts_of_their_detectors_in_their_own_units(inner):
    normal, new = clips(60), clips(8, seed=1)
    normal[1::3] += 4
    new[::2] += 4
    groups = groups_of(60)
    detector = GroupedDetector(inner).fit(normal, groups=groups)
    typical, parts = contributions(detector, new, normal=normal)
    assert_columns_add_up(typical, parts, detector, new)
    by_group = {g: detector.score_samples(new, groups=[g] * 8) for g in ("fan", "pump")}
    best = np.where(by_group["fan"] >= by_group["pump"], "fan", "pump")
    assert set(best) == {"fan", "pump"}
    for given in (best.tolist(), groups_of(8)):
        typical, parts = contributions(detector, new, groups=iter(given), normal=normal)
        assert_columns_add_up(typical, parts, detector, new, groups=given)
        for row, group in enumerate(given):
            alone = detector.detectors_[group]
            usual, own = contributions(alone, new[[row]], normal=normal)
            # Relative to the threshold, and to a power that makes groups vary alike.
            ratio = np.log(-detector.training_scores_[np.array(groups) == group])
            power = ratio.std() / np.log(-alone.training_scores_).std()
            assert typical[row] == pytest.approx((usual[0] / -alone.offset_) ** power)
            assert_allclose(parts[row] / parts[row].sum(), own[0] / own[0].sum(), rtol=1e-6)


@pytest.mark.parametrize("inner", [KNNDetector(metric="euclidean"), MahalanobisDetector()])
def test_pooled_groups_are_compared_with_their_own_domains(inner):
    normal, new = clips(60), clips(8, seed=1)
    normal[1::3] += 40
    new[::2] += 40
    detector = GroupedDetector(inner, pooled=True).fit(normal, groups=groups_of(60))
    one = detector.detectors_["fan"]
    for group in ("fan", "pump"):
        typical, parts = contributions(detector, new, groups=[group] * 8)
        assert_columns_add_up(typical, parts, detector, new, groups=[group] * 8)
        distances = -one.score_samples(new, domains=[(group, None)] * 8)
        usual = contributions(one, new)[0]
        mine = one.domains_.index((group, None))
        nearest = one._distances(new).argmin(axis=1) == mine
        assert nearest.any()
        own = contributions(one, new)[1][nearest]
        assert_allclose(own.sum(axis=1), (distances - usual)[nearest])
        shares = parts[nearest] / parts[nearest].sum(axis=1, keepdims=True)
        assert_allclose(shares, own / own.sum(axis=1, keepdims=True), rtol=1e-6)


def test_steps_before_the_last_make_the_features():
    normal, new = clips(40), clips(5, seed=1)
    pipe = make_pipeline(StandardScaler(), PCA(4), KNNDetector(metric="euclidean")).fit(normal)
    typical, parts = contributions(pipe, new)
    assert parts.shape == (5, 4)
    expected = contributions(pipe[-1], pipe[:-1].transform(new))
    assert_array_equal(typical, expected[0])
    assert_array_equal(parts, expected[1])


def test_integers_and_lists_are_numbers_too():
    normal, new = clips(40), np.round(clips(5, seed=1)).astype(int)
    detector = KNNDetector(metric="euclidean").fit(normal)
    _, expected = contributions(detector, new.astype(float))
    for rows in (new, new.tolist()):
        assert_array_equal(contributions(detector, rows)[1], expected)


def test_a_reduced_gain_has_the_parts_of_the_clip_that_counts():
    normal, new = clips(40), clips(6, seed=1)
    detector = GainTolerantDetector(
        MahalanobisDetector(), n_mels=4, n_level=4, gain_tolerance=50.0
    ).fit(normal)
    assert detector.reduce_gain(new) is not None
    best = detector.best_statistics(new)
    assert (best != new).any()
    typical, parts = contributions(detector, new)
    assert_columns_add_up(typical, parts, detector, new)
    assert_array_equal(parts, contributions(detector.detector_, best)[1])


# --- joined distances ----------------------------------------------------------------------------


@pytest.mark.parametrize("joining", ["mean", "min"])
def test_members_have_their_parts_side_by_side_by_the_slope_of_their_logarithms(joining):
    normal, new = clips(60), clips(8, seed=1)
    members = [("m", MahalanobisDetector()), ("k", KNNDetector(metric="euclidean"))]
    detector = JoinedDetector(members, joining=joining).fit(normal)
    typical, parts = contributions(detector, new)
    assert_columns_add_up(typical, parts, detector, new)
    usual = np.array([contributions(member, new)[0][0] for member in detector.detectors_])
    assert_allclose(typical, detector.joint_(usual[np.newaxis])[0])
    expected = []
    standardized = np.stack(
        [
            (np.log(member.anomaly_score(new)) - np.log(-member.training_scores_).mean())
            / np.log(-member.training_scores_).std(ddof=1)
            for member in detector.detectors_
        ]
    )
    for member, weight, row in zip(
        detector.detectors_, detector.weights_, standardized, strict=True
    ):
        distance = member.anomaly_score(new)
        start, own = contributions(member, new)
        counts = row == standardized.min(axis=0) if joining == "min" else weight
        expected.append((counts * np.log(distance / start) / (distance - start))[:, None] * own)
    expected = np.hstack(expected)
    total = detector.anomaly_score(new) - typical
    assert_allclose(parts, expected * (total / expected.sum(axis=1))[:, None], rtol=1e-7)


# --- helpers -------------------------------------------------------------------------------------


def test_parts_are_scaled_to_their_total_and_even_where_they_cancel():
    parts = np.array([[1.0, 3.0, -2.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [1e13, 1.0, -1e13]])
    totals = np.array([4.0, 6.0, 9.0, 3.0])
    found = _scaled(parts, totals)
    assert_allclose(found, [[2, 6, -4], [2, 2, 2], [3, 3, 3], [1, 1, 1]])
    assert_allclose(_scaled(np.array([[1e9, 1.0, -1e9]]), np.array([2.0])), [[2e9, 2, -2e9]])
    assert_allclose(_scaled(np.zeros((2, 5)), np.array([5.0, 10.0])), [[1] * 5, [2] * 5])


def test_the_slope_of_a_chord_is_that_of_the_curve_where_its_ends_meet():
    values = np.array([2.0, 4.0, 8.0, 2.0 * (1 + 1e-9)])
    found = _slopes(np.log, values, 2.0)
    assert_allclose(found[1:3], [np.log(2) / 2, np.log(4) / 6])
    assert_allclose(found[[0, 3]], 0.5, rtol=1e-5)
    assert_allclose(_slopes(lambda x: 3 * x, np.array([0.0, 1.0]), 0.0), 3)
    assert_allclose(_slopes(np.square, np.array([-1.0]), -3.0), -4)
