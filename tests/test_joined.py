"""JoinedDetector and CalibratedDetector around detectors of any kind."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn import config_context
from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skanopatch import FitOnNormal, make_anomaly_scorer
from skanopatch.detectors import (
    CalibratedDetector,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    SubbandKNNDetector,
)
from skanopatch.detectors.thresholds import place_threshold

SPREAD, NEAR = MahalanobisDetector(), KNNDetector(metric="euclidean")


def clips(n, n_features=6, seed=0, shift=2.0):
    return np.random.default_rng(seed).normal(size=(n, n_features)) + shift


def joined(*members, **parameters):
    return JoinedDetector([(f"m{i}", m) for i, m in enumerate(members)], **parameters)


class Recorder(TransformerMixin, BaseEstimator):
    """What a network is to a pipeline: a step whose `fit` asks for labels."""

    def fit(self, X, y=None, *, labels=None):
        self.labels_ = labels
        return self

    def transform(self, X):
        return X


class Constant(OutlierMixin, BaseEstimator):
    """A detector to which all clips are the same."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def score_samples(self, X):
        return np.full(len(X), -3.0)


# --- the joint score -----------------------------------------------------------------------------


def test_joint_score_is_the_weighted_mean_of_log_distances():
    X, new = clips(50), clips(20, seed=1)
    found = joined(SPREAD, NEAR, GMMDetector(1)).fit(X)
    members = [clone(m).fit(X) for m in (SPREAD, NEAR, GMMDetector(1))]
    logs = np.log([-m.training_scores_ for m in members])
    weights = 1 / logs.std(axis=1, ddof=1)
    weights /= weights.sum()
    assert_allclose(found.weights_, weights)
    centers = logs.mean(axis=1, keepdims=True)
    assert_allclose(found.training_scores_, -np.exp(weights @ (logs - centers)))
    expected = np.log([m.anomaly_score(new) for m in members]) - centers
    assert_allclose(found.score_samples(new), -np.exp(weights @ expected))
    assert found.offset_ == pytest.approx(-place_threshold(-found.training_scores_, 0.1))
    assert list(found.named_detectors_) == ["m0", "m1", "m2"]
    assert found.n_features_in_ == 6


def test_the_order_of_members_makes_no_difference():
    X, new = clips(40), clips(20, seed=1)
    members = [SPREAD, NEAR, IsolationForest(n_estimators=10, random_state=0)]
    found, other = joined(*members).fit(X), joined(*members[::-1]).fit(X)
    assert_allclose(other.score_samples(new), found.score_samples(new), rtol=1e-12)
    assert_allclose(other.weights_[::-1], found.weights_, rtol=1e-12)
    assert other.offset_ == pytest.approx(found.offset_, rel=1e-12)


@pytest.mark.parametrize("detector", [SPREAD, NEAR, GMMDetector(1)], ids=repr)
def test_a_detector_joined_with_itself_decides_as_it_does_alone(detector):
    X, new = clips(40), np.vstack([clips(40, seed=1), clips(5, seed=2) * 4])
    alone = clone(detector).fit(X)
    for copies in (1, 3):
        found = joined(*[detector] * copies).fit(X)
        scores = found.score_samples(new)
        assert_array_equal(np.argsort(scores), np.argsort(alone.score_samples(new)))
        assert_array_equal(found.predict(new), alone.predict(new))
        assert_array_equal(found.p_values(new), alone.p_values(new))
        center = stats.gmean(-alone.training_scores_)
        assert_allclose(scores, alone.score_samples(new) / center, rtol=1e-9)


def test_a_member_whose_distances_are_all_the_same_has_no_weight():
    X, new = clips(40), clips(10, seed=1)
    found = joined(NEAR, Constant()).fit(X)
    assert found.weights_.tolist() == [1, 0]
    assert_allclose(found.score_samples(new), joined(NEAR).fit(X).score_samples(new))


