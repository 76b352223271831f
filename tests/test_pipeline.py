"""The three lines, and what scikit-learn's users do with them."""

import tracemalloc
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline

from skanopatch import (
    AnoPatchEmbedder,
    FineTuning,
    FitOnNormal,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    make_anomaly_scorer,
    make_anopatch_pipeline,
)
from skanopatch.datasets import make_machine_sounds

DURATION = 1.0


@pytest.fixture(scope="module")
def sounds():
    return make_machine_sounds(
        ["fan"],
        n_units=2,
        n_train=16,
        n_normal=4,
        n_anomalous=4,
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


def make_pipe(detector=None, **fine_tuning):
    return make_pipeline(
        MelPatcher(duration=DURATION),
        AnoPatchEmbedder(
            normalization="fit", fine_tuning=FineTuning(**fine_tuning), random_state=0
        ),
        detector or KNNDetector(),
    )


def test_the_three_lines(train, test):
    pipe = make_pipe().fit(list(train))
    scores = pipe.score_samples(list(test))
    assert scores.shape == (16,)
    assert scores.dtype == np.float64
    assert_array_equal(pipe.predict(list(test)), np.where(pipe.decision_function(test) >= 0, 1, -1))
    assert_allclose(pipe.decision_function(test), scores - pipe[-1].offset_)


def test_statistics_with_mahalanobis_find_a_severe_fault(sounds, train, test):
    pipe = make_pipeline(MelPatcher(duration=DURATION), MelStatistics(), MahalanobisDetector())
    scores = pipe.fit(train).score_samples(test)
    y = sounds.y[sounds.split == "test"]
    assert scores[y == 1].mean() > scores[y == -1].mean()


def test_mel_statistics_are_mean_and_deviation_of_each_bin():
    from skanopatch import patchify

    log_mel = np.random.default_rng(0).normal(size=(3, 64, 128)).astype(np.float32)
    expected = np.concatenate([log_mel.mean(axis=1), log_mel.std(axis=1)], axis=1)
    assert_allclose(MelStatistics().fit_transform(patchify(log_mel)), expected, atol=1e-6)


def test_paths_and_arrays_score_alike(tmp_path, train, test):
    paths = [tmp_path / f"{i}.wav" for i in range(len(test))]
    for path, clip in zip(paths, test, strict=True):
        soundfile.write(path, clip, 16000, subtype="FLOAT")
    pipe = make_pipe().fit(train)
    for X in (paths, pd.Series([str(path) for path in paths])):
        assert_array_equal(pipe.score_samples(X), pipe.score_samples(test))


@pytest.mark.slow
def test_labels_reach_the_embedder_with_and_without_routing(sounds, train):
    labels = sounds.section[sounds.split == "train"]
    by_prefix = make_pipe(max_epochs=1).fit(train, anopatchembedder__labels=labels)
    with config_context(enable_metadata_routing=True):
        routed = make_pipe(max_epochs=1)
        routed[1].set_fit_request(labels=True)
        routed.fit(train, labels=labels)
    assert_array_equal(routed.score_samples(train), by_prefix.score_samples(train))
    frozen = make_pipe().fit(train)
    assert np.abs(frozen.score_samples(train) - by_prefix.score_samples(train)).max() > 0


def test_groups_and_domains_reach_the_detector(sounds, train, test):
    is_train = sounds.split == "train"
    pipe = make_pipe(GroupedDetector(KNNDetector(n_neighbors=1)))
    pipe.fit(train, groupeddetector__groups=sounds.section[is_train])
    embeddings = pipe[:-1].transform(test)
    units = sounds.section[~is_train]
    for unit in np.unique(units):
        alone = KNNDetector().fit(pipe[:-1].transform(train[sounds.section[is_train] == unit]))
        assert_array_equal(
            pipe[-1].predict(embeddings, groups=units)[units == unit],
            alone.predict(embeddings[units == unit]),
        )
    with config_context(enable_metadata_routing=True):
        routed = make_pipe()
        routed[-1].set_fit_request(domains=True)
        routed.fit(train, domains=sounds.domain[is_train])
    banks = make_pipe().fit(train, knndetector__domains=sounds.domain[is_train])
    assert_array_equal(routed.score_samples(test), banks.score_samples(test))


def test_a_fitted_pipeline_is_saved_and_scores_alike(tmp_path, sounds, train, test):
    pipe = make_pipe(max_epochs=1).fit(
        train, anopatchembedder__labels=sounds.section[sounds.split == "train"]
    )
    joblib.dump(pipe, tmp_path / "pipe.joblib")
    loaded = joblib.load(tmp_path / "pipe.joblib")
    assert_array_equal(loaded.score_samples(test), pipe.score_samples(test))
    assert_array_equal(loaded.predict(test), pipe.predict(test))


def test_memory_hits_on_the_second_fit(tmp_path, train, monkeypatch):
    pipe = Pipeline(make_pipe().steps, memory=str(tmp_path))
    expected = pipe.fit(train).score_samples(train)
    monkeypatch.setattr(AnoPatchEmbedder, "fit", None)  # calling it again would fail
    monkeypatch.setattr(MelPatcher, "fit", None)
    pipe.set_params(knndetector__n_neighbors=2).fit(train)
    assert np.abs(pipe.score_samples(train) - expected).max() > 0


@pytest.mark.slow
def test_grid_search_over_all_three_steps_on_two_cores(tmp_path, sounds, train, test):
    y = sounds.y[sounds.split == "test"]
    X = np.concatenate([train, test])
    y = np.concatenate([np.ones(len(train), dtype=int), y])
    pipe = Pipeline(make_pipe().steps, memory=str(tmp_path))
    search = GridSearchCV(
        FitOnNormal(pipe),
        {
            "estimator__melpatcher__f_min": [20.0, 100.0],
            "estimator__anopatchembedder__statistics": [True, False],
            "estimator__knndetector__n_neighbors": [1, 2],
        },
        scoring=make_anomaly_scorer("auc"),
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
        n_jobs=2,
    ).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 8
    assert np.isfinite(scores).all()
    assert len(set(scores)) > 1  # the parameters arrive
    best = search.best_params_
    by_hand = clone(pipe).set_params(
        **{name.removeprefix("estimator__"): value for name, value in best.items()}
    )
    assert_array_equal(search.score_samples(test), by_hand.fit(X[y == 1]).score_samples(test))


def test_parameters_set_after_construction_take_effect(train):
    pipe = make_pipe().set_params(
        anopatchembedder__statistics=False,
        anopatchembedder__pooling="mean",
        anopatchembedder__fine_tuning__n_dims=8,
        knndetector__metric="euclidean",
        melpatcher__f_min=50.0,
    )
    expected = make_pipeline(
        MelPatcher(duration=DURATION, f_min=50.0),
        AnoPatchEmbedder(
            normalization="fit",
            statistics=False,
            pooling="mean",
            fine_tuning=FineTuning(n_dims=8),
            random_state=0,
        ),
        KNNDetector(metric="euclidean"),
    )
    assert_array_equal(
        pipe.fit(train).score_samples(train), expected.fit(train).score_samples(train)
    )


def test_embeddings_come_out_as_a_data_frame_on_request(train):
    for embedder, n_columns in (
        (AnoPatchEmbedder(statistics=False, random_state=0), 384),
        (MelStatistics(), 256),
    ):
        pipe = make_pipeline(MelPatcher(duration=DURATION), embedder)
        expected = pipe.fit_transform(train)
        embedder.set_output(transform="pandas")
        frame = pipe.fit_transform(train)
        assert isinstance(frame, pd.DataFrame)
        assert list(frame.columns[:2]) == [f"{type(embedder).__name__.lower()}{i}" for i in (0, 1)]
        assert frame.shape == (len(train), n_columns)
        assert_array_equal(frame, expected)


def test_unreadable_clips_score_nan_and_are_called_anomalies(train):
    pipe = make_pipe().set_params(melpatcher__on_error="nan").fit(train)
    clips = [train[0], "gone.wav", train[1]]
    with pytest.warns(UserWarning, match=r"^1 of 3 clips cannot be used: their patches and scores"):
        scores = pipe.score_samples(clips)
    assert_array_equal(np.isnan(scores), [False, True, False])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pipe.predict(clips)[1] == -1


@pytest.mark.slow
def test_unreadable_training_clips_are_left_out_of_all_steps(sounds, train, test):
    labels = list(sounds.section[sounds.split == "train"])
    pipe = make_pipe(max_epochs=1).set_params(melpatcher__on_error="nan")
    expected = pipe.fit(list(train), anopatchembedder__labels=labels).score_samples(test)
    with pytest.warns(UserWarning, match=r"^1 of 33 clips cannot be used"):
        pipe.fit([*train, "gone.wav"], anopatchembedder__labels=[*labels, labels[0]])
    assert_array_equal(pipe.score_samples(test), expected)


def test_silence_is_scored_and_is_no_normal_machine(train):
    pipe = make_pipe(MahalanobisDetector()).fit(train)
    assert pipe.predict([np.zeros(16000)]) == -1


def test_a_pipeline_fitted_on_lazy_patches_scores_alike(train, test):
    expected = make_pipe().fit(train).score_samples(test)
    with config_context(working_memory=1):
        lazy = make_pipe().fit(train).score_samples(test)
    assert_array_equal(lazy, expected)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_clips(tmp_path, train):
    paths = [tmp_path / f"{i}.wav" for i in range(10)]
    for path, clip in zip(paths, train, strict=False):
        soundfile.write(path, clip, 16000)
    peaks = {}
    for n_clips in (100, 100, 500):  # the first fit also fills caches
        pipe = make_pipe()
        tracemalloc.start()
        with config_context(working_memory=1):
            X = paths * (n_clips // 10)
            pipe.fit(X).score_samples(X)
        peaks[n_clips] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    # 400 more clips are 19 MiB of patches; their embeddings, some copies of them, are 0.6 each.
    assert peaks[500] - peaks[100] < 5


def test_other_mel_bins_need_no_other_setting(train):
    patches = MelPatcher(n_mels=64, duration=DURATION).fit_transform(train)
    pipe = make_anopatch_pipeline(melpatcher__n_mels=64, melpatcher__duration=DURATION)
    expected = MahalanobisDetector().fit(AnoPatchEmbedder().fit_transform(patches))
    assert_array_equal(pipe.fit(train)[-1].training_scores_, expected.training_scores_)
    assert pipe[:-1].transform(train[:2]).shape == (2, 64 + 32 + 16 + 7 + 3)
