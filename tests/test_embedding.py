"""AnoPatchEmbedder: what it learns, repeats, resumes and refuses."""

import multiprocessing
import os
import pickle
import re
import signal
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile
import timm
import torch
from mini_beats import save_mini_beats
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import (
    AnoPatchEmbedder,
    BandStatistics,
    FineTuning,
    MelPatcher,
    PatchStatistics,
    patchify,
    unpatchify,
)
from skanopatch.audio.labels import are_separable
from skanopatch.backbones import anopatch_tiny, list_backbones
from skanopatch.embedding.devices import autocast_dtype, memory_errors
from skanopatch.embedding.net import FineTuningNet, ResumableCheckpoint
from skanopatch.embedding.training import default_epochs

TINY = {"statistics": False, "batch_size": 8, "max_epochs": 3, "random_state": 0}


def make_embedder(*args, **params):
    """Make a small embedder of parameters of its own and of its training."""
    params = {**TINY, **params}
    names = set(FineTuning().get_params()) & set(params)
    settings = FineTuning(**{name: params.pop(name) for name in names})
    return AnoPatchEmbedder(*args, fine_tuning=settings, **params)


def make_patches(n_clips=24, n_frames=32, n_classes=2, seed=0):
    """Make spectrograms whose classes differ by a raised band."""
    rng = np.random.default_rng(seed)
    log_mel = rng.normal(size=(n_clips, n_frames, 128))
    labels = np.arange(n_clips) % n_classes
    for clip, label in zip(log_mel, labels, strict=True):
        clip[:, 30 * label : 30 * label + 30] += 2
    return patchify(log_mel), labels


def cosines(embeddings, labels):
    """Return the cosines of all pairs of clips of one class, and of two classes."""
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = directions @ directions.T
    same = labels[:, None] == labels
    return cosine[same], cosine[~same]


def spread(embeddings, labels):
    """Return the mean cosine within a class, less that between classes."""
    within, between = cosines(embeddings, labels)
    return within.mean() - between.mean()


def are_apart(embeddings, labels):
    """Return whether any two clips of a class are nearer than any two of different classes."""
    within, between = cosines(embeddings, labels)
    return within.min() > between.max()


# --- Without labels -------------------------------------------------------------------------


def test_a_timm_backbone_computes_what_timm_computes():
    patches, _ = make_patches(n_clips=3, n_frames=64)
    embedder = AnoPatchEmbedder(
        "timm:vit_tiny_patch16_224", normalization=(0.5, 2.0), output="patches", random_state=0
    ).fit(patches)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=(64, 128), in_chans=1, num_classes=0, dynamic_img_size=True
    ).eval()
    own = embedder.module_.backbone.vit.state_dict()
    vit.load_state_dict(own)
    images = torch.from_numpy((unpatchify(patches) - 0.5) / 2)[:, None]
    with torch.inference_mode():
        expected = vit.forward_features(images)[:, 1:]  # without the class token
    assert_allclose(embedder.transform(patches), expected.reshape(3, 4, 8, 192), atol=1e-5)


def test_layers_are_chosen_and_averaged():
    patches, _ = make_patches(n_clips=2)
    params = {"output": "patches", "statistics": False, "random_state": 0}
    tokens = {
        layers: AnoPatchEmbedder(layers=layers, **params).fit_transform(patches)
        for layers in (0, 1, 2, 3, 4, 5, None, -1, (0, 5), "all")
    }
    assert_array_equal(tokens[None], tokens[5])
    assert_array_equal(tokens[-1], tokens[5])
    assert_allclose(tokens[(0, 5)], (tokens[0] + tokens[5]) / 2, atol=1e-6)
    assert_allclose(tokens["all"], np.mean([tokens[i] for i in range(6)], axis=0), atol=1e-6)
    assert np.abs(tokens[0] - tokens[5]).mean() > 0.1


def test_bands_are_kept_side_by_side():
    patches, _ = make_patches(n_clips=2, n_frames=48)
    params = {"pooling": "mean", "statistics": False, "random_state": 0}
    tokens = AnoPatchEmbedder(output="patches", **params).fit_transform(patches)
    kept = AnoPatchEmbedder(keep_bands=True, **params).fit_transform(patches)
    assert tokens.shape == (2, 3, 8, 192)
    assert_allclose(kept, tokens.mean(axis=1).reshape(2, -1), atol=1e-6)
    pooled = make_embedder(**params).fit_transform(patches)
    assert_allclose(pooled, tokens.mean(axis=(1, 2)), atol=1e-6)