def test_a_fault_that_one_member_sees_is_found_by_both():
    """A blind member costs a little, and never all."""
    X, new = clips(100, 8), clips(100, 8, seed=1)
    new[:, 0] += 6
    alone = make_pipeline(ColumnTransformer([("seen", "passthrough", [0, 1, 2, 3])]), SPREAD)
    blind = make_pipeline(ColumnTransformer([("seen", "passthrough", [4, 5, 6, 7])]), SPREAD)
    found = [np.mean(m.fit(X).predict(new) == -1) for m in (alone, joined(alone, blind))]
    assert found[0] > 0.95
    assert found[1] > 0.6


def test_unreadable_clips_are_nan_in_all_members_and_in_one():
    X, new = clips(40), clips(6, seed=1)
    expected = joined(SPREAD, NEAR).fit(X)
    with_gaps = np.insert(X, [3, 30], np.nan, axis=0)
    found = joined(SPREAD, NEAR).fit(with_gaps)
    assert np.flatnonzero(np.isnan(found.training_scores_)).tolist() == [3, 31]
    assert found.offset_ == pytest.approx(expected.offset_)
    new[2] = np.nan
    assert np.flatnonzero(np.isnan(found.score_samples(new))).tolist() == [2]
    assert_allclose(found.score_samples(new)[3:], expected.score_samples(new[3:]))
    assert found.predict(new)[2] == -1
    # The second member reads what the first one does not.
    half = make_pipeline(ColumnTransformer([("first", "passthrough", [0, 1, 2])]), SPREAD)
    other = make_pipeline(ColumnTransformer([("last", "passthrough", [3, 4, 5])]), NEAR)
    X[5, :3] = np.nan
    found = joined(half, other).fit(X)
    assert np.flatnonzero(np.isnan(found.training_scores_)).tolist() == [5]
    assert np.isfinite(found.offset_)


# --- members of all kinds ------------------------------------------------------------------------

THIRD_PARTY = [
    IsolationForest(n_estimators=10, random_state=0),
    OneClassSVM(gamma="scale", nu=0.2),
    LocalOutlierFactor(novelty=True),
    GaussianMixture(2, reg_covar=0.1, random_state=0),
]


@pytest.mark.slow
@pytest.mark.parametrize("member", THIRD_PARTY, ids=lambda m: type(m).__name__)
def test_detectors_of_other_packages_join(member):
    X, odd = clips(60), clips(30, seed=1) + 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = joined(member, NEAR).fit(X)
        alone = joined(member).fit(X)
    assert isinstance(found.detectors_[0], CalibratedDetector)
    assert (found.predict(odd) == -1).all()
    assert np.mean(found.predict(clips(300, seed=2)) == -1) < 0.25
    calibrated = CalibratedDetector(member).fit(X)
    new = clips(200, seed=2)
    # Alone it ranks as it is, to the bit that exponentials leave.
    ranks = stats.spearmanr(alone.score_samples(new), calibrated.score_samples(new))
    assert ranks.statistic > 1 - 1e-9
    assert np.mean(alone.predict(new) == -1) == pytest.approx(
        np.mean(calibrated.predict(new) == -1), abs=0.05
    )


