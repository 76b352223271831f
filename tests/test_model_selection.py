"""Cross-validation that trains on normals only: the naive way fails, FitOnNormal does not."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import (
    FitOnNormal,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    make_anomaly_scorer,
)


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


@pytest.mark.parametrize("names", [(0, 1), ("broken", "normal")])
def test_labels_that_say_of_none_that_it_is_an_anomaly_are_warned_of(clips, names):
    X, y = clips
    y = np.array(names)[(y == -1).astype(int)]
    message = (
        f"y is made of {names[0]!r} and {names[1]!r} while anomaly_label=-1, so all clips pass for "
        f"normal. Say which is an anomaly's: FitOnNormal(estimator, anomaly_label={names[1]!r}), "
        "for one."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        FitOnNormal(DETECTOR).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FitOnNormal(DETECTOR, anomaly_label=names[1]).fit(X, y)


@pytest.mark.parametrize("wrong", [lambda y: y[:-1], lambda y: y[:7], lambda y: np.tile(y, (2, 1))])
def test_labels_of_other_clips_are_refused(clips, wrong):
    X, y = clips
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples|y should be a 1d array"):
        FitOnNormal(DETECTOR).fit(X, wrong(y))


def test_nothing_normal_to_fit_on():
    message = "There is no normal clip to fit on: all 3 have the label -1."
    with pytest.raises(ValueError, match=f"^{message}$"):
        FitOnNormal(DETECTOR).fit(np.zeros((3, 2)), [-1, -1, -1])
