"""Cross-validation that trains on normals only: the naive way fails, FitOnNormal does not."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from skanopatch import (
    FitOnNormal,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    make_anomaly_scorer,
)
from skanopatch.audio.labels import warn_of_anomalies


@pytest.fixture
def clips():
    """Normals in one cloud; anomalies in tight clusters, twins of each other."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(120, 4))
    anomalous = np.repeat(rng.normal(size=(10, 4)) + 4, 4, axis=0) + 0.01 * rng.normal(size=(40, 4))
    order = rng.permutation(160)
    return np.concatenate([normal, anomalous])[order], np.repeat([1, -1], [120, 40])[order]


DETECTOR = KNNDetector(metric="euclidean")


def test_the_naive_way_trains_on_anomalies_and_fails(clips):
    X, y = clips
    naive = cross_val_score(DETECTOR, X, y, scoring=make_anomaly_scorer("auc"))
    ours = cross_val_score(FitOnNormal(DETECTOR), X, y, scoring=make_anomaly_scorer("auc"))
    # An anomaly's twin is in the bank, so that it looks more normal than any normal clip.
    assert naive.mean() < 0.4
    assert ours.mean() > 0.99


def test_a_splitter_of_normals_is_undone_by_refit_and_the_wrapper_is_not(clips):
    X, y = clips
    normal, anomalous = np.flatnonzero(y == 1), np.flatnonzero(y == -1)
    folds = [
        (np.setdiff1d(normal, fold), np.concatenate([fold, anomalous]))
        for fold in np.array_split(normal, 4)
    ]
    grid, scoring = {"n_neighbors": [1, 3]}, make_anomaly_scorer("auc")
    naive = GridSearchCV(DETECTOR, grid, cv=folds, scoring=scoring).fit(X, y)
    assert naive.best_score_ > 0.99  # looks right ...
    assert (naive.best_estimator_.predict(X[anomalous]) == 1).mean() > 0.8  # ... and is blind

    ours = GridSearchCV(
        FitOnNormal(DETECTOR), {"estimator__n_neighbors": [1, 3]}, scoring=scoring
    ).fit(X, y)
    assert ours.best_score_ > 0.99
    assert (ours.best_estimator_.predict(X[anomalous]) == -1).all()
    expected = clone(ours.best_params_ and DETECTOR).set_params(
        n_neighbors=ours.best_params_["estimator__n_neighbors"]
    )
    assert_array_equal(
        ours.best_estimator_.estimator_.score_samples(X),
        expected.fit(X[normal]).score_samples(X),
    )


def test_roc_auc_of_scikit_learn_depends_on_the_sign_of_the_labels(clips):
    """The trap that make_anomaly_scorer is for."""
    X, y = clips
    detector = FitOnNormal(DETECTOR).fit(X, y)
    is_anomaly = (y == -1).astype(int)
    from sklearn.metrics import get_scorer

    assert get_scorer("roc_auc")(detector, X, y) > 0.99
    assert get_scorer("roc_auc")(detector, X, is_anomaly) < 0.01
    assert make_anomaly_scorer("auc", pos_label=1)(detector, X, is_anomaly) > 0.99


@pytest.mark.parametrize(
    ("normal_label", "anomaly_label"), [(1, -1), (0, 1), ("fine", "broken"), (False, True)]
)
def test_any_label_can_be_that_of_anomalies(clips, normal_label, anomaly_label):
    X, y = clips
    relabelled = np.where(y == -1, anomaly_label, normal_label)
    detector = FitOnNormal(DETECTOR, anomaly_label=anomaly_label).fit(X, relabelled)
    assert_array_equal(detector.score_samples(X), clone(DETECTOR).fit(X[y == 1]).score_samples(X))


def test_without_labels_all_clips_are_normal(clips):
    X, _ = clips
    assert_array_equal(
        FitOnNormal(DETECTOR).fit(X).score_samples(X), clone(DETECTOR).fit(X).score_samples(X)
    )


class Recorder(BaseEstimator):
    """Keep what fit was given."""

    def fit(self, X, y=None, *, labels=None, domains=None, epochs=None):
        self.seen_ = {"X": X, "y": y, "labels": labels, "domains": domains, "epochs": epochs}
        return self