def test_normalization_is_learnt_on_the_training_patches():
    patches = 3 * make_patches(n_clips=20)[0] - 7
    embedder = make_embedder(normalization="fit", batch_size=7).fit(patches)
    expected = (patches.mean(dtype=np.float64), patches.std(dtype=np.float64))
    assert_allclose(embedder.normalization_, expected, rtol=1e-6)
    by_hand = make_embedder(normalization=expected).fit_transform(patches)
    assert_allclose(embedder.transform(patches), by_hand, atol=1e-5)


def test_a_backbone_is_normalised_as_it_was_trained():
    patches, _ = make_patches(4)
    timm_vit = AnoPatchEmbedder("timm:vit_tiny_patch16_224", random_state=0).fit(patches)
    assert_allclose(timm_vit.normalization_, (15.41663, 6.55582), rtol=1e-6)  # AudioSet's
    ours = make_embedder().fit(patches)
    assert_allclose(ours.normalization_, (patches.mean(), patches.std()), rtol=1e-5)


def test_fine_tuning_starts_where_clips_differ():
    """What clips have in common is a small part of their embeddings before any learning."""
    patches, labels = make_patches()
    params = {"max_epochs": 1, "lr": 1e-12}
    embeddings = make_embedder(**params).fit(patches, labels=labels).transform(patches)
    in_common = np.linalg.norm(embeddings.mean(axis=0))
    assert in_common < 0.3 * np.linalg.norm(embeddings, axis=1).mean()  # else 0.95 of it


@pytest.mark.parametrize(
    ("n_clips", "n_epochs"), [(30, 100), (200, 100), (1000, 20), (2500, 8), (30_000, 5)]
)
def test_few_clips_are_trained_on_for_more_epochs(n_clips, n_epochs):
    assert default_epochs(n_clips) == n_epochs


def test_epochs_are_counted_by_clips_by_default(monkeypatch):
    monkeypatch.setattr("skanopatch.embedding.training._CLIPS_IN_ALL", 144)
    patches, labels = make_patches(n_clips=24)
    embedder = make_embedder(max_epochs="auto").fit(patches, labels=labels)
    assert len(embedder.history_) == 6


def test_without_labels_statistics_replace_the_small_networks():
    patches, labels = make_patches(n_clips=20)
    patches[4] = np.nan
    statistics = BandStatistics().fit_transform(patches)
    scaler = StandardScaler(with_mean=False).fit(statistics[np.isfinite(statistics[:, 0])])
    for backbone in ("anopatch-tiny", "vit_tiny"):
        embedder = AnoPatchEmbedder(backbone).fit(patches)
        found = embedder.transform(patches)
        assert_array_equal(found, scaler.transform(statistics))
        assert (found.dtype, embedder.normalization_, embedder.classes_) == (np.float32, None, None)
    assert_allclose(np.nanstd(found, axis=0), 1, atol=1e-4)
    tokens = AnoPatchEmbedder(output="patches").fit_transform(patches)
    assert_array_equal(tokens, PatchStatistics().fit_transform(patches))
    frozen = make_embedder(statistics=True, tuning="frozen").fit(patches, labels=labels)
    assert_array_equal(frozen.transform(patches), found)
    assert make_embedder().fit_transform(patches).shape == (20, 384)


def test_a_constant_statistic_is_divided_by_1():
    patches = np.full((4, 1, 8, 256), 3.0)
    patches[:] += np.arange(4)[:, None, None, None]
    embeddings = AnoPatchEmbedder().fit_transform(patches)
    assert_allclose(embeddings[:, 0], (3 + np.arange(4)) / np.sqrt(1.25), rtol=1e-5)


def test_labels_train_the_network_and_nothing_comes_beside_it():
    patches, labels = make_patches(n_clips=6)
    params = {"max_epochs": 1}
    for statistics in (True, False):
        embedder = make_embedder(statistics=statistics, **params).fit(patches, labels=labels)
        embeddings = embedder.transform(patches)
        assert type(embeddings) is np.ndarray
        assert (embeddings.shape, embeddings.dtype) == ((6, 192), np.float32)
        assert len(embedder.history_) == 1
    tokens = make_embedder(output="patches", **params).fit(patches, labels=labels)
    assert tokens.transform(patches).shape == (6, 2, 8, 192)


def test_the_output_is_that_of_fit():
    patches, _ = make_patches(n_clips=4)
    for params in ({"statistics": True}, {"statistics": False}):
        embedder = make_embedder(**params).fit(patches)
        expected = embedder.transform(patches)
        embedder.set_params(output="patches")
        assert_array_equal(embedder.transform(patches), expected)
        assert len(embedder.get_feature_names_out()) == expected.shape[1]
        assert embedder.fit_transform(patches).ndim == 4
        with pytest.raises(AttributeError) as caught:
            embedder.get_feature_names_out()
        assert "get_feature_names_out needs output='clip'" in str(caught.value.__cause__)


