"""Domain shift: a bank a domain, SMOTE, normalization and domains that are known, written out."""

import re
import sys

import numpy as np
import pytest
from imblearn.over_sampling import SMOTE
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import (
    FitOnNormal,
    GMMDetector,
    KNNDetector,
    MahalanobisDetector,
    make_anomaly_scorer,
)

DISTANCES = {"cosine": cosine_distances, "euclidean": euclidean_distances}

# On a line: a dense source bank, and a sparse target bank with a gap that fills.
LINE = np.array([[0.0], [1.0], [3.0], [20.0], [24.0], [32.0]])
LINE_DOMAINS = ["source"] * 3 + ["target"] * 3

ONES = [
    KNNDetector(metric="euclidean"),
    KNNDetector(2, metric="euclidean", normalization="local_density"),
    KNNDetector(metric="euclidean", normalization="variance_min", standardize=True),
    GMMDetector(1, random_state=0),
    MahalanobisDetector(),
]
every_one = pytest.mark.parametrize("detector", ONES, ids=repr)


def shifted(n_source=40, n_target=8, n_features=6, seed=0):
    """Target clips lie elsewhere, and twice as far apart."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n_source, n_features)) + 2
    target = 2 * rng.normal(size=(n_target, n_features)) - 4
    return np.vstack([source, target]), np.repeat(["source", "target"], [n_source, n_target])


# --- every detector ------------------------------------------------------------------------------


@every_one
def test_one_domain_is_no_domain(detector):
    X, new = shifted()[0], shifted(seed=1)[0]
    plain, one = clone(detector).fit(X), clone(detector).fit(X, domains=["source"] * 48)
    assert_array_equal(one.score_samples(new), plain.score_samples(new))
    assert_array_equal(one.training_scores_, plain.training_scores_)
    assert plain.domains_ == [None]
    assert one.domains_ == ["source"]


@every_one
def test_domains_of_any_hashable_need_not_be_in_order(detector):
    X, domains = shifted(40, 20)
    new = shifted(10, 10, seed=1)[0]
    labels = [("mic", 1) if domain == "target" else None for domain in domains]
    order = np.random.default_rng(0).permutation(60)
    order = np.r_[0, order[order != 0]]
    sorted_ = clone(detector).fit(X, domains=labels)
    mixed = clone(detector).fit(X[order], domains=[labels[row] for row in order])
    assert mixed.domains_ == sorted_.domains_ == [None, ("mic", 1)]
    assert_allclose(mixed.score_samples(new), sorted_.score_samples(new), rtol=0.2)
    for domain in mixed.domains_:
        rows = [row for row in range(60) if labels[row] == domain]
        scores = mixed.score_samples(X[rows], domains=[domain] * len(rows))
        assert np.median(scores) > np.median(
            mixed.score_samples(X[rows] + 9, domains=[domain] * len(rows))
        )


@every_one
def test_a_clip_is_as_normal_as_its_best_domain_finds_it(detector):
    X, domains = shifted(40, 20)
    new = shifted(10, 10, seed=1)[0]
    detector = clone(detector).fit(X, domains=domains)
    known = [detector.score_samples(new, domains=[d] * 20) for d in ("source", "target")]
    assert_array_equal(detector.score_samples(new), np.max(known, axis=0))
    own = np.repeat(["source", "target"], 10)
    found = detector.score_samples(new, domains=own)
    assert_array_equal(found, np.where(own == "source", *known))
    assert_array_equal(detector.decision_function(new, domains=own), found - detector.offset_)
    assert_array_equal(
        detector.predict(new, domains=own), np.where(found >= detector.offset_, 1, -1)
    )
    at_most = detector.training_scores_ <= found[:, np.newaxis]
    assert_allclose(detector.p_values(new, domains=own), (1 + at_most.sum(axis=1)) / 61)


@every_one
def test_scores_of_left_out_clips_by_all_domains_and_by_their_own(detector):
    X, domains = shifted(40, 20)
    detector = clone(detector).fit(X, domains=domains)
    assert (detector.own_domain_scores_ <= detector.training_scores_).all()
    mixed = clone(detector).fit(X, domains=np.random.default_rng(0).permutation(domains))
    assert (mixed.own_domain_scores_ < mixed.training_scores_).any()
    far = clone(detector).fit(X + 20 * (domains == "target")[:, np.newaxis], domains=domains)
    assert_array_equal(far.own_domain_scores_, far.training_scores_)


@every_one
def test_unknown_domains_are_named(detector):
    X, domains = shifted()
    detector = clone(detector).fit(X, domains=domains)
    message = "Domain 'lab' was not seen in fit. The domains are: 'source', 'target'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.score_samples(X[:2], domains=["source", "lab"])


@every_one
def test_unreadable_clips_have_domains_too(detector):
    X, domains = shifted()
    fresh = shifted(5, 5, seed=1)[0]
    expected = clone(detector).fit(X, domains=domains)
    with_gaps = np.insert(X, [3, 30], np.nan, axis=0)
    fitted = clone(detector).fit(with_gaps, domains=np.insert(domains, [3, 30], "target"))
    assert_allclose(fitted.score_samples(fresh), expected.score_samples(fresh), rtol=1e-10)
    assert np.flatnonzero(np.isnan(fitted.training_scores_)).tolist() == [3, 31]
    fresh[2] = np.nan
    known = fitted.score_samples(fresh, domains=["source"] * 2 + ["lab"] + ["target"] * 7)
    assert np.flatnonzero(np.isnan(known)).tolist() == [2]


@every_one
def test_a_domain_of_few_clips_does_no_harm(detector):
    """Four clips of a second unit among 200: a clip far from both units is an anomaly."""
    X, domains = shifted(200, 4)
    detector = clone(detector).fit(X, domains=domains)
    assert np.isfinite(detector.training_scores_).all()
    fresh = shifted(400, 0, seed=1)[0]
    assert 0.04 < np.mean(detector.predict(fresh) == -1) < 0.2
    odd = -9 * np.sign(shifted(50, 0, seed=2)[0]) * [1, -1, 1, -1, 1, -1]
    assert np.mean(detector.predict(odd) == -1) > 0.9


@pytest.mark.parametrize(
    ("detector", "n_target", "message"),
    [
        (
            KNNDetector(3),
            3,
            "KNNDetector(n_neighbors=3) needs at least 4 clips in each domain, since each is "
            "left out once to set the threshold. Domain 'target' has 3.",
        ),
        (
            MahalanobisDetector(),
            1,
            "MahalanobisDetector() needs at least 2 clips in each domain, since each is left out "
            "once to set the threshold. Domain 'target' has 1.",
        ),
        (
            KNNDetector(smote=0.5),
            2,
            "KNNDetector(smote=0.5) needs at least 3 clips in each domain, since each is left out "
            "once to set the threshold. Domain 'target' has 2.",
        ),
        (
            KNNDetector(normalization="local_density"),
            2,
            "KNNDetector(normalization='local_density') needs at least 3 clips in each domain, "
            "since each is left out once to set the threshold. Domain 'target' has 2.",
        ),
        (
            KNNDetector(smote=0.5, normalization="local_density"),
            8,
            "smote=0.5 and normalization='local_density' exclude each other: the density would be "
            "that of the points that SMOTE adds. Set one of them to None.",
        ),
        (
            KNNDetector(smote=1.5),
            8,
            "The 'smote' parameter of KNNDetector must be a float in the range (0.0, 1.0] or None. "
            "Got 1.5 instead.",
        ),
    ],
)
def test_what_cannot_be_is_named(detector, n_target, message):
    X, domains = shifted(40, n_target)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.fit(X, domains=domains)


# --- a bank a domain, by hand --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "scores", "seen", "training_scores"),
    [
        # Distances to source (0 1 3) and target (20 24 32): 5 is 2 from 3, 26 is 2 from 24.
        ({}, [-2, -2], [-1, -1, -2, -4, -4, -8], [-1, -1, -2, -4, -4, -8]),
        # Two neighbours: (2 + 4) / 2 and (2 + 6) / 2.
        (
            {"n_neighbors": 2},
            [-3, -4],
            [-2, -1.5, -2.5, -8, -6, -10],
            [-2, -1.5, -2.5, -8, -6, -10],
        ),
        # Densities, one neighbour each: 1 1 2 | 4 4 8. 5: min(5/1, 4/1, 2/2) = 1; 26: min(6/4,
        # 2/4, 6/8) = 0.5. Fitted on 0: min(1/1, 3/2) = 1; 1: min(1/1, 2/2); 3: min(3/1, 2/1).
        # Without 0, the densities of 1 and 3 are 2: min(1/2, 3/2); without 1, those of 0 and 3
        # are 3: min(1/3, 2/3); without 3: min(3/1, 2/1). The target bank has the same proportions.
        (
            {"normalization": "local_density", "n_density_neighbors": 1},
            [-1, -0.5],
            [-1, -1, -2, -1, -1, -2],
            [-1 / 2, -1 / 3, -2, -1 / 2, -1 / 3, -2],
        ),
    ],
    ids=str,
)
def test_the_best_of_the_banks_by_hand(parameters, scores, seen, training_scores):
    detector = KNNDetector(metric="euclidean", **parameters).fit(LINE, domains=LINE_DOMAINS)
    assert_allclose(detector.score_samples([[5.0], [26.0]]), scores)
    assert_allclose(detector.score_samples(LINE), seen)
    assert_allclose(detector.training_scores_, training_scores)


def test_local_density_makes_a_sparse_domain_comparable():
    """Both domains are one figure at two sizes: normalized, one threshold serves both."""
    one = KNNDetector(metric="euclidean", normalization="local_density", n_density_neighbors=1)
    detector = one.fit(LINE, domains=LINE_DOMAINS)
    near, far = detector.score_samples([[3 + 0.5], [32 + 4 * 0.5]])
    assert near == pytest.approx(far)
    plain = KNNDetector(metric="euclidean").fit(LINE, domains=LINE_DOMAINS)
    near, far = plain.score_samples([[3 + 0.5], [32 + 4 * 0.5]])
    assert far == pytest.approx(4 * near)


def test_the_nearest_bank_counts():
    X, domains = shifted(50, 10)
    new = shifted(20, 20, seed=1)[0]
    detector = KNNDetector(2, metric="euclidean").fit(X, domains=domains)
    expected = [
        np.sort(euclidean_distances(new, X[domains == d]))[:, :2].mean(axis=1)
        for d in ("source", "target")
    ]
    assert_allclose(detector.score_samples(new), -np.min(expected, axis=0), rtol=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_variance_min_over_two_banks_is_its_written_out_loop(metric):
    """Each bank has its own leave-one-out distances; alpha is one, over the clips of both."""
    X, domains = shifted()
    new = np.vstack([shifted(5, 5, seed=s)[0] for s in (1, 2)])
    detector = KNNDetector(metric=metric, normalization="variance_min").fit(X, domains=domains)
    D, Q = DISTANCES[metric](X), DISTANCES[metric](new, X)
    D[domains[:, np.newaxis] != domains] = np.inf
    np.fill_diagonal(D, np.inf)
    nearest, own = D.argmin(axis=1), D.min(axis=1)
    # The distance of the nearest reference, had the clip not been there.
    reference = [np.delete(D[nearest[i]], i).min() for i in range(len(X))]
    alpha = np.cov(own, reference)[0, 1] / np.var(reference, ddof=1)
    assert detector.alpha_ == pytest.approx(alpha)
    assert_allclose(detector.score_samples(new), -(Q - alpha * own).min(axis=1), rtol=1e-9)


def test_spreads_are_those_within_the_domains():
    X, domains = shifted()
    detector = KNNDetector(standardize=True).fit(X, domains=domains)
    means = np.array([X[domains == d].mean(axis=0) for d in domains])
    assert_allclose(detector.scale_, (X - means).std(axis=0))
    mahalanobis = MahalanobisDetector().fit(X, domains=domains)
    assert_allclose(mahalanobis.scale_, (X - means).std(axis=0))
    assert_allclose(mahalanobis.location_, means[[0, -1]])


# --- SMOTE ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_the_smaller_bank_is_what_imbalanced_learn_makes_of_it(metric, n_neighbors):
    X, domains = shifted()
    new = np.vstack([shifted(5, 5, seed=s)[0] for s in (1, 2)])
    detector = KNNDetector(n_neighbors, metric=metric, smote=0.5, random_state=0)
    detector.fit(X, domains=domains)
    assert [len(bank) for bank in detector.banks_] == [40, 20]

    smote = SMOTE(sampling_strategy={"target": 20}, k_neighbors=5, random_state=0)
    references, of_domain = smote.fit_resample(X, domains)
    by_domain = [
        np.sort(DISTANCES[metric](new, references[of_domain == d]))[:, :n_neighbors].mean(axis=1)
        for d in ("source", "target")
    ]
    assert_allclose(detector.score_samples(new), -np.minimum(*by_domain), rtol=1e-9)


def test_smote_on_a_line_adds_points_between_neighbours():
    """Every added point lies on the line, so that nothing within the target bank is far from it."""
    X = np.vstack([np.arange(1000.0)[:, np.newaxis] / 1000, [[20.0], [24.0], [32.0]]])
    domains = ["source"] * 1000 + ["target"] * 3
    detector = KNNDetector(metric="euclidean", smote=1.0, random_state=0).fit(X, domains=domains)
    gaps = detector.score_samples([[22.0], [28.0], [30.0], [34.0], [18.0]])
    # Beyond the ends nothing is added; 1,000 points over 12 m are 12 mm apart on average.
    assert_allclose(gaps, [0, 0, 0, -2, -2], atol=0.2)
    plain = KNNDetector(metric="euclidean").fit(X, domains=domains)
    assert_allclose(plain.score_samples([[22.0], [28.0]]), [-2, -4])


@pytest.mark.parametrize(("n_target", "n_references"), [(1, 1), (2, 12), (7, 12), (12, 12)])
def test_smote_enlarges_what_has_two_clips_with_up_to_five_neighbours(n_target, n_references):
    X, _ = shifted(12, n_target)
    detector = KNNDetector(metric="euclidean", smote=1.0, random_state=0)
    detector._fit(X, {"source": np.arange(12), "target": np.arange(12, 12 + n_target)})
    bank, target = detector.banks_[1], X[12:]
    assert len(bank) == n_references
    assert_array_equal(bank[:n_target], target)
    for added in bank[n_target:]:
        # It lies on the way from a clip to one of its nearest five.
        detours = []
        for clip in target:
            others = np.linalg.norm(target - clip, axis=1)
            for near in target[np.argsort(others)[1:6]]:
                way = np.linalg.norm(added - clip) + np.linalg.norm(near - added)
                detours.append(way - np.linalg.norm(near - clip))
        assert min(detours) < 1e-9


def test_clips_are_left_out_before_smote():
    """No point that was made of a clip is among those that it is compared with."""
    X, domains = shifted(12, 8)
    detector = KNNDetector(metric="euclidean", smote=1.0, random_state=0).fit(X, domains=domains)
    order = np.argsort(domains, kind="stable")
    for fold, left_out in enumerate(order):
        assert fold == list(order).index(left_out)
        kept = np.delete(np.arange(20), left_out)
        part = clone(detector).fit(X[kept], domains=domains[kept])
        expected = part.score_samples(X[[left_out]])[0]
        assert detector.training_scores_[left_out] == pytest.approx(expected)


def test_smote_leaves_alone_what_is_large_enough():
    X, domains = shifted(40, 30)
    plain = KNNDetector().fit(X, domains=domains)
    for smote in (0.5, 0.7):
        detector = KNNDetector(smote=smote).fit(X, domains=domains)
        assert_array_equal(detector.banks_[1], plain.banks_[1])
        assert_array_equal(detector.training_scores_, plain.training_scores_)
    without = KNNDetector(smote=1.0).fit(X)
    assert_array_equal(without.training_scores_, KNNDetector().fit(X).training_scores_)


def test_two_fits_with_one_seed_agree_and_two_seeds_do_not():
    X, domains = shifted()
    new = shifted(5, 5, seed=1)[0]
    scores = [
        KNNDetector(smote=1.0, random_state=seed).fit(X, domains=domains).score_samples(new)
        for seed in (0, 0, 1)
    ]
    assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()


def test_smote_keeps_float32():
    X, domains = shifted()
    detector = KNNDetector(smote=1.0, random_state=0).fit(X.astype(np.float32), domains=domains)
    assert {bank.dtype for bank in detector.banks_} == {np.dtype(np.float32)}
    double = clone(detector).fit(X, domains=domains)
    assert_allclose(detector.training_scores_, double.training_scores_, rtol=1e-3)


def test_without_imbalanced_learn_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
    X, domains = shifted()
    KNNDetector().fit(X, domains=domains)
    message = "KNNDetector(smote=...) needs imbalanced-learn: pip install 'skanopatch[smote]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        KNNDetector(smote=1.0).fit(X, domains=domains)


# --- calibration ---------------------------------------------------------------------------------

CALIBRATED = [
    KNNDetector(metric="euclidean", smote=1.0, random_state=0),
    KNNDetector(metric="euclidean", normalization="local_density"),
    KNNDetector(metric="euclidean", normalization="variance_min"),
    MahalanobisDetector(),
]


@pytest.mark.slow
@pytest.mark.parametrize("detector", CALIBRATED, ids=repr)
def test_false_alarms_over_both_domains_are_as_many_as_asked_for(detector):
    """Fresh normals of both domains, in the proportion of the training clips."""
    n_fits, n_fresh, rate = 10, 1000, 0.1
    rates = []
    for seed in range(n_fits):
        X, domains = shifted(180, 20, seed=seed)
        fresh = shifted(900, 100, seed=1000 + seed)[0]
        fitted = clone(detector).fit(X, domains=domains)
        rates.append(np.mean(fitted.predict(fresh) == -1))
    standard_error = np.sqrt(rate * 0.9 * (1 / 202 + 1 / n_fresh) / n_fits)
    assert abs(np.mean(rates) - rate) < 3.5 * standard_error


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", [False, True])
def test_domains_reach_every_fold_of_a_grid_search(routing):
    X, domains = shifted(60, 20)
    rng = np.random.default_rng(3)
    X = np.vstack([X, rng.normal(size=(20, 6)) * 6])
    y, domains = np.repeat([1, -1], [80, 20]), np.append(domains, ["unknown"] * 20)
    detector = KNNDetector(metric="euclidean", random_state=0)
    grid = {"estimator__knndetector__smote": [None, 1.0]}
    with config_context(enable_metadata_routing=routing):
        if routing:
            detector.set_fit_request(domains=True)
        search = GridSearchCV(
            FitOnNormal(make_pipeline(StandardScaler(), detector)),
            grid,
            scoring=make_anomaly_scorer("auc"),
            cv=StratifiedKFold(4, shuffle=True, random_state=0),
            error_score="raise",
        )
        search.fit(X, y, **{"domains" if routing else "knndetector__domains": domains})
        smoted = search.best_estimator_.set_params(estimator__knndetector__smote=1.0)
        smoted.fit(X, y, **{"domains" if routing else "knndetector__domains": domains})
    # Two banks of normals, the domain of the anomalies left out with them.
    assert [len(bank) for bank in smoted.estimator_[-1].banks_] == [60, 60]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