@pytest.mark.parametrize("routing", [False, True])
def test_metadata_is_cut_to_the_normal_clips(routing):
    X = pd.Series(["a.wav", "b.wav", "c.wav"], index=[4, 2, 9])
    with config_context(enable_metadata_routing=routing):
        recorder = Recorder()
        if routing:
            recorder.set_fit_request(labels=True, domains=True, epochs=True)
        seen = (
            FitOnNormal(recorder)
            .fit(X, [1, -1, 1], labels=["u", "v", "w"], domains=np.array([0, 1, 2]), epochs=3)
            .estimator_.seen_
        )
    assert list(seen["X"]) == ["a.wav", "c.wav"]
    assert list(seen["y"]) == [1, 1]
    assert list(seen["labels"]) == ["u", "w"]
    assert list(seen["domains"]) == [0, 2]
    assert seen["epochs"] == 3


def test_groups_reach_a_grouped_detector_through_a_pipeline(clips):
    X, y = clips
    groups = np.arange(160) % 2
    pipe = make_pipeline(StandardScaler(), GroupedDetector(MahalanobisDetector()))
    model = FitOnNormal(pipe).fit(X, y, groupeddetector__groups=groups)
    expected = clone(pipe).fit(X[y == 1], groupeddetector__groups=groups[y == 1])
    assert_array_equal(model.score_samples(X), expected.score_samples(X))


@pytest.mark.parametrize("routing", [False, True])
def test_fit_predict_judges_clips_by_their_groups(clips, routing):
    X, y = clips
    like = np.arange(120) % 2
    X = X[y == 1] + 9 * like[:, np.newaxis]
    y = np.repeat([-1, 1], [20, 100])
    groups = np.where(y == 1, like, 1 - like)  # anomalies sound like the other group
    pipe = make_pipeline(StandardScaler(), GroupedDetector(MahalanobisDetector()))
    with config_context(enable_metadata_routing=routing):
        for model, name in (
            (FitOnNormal(GroupedDetector(MahalanobisDetector())), "groups"),
            (FitOnNormal(pipe), "groups" if routing else "groupeddetector__groups"),
        ):
            found = model.fit_predict(X, y, **{name: groups})
            assert_array_equal(found, model.predict(X, groups=groups))
            assert (model.predict(X)[:20] == 1).mean() > 0.5
            assert (found[:20] == -1).all()


def test_methods_the_estimator_lacks_are_hidden():
    model = FitOnNormal(StandardScaler())
    assert not hasattr(model, "predict")
    assert not hasattr(model, "score_samples")
    assert hasattr(FitOnNormal(DETECTOR), "anomaly_score")


def test_it_is_an_outlier_detector_if_its_estimator_is(clips):
    X, y = clips
    model = FitOnNormal(DETECTOR)
    assert_array_equal(model.fit_predict(X, y), model.fit(X, y).predict(X))
    assert_array_equal(model.decision_function(X), model.score_samples(X) - model.offset_)
    assert_array_equal(model.anomaly_score(X), -model.score_samples(X))
    assert model.n_features_in_ == 4