@pytest.mark.parametrize("labelled", [False, True])
def test_embeddings_are_tables_on_request_and_patches_stay_arrays(labelled):
    clips = np.random.default_rng(0).normal(size=(8, 8000))
    labels = np.arange(8) % 2 if labelled else None
    patcher = MelPatcher(duration=0.5)

    def embed(output, transform=None):
        embedder = make_embedder(statistics=True, max_epochs=1, output=output)
        pipe = make_pipeline(clone(patcher), embedder).set_output(transform=transform)
        return pipe.fit(clips, anopatchembedder__labels=labels).transform(clips)

    expected, tokens = embed("clip"), embed("patches")
    table = embed("clip", "pandas")
    assert list(table) == [f"anopatchembedder{i}" for i in range(expected.shape[1])]
    assert_array_equal(table, expected)
    assert_array_equal(embed("patches", "pandas"), tokens)
    assert type(embed("patches", "pandas")) is np.ndarray
    with config_context(transform_output="pandas"):
        assert_array_equal(embed("clip"), table)
        assert type(embed("patches")) is np.ndarray


def test_settings_of_the_training_are_reached_from_outside():
    embedder = AnoPatchEmbedder().set_params(fine_tuning__max_epochs=3)
    assert repr(embedder) == "AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=3))"
    embedder.set_params(fine_tuning=None, fine_tuning__lr=1e-3)
    assert repr(embedder) == "AnoPatchEmbedder(fine_tuning=FineTuning(lr=0.001))"
    copy = clone(embedder).set_params(fine_tuning__lr=1e-2)
    assert (embedder.fine_tuning.lr, copy.get_params()["fine_tuning__lr"]) == (1e-3, 1e-2)
    pipe = make_pipeline(MelPatcher(), AnoPatchEmbedder())
    pipe.set_params(anopatchembedder__fine_tuning__tuning="head")
    assert pipe[1].fine_tuning.tuning == "head"
    with pytest.raises(ValueError, match="Invalid parameter 'epochs' for estimator FineTuning"):
        embedder.set_params(fine_tuning__epochs=3)
    message = (
        "The 'fine_tuning' parameter of AnoPatchEmbedder must be an instance of "
        "'skanopatch.embedding.settings.FineTuning' or None. Got 3 instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AnoPatchEmbedder(fine_tuning=3).fit(make_patches(4)[0])


@pytest.mark.slow
def test_a_grid_search_reaches_the_settings_of_the_training():
    patches, labels = make_patches(n_clips=24)
    pipe = make_pipeline(AnoPatchEmbedder(random_state=0, statistics=False), LogisticRegression())
    with config_context(enable_metadata_routing=True):
        pipe[0].set_fit_request(labels=True)
        pipe.set_params(anopatchembedder__fine_tuning__max_epochs=6)
        grid = {"anopatchembedder__fine_tuning__n_dims": [4, 8]}
        search = GridSearchCV(pipe, grid, cv=2).fit(patches, labels, labels=labels)
        pipe[0].set_params(fine_tuning=None)
        one = {"anopatchembedder__fine_tuning": [FineTuning(n_dims=4, max_epochs=1), None]}
        one["anopatchembedder__fine_tuning__tuning"] = ["frozen"]
        GridSearchCV(pipe, one, cv=2, error_score="raise").fit(patches, labels, labels=labels)
    n_dims = search.best_params_["anopatchembedder__fine_tuning__n_dims"]
    assert search.best_estimator_[:-1].transform(patches).shape == (24, n_dims)
    assert search.best_score_ > 0.8  # chance is 0.5, other seeds give 0.96 to 1


BEATS_LIKE = "timm:vit_tiny_patch16_224"  # normalised as BEATs is


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_patches_of_another_front_end_are_warned_of(gain, recwarn):
    clips = gain * 0.1 * np.random.default_rng(0).normal(size=(4, 16000))

    def fit(unit=1.0, normalization="backbone", **settings):
        patches = unit * MelPatcher(duration=1.0, **settings).fit_transform(clips)
        AnoPatchEmbedder(BEATS_LIKE, normalization=normalization, random_state=0).fit(patches)

    fit()
    fit(scale=1.0, window="hanning", normalization="fit")
    assert not recwarn.list
    if gain < 1:
        message = r"have a mean of -10\.0, .* mean of 15\.4: they differ by -3\.9 times 6\.6"
        with pytest.warns(UserWarning, match=message):
            fit(scale=1.0, window="hanning")
    with pytest.warns(UserWarning, match=r"skanopatch\.backbones\.make_patcher\('timm:vit_tiny"):
        fit(unit=10 / np.log(10))


@pytest.mark.parametrize(
    ("distance", "is_usual"), [(-3.06, False), (-2.94, True), (1.44, True), (1.56, False)]
)
def test_a_mean_is_usual_from_3_divisors_below_to_one_and_a_half_above_that_of_the_backbone(
    distance, is_usual
):
    noise, _ = make_patches(n_clips=2)
    patches = noise - noise.mean() + 15.41663 + distance * 6.55582  # AudioSet's mean and divisor
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AnoPatchEmbedder(BEATS_LIKE, random_state=0).fit(patches)
    assert [f"they differ by {distance:.1f} times 6.6" in str(w.message) for w in caught] == (
        [] if is_usual else [True]
    )


def test_classes_are_separable_where_a_classifier_finds_them_on_other_clips():
    rng = np.random.default_rng(0)
    target = rng.permutation(np.repeat([0, 1, 2], [30, 30, 4]))
    noise = rng.normal(size=(64, 100))
    assert not are_separable(target, noise)
    shifted = noise + 8 * np.eye(3, 100)[target]
    assert are_separable(target, shifted)
    # Of four classes three are alike: a third of the way from chance is gone.
    of_four = np.arange(64) % 4
    assert not are_separable(of_four, noise + 4 * (of_four == 0)[:, np.newaxis])
    # A class of one clip is left out, and nothing is left to separate where one class remains.
    one_each = np.append(np.zeros(32, dtype=int), 3 + np.arange(32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not are_separable(one_each, noise)
    assert are_separable(np.append(target, [3, 4]), np.vstack([shifted, noise[:2]]))
    few = np.repeat([0, 1], 3)  # three folds, not five
    assert are_separable(few, noise[:6] + 9 * few[:, np.newaxis])


def test_many_classes_of_one_clip_do_not_hide_that_the_others_are_separable():
    rng = np.random.default_rng(0)
    target = np.concatenate([np.arange(20) % 2, 2 + np.arange(40)])
    features = rng.normal(size=(60, 5)) + 8 * np.eye(2, 5)[target % 2] * (target < 2)[:, np.newaxis]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn's, of classes smaller than the folds
        assert are_separable(target, features)


def test_statistics_do_not_replace_the_backbones_of_others():
    patches, _ = make_patches(n_clips=2)
    embedder = AnoPatchEmbedder("timm:vit_tiny_patch16_224", pooling="mean", random_state=0)
    assert embedder.fit_transform(patches).shape == (2, 192)


def test_a_long_clip_is_read_segment_by_segment():
    patches, _ = make_patches(n_clips=2, n_frames=192 + 80)
    params = {"output": "patches", "statistics": False, "random_state": 0}
    embedder = make_embedder(**params).fit(patches)
    tokens = embedder.transform(patches)
    head = embedder.transform(patches[:, :12])
    tail = embedder.transform(patches[:, 5:])
    assert tokens.shape == (2, 17, 8, 192)
    assert_allclose(tokens, np.concatenate([head, tail[:, 7:]], axis=1), atol=1e-5)


def test_other_lengths_than_in_fit_are_embedded():
    patches, _ = make_patches(2, n_frames=160)
    short = AnoPatchEmbedder(statistics=False, random_state=0).fit(patches[:, :2])
    for n_time in (2, 10):
        as_fitted = AnoPatchEmbedder(
            statistics=False, normalization=short.normalization_, random_state=0
        ).fit_transform(patches[:, :n_time])
        assert_allclose(short.transform(patches[:, :n_time]), as_fitted, atol=1e-5)


def test_a_clip_is_embedded_alike_alone_and_in_a_batch():
    patches, _ = make_patches(n_clips=9, n_frames=160)

    def alone_and_together(**params):
        embedder = make_embedder(batch_size=4, **params).fit(patches)
        alone = np.concatenate([embedder.transform(clip[None]) for clip in patches])
        return alone, embedder.transform(patches)

    assert_array_equal(*alone_and_together(statistics=True))
    assert_array_equal(*alone_and_together(statistics=True, output="patches"))
    assert_allclose(*alone_and_together(), rtol=1e-4, atol=1e-5)


def test_a_batch_is_embedded_in_parts_of_few_tokens():
    rng = np.random.default_rng(0)
    embedder = make_embedder(batch_size=32).fit(rng.normal(size=(2, 12, 8, 256)))
    seen = []
    embedder.module_.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    embedder.transform(rng.normal(size=(32, 62, 8, 256)))  # 62 x 8 tokens a clip
    assert seen == [4] * 8
    seen.clear()
    embedder.transform(rng.normal(size=(32, 6, 8, 256)))
    assert seen == [32]


def test_unreadable_clips_stay_nan_and_harm_no_other():
    patches, labels = make_patches()
    with_nan = patches.copy()
    with_nan[5] = np.nan
    embedder = make_embedder().fit(with_nan, labels=labels)
    embeddings = embedder.transform(with_nan)
    assert np.isnan(embeddings[5]).all()
    assert np.isfinite(np.delete(embeddings, 5, axis=0)).all()
    assert_allclose(embedder.normalization_[0], np.delete(patches, 5, axis=0).mean(), atol=1e-5)


@pytest.mark.slow
def test_lazy_patches_are_embedded_to_the_bit():
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=16000) for _ in range(40)]
    labels = np.arange(40) % 2
    patcher = MelPatcher(duration=1.0).fit(clips)
    eager = patcher.transform(clips)
    with config_context(working_memory=1):
        lazy = patcher.transform(clips)
    assert not isinstance(lazy, np.ndarray)
    params = {"max_epochs": 1}
    from_lazy = make_embedder(**params).fit(lazy, labels=labels).transform(lazy)
    from_eager = make_embedder(**params).fit(eager, labels=labels).transform(eager)
    assert_array_equal(from_lazy, from_eager)


@pytest.mark.slow
@pytest.mark.parametrize("duration", [1.0, 3.0])
def test_workers_change_no_bit(duration):
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=int(16000 * duration)) for _ in range(40)]
    with config_context(working_memory=1):
        lazy = MelPatcher(duration=duration, n_jobs=2).fit_transform(clips)
    params = {"max_epochs": 2, "patch_dropout": 0.5}
    labels = np.arange(40) % 2
    expected = make_embedder(**params).fit(lazy, labels=labels).history_
    with_workers = make_embedder(**params, n_workers=1).fit(lazy, labels=labels).history_
    assert [e["train_loss"] for e in with_workers] == [e["train_loss"] for e in expected]


