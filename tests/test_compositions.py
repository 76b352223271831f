"""No hidden channel: whatever arrays pass through between the steps, scores and thresholds stay."""

import io

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler, StandardScaler

from skanopatch import (
    AnoPatchEmbedder,
    FineTuning,
    FitOnNormal,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    anomaly_map,
    load_model,
    make_anomaly_scorer,
    make_anopatch_pipeline,
    make_map_pipeline,
    save_model,
)
from skanopatch.datasets import make_machine_sounds
from skanopatch.spectra.lazy_patches import LazyPatches

DURATION = 1.0


@pytest.fixture(scope="module")
def sounds():
    return make_machine_sounds(
        ["fan"],
        n_units=2,
        n_train=14,
        n_normal=4,
        n_anomalous=2,
        severity=4.0,
        duration=DURATION,
        random_state=0,
    )


@pytest.fixture(scope="module")
def train(sounds):
    return sounds.clips[sounds.split == "train"]


@pytest.fixture(scope="module")
def test(sounds):
    return sounds.clips[sounds.split == "test"]


class Case:
    """A pipeline, the metadata of its fit, and what the tests know of it."""

    def __init__(self, pipeline, **metadata):
        self.pipeline = pipeline
        self.metadata = metadata
        self.is_map = hasattr(pipeline[-1], "anomaly_map")

    def fit(self, train, change=None):
        pipeline = clone(self.pipeline)
        return (pipeline if change is None else change(pipeline)).fit(train, **self.metadata)


@pytest.fixture(scope="module", params=["default", "labelled", "maps"])
def case(request, sounds):
    of_train = sounds.split == "train"
    if request.param == "default":
        return Case(make_anopatch_pipeline(melpatcher__duration=DURATION))
    if request.param == "labelled":
        pipeline = make_anopatch_pipeline(
            melpatcher__duration=DURATION,
            anopatchembedder__fine_tuning=FineTuning(max_epochs=1, n_dims=16),
            anopatchembedder__random_state=0,
        )
        return Case(
            pipeline,
            anopatchembedder__labels=sounds.section[of_train],
            mahalanobisdetector__domains=sounds.section[of_train],
        )
    return Case(make_map_pipeline(melpatcher__duration=DURATION))


@pytest.fixture(scope="module")
def expected(case, train):
    return case.fit(train)


def check_alike(found, expected, X, *, rtol=0.0):
    """Compare all that a pipeline says, its threshold and its maps included."""
    end, other = found[-1], expected[-1]
    pairs = [
        (found.score_samples(X), expected.score_samples(X)),
        (found.decision_function(X), expected.decision_function(X)),
        (end.offset_, other.offset_),
        (end.training_scores_, other.training_scores_),
    ]
    if hasattr(end, "anomaly_map"):
        pairs.append((anomaly_map(found, X), anomaly_map(expected, X)))
    for one, two in pairs:
        assert_allclose(one, two, rtol=rtol, atol=rtol)
    assert_array_equal(found.predict(X), expected.predict(X))


def before_the_detector(step):
    def change(pipeline):
        *first, last = pipeline.steps
        return Pipeline([*first, ("between", step), last])

    return change


def before_the_embedder(step):
    def change(pipeline):
        first, *others = pipeline.steps
        return Pipeline([first, ("between", step), *others])

    return change


def save_and_load(X):
    file = io.BytesIO()
    np.save(file, np.asarray(X))
    file.seek(0)
    return np.load(file)


def copied(X):
    return np.array(X, order="F")


