"""Domain shift: per-domain banks, SMOTE, normalization and selective Mahalanobis, written out."""

import re
import sys

import numpy as np
import pytest
from imblearn.over_sampling import SMOTE
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import FitOnNormal, KNNDetector, MahalanobisDetector, make_anomaly_scorer

DISTANCES = {"cosine": cosine_distances, "euclidean": euclidean_distances}

# On a line: a dense source bank, and a sparse target bank with a gap that fills.
LINE = np.array([[0.0], [1.0], [3.0], [20.0], [24.0], [32.0]])
LINE_DOMAINS = ["source"] * 3 + ["target"] * 3


def shifted(n_source=40, n_target=8, n_features=6, seed=0):
    """Target clips lie elsewhere, and twice as far apart."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n_source, n_features)) + 2
    target = 2 * rng.normal(size=(n_target, n_features)) - 4
    return np.vstack([source, target]), np.repeat(["source", "target"], [n_source, n_target])


# --- a bank a domain, by hand --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "scores", "training_scores"),
    [
        # Distances to source (0 1 3) and target (20 24 32): 5 is 2 from 3, 26 is 2 from 24.
        ({}, [-2, -2], [-1, -1, -2, -4, -4, -8]),
        # Two neighbours: (2 + 4) / 2 and (2 + 6) / 2.
        ({"n_neighbors": 2}, [-3, -4], [-2, -1.5, -2.5, -8, -6, -10]),
        # Densities, one neighbour each: 1 1 2 | 4 4 8. 5: min(5/1, 4/1, 2/2) = 1; 26: min(6/4,
        # 2/4, 6/8) = 0.5. Without 0, the density of 1 is 2: 1/2; for 0, min(1/2, 3/2) = 0.5.
        # For 1: without it, 0 has 3 and 3 has 3: min(1/3, 2/3); for 3: min(3/1, 2/1) = 2.
        # The target bank has the same proportions.
        (
            {"normalization": "local_density", "n_density_neighbors": 1},
            [-1, -0.5],
            [-1 / 2, -1 / 3, -2, -1 / 2, -1 / 3, -2],
        ),
    ],
    ids=str,
)
def test_the_best_of_the_banks_by_hand(parameters, scores, training_scores):
    detector = KNNDetector(metric="euclidean", contamination=0.3, **parameters).fit(
        LINE, domains=LINE_DOMAINS
    )
    np.testing.assert_allclose(detector.score_samples([[5.0], [26.0]]), scores)
    np.testing.assert_allclose(detector.training_scores_, training_scores)


def test_local_density_makes_a_sparse_domain_comparable():
    """Both domains are one figure at two sizes: normalized, one threshold serves both."""
    one = KNNDetector(
        metric="euclidean",
        normalization="local_density",
        n_density_neighbors=1,
        contamination=0.3,
    )
    detector = one.fit(LINE, domains=LINE_DOMAINS)
    near, far = detector.score_samples([[3 + 0.5], [32 + 4 * 0.5]])
    assert near == pytest.approx(far)
    plain = KNNDetector(metric="euclidean", contamination=0.3).fit(LINE, domains=LINE_DOMAINS)
    near, far = plain.score_samples([[3 + 0.5], [32 + 4 * 0.5]])
    assert far == pytest.approx(4 * near)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_variance_min_over_two_banks_is_its_written_out_loop(metric):
    """Each bank has its own leave-one-out distances; alpha is one, over the clips of both."""
    X, domains = shifted()
    new = np.vstack([shifted(5, 5, seed=s)[0] for s in (1, 2)])
    detector = KNNDetector(metric=metric, normalization="variance_min").fit(X, domains=domains)
    D, Q = DISTANCES[metric](X), DISTANCES[metric](new, X)
    clips = range(len(X))

    def nearest(i, without=()):
        others = [j for j in clips if domains[j] == domains[i] and j != i and j not in without]
        return min(others, key=lambda j: D[i, j])

    def b(i, without=()):
        return D[i, nearest(i, without)]

    own = [b(i) for i in clips]
    reference = [b(nearest(i), without={i}) for i in clips]
    alpha = np.cov(own, reference)[0, 1] / np.var(reference, ddof=1)
    assert detector.alpha_ == pytest.approx(alpha)

    scores = [-min(row[j] - alpha * own[j] for j in clips) for row in Q]
    np.testing.assert_allclose(detector.score_samples(new), scores, rtol=1e-9)
    left_out = [
        -min(
            D[i, j] - alpha * (b(j, without={i}) if domains[j] == domains[i] else own[j])
            for j in clips
            if j != i
        )
        for i in clips
    ]
    np.testing.assert_allclose(detector.training_scores_, left_out, rtol=1e-9)


# --- SMOTE ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_the_smaller_bank_is_what_imbalanced_learn_makes_of_it(metric, n_neighbors):
    X, domains = shifted()
    new = np.vstack([shifted(5, 5, seed=s)[0] for s in (1, 2)])
    detector = KNNDetector(n_neighbors, metric=metric, smote=0.5, random_state=0)
    detector.fit(X, domains=domains)
    assert detector.bank_ends_.tolist() == [40, 60]

    smote = SMOTE(sampling_strategy={"target": 20}, k_neighbors=5, random_state=0)
    references, of_domain = smote.fit_resample(X, domains)
    by_domain = [
        np.sort(DISTANCES[metric](new, references[of_domain == d]))[:, :n_neighbors].mean(axis=1)
        for d in ("source", "target")
    ]
    np.testing.assert_allclose(detector.score_samples(new), -np.minimum(*by_domain), rtol=1e-10)


def test_smote_on_a_line_adds_points_between_neighbours():
    """Every added point lies on the line, so that nothing within the target bank is far from it."""
    X = np.vstack([np.arange(1000.0)[:, np.newaxis] / 1000, [[20.0], [24.0], [32.0]]])
    domains = ["source"] * 1000 + ["target"] * 3
    detector = KNNDetector(metric="euclidean", smote=1.0, random_state=0).fit(X, domains=domains)
    gaps = detector.score_samples([[22.0], [28.0], [30.0], [34.0], [18.0]])
    # Beyond the ends nothing is added; 2,000 points over 12 m are 12 mm apart on average.
    np.testing.assert_allclose(gaps, [0, 0, 0, -2, -2], atol=0.2)
    plain = KNNDetector(metric="euclidean").fit(X, domains=domains)
    np.testing.assert_allclose(plain.score_samples([[22.0], [28.0]]), [-2, -4])


def test_leave_one_out_scores_with_smote_are_those_of_refits():
    X, domains = shifted()
    detector = KNNDetector(metric="euclidean", smote=0.5, random_state=0).fit(X, domains=domains)
    # The draws follow one another: the bank first, then the bank without each target clip.
    draws = np.random.RandomState(0)
    source, target = X[:40], X[40:]

    def enlarged(clips, k_neighbors):
        smote = SMOTE(sampling_strategy={1: 20}, k_neighbors=k_neighbors, random_state=draws)
        labels = np.repeat([0, 1], [40, len(clips)])
        return smote.fit_resample(np.vstack([source, clips]), labels)[0][40:]

    bank = enlarged(target, 5)
    D = euclidean_distances(source)
    np.fill_diagonal(D, np.inf)
    expected = [*np.minimum(D.min(axis=1), euclidean_distances(source, bank).min(axis=1))]
    for i, clip in enumerate(target):
        rest = enlarged(np.delete(target, i, axis=0), 5)
        expected.append(euclidean_distances([clip], np.vstack([source, rest])).min())
    np.testing.assert_allclose(detector.training_scores_, -np.array(expected), rtol=1e-10)


def test_smote_leaves_alone_what_is_large_enough():
    X, domains = shifted(40, 30)
    plain = KNNDetector().fit(X, domains=domains)
    for smote in (0.5, 0.75):
        detector = KNNDetector(smote=smote).fit(X, domains=domains)
        np.testing.assert_array_equal(detector.bank_, plain.bank_)
        np.testing.assert_array_equal(detector.training_scores_, plain.training_scores_)
    without = KNNDetector(smote=1.0).fit(X)
    np.testing.assert_array_equal(without.training_scores_, KNNDetector().fit(X).training_scores_)


def test_two_fits_with_one_seed_agree_and_two_seeds_do_not():
    X, domains = shifted()
    new = shifted(5, 5, seed=1)[0]
    scores = [
        KNNDetector(smote=1.0, random_state=seed).fit(X, domains=domains).score_samples(new)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()


def test_smote_keeps_float32():
    X, domains = shifted()
    detector = KNNDetector(smote=1.0, random_state=0).fit(X.astype(np.float32), domains=domains)
    assert detector.bank_.dtype == np.float32
    double = clone(detector).fit(X, domains=domains)
    np.testing.assert_allclose(detector.training_scores_, double.training_scores_, rtol=1e-3)


def test_training_rows_get_their_leave_one_out_score_with_smote():
    X, domains = shifted()
    detector = KNNDetector(smote=1.0, random_state=0).fit(X, domains=domains)
    np.testing.assert_array_equal(detector.score_samples(X), detector.training_scores_)


@pytest.mark.parametrize(
    ("parameters", "n_target", "message"),
    [
        (
            {"smote": 0.5},
            2,
            "KNNDetector with n_neighbors=1 and smote=0.5 needs at least 3 clips in each domain, "
            "since each is left out once to set the threshold. Domain 'target' has 2.",
        ),
        (
            {"smote": 0.5, "normalization": "local_density"},
            8,
            "smote=0.5 and normalization='local_density' exclude each other: the density would be "
            "that of the points that SMOTE adds. Set one of them to None.",
        ),
        (
            {"smote": 1.5},
            8,
            "The 'smote' parameter of KNNDetector must be a float in the range (0.0, 1.0] or None. "
            "Got 1.5 instead.",
        ),
    ],
)
def test_smote_that_cannot_be_is_named(parameters, n_target, message):
    X, domains = shifted(40, n_target)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        KNNDetector(**parameters).fit(X, domains=domains)


def test_without_imbalanced_learn_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
    X, domains = shifted()
    KNNDetector().fit(X, domains=domains)
    message = "KNNDetector(smote=...) needs imbalanced-learn: pip install 'skanopatch[smote]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        KNNDetector(smote=1.0).fit(X, domains=domains)


# --- selective Mahalanobis -----------------------------------------------------------------------


def test_selective_mahalanobis_is_the_least_distance_of_the_domains():
    X, domains = shifted(40, 5)
    new = np.vstack([shifted(5, 5, seed=s)[0] for s in (1, 2)])
    shrinkage, n_features = 0.2, 6
    detector = MahalanobisDetector(shrinkage, standardize=False).fit(X, domains=domains)

    centred = X - np.array([X[domains == d].mean(axis=0) for d in domains])
    pooled = centred.T @ centred / len(X)
    target = np.trace(pooled) / n_features * np.eye(n_features)
    distances = []
    for domain in ("source", "target"):
        rows = domains == domain
        own = np.cov(X[rows].T, bias=True)
        weight = rows.sum() / (rows.sum() + n_features)
        mixed = weight * own + (1 - weight) * pooled
        precision = np.linalg.inv((1 - shrinkage) * mixed + shrinkage * target)
        offsets = new - X[rows].mean(axis=0)
        distances.append([np.sqrt(offset @ precision @ offset) for offset in offsets])
    np.testing.assert_allclose(detector.score_samples(new), -np.min(distances, axis=0), rtol=1e-10)


# --- calibration ---------------------------------------------------------------------------------

CALIBRATED = [
    KNNDetector(metric="euclidean", smote=1.0, random_state=0),
    KNNDetector(3, smote=0.5, random_state=0),
    KNNDetector(metric="euclidean", normalization="local_density"),
    KNNDetector(metric="euclidean", normalization="variance_min"),
    MahalanobisDetector(),
]


@pytest.mark.parametrize("detector", CALIBRATED, ids=repr)
def test_false_alarm_rate_is_contamination_over_both_domains(detector):
    """Fresh normals of both domains, in the proportion of the training clips, over 30 fits."""
    n_fits, n_fresh, contamination = 30, 1000, 0.1
    rates = []
    for seed in range(n_fits):
        X, domains = shifted(180, 20, seed=seed)
        fresh = shifted(900, 100, seed=1000 + seed)[0]
        fitted = clone(detector).fit(X, domains=domains)
        rates.append(np.mean(fitted.predict(fresh) == -1))
    standard_error = np.sqrt(contamination * 0.9 * (1 / 202 + 1 / n_fresh) / n_fits)
    assert abs(np.mean(rates) - contamination) < 3 * standard_error


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
    assert smoted.estimator_[-1].bank_ends_.tolist() == [60, 120]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