# --- With labels ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fine_tuned():
    patches, labels = make_patches(n_clips=48, n_classes=3)
    params = {"max_epochs": 8, "time_mask": 0, "frequency_mask": 0}
    return make_embedder(**params).fit(patches, labels=labels)


def test_fine_tuning_tells_unseen_clips_of_the_classes_apart(fine_tuned):
    patches, labels = make_patches(n_clips=30, n_classes=3, seed=1)
    frozen = make_embedder().fit(patches)
    assert are_apart(fine_tuned.transform(patches), labels)
    assert not are_apart(frozen.transform(patches), labels)
    # 1.0 to 1.08 and 0.05 with other seeds and other rounding.
    assert spread(fine_tuned.transform(patches), labels) > 0.8
    assert spread(frozen.transform(patches), labels) < 0.2


def test_the_loss_falls(fine_tuned):
    losses = [epoch["train_loss"] for epoch in fine_tuned.history_]
    assert len(losses) == 8
    assert losses[-1] < 0.5 * losses[0]
    assert fine_tuned.classes_ == [0, 1, 2]


def test_gradients_are_clipped_to_a_norm_of_1(monkeypatch):
    norms = []
    monkeypatch.setattr(
        "skorch.callbacks.regularization.clip_grad_norm_",
        lambda parameters, max_norm, **kwargs: norms.append(max_norm),
    )
    patches, labels = make_patches()
    make_embedder(max_epochs=1).fit(patches, labels=labels)
    assert norms == [1.0] * 3  # steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {"pooling": "mean"},
        {"pooling": "gem", "keep_bands": True},
        {"pooling": "rdp", "layers": (2, 5)},
        {"n_dims": 64, "patch_dropout": 0.5},
        {"optimizer": "SGD", "lr": 0.05},
    ],
    ids=str,
)
def test_every_way_of_fine_tuning_lowers_the_loss(params):
    patches, labels = make_patches(n_clips=48)
    embedder = make_embedder(**{"max_epochs": 6, **params}).fit(patches, labels=labels)
    losses = [epoch["train_loss"] for epoch in embedder.history_]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_two_fits_with_one_seed_agree_to_the_bit_whatever_ran_before():
    patches, labels = make_patches()
    first = make_embedder().fit(patches, labels=labels)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    second = make_embedder().fit(patches, labels=labels)
    assert_array_equal(first.transform(patches), second.transform(patches))
    assert torch.equal(torch.random.get_rng_state(), state)  # and the caller's stays as it was
    other = make_embedder(random_state=1).fit(patches, labels=labels)
    assert np.abs(other.transform(patches) - first.transform(patches)).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b"] * 12,
        [("fan", 0), ("fan", 1)] * 12,
        np.array([["fan", "0"], ["fan", "1"]] * 12),
        [None, 3.5] * 12,
    ],
    ids=["strings", "tuples", "rows", "mixed"],
)
def test_labels_are_any_hashables(labels):
    patches, numbers = make_patches()
    params = {"max_epochs": 1}
    expected = make_embedder(**params).fit(patches, labels=numbers)
    embedder = make_embedder(**params).fit(patches, labels=labels)
    assert_array_equal(embedder.transform(patches), expected.transform(patches))
    assert len(embedder.classes_) == 2