def left_half(X):
    return X[:, : X.shape[1] // 2]


def right_half(X):
    return X[:, X.shape[1] // 2 :]


HALVES = FeatureUnion(
    [("left", FunctionTransformer(left_half)), ("right", FunctionTransformer(right_half))]
)


def embedder_in_a_union(pipeline):
    first, (name, embedder), last = pipeline.steps
    return Pipeline([first, (name, FeatureUnion([("alone", embedder)])), last])


CHANGES = {
    "identity before the detector": before_the_detector(FunctionTransformer()),
    "identity before the embedder": before_the_embedder(FunctionTransformer()),
    "np.asarray before the detector": before_the_detector(FunctionTransformer(np.asarray)),
    "np.asarray before the embedder": before_the_embedder(FunctionTransformer(np.asarray)),
    "np.save before the detector": before_the_detector(FunctionTransformer(save_and_load)),
    "np.save before the embedder": before_the_embedder(FunctionTransformer(save_and_load)),
    "columns in another order in memory": before_the_detector(FunctionTransformer(copied)),
    "pandas": lambda pipeline: pipeline.set_output(transform="pandas"),
}


UNIONS = {
    "halves put together": before_the_detector(HALVES),
    "embedder in a union": embedder_in_a_union,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_lies_between_the_steps_changes_no_bit(change, case, expected, train, test):
    check_alike(case.fit(train, change), expected, test)


@pytest.mark.slow
@pytest.mark.parametrize("change", UNIONS.values(), ids=UNIONS)
def test_a_union_of_features_changes_no_bit(change, case, expected, train, test):
    if case.is_map:
        pytest.skip("FeatureUnion takes tables only, and tokens are none")
    check_alike(case.fit(train, change), expected, test)


@pytest.mark.parametrize("scaler", [StandardScaler(), RobustScaler()])
def test_a_scaler_changes_nothing_where_features_are_standardized(
    scaler, case, expected, train, test
):
    if case.is_map:
        pytest.skip("scalers take tables only, and tokens are none")
    scaled = case.fit(train, before_the_detector(scaler))
    check_alike(scaled, expected, test, rtol=2e-5)  # float32 is scaled, and distances are inverted


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_pandas_everywhere_changes_no_bit(case, expected, train, test):
    with config_context(transform_output="pandas"):
        found = case.fit(train)
        scores = found.score_samples(test)
    assert_array_equal(scores, expected.score_samples(test))
    check_alike(found, expected, test)


@pytest.mark.slow
def test_a_cache_changes_no_bit_and_is_hit(case, expected, train, test, tmp_path, monkeypatch):
    def cached(pipeline):
        return pipeline.set_params(memory=str(tmp_path))

    check_alike(case.fit(train, cached), expected, test)
    monkeypatch.setattr(AnoPatchEmbedder, "fit", None)  # calling it again would fail
    check_alike(case.fit(train, cached), expected, test)


def test_lazy_patches_change_no_bit(case, expected, train, test):
    with config_context(working_memory=0.3):
        lazy = case.fit(train)
        assert isinstance(lazy[0].transform(train), LazyPatches)
        check_alike(lazy, expected, test)


def test_slices_of_lazy_patches_are_embedded_as_those_of_arrays(case, expected, train):
    with config_context(working_memory=0.3):
        lazy = expected[0].transform(train)
    patches = np.asarray(lazy)
    embed = expected[1:-1].transform
    for rows in (slice(2, 20, 3), [5, 1, 1], np.arange(len(train)) % 4 == 0):
        assert_array_equal(embed(lazy[rows]), embed(patches[rows]))
        # A network rounds its products by how many clips it is given.
        assert_allclose(embed(lazy[rows]), embed(patches)[rows], atol=1e-5)


FORMS = {
    "list": list,
    "slice": lambda clips: np.concatenate([clips, clips])[: len(clips)],
    "take": lambda clips: np.take(clips[::-1], np.arange(len(clips))[::-1], axis=0),
    "roll": lambda clips: np.roll(np.roll(clips, 3, axis=0), -3, axis=0),
    "object array": lambda clips: np.array([*clips, None], dtype=object)[:-1],
    "pairs": lambda clips: [(clip, 16000) for clip in clips],
    "series": lambda clips: pd.Series(list(clips)),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_form_of_clips_changes_no_bit(form, case, expected, train, test):
    check_alike(expected, expected, test)
    assert_array_equal(expected.score_samples(form(test)), expected.score_samples(test))
    if "anopatchembedder__labels" not in case.metadata:
        assert_array_equal(
            case.fit(form(train))[-1].training_scores_, expected[-1].training_scores_
        )


def p_values(pipeline, X):
    return pipeline[-1].p_values(pipeline[:-1].transform(X))


@pytest.mark.slow
def test_a_clip_scores_alike_alone_in_any_batch_and_in_any_order(case, expected, train, test):
    clips = np.concatenate([test, train])  # those of fit are no others
    order = np.random.default_rng(0).permutation(len(clips))
    batches = np.array_split(np.arange(len(clips)), 7)
    methods = [expected.score_samples, lambda X: p_values(expected, X)]
    if case.is_map:
        methods.append(lambda X: anomaly_map(expected, X))
    for method in methods:
        together = method(clips)
        alone = np.concatenate([method([clip]) for clip in clips])
        assert_allclose(alone, together, rtol=1e-5)
        in_batches = np.concatenate([method(clips[rows]) for rows in batches])
        assert_allclose(in_batches, together, rtol=1e-5)
        assert_allclose(method(clips[order]), together[order], rtol=1e-5)
        assert_allclose(method(clips[::3]), together[::3], rtol=1e-5)
    decided = np.concatenate([expected.predict([clip]) for clip in clips])
    assert_array_equal(decided, expected.predict(clips))
    assert set(decided) == {-1, 1}


def test_tables_leave_the_steps_of_a_pipeline_named_and_their_scores_as_they_are(
    case, expected, train, test
):
    pipeline = case.fit(train, lambda pipeline: pipeline.set_output(transform="pandas"))
    features = pipeline[:-1].transform(test)
    if case.is_map:
        assert type(features) is np.ndarray
    else:
        n_features = expected[:-1].transform(test).shape[1]
        assert list(features) == [f"anopatchembedder{i}" for i in range(n_features)]
        assert list(pipeline[-1].feature_names_in_) == list(features)
    assert_array_equal(pipeline[-1].score_samples(features), expected.score_samples(test))


def test_copies_and_files_change_no_bit(case, expected, test, tmp_path):
    joblib.dump(expected, tmp_path / "model.joblib")
    check_alike(joblib.load(tmp_path / "model.joblib"), expected, test)
    save_model(tmp_path / "model.skano", expected)
    check_alike(load_model(tmp_path / "model.skano"), expected, test)
    joblib.dump(expected, tmp_path / "mapped.joblib", compress=False)
    check_alike(joblib.load(tmp_path / "mapped.joblib", mmap_mode="r"), expected, test)


def test_metadata_are_routed_as_by_the_names_of_steps(case, expected, train, test):
    with config_context(enable_metadata_routing=True):
        pipeline = clone(case.pipeline)
        metadata = {}
        for name, values in case.metadata.items():
            step, _, key = name.partition("__")
            pipeline.named_steps[step].set_fit_request(**{key: True})
            metadata[key] = values
        check_alike(pipeline.fit(train, **metadata), expected, test)


@pytest.mark.slow
def test_a_grid_search_reaches_the_training_and_the_detector(sounds):
    pipeline = make_anopatch_pipeline(
        melpatcher__duration=DURATION, anopatchembedder__random_state=0
    )
    name = "estimator__anopatchembedder__fine_tuning__n_dims"
    grid = {
        name: [4, 16],
        "estimator__anopatchembedder__fine_tuning__max_epochs": [1],
        "estimator__mahalanobisdetector__shrinkage": ["ledoit-wolf", 0.5],
    }
    search = GridSearchCV(
        FitOnNormal(pipeline),
        grid,
        scoring=make_anomaly_scorer("auc"),
        cv=KFold(2, shuffle=True, random_state=0),
        error_score="raise",
    )
    search.fit(sounds.clips, sounds.y, anopatchembedder__labels=sounds.section)
    assert len(set(search.cv_results_["mean_test_score"])) > 1  # the parameters arrive
    best = search.best_estimator_.estimator_
    assert best[:-1].transform(sounds.clips[:2]).shape == (2, search.best_params_[name])
    chosen = {name.removeprefix("estimator__"): v for name, v in search.best_params_.items()}
    normal = sounds.y == 1
    by_hand = clone(pipeline).set_params(**chosen)
    by_hand.fit(sounds.clips[normal], anopatchembedder__labels=sounds.section[normal])
    check_alike(best, by_hand, sounds.clips)


def test_groups_are_routed_through_joined_and_grouped_detectors(sounds, train, test):
    of_train = sounds.split == "train"
    units, test_units = sounds.section[of_train], sounds.section[~of_train]
    members = [
        ("spread", GroupedDetector(MahalanobisDetector())),
        ("near", GroupedDetector(KNNDetector(standardize=True))),
    ]
    pipeline = make_pipeline(MelPatcher(duration=DURATION), AnoPatchEmbedder())
    pipeline.steps.append(("joined", JoinedDetector(members)))
    by_name = clone(pipeline).fit(train, joined__groups=units)
    by_name_predicted = by_name.predict(test, groups=test_units)
    with config_context(enable_metadata_routing=True):
        routed = clone(pipeline).fit(train, groups=units)
        assert_array_equal(routed.predict(test, groups=test_units), by_name_predicted)
        decision = routed.decision_function(test, groups=test_units)
    check_alike(routed, by_name, test)
    embeddings = by_name[:-1].transform(test)
    assert_array_equal(by_name[-1].decision_function(embeddings, groups=test_units), decision)
    assert np.abs(by_name.decision_function(test) - decision).max() > 0