@pytest.mark.parametrize(
    ("normal", "anomaly", "advised"),
    [
        ("normal", "anomaly", ["anomaly"]),
        ("Normal", "ABNORMAL", ["ABNORMAL"]),
        ("zero", "anomalous", ["anomalous"]),
        (0, 1, [0, 1]),
        ("fine", "broken", ["fine", "broken"]),
    ],
)
def test_labels_that_miss_anomaly_label_are_warned_of_with_what_each_would_do(
    clips, normal, anomaly, advised
):
    X, y = clips
    # The first clip is normal, and its label may come first or last in alphabetical order.
    order = np.argsort(-y, kind="stable")
    X, y = X[order], np.array([normal, anomaly], dtype=object)[(y[order] == -1).astype(int)]
    numbers = {normal: (120, 40), anomaly: (40, 120)}
    effects = "; ".join(
        f"FitOnNormal(estimator, anomaly_label={label!r}) drops {numbers[label][0]} clips and fits "
        f"on the other {numbers[label][1]}"
        for label in advised
    )
    message = (
        f"y is made of {normal!r} (120), {anomaly!r} (40) while anomaly_label=-1, so all 160 clips "
        f"pass for normal. {effects}."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        FitOnNormal(DETECTOR).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = FitOnNormal(DETECTOR, anomaly_label=anomaly).fit(X, y)
    assert len(model.estimator_.training_scores_) == 120


def test_the_number_of_labels_decides_what_is_warned_of(clips):
    X = clips[0][:6]
    several = (
        "y is made of 'fine' (3), 'leak' (1), 'rub' (1) and 1 more labels while anomaly_label=-1, "
        "so all 6 clips pass for normal. Give +1 for each normal clip and -1 for each anomaly as y."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(several)}$"):
        FitOnNormal(DETECTOR).fit(X, ["fine", "fine", "fine", "leak", "rub", "knock"])
    three = (
        "y is made of 'fine' (4), 'leak' (1), 'rub' (1) while anomaly_label=-1, so all 6 clips "
        "pass for normal. Give +1 for each normal clip and -1 for each anomaly as y."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(three)}$"):
        FitOnNormal(DETECTOR).fit(X, ["fine", "fine", "fine", "fine", "leak", "rub"])
    with pytest.warns(
        UserWarning, match=r"^y is made of 'abnormal' \(6\) while anomaly_label=-1, so"
    ):
        FitOnNormal(DETECTOR).fit(X, ["abnormal"] * 6)
    another = (
        "y calls 2 of 6 clips 'abnormal'. They pass for normal with anomaly_label='anomaly'. Give "
        "all anomalies one label."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(another)}$"):
        FitOnNormal(DETECTOR, anomaly_label="anomaly").fit(
            X, ["anomaly", "normal", "normal", "abnormal", "abnormal", "normal"]
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for y in ([1] * 6, [0] * 6, ["fine"] * 6, [1, 1, 1, 2, 2, -1]):
            FitOnNormal(DETECTOR).fit(X, y)


def test_warnings_point_to_the_fit():
    X = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.warns(UserWarning, match="y is made of") as caught:
        FitOnNormal(DETECTOR).fit(X, [0, 0, 0, 0, 1, 1])
    assert [w.filename for w in caught] == [__file__]


def test_labels_that_sound_like_anomalies_are_told_from_those_that_do_not():
    X = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.warns(UserWarning, match=r"^y calls 1 of 6 clips 'anomaly'\."):
        FitOnNormal(DETECTOR).fit(X, np.array([-1, "ok", "ok", "ok", "ok", "anomaly"], object))
    for first, second in (("anomaly", "abnormal"), ("abnormal", "anomaly")):
        # Two labels of anomalies and no other: which of them are meant is not known.
        with pytest.warns(UserWarning, match=rf"label='{first}'\) drops 4.*='{second}'\) drops 2"):
            FitOnNormal(DETECTOR).fit(X, [first] * 4 + [second] * 2)


def test_metadata_go_to_the_estimator_where_they_are_routed(clips):
    X, y = clips
    with config_context(enable_metadata_routing=True):
        model = FitOnNormal(GroupedDetector(MahalanobisDetector()))
        groups = (np.arange(160) % 2).tolist()
        model.fit(X, y, groups=groups)
        assert list(model.estimator_.detectors_) == [0, 1]
        expected = model.estimator_.decision_function(X, groups=groups)
        assert_array_equal(model.decision_function(X, groups=groups), expected)
        assert_array_equal(model.predict(X, groups=groups), np.where(expected >= 0, 1, -1))
        for caller in ("fit", "fit_predict", "predict", "decision_function"):
            routed = model.get_metadata_routing().consumes(caller, ["groups", "labels"])
            assert set(routed) == {"groups"}
        with pytest.raises(TypeError, match="labels"):
            model.fit(X, y, labels=groups)
        for name in ("score_samples", "anomaly_score"):  # scikit-learn routes nothing to them
            expected = getattr(model.estimator_, name)(X, groups=groups)
            assert_array_equal(getattr(model, name)(X, groups=groups), expected)


def test_tags_are_those_of_the_estimator():
    for estimator in (DETECTOR, StandardScaler(), make_pipeline(StandardScaler(), DETECTOR)):
        tags, inner = FitOnNormal(estimator).__sklearn_tags__(), get_tags(estimator)
        assert tags.estimator_type == inner.estimator_type
        assert tags.input_tags == inner.input_tags
    with pytest.raises(NotFittedError):
        FitOnNormal(DETECTOR).score_samples(np.zeros((2, 3)))


def test_clips_of_labels_alone_are_cut_and_all_normal_ones_are_not(clips):
    X, _ = clips
    recorder = FitOnNormal(Recorder()).fit(X, np.ones(160), epochs=7, domains=list(range(160)))
    assert recorder.estimator_.seen_["X"] is X  # not even a copy
    assert recorder.estimator_.seen_["domains"] == list(range(160))
    assert recorder.estimator_.seen_["y"].tolist() == [1] * 160
    with pytest.raises(ValueError, match="The 'estimator' parameter of FitOnNormal must be"):
        FitOnNormal("no estimator").fit(X)
    with pytest.raises(ValueError, match="The 'n_neighbors' parameter of KNNDetector must be"):
        FitOnNormal(KNNDetector(0)).fit(X)


def test_text_as_long_as_the_clips_are_many_is_handed_on_whole():
    recorder = FitOnNormal(Recorder()).fit(np.zeros((3, 2)), [1, -1, 1], epochs="abc")
    assert recorder.estimator_.seen_["epochs"] == "abc"


def test_what_has_another_length_than_the_clips_is_handed_on_whole():
    recorder = FitOnNormal(Recorder()).fit(np.zeros((3, 2)), [1, -1, 1], epochs=[5, 6, 7, 8])
    assert recorder.estimator_.seen_["epochs"] == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("y", "anomaly_label"),
    [([1, -1, 1, 1], -1), (["a", "b", "c", "b"], "b"), ([0, 1, 0, 2], 2), ([0, 0, 0, 0], -1)],
)
def test_the_estimator_gets_labels_of_normal_clips_only(y, anomaly_label):
    seen = FitOnNormal(Recorder(), anomaly_label=anomaly_label).fit(np.zeros((4, 2)), y)
    handed_on = seen.estimator_.seen_["y"]
    assert handed_on.tolist() == [1] * (4 - y.count(anomaly_label))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_anomalies(handed_on)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            [1, 1, -1, 1],
            "y calls 1 of 4 clips anomalies (-1), but it is ignored here, so they are taken for "
            "normal. FitOnNormal(estimator) leaves them out of the fit.",
        ),
        (
            np.array(["normal", "Anomaly", "Anomaly", "normal"]),
            "y calls 2 of 4 clips anomalies ('Anomaly'), but it is ignored here, so they are taken "
            "for normal. FitOnNormal(estimator, anomaly_label='Anomaly') leaves them out of the "
            "fit.",
        ),
        (
            pd.Series([0, 1, 0, 0]),
            "y holds 0 (3), 1 (1), but it is ignored here, so all 4 clips are taken for normal. If "
            "some are anomalies, FitOnNormal(estimator, anomaly_label=...) leaves them out of the "
            "fit.",
        ),
        (
            ["ok", "ng", "ok", "rub", "hum"],
            "y holds 'ok' (2), 'ng' (1), 'rub' (1), ..., but it is ignored here, so all 5 clips "
            "are taken for normal. If some are anomalies, FitOnNormal(estimator, "
            "anomaly_label=...) leaves them out of the fit.",
        ),
    ],
)
def test_labels_that_a_detector_ignores_are_warned_of(y, message):
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as record:
        warn_of_anomalies(y)
    assert len(record) == 1


@pytest.mark.parametrize(
    "y", [None, [1, 1], [0, 0], ["ok", "ok"], [0.5, 2.0], [1, 2, 3], [pd.NA, None], [[1], [1, 2]]]
)
def test_labels_that_tell_no_anomalies_are_not_warned_of(y):
    y = y if y is None or not isinstance(y[0], list) else np.array(y, dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_anomalies(y)


@pytest.mark.parametrize("wrong", [lambda y: y[:-1], lambda y: y[:7], lambda y: np.tile(y, (2, 1))])
def test_labels_of_other_clips_are_refused(clips, wrong):
    X, y = clips
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples|y should be a 1d array"):
        FitOnNormal(DETECTOR).fit(X, wrong(y))


def test_nothing_normal_to_fit_on():
    message = "There is no normal clip to fit on: all 3 have the label -1."
    with pytest.raises(ValueError, match=f"^{message}$"):
        FitOnNormal(DETECTOR).fit(np.zeros((3, 2)), [-1, -1, -1])