def test_a_progress_bar_is_shown_on_request(capsys):
    patches, labels = make_patches()
    make_embedder(max_epochs=1, verbose=1).fit_transform(patches, labels=labels)
    shown = capsys.readouterr().err
    assert "train_loss" in shown
    assert "Embedding: 100%" in shown


# --- Interruption -----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_fit_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    patches, labels = make_patches()
    expected = make_embedder(max_epochs=4).fit(patches, labels=labels)

    run_epoch = FineTuningNet.run_single_epoch

    def run_two_epochs(net, *args, **kwargs):
        if len(net.history) > 2:
            raise KeyboardInterrupt
        return run_epoch(net, *args, **kwargs)

    embedder = make_embedder(max_epochs=4, checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FineTuningNet, "run_single_epoch", run_two_epochs)
        with pytest.raises(KeyboardInterrupt):
            embedder.fit(patches, labels=labels)
    assert len(list(tmp_path.iterdir())) == 1

    done = []
    with monkeypatch.context() as patch:
        patch.setattr(
            FineTuningNet,
            "run_single_epoch",
            lambda net, *a, **k: (done.append(len(net.history)), run_epoch(net, *a, **k))[1],
        )
        embedder.fit(patches, labels=labels)
    assert min(done) == 3  # the first two epochs were not run again
    assert_array_equal(embedder.transform(patches), expected.transform(patches))
    assert [epoch["train_loss"] for epoch in embedder.history_] == [
        epoch["train_loss"] for epoch in expected.history_
    ]