def test_scores_of_thousands_without_logarithms_are_joined():
    """Log-likelihoods of many features spread by hundreds, above and below 0."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 300)) * rng.lognormal(0, 0.3, size=(80, 1)) / 5
    member = GaussianMixture(1, reg_covar=1e-2, random_state=0)
    found = joined(member).fit(X)
    assert not found.joint_.scales[0].is_log
    assert found.joint_.scales[0].deviation > 100
    assert len(np.unique(found.training_scores_)) == 80
    plain = CalibratedDetector(member).fit(X)
    assert_array_equal(np.argsort(found.training_scores_), np.argsort(plain.training_scores_))
    assert -1e30 < found.offset_ < 0


def test_pipelines_whose_first_step_chooses_columns():
    frame = pd.DataFrame(clips(40), columns=list("abcdef"))
    first = ColumnTransformer([("scaled", StandardScaler(), ["a", "b", "c"])])
    found = joined(make_pipeline(first, NEAR), make_pipeline(KNNDetector())).fit(frame)
    alone = make_pipeline(clone(first), clone(NEAR)).fit(frame)
    new = pd.DataFrame(clips(5, seed=1), columns=list("abcdef"))
    assert_allclose(found.detectors_[0].score_samples(new), alone.score_samples(new))
    assert_array_equal(found.feature_names_in_, list("abcdef"))
    assert found.score_samples(new).shape == (5,)


def test_pipelines_keep_their_memory_and_nested_ones_are_calibrated(tmp_path):
    inner = Pipeline([("scale", StandardScaler()), ("forest", IsolationForest(n_estimators=5))])
    member = Pipeline([("pca", PCA(3)), ("inner", inner)], memory=str(tmp_path))
    found = joined(member, NEAR).fit(clips(30))
    assert found.detectors_[0].memory == str(tmp_path)
    assert isinstance(found.detectors_[0][-1][-1], CalibratedDetector)
    assert isinstance(member[-1][-1], IsolationForest)
    assert found.score_samples(clips(3, seed=1)).shape == (3,)


def test_detectors_of_tokens_join():
    tokens = np.random.default_rng(0).normal(size=(30, 3, 2, 5))
    found = joined(SubbandKNNDetector(), SubbandKNNDetector("cosine")).fit(tokens)
    assert found.score_samples(tokens[:4]).shape == (4,)


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.filterwarnings("ignore:Clips of one session")
def test_metadata_reaches_the_members_that_ask_for_it(routing):
    X = clips(40)
    labels = np.array(["a", "b"] * 20)
    domains = ["source"] * 20 + ["target"] * 20
    sessions = np.arange(40) // 4 * 2 + np.arange(40) % 2  # two clips of one label each
    with config_context(enable_metadata_routing=routing):
        found = joined(
            make_pipeline(Recorder(), SPREAD),
            NEAR,
            make_pipeline(StandardScaler(), IsolationForest(n_estimators=5)),
            GroupedDetector(KNNDetector()),
        ).fit(X, labels=labels, domains=domains, sessions=sessions, groups=labels)
    network, near, forest, grouped = found.detectors_
    assert network[0].labels_ == labels.tolist()
    assert network[-1].domains_ == near.domains_ == ["source", "target"]
    for member in (network[-1], near, forest[-1], grouped):
        assert_allclose(member.session_weights_, 1 / 2)
    assert list(grouped.detectors_) == ["a", "b"]
    assert grouped.detectors_["a"].domains_ == ["source", "target"]
    assert_allclose(found.session_weights_, 1 / 2)
    alone = KNNDetector(metric="euclidean").fit(X, domains=domains, sessions=sessions)
    assert_array_equal(near.training_scores_, alone.training_scores_)
    # Who the machine is reaches the member that asks for it.
    known = found.score_samples(X[:6], groups=labels[:6])
    assert (known <= found.score_samples(X[:6]) + 1e-12).all()
    expected = grouped.score_samples(X[:6], groups=labels[:6])
    others = [m.score_samples(X[:6]) for m in (network, near, forest)]
    assert_allclose(known, -found.joint_(-np.stack([*others, expected], axis=1)))
    for method in ("decision_function", "predict", "p_values"):
        assert len(getattr(found, method)(X[:6], groups=labels[:6])) == 6


def test_metadata_has_one_entry_a_clip():
    for name in ("labels", "domains", "groups", "sessions"):
        with pytest.raises(ValueError, match=f"{name} must have one entry per clip. Got 3 for 40"):
            joined(NEAR).fit(clips(40), **{name: [0, 1, 2]})


def test_members_have_names_of_their_own():
    with pytest.raises(ValueError, match="detectors must have at least one member"):
        JoinedDetector([]).fit(clips(9))
    message = r"list of \(name, detector\) pairs, .* Got KNNDetector\(metric='euclidean'\) as its "
    with pytest.raises(ValueError, match=message + "entry 1"):
        JoinedDetector([("a", SPREAD), NEAR]).fit(clips(9))
    with pytest.raises(
        ValueError, match=r"Got \(NEAR, 'a'\)".replace("NEAR", re.escape(repr(NEAR)))
    ):
        JoinedDetector([(NEAR, "a")]).fit(clips(9))
    assert len(joined(NEAR).set_params(detectors=[["a", NEAR]]).fit(clips(9)).detectors_) == 1
    with pytest.raises(ValueError, match="Names provided are not unique"):
        JoinedDetector([("a", NEAR), ("a", SPREAD)]).fit(clips(9))
    with pytest.raises(ValueError, match="conflict with constructor arguments"):
        JoinedDetector([("threshold", NEAR)]).fit(clips(9))


class Plain(OutlierMixin, BaseEstimator):
    """A detector that counts no features, as scikit-learn does not demand of it."""

    def fit(self, X, y=None):
        self.mean_ = np.asarray(X).mean(axis=0)
        return self

    def score_samples(self, X):
        return -np.linalg.norm(np.asarray(X) - self.mean_, axis=1)


def test_features_are_those_of_the_first_member():
    frame = pd.DataFrame(clips(30), columns=list("abcdef"))
    seen = ColumnTransformer([("seen", "passthrough", list("abcdef"))])
    found = joined(make_pipeline(seen, NEAR), Plain(), Plain()).fit(frame)
    assert found.n_features_in_ == 6
    assert_array_equal(found.feature_names_in_, list("abcdef"))


@pytest.mark.parametrize("joining", ["mean", "min"])
def test_ends_that_are_fitted_to_given_features_are_those_of_a_whole_fit(joining):
    X, new = clips(40), clips(9, seed=1)
    metadata = {"sessions": list(np.arange(40) // 2), "groups": ["a", "b"] * 20}
    steps = [
        make_pipeline(StandardScaler(), PCA(4, random_state=0), GroupedDetector(NEAR)),
        make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0)),
        make_pipeline(SPREAD),
    ]
    whole = joined(*steps, joining=joining).fit(X, **metadata)
    fitted = [clone(member).fit(X) for member in steps]
    features = [member[:-1].transform(X) if len(member) > 1 else X for member in fitted]
    found = joined(*fitted, joining=joining).fit_ends(features, metadata)
    assert [len(member) for member in found.detectors_] == [3, 2, 1]
    for name in ("training_scores_", "session_weights_", "weights_", "offset_"):
        assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9)
    for given in ({}, {"groups": ["a", "b", "a"] * 3}):
        expected = whole.score_samples(new, **given)
        assert_allclose(found.score_samples(new, **given), expected, rtol=1e-9)
    for (name, _), member, before in zip(found.detectors, found.detectors_, fitted, strict=True):
        assert found.named_detectors_[name] is member
        assert all(a is b for a, b in zip(member[:-1], before[:-1], strict=True))
        assert member[-1] is not before[-1]
        assert [n for n, _ in member.steps] == [n for n, _ in before.steps]


def test_a_group_of_joined_members_is_taken_out_with_its_scores():
    X, groups = clips(40), np.array(["a", "b"])[np.arange(40) % 3 % 2]
    members = [
        make_pipeline(StandardScaler(), PCA(4, random_state=0), GroupedDetector(NEAR)),
        GroupedDetector(SPREAD),
    ]
    found = joined(*members).fit(X, groups=groups, sessions=np.arange(40) // 2)
    new = clips(9, seed=1)
    for group in "ab":
        alone, own = found.select_group(group), groups == group
        expected = found.score_samples(new, groups=[group] * 9)
        assert_array_equal(alone.score_samples(new), expected)
        assert_array_equal(alone.training_scores_, found.training_scores_[own])
        assert_array_equal(alone.session_weights_, found.session_weights_[own])
        assert alone.offset_ == found.offset_
        assert [len(m) for m in alone.detectors_[:1]] == [3]
        for name, member in zip(("m0", "m1"), alone.detectors_, strict=True):
            assert alone.named_detectors_[name] is member
    assert found.score_samples(new).shape == (9,)  # as it was
    with pytest.raises(ValueError, match="not fitted yet"):
        joined(*members).select_group("a")


@pytest.mark.filterwarnings("ignore:Clips of one session", "ignore:2 sessions are few")
def test_weights_of_sessions_are_those_of_a_member_that_knows_them():
    X, sessions = clips(30), np.arange(30) // 15
    pipe = make_pipeline(ColumnTransformer([("seen", "passthrough", [0])]), NEAR)
    found = joined(pipe, SPREAD).fit(X, sessions=sessions)
    assert_allclose(found.session_weights_, 1 / 15)
    X[3, 0] = np.nan  # for the first member
    found = joined(pipe, make_pipeline(ColumnTransformer([("a", "passthrough", [1])]), NEAR)).fit(X)
    assert found.detectors_[0][-1].session_weights_[3] == 0
    assert found.session_weights_[3] == 1
    assert np.isnan(found.training_scores_[3])


def test_tags_of_joined_detectors_are_those_of_the_first_and_errors_are_left_to_fit():
    tokens = JoinedDetector([("a", SubbandKNNDetector()), ("b", NEAR)])
    assert (
        tokens.__sklearn_tags__().input_tags == SubbandKNNDetector().__sklearn_tags__().input_tags
    )
    for detectors in ([], [NEAR], None):
        assert JoinedDetector(detectors).__sklearn_tags__().estimator_type == "outlier_detector"


def test_parameters_of_members_are_checked_by_them():
    wrong = KNNDetector(metric="manhattan")
    message = "The 'metric' parameter of KNNDetector must be"
    for detector in (joined(NEAR, wrong), CalibratedDetector(wrong), GroupedDetector(wrong)):
        with pytest.raises(ValueError, match=message):
            detector.fit(clips(9))


@pytest.mark.parametrize(
    ("name", "value"),
    [("joining", "max"), ("false_alarm_rate", 0.0), ("false_alarm_rate", 0.6), ("threshold", "t")],
)
def test_parameters_of_joined_detectors_have_their_range(name, value):
    message = f"The '{name}' parameter of JoinedDetector must be .* Got {value!r} instead"
    with pytest.raises(ValueError, match=message):
        joined(NEAR, **{name: value}).fit(clips(9))
    if name != "joining":
        with pytest.raises(ValueError, match=message.replace("Joined", "Calibrated")):
            CalibratedDetector(NEAR, **{name: value}).fit(clips(9))


# --- parameters ----------------------------------------------------------------------------------


def test_parameters_of_members_are_reached_by_name():
    detector = JoinedDetector([("near", KNNDetector()), ("spread", make_pipeline(PCA(2), SPREAD))])
    assert detector.get_params()["near__n_neighbors"] == 1
    detector.set_params(near__n_neighbors=3, spread__pca__n_components=4, false_alarm_rate=0.2)
    copy = clone(detector)
    assert copy.get_params()["near__n_neighbors"] == 3
    assert copy.get_params()["spread__pca__n_components"] == 4
    assert "near" not in detector.get_params(deep=False)
    fitted = copy.fit(clips(30))
    assert fitted.named_detectors_["near"].n_neighbors == 3
    assert not hasattr(copy.detectors[0][1], "offset_")
    copy.set_params(near=GMMDetector(1)).fit(clips(30))
    assert isinstance(copy.named_detectors_["near"], GMMDetector)


def test_grid_search_over_parameters_of_members():
    X = np.vstack([clips(60), clips(20, seed=1) + np.array([4, 0, 0, 0, 0, 0])])
    y = np.repeat([1, -1], [60, 20])
    columns = ColumnTransformer([("seen", "passthrough", [0])])
    detector = JoinedDetector([("near", make_pipeline(columns, NEAR)), ("spread", SPREAD)])
    seen = "estimator__near__columntransformer__transformers"
    grid = {seen: [[("seen", "passthrough", [i])] for i in (0, 3)]}
    search = GridSearchCV(
        FitOnNormal(detector),
        grid,
        scoring=make_anomaly_scorer("auc"),
        cv=StratifiedKFold(3),
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_[seen][0][2] == [0]
    assert search.best_score_ > 0.9
    assert len(search.best_estimator_.estimator_.training_scores_) == 60


# --- CalibratedDetector --------------------------------------------------------------------------


def test_training_scores_are_those_of_a_tail_that_is_fitted_again():
    X = clips(45, 60)
    tail = make_pipeline(StandardScaler(), PCA(5), NEAR)
    found = CalibratedDetector(tail).fit(X)
    expected = np.empty(45)
    for fold in range(20):
        left = np.arange(fold, 45, 20)
        expected[left] = clone(tail).fit(np.delete(X, left, axis=0)).score_samples(X[left])
    assert_allclose(found.training_scores_, expected, rtol=1e-9)
    assert found.offset_ == pytest.approx(-place_threshold(-expected, 0.1))
    new = clips(9, 60, seed=1)
    assert_array_equal(found.score_samples(new), found.detector_.score_samples(new))
    assert_allclose(found.score_samples(new), clone(tail).fit(X).score_samples(new))
    assert found.n_features_in_ == 60
    assert not hasattr(tail[-1], "offset_")


def test_domains_and_sessions_of_a_calibrated_tail():
    X = clips(48)
    domains = ["source"] * 30 + ["target"] * 18
    sessions = np.arange(48) // 3
    tail = make_pipeline(StandardScaler(), NEAR)
    found = CalibratedDetector(tail).fit(X, domains=domains, sessions=sessions)
    assert found.detector_[-1].domains_ == ["source", "target"]
    expected = np.empty(48)
    for session in range(16):
        left = np.flatnonzero(sessions == session)
        kept = np.setdiff1d(np.arange(48), left)
        part = clone(tail).fit(X[kept], knndetector__domains=[domains[i] for i in kept])
        expected[left] = part.score_samples(X[left])
    assert_allclose(found.training_scores_, expected, rtol=1e-9)
    assert_allclose(found.session_weights_, 1 / 3)
    # Sessions of an unreadable clip, and domains that no step asks for.
    X[3] = np.nan
    found = CalibratedDetector(tail).fit(X, sessions=sessions)
    assert np.flatnonzero(np.isnan(found.training_scores_)).tolist() == [3]
    forest = CalibratedDetector(IsolationForest(n_estimators=3)).fit(clips(30), domains=[0] * 30)
    assert np.isfinite(forest.training_scores_).all()


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_another_rate_is_that_of_a_fit(rate):
    X = clips(40)
    for detector in (joined(SPREAD, NEAR), CalibratedDetector(OneClassSVM())):
        moved = clone(detector).fit(X).set_false_alarm_rate(rate)
        again = clone(detector).set_params(false_alarm_rate=rate).fit(X)
        assert moved.offset_ == again.offset_


def test_calibration_takes_lists_and_frames_of_pandas():
    X = clips(20)
    expected = CalibratedDetector(NEAR).fit(X).training_scores_
    assert_array_equal(CalibratedDetector(NEAR).fit(X.tolist()).training_scores_, expected)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    found = CalibratedDetector(NEAR).fit(frame)
    assert_array_equal(found.training_scores_, expected)
    assert_array_equal(found.feature_names_in_, list("abcdef"))


def test_one_clip_cannot_be_calibrated():
    message = "Found array with 1 sample.* and CalibratedDetector needs a minimum of 2, since"
    with pytest.raises(ValueError, match=message):
        CalibratedDetector(NEAR).fit(clips(1))


@pytest.mark.parametrize("as_frame", [False, True])
def test_unreadable_clips_are_left_out_of_detectors_that_know_no_nan_or_take_it(as_frame):
    X = clips(30)
    X[[3, 20]] = np.nan
    read = ~np.isnan(X).any(axis=1)
    sessions = np.arange(30) // 3
    for member in (OneClassSVM(), IsolationForest(n_estimators=5, random_state=0)):
        given = pd.DataFrame(X, columns=list("abcdef")) if as_frame else X
        found = CalibratedDetector(member).fit(given, sessions=sessions)
        expected = CalibratedDetector(member).fit(given[read], sessions=sessions[read])
        assert_array_equal(found.training_scores_[read], expected.training_scores_)
        assert_array_equal(found.session_weights_[read], expected.session_weights_)
        assert found.offset_ == expected.offset_
        scores = found.score_samples(given)
        assert_array_equal(np.isnan(scores), ~read)
        assert_array_equal(scores[read], expected.score_samples(given[read]))
        assert_array_equal(found.predict(given)[~read], [-1, -1])
        assert np.isnan(found.score_samples(given[~read])).all()


def test_groups_that_can_be_read_once_reach_all_members():
    X, groups = clips(40), ["fan", "pump"] * 20
    detector = JoinedDetector([("a", GroupedDetector(NEAR)), ("b", GroupedDetector(SPREAD))])
    detector.fit(X, groups=groups)
    assert_array_equal(
        detector.score_samples(X, groups=iter(groups)), detector.score_samples(X, groups=groups)
    )