def _fit_and_die(checkpoint_dir, params):
    def save_then_die(self, net, **kwargs):
        self._save(net, is_finished=False)
        os.kill(os.getpid(), signal.SIGKILL)

    ResumableCheckpoint.on_epoch_end = save_then_die
    patches, labels = make_patches()
    make_embedder(**params, checkpoint_dir=checkpoint_dir).fit(patches, labels=labels)


@pytest.mark.slow
def test_a_killed_process_is_continued_by_another(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_fit_and_die, args=(tmp_path, {}))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    patches, labels = make_patches()
    expected = make_embedder().fit_transform(patches, labels=labels)
    resumed = make_embedder(checkpoint_dir=tmp_path).fit(patches, labels=labels)
    assert_array_equal(resumed.transform(patches), expected)


def test_a_finished_fit_is_not_run_again(tmp_path, monkeypatch):
    patches, labels = make_patches()
    embedder = make_embedder(checkpoint_dir=tmp_path)
    expected = embedder.fit_transform(patches, labels=labels)
    monkeypatch.setattr(FineTuningNet, "train_on", None)
    assert_array_equal(embedder.fit_transform(patches, labels=labels), expected)


@pytest.mark.slow
def test_other_clips_or_parameters_do_not_take_a_checkpoint_of_others(tmp_path):
    patches, labels = make_patches()
    params = {"max_epochs": 1, "checkpoint_dir": tmp_path}
    make_embedder(**params).fit(patches, labels=labels)
    make_embedder(**{**params, "lr": 1e-4}).fit(patches, labels=labels)
    make_embedder(**params).fit(patches + 1, labels=labels)
    make_embedder(**params).fit(patches, labels=np.arange(24) // 12)
    assert len(list(tmp_path.iterdir())) == 4
    # Settings of the machine change no weights.
    make_embedder(**params, n_workers=1, gradient_checkpointing=True).fit(patches, labels=labels)
    assert len(list(tmp_path.iterdir())) == 4


# --- Persistence and devices -----------------------------------------------------------------


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_a_saved_embedder_embeds_alike(fine_tuned, tmp_path, mmap_mode):
    patches, _ = make_patches()
    joblib.dump(fine_tuned, tmp_path / "embedder.joblib")
    loaded = joblib.load(tmp_path / "embedder.joblib", mmap_mode=mmap_mode)
    assert_array_equal(loaded.transform(patches), fine_tuned.transform(patches))


def test_loading_fetches_no_weights_and_minds_no_later_parameters(monkeypatch):
    patches, _ = make_patches(n_clips=2)
    embedder = AnoPatchEmbedder(random_state=0, statistics=False)
    expected = embedder.fit_transform(patches)
    saved = pickle.dumps(embedder.set_params(backbone="vit_tiny", pooling="mean"))
    monkeypatch.setattr(anopatch_tiny, "WEIGHTS", "nowhere")
    assert_array_equal(pickle.loads(saved).transform(patches), expected)
    with pytest.raises(FileNotFoundError):
        make_embedder().fit(patches)
    AnoPatchEmbedder().fit(patches)  # statistics need no weights


@pytest.mark.parametrize("tuning", ["full", "lora", "head"])
def test_a_pickle_needs_no_file_and_draws_no_random_number(tuning, tmp_path):
    patches, labels = make_patches(n_clips=8)
    backbone = save_mini_beats(tmp_path / "mini.pt")
    params = {"max_epochs": 1, "tuning": tuning, "normalization": "fit"}
    embedder = make_embedder(backbone, **params).fit(patches, labels=labels)
    saved = pickle.dumps(embedder)
    (tmp_path / "mini.pt").unlink()
    state = torch.random.get_rng_state()
    loaded = pickle.loads(saved)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_array_equal(loaded.transform(patches), embedder.transform(patches))
    assert joblib.hash(loaded) == joblib.hash(embedder)


def test_a_pickle_holds_no_tensor_so_it_needs_no_gpu(fine_tuned):
    """Tensors are pickled with the device they were on; the bytes of safetensors have none."""
    assert isinstance(fine_tuned.__getstate__()["_weights"], bytes)
    data = pickle.dumps(fine_tuned)
    assert b"torch" not in data
    assert b"_rebuild" not in data


def test_a_checkpoint_written_on_a_gpu_resumes_without_one(tmp_path, monkeypatch):
    patches, labels = make_patches()
    expected = make_embedder().fit_transform(patches, labels=labels)
    embedder = make_embedder(checkpoint_dir=tmp_path)
    # Make torch.save write the tags of CUDA storages.
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    embedder.fit(patches, labels=labels)
    monkeypatch.undo()
    (checkpoint,) = tmp_path.iterdir()
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
        torch.load(checkpoint, weights_only=True)
    assert_array_equal(embedder.fit_transform(patches, labels=labels), expected)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_both_precisions_learn_the_classes(precision):
    patches, labels = make_patches(n_clips=48, n_classes=3)
    new, new_labels = make_patches(n_clips=30, n_classes=3, seed=1)
    params = {"max_epochs": 12, "time_mask": 0, "frequency_mask": 0, "precision": precision}
    embedder = make_embedder(**params).fit(patches, labels=labels)
    assert are_apart(embedder.transform(new), new_labels)


def test_automatic_precision_is_float32_on_every_cpu(monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    capable = {"avx512_bf16": True, "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)  # not in 2.9
    for native, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: native)  # noqa: B023
        assert autocast_dtype(cuda, "auto") == expected
        assert autocast_dtype(cpu, "auto") is None
    assert autocast_dtype(cpu, "bfloat16") == torch.bfloat16
    assert autocast_dtype(cuda, "float32") is None


def test_bfloat16_training_is_close_to_float32():
    patches, labels = make_patches(n_clips=16)
    params = {"max_epochs": 1, "lr": 1e-5}
    float32 = make_embedder(**params, precision="float32").fit(patches, labels=labels)
    bfloat16 = make_embedder(**params, precision="bfloat16").fit(patches, labels=labels)
    losses = [e.history_[0]["train_loss"] for e in (float32, bfloat16)]
    assert losses[0] != losses[1]
    assert_allclose(losses[0], losses[1], rtol=0.02)
    assert bfloat16.transform(patches).dtype == np.float32


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9e15 bytes"
        ),
    ],
)
def test_too_large_a_batch_is_named(error):
    message = (
        "A batch of 32 clips does not fit into memory. Set batch_size to less than 32, or shorten "
        "the clips."
    )
    with pytest.raises(MemoryError, match=f"^{message}$"), memory_errors(32):
        raise error


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(32):
        raise RuntimeError("shapes")


# --- What it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"max_epochs": 0},
            "The 'max_epochs' parameter of FineTuning must be an int in the range [1, inf) or a "
            "str among {'auto'}. Got 0 instead.",
        ),
        (
            {"backbone": "vit_tiy"},
            f"backbone must be one of {list_backbones()}. Got 'vit_tiy' instead. Did you mean "
            "'vit_tiny'?",
        ),
        ({"backbone": "timm:vit_teeny"}, "timm has no model 'vit_teeny'."),
        (
            {"layers": 6},
            "layers must be indices of the backbone's 6 layers, from -6 to 5. Got 6 instead.",
        ),
        ({"device": "gpu"}, "device must be 'auto' or a torch device. Got 'gpu' instead."),
        (
            {"optimizer": "Adamw"},
            "optimizer must be the name of a class in torch.optim, such as 'AdamW'. Got 'Adamw' "
            "instead.",
        ),
        (
            {"checkpoint_dir": "here", "random_state": None},
            "checkpoint_dir needs a random_state that is an int: it identifies the fit to resume. "
            "Got random_state=None instead.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_parameter_is_named(params, message):
    patches, labels = make_patches()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_embedder(**params).fit(patches, labels=labels)


def test_an_absent_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device='cuda' was asked for, but torch finds no CUDA"):
        AnoPatchEmbedder(device="cuda").fit(make_patches(2)[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "labels must have one entry per clip. Got 2 for 24."),
        (
            ["fan"] * 24,
            "labels must have at least 2 distinct values to learn from, of clips that can be read. "
            "Got only 'fan'; leave labels out to use the backbone as it is.",
        ),
        (
            [0.0, np.nan] * 12,
            "labels must not be NaN. Got nan for clip 1; give what is not known a name of its "
            "own, such as 'unknown'.",
        ),
        (
            pd.DataFrame({"machine": ["a", "b"] * 12, "speed": [1.0, np.nan] * 12}),
            "labels must not be NaN. Got ('b', nan) for clip 1; give what is not known a name of "
            "its own, such as 'unknown'.",
        ),
        (
            pd.Series([1, None] * 12, dtype="Int64"),
            "labels must not be NaN. Got <NA> for clip 1; give what is not known a name of its "
            "own, such as 'unknown'.",
        ),
    ],
)
def test_wrong_labels_are_named(labels, message):
    patches, _ = make_patches()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_embedder().fit(patches, labels=labels)


def test_a_class_that_cannot_be_read_is_none():
    patches, _ = make_patches()
    patches[5] = np.nan
    labels = ["fan"] * 5 + ["pump"] + ["fan"] * 18
    with pytest.raises(ValueError, match=r"of clips that can be read\. Got only 'fan'"):
        make_embedder().fit(patches, labels=labels)


@pytest.mark.parametrize("layers", [np.int64(1), np.array([0, 1])[:1].tolist(), (np.int32(-5),)])
def test_layers_are_integers_of_any_kind(layers):
    patches, _ = make_patches(n_clips=2)
    embedder = AnoPatchEmbedder(statistics=False, layers=layers).fit(patches)
    index = np.ravel(layers)[0] % 6
    assert embedder.module_.layers == [index]


@pytest.mark.parametrize("layers", [(0.5,), ["all"], (6,)])
def test_layers_that_are_not_there_are_named(layers):
    with pytest.raises(ValueError, match=r"layers must be indices of the backbone's 6 layers"):
        AnoPatchEmbedder(statistics=False, layers=layers).fit(make_patches(n_clips=2)[0])


@pytest.mark.parametrize("normalization", [(1, 0), (1, 2, 3), ("a", "b"), (0, np.nan)])
def test_a_normalization_that_is_none_is_named(normalization):
    with pytest.raises(ValueError, match=r"two numbers \(mean, std\) with std > 0. Got"):
        AnoPatchEmbedder(normalization=normalization).fit(make_patches(n_clips=2)[0])


def test_read_only_patches_are_embedded_without_a_warning(recwarn):
    patches, _ = make_patches(n_clips=4)
    patches = patches.astype(np.float32)
    patches.flags.writeable = False
    embedder = AnoPatchEmbedder(statistics=False, random_state=0).fit(patches)
    assert np.isfinite(embedder.transform(patches)).all()
    assert not recwarn.list


@pytest.mark.slow
def test_a_checkpoint_is_of_the_sound_in_the_files(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(12)]

    def fit(seed, n_jobs=None):
        if seed is not None:
            rng = np.random.default_rng(seed)
            for path in paths:
                soundfile.write(path, 0.1 * rng.normal(size=8000), 16000)
        with config_context(working_memory=0.001):
            patches = MelPatcher(duration=0.5, n_jobs=n_jobs).fit_transform(paths)
        params = {"tuning": "head", "max_epochs": 1, "checkpoint_dir": tmp_path}
        embedder = make_embedder(**params).fit(patches, labels=[0, 1] * 6)
        return embedder.module_.state_dict()["head.weight"].numpy()

    first = fit(0)
    assert_array_equal(fit(None, n_jobs=2), first)
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert (fit(1) != first).any()
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_nothing_but_unreadable_clips():
    with pytest.raises(ValueError, match=r"^Every clip is NaN: there is nothing to learn from\.$"):
        AnoPatchEmbedder(normalization="fit").fit(np.full((3, 1, 8, 256), np.nan))
