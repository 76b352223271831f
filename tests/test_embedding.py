"""AnoPatchEmbedder: what it learns, repeats, resumes and refuses."""

import multiprocessing
import os
import pickle
import re
import signal

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile
import timm
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from skorch.callbacks import Callback

from skanopatch import (
    AnoPatchEmbedder,
    BandStatistics,
    MelPatcher,
    MelStatistics,
    PatchStatistics,
    SharedSubspace,
    patchify,
    unpatchify,
)
from skanopatch.backbones import anopatch_tiny, list_backbones
from skanopatch.detectors import MahalanobisDetector
from skanopatch.finetuning.augmentation import change
from skanopatch.finetuning.devices import autocast_dtype, memory_errors
from skanopatch.finetuning.net import FineTuningNet, ResumableCheckpoint
from skanopatch.finetuning.training import default_epochs
from skanopatch.labels import are_heard

TINY = {
    "statistics": False,
    "batch_size": 8,
    "max_epochs": 3,
    "patch_dropout": 0.0,  # the clips have a few patches only
    "random_state": 0,
}


def make_patches(n_clips=24, n_frames=32, n_classes=2, seed=0):
    """Make spectrograms whose classes differ by a raised band."""
    rng = np.random.default_rng(seed)
    log_mel = rng.normal(size=(n_clips, n_frames, 128))
    labels = np.arange(n_clips) % n_classes
    for clip, label in zip(log_mel, labels, strict=True):
        clip[:, 30 * label : 30 * label + 30] += 2
    return patchify(log_mel), labels


def spread(embeddings, labels):
    """Return the mean cosine within a class, less that between classes."""
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = directions @ directions.T
    same = labels[:, None] == labels
    return cosine[same].mean() - cosine[~same].mean()


# --- Without labels -------------------------------------------------------------------------


def test_a_timm_backbone_computes_what_timm_computes():
    patches, _ = make_patches(n_clips=3, n_frames=64)
    embedder = AnoPatchEmbedder(
        "timm:vit_tiny_patch16_224", normalization=(0.5, 2.0), output="patches", random_state=0
    ).fit(patches)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=(64, 128), in_chans=1, num_classes=0, dynamic_img_size=True
    ).eval()
    own = embedder._module.backbone.vit.state_dict()
    vit.load_state_dict(own)
    images = torch.from_numpy((unpatchify(patches) - 0.5) / 2)[:, None]
    with torch.inference_mode():
        expected = vit.forward_features(images)[:, 1:]  # without the class token
    assert_allclose(embedder.transform(patches), expected, atol=1e-5)


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
    assert_allclose(kept, tokens.reshape(2, 3, 8, 192).mean(axis=1).reshape(2, -1), atol=1e-6)
    pooled = AnoPatchEmbedder(**params).fit_transform(patches)
    assert_allclose(pooled, tokens.mean(axis=1), atol=1e-6)


def test_normalization_is_learnt_on_the_training_patches():
    patches = 3 * make_patches(n_clips=20)[0] - 7
    embedder = AnoPatchEmbedder(normalization="fit", batch_size=7, random_state=0).fit(patches)
    expected = (patches.mean(dtype=np.float64), patches.std(dtype=np.float64))
    assert_allclose(embedder.normalization_, expected, rtol=1e-6)
    by_hand = AnoPatchEmbedder(normalization=expected, random_state=0).fit_transform(patches)
    assert_allclose(embedder.transform(patches), by_hand, atol=1e-5)


def test_a_backbone_is_normalised_as_it_was_trained():
    patches, _ = make_patches(4)
    timm_vit = AnoPatchEmbedder("timm:vit_tiny_patch16_224", random_state=0).fit(patches)
    assert_allclose(timm_vit.normalization_, (15.41663, 6.55582), rtol=1e-6)  # AudioSet's
    ours = AnoPatchEmbedder(random_state=0).fit(patches)
    assert_allclose(ours.normalization_, (patches.mean(), patches.std()), rtol=1e-5)


def directions_within(embeddings, is_first):
    """Return the directions that hold 95 % of the variance within two classes.

    They are as long as it takes for a mean variance along them of 0.1 squared.
    """
    is_first = np.asarray(is_first)
    deviations = embeddings.astype(float)
    for rows in (is_first, ~is_first):
        deviations[rows] -= deviations[rows].mean(axis=0)
    _, sizes, directions = np.linalg.svd(deviations, full_matrices=False)
    share = np.cumsum(sizes**2) / np.sum(sizes**2)
    found = directions[: 1 + np.count_nonzero(share < 0.95)]
    # scikit-learn's signs: the largest entry of a direction is positive.
    found *= np.sign([row[np.abs(row).argmax()] for row in found])[:, np.newaxis]
    return found * 0.1 / np.sqrt(np.mean(sizes[: len(found)] ** 2) / (len(embeddings) - 1))


@pytest.mark.parametrize("labelled", [False, True])
def test_statistics_come_before_the_networks_embedding(labelled):
    patches, labels = make_patches(n_clips=6, n_frames=192)
    params = {**TINY, "max_epochs": 1, "n_dims": 8}
    labels = labels if labelled else None

    def embed(statistics):
        embedder = AnoPatchEmbedder(**{**params, "statistics": statistics})
        return embedder.fit(patches, labels=labels).transform(patches)

    alone, network, both = BandStatistics().fit_transform(patches), embed(False), embed(True)
    if labelled:
        alone = np.float32(0.1) * SharedSubspace().fit(alone, labels=labels).transform(alone)
        is_first = [label == labels[0] for label in labels]
        network = network @ directions_within(network, is_first).T
    assert both.blocks == (alone.shape[1], network.shape[1])
    assert hasattr(embed(False), "blocks") == labelled
    assert_array_equal(both[:, : alone.shape[1]], alone)
    assert_allclose(both[:, alone.shape[1] :], network, atol=1e-5)
    if labelled:
        as_new = np.asarray(both.notes.seen.as_new(both))
        subspace = SharedSubspace().fit(BandStatistics().fit_transform(patches), labels=labels)
        seen = subspace.transform(BandStatistics().fit_transform(patches))
        expected = np.float32(0.1) * seen.notes.seen.as_new(seen)
        assert_allclose(as_new[:, : alone.shape[1]], expected, rtol=1e-5)
        assert (as_new[:, alone.shape[1] - 1] > both[:, alone.shape[1] - 1]).all()
        assert_array_equal(as_new[:, alone.shape[1] :], both[:, alone.shape[1] :])
    # Six clips are too few for our small ViT to take part by itself.
    assert_array_equal(embed("auto"), alone)


def test_fine_tuning_starts_where_clips_differ():
    """What clips have in common is a small part of their embeddings before any learning."""
    patches, labels = make_patches()
    params = {**TINY, "max_epochs": 1, "lr": 1e-12}
    embeddings = AnoPatchEmbedder(**params).fit(patches, labels=labels).transform(patches)
    in_common = np.linalg.norm(embeddings.mean(axis=0))
    assert in_common < 0.3 * np.linalg.norm(embeddings, axis=1).mean()  # else 0.95 of it


def test_directions_of_many_clips_are_those_of_a_sample(monkeypatch):
    monkeypatch.setattr("skanopatch.finetuning.head._MOST_CLIPS", 12)
    patches, labels = make_patches(n_clips=30)
    patches[4] = np.nan
    params = {**TINY, "max_epochs": 1, "n_dims": 8}
    network = AnoPatchEmbedder(**params).fit(patches, labels=labels).transform(patches)
    both = AnoPatchEmbedder(**{**params, "statistics": True}).fit(patches, labels=labels)
    usable = np.delete(np.arange(30), 4)
    sample = np.random.default_rng(0).permutation(usable)[:12]
    directions = directions_within(network[sample], [labels[i] == labels[0] for i in sample])
    found = both.transform(patches)[:, -len(directions) :]
    assert both.transform(patches).blocks[1] == len(directions) < 8
    assert_allclose(found, network @ directions.T, atol=1e-5)


def test_all_dimensions_are_kept_where_each_clip_has_a_label_of_its_own():
    patches, _ = make_patches(n_clips=6)
    embedder = AnoPatchEmbedder(**{**TINY, "max_epochs": 1, "n_dims": 8, "statistics": True})
    with pytest.warns(UserWarning, match="6 clips apart into 6 classes"):
        embedder.fit(patches, labels=range(6))
    assert embedder.transform(patches).blocks == (2, 8)


def test_a_network_without_statistics_tells_its_classes(monkeypatch):
    patches, labels = make_patches(n_clips=30, n_classes=3)
    patches[4] = np.nan
    embedder = AnoPatchEmbedder(**TINY, n_dims=8).fit(patches, labels=labels)
    embeddings = embedder.transform(patches)
    seen, usable = embeddings.notes.seen, np.delete(np.arange(30), 4)
    assert embeddings.blocks == (8,)
    assert_array_equal(seen.class_sizes, [10, 9, 10])
    for k, center in enumerate(seen.centers):
        rows = usable[labels[usable] == k]
        assert_allclose(center, np.asarray(embeddings)[rows].mean(axis=0), atol=1e-5)
    assert seen.as_new(embeddings) is embeddings
    # Clips of some classes are the domains of one detector, without their names.
    some = usable[labels[usable] < 2]
    found = MahalanobisDetector().fit(embeddings[some])
    expected = MahalanobisDetector().fit(np.asarray(embeddings)[some], domains=labels[some])
    assert_array_equal(found.training_scores_, expected.training_scores_)
    assert len(found.location_) == 2
    # Of many clips some of each class are heard; of many classes, none.
    monkeypatch.setattr("skanopatch.finetuning.head._MOST_CLIPS", 6)
    embeddings = embedder.fit(patches, labels=labels).transform(patches)
    sampled = embeddings.notes.seen
    rng = np.random.default_rng(0)
    for k, center in enumerate(sampled.centers):
        rows = rng.permutation(usable[labels[usable] == k])[:2]
        assert_allclose(center, np.asarray(embeddings)[rows].mean(axis=0), atol=1e-5)
    assert_array_equal(sampled.class_sizes, seen.class_sizes)
    monkeypatch.setattr("skanopatch.embedding.MOST_CLASSES", 2)
    assert type(embedder.fit(patches, labels=labels).transform(patches)) is np.ndarray


@pytest.mark.parametrize(
    ("n_clips", "n_epochs"), [(30, 100), (200, 100), (1000, 20), (4000, 5), (30_000, 5)]
)
def test_few_clips_are_heard_more_often(n_clips, n_epochs):
    assert default_epochs(n_clips) == n_epochs


def test_epochs_are_counted_by_clips_by_default(monkeypatch):
    monkeypatch.setattr("skanopatch.finetuning.training._CLIPS_TO_HEAR", 144)
    patches, labels = make_patches(n_clips=24)
    embedder = AnoPatchEmbedder(**{**TINY, "max_epochs": "auto"}).fit(patches, labels=labels)
    assert len(embedder.history_) == 6


@pytest.mark.parametrize("n_clips", [63, 64])
def test_a_network_is_fine_tuned_by_itself_from_64_clips_on(n_clips, tmp_path):
    patches, labels = make_patches(n_clips=n_clips)
    params = {**TINY, "max_epochs": 1, "n_dims": 8}
    embedder = AnoPatchEmbedder(**{**params, "statistics": "auto"}).fit(patches, labels=labels)
    both = AnoPatchEmbedder(**{**params, "statistics": True}).fit_transform(patches, labels=labels)
    assert embedder.classes_ == list(dict.fromkeys(labels))
    assert len(both.blocks) == 2
    expected = both[:, : both.blocks[0]] if n_clips == 63 else both
    assert_array_equal(embedder.transform(patches), expected)
    assert (embedder.history_ is None) == (n_clips == 63)
    embedder.save(tmp_path)
    loaded = AnoPatchEmbedder.load(tmp_path).transform(patches)
    assert_array_equal(loaded, expected)
    assert loaded.notes == embedder.transform(patches).notes
    # What asks for fine-tuning in so many words gets it.
    cluster = AnoPatchEmbedder(**{**params, "statistics": "auto", "pretext": "cluster"})
    assert cluster.fit(patches).history_ is not None


def test_labels_of_few_clips_that_are_not_heard_are_not_learnt(monkeypatch):
    patches, labels = make_patches(n_clips=64)
    mixed = np.random.default_rng(0).permutation(labels)
    embedder = AnoPatchEmbedder(**{**TINY, "max_epochs": 1, "statistics": "auto"})
    assert embedder.fit(patches, labels=mixed).history_ is None
    subspace = SharedSubspace().fit(BandStatistics().fit_transform(patches), labels=mixed)
    expected = np.float32(0.1) * subspace.transform(BandStatistics().fit_transform(patches))
    assert_array_equal(embedder.transform(patches), expected)
    assert embedder.fit(patches, labels=labels).history_ is not None
    monkeypatch.setattr("skanopatch.labels._FEW_TO_LEARN_FROM", 64)
    assert embedder.fit(patches, labels=mixed).history_ is not None


def test_classes_are_heard_where_features_tell_them_on_other_clips():
    rng = np.random.default_rng(0)
    target = rng.permutation(np.repeat([0, 1, 2], [30, 30, 4]))
    noise = rng.normal(size=(64, 100))
    assert not are_heard(target, noise)
    told = noise + 8 * np.eye(3, 100)[target]
    assert are_heard(target, told)
    # Of four classes three sound alike: a third of the way from chance is gone.
    of_four = np.arange(64) % 4
    assert not are_heard(of_four, noise + 4 * (of_four == 0)[:, np.newaxis])
    # A class of one clip is left out, and nothing is told apart where one class is left.
    one_each = np.append(np.zeros(32, dtype=int), 3 + np.arange(32))
    assert not are_heard(one_each, noise)
    assert are_heard(np.append(target, [3, 4]), np.vstack([told, noise[:2]]))


@pytest.mark.parametrize("labelled", [False, True])
def test_statistics_of_patches_come_before_the_networks_tokens(labelled):
    patches, labels = make_patches(n_clips=6, n_frames=64)
    params = {**TINY, "max_epochs": 1, "output": "patches"}
    labels = labels if labelled else None

    def embed(statistics):
        embedder = AnoPatchEmbedder(**{**params, "statistics": statistics})
        tokens = embedder.fit(patches, labels=labels).transform(patches)
        assert len(embedder.get_feature_names_out()) == tokens.shape[2]
        return tokens

    alone = PatchStatistics().fit_transform(patches)
    assert_array_equal(embed(True), np.concatenate([alone, embed(False)], axis=2))
    assert_array_equal(embed("auto"), alone)


def test_output_may_change_after_the_fit():
    patches, _ = make_patches(n_clips=3, n_frames=64)
    embedder = AnoPatchEmbedder(random_state=0).fit(patches)
    assert_array_equal(embedder.transform(patches), BandStatistics().fit_transform(patches))
    embedder.set_params(output="patches")
    assert_array_equal(embedder.transform(patches), PatchStatistics().fit_transform(patches))


def test_statistics_of_patches_do_not_join_tokens_on_another_grid(monkeypatch):
    patches, _ = make_patches(n_clips=2)
    monkeypatch.setattr("skanopatch.backbones.vit.TimmBackbone.token_grid", lambda *_: (2, 12))
    embedder = AnoPatchEmbedder(output="patches", statistics=True, random_state=0)
    with pytest.raises(ValueError, match="which has 2 x 12 tokens for 2 x 8 patches"):
        embedder.fit(patches)


def test_statistics_do_not_join_the_backbones_of_others_unasked():
    patches, _ = make_patches(n_clips=2)
    embedder = AnoPatchEmbedder("timm:vit_tiny_patch16_224", pooling="mean", random_state=0)
    assert embedder.fit_transform(patches).shape == (2, 192)


def test_a_long_clip_is_read_segment_by_segment():
    patches, _ = make_patches(n_clips=2, n_frames=192 + 80)
    params = {"output": "patches", "statistics": False, "random_state": 0}
    embedder = AnoPatchEmbedder(**params).fit(patches)
    tokens = embedder.transform(patches)
    head = embedder.transform(patches[:, : 12 * 8])
    tail = embedder.transform(patches[:, 5 * 8 :])
    assert_allclose(tokens, np.concatenate([head, tail[:, 7 * 8 :]], axis=1), atol=1e-5)


def test_other_lengths_than_in_fit_are_embedded():
    patches, _ = make_patches(2, n_frames=160)
    short = AnoPatchEmbedder(statistics=False, random_state=0).fit(patches[:, :16])
    for n_patches in (16, 160 // 16 * 8):
        as_fitted = AnoPatchEmbedder(
            statistics=False, normalization=short.normalization_, random_state=0
        ).fit_transform(patches[:, :n_patches])
        assert_allclose(short.transform(patches[:, :n_patches]), as_fitted, atol=1e-5)


def test_scores_do_not_depend_on_the_company_of_a_clip():
    patches, _ = make_patches(n_clips=9)
    embedder = AnoPatchEmbedder(batch_size=4, random_state=0).fit(patches)
    together = embedder.transform(patches)
    alone = np.concatenate([embedder.transform(clip[None]) for clip in patches])
    assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_unreadable_clips_stay_nan_and_harm_no_other():
    patches, labels = make_patches()
    with_nan = patches.copy()
    with_nan[5] = np.nan
    embedder = AnoPatchEmbedder(**TINY).fit(with_nan, labels=labels)
    embeddings = embedder.transform(with_nan)
    assert np.isnan(embeddings[5]).all()
    assert np.isfinite(np.delete(embeddings, 5, axis=0)).all()
    assert_allclose(embedder.normalization_[0], np.delete(patches, 5, axis=0).mean(), atol=1e-5)


def test_lazy_patches_are_embedded_to_the_bit():
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=16000) for _ in range(40)]
    labels = np.arange(40) % 2
    patcher = MelPatcher(duration=1.0).fit(clips)
    eager = patcher.transform(clips)
    with config_context(working_memory=1):
        lazy = patcher.transform(clips)
    assert not isinstance(lazy, np.ndarray)
    params = {**TINY, "max_epochs": 1}
    from_lazy = AnoPatchEmbedder(**params).fit(lazy, labels=labels).transform(lazy)
    from_eager = AnoPatchEmbedder(**params).fit(eager, labels=labels).transform(eager)
    assert_array_equal(from_lazy, from_eager)


@pytest.mark.parametrize("duration", [1.0, 3.0])
def test_workers_change_no_bit(duration):
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=int(16000 * duration)) for _ in range(40)]
    with config_context(working_memory=1):
        lazy = MelPatcher(duration=duration, n_jobs=2).fit_transform(clips)
    params = {**TINY, "max_epochs": 2, "patch_dropout": 0.5}
    labels = np.arange(40) % 2
    expected = AnoPatchEmbedder(**params).fit(lazy, labels=labels).history_
    with_workers = AnoPatchEmbedder(**params, n_workers=1).fit(lazy, labels=labels).history_
    assert [e["train_loss"] for e in with_workers] == [e["train_loss"] for e in expected]


# --- With labels ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fine_tuned():
    patches, labels = make_patches(n_clips=48, n_classes=3)
    params = {**TINY, "max_epochs": 8, "time_mask": 0, "frequency_mask": 0}
    return AnoPatchEmbedder(**params).fit(patches, labels=labels)


def test_fine_tuning_tells_unseen_clips_of_the_classes_apart(fine_tuned):
    patches, labels = make_patches(n_clips=30, n_classes=3, seed=1)
    frozen = AnoPatchEmbedder(**TINY).fit(patches)
    assert spread(fine_tuned.transform(patches), labels) > 0.8
    assert spread(frozen.transform(patches), labels) < 0.2


def test_the_changes_of_the_pretext_are_heard_without_labels():
    patches, _ = make_patches(n_clips=32, n_frames=64, n_classes=1)
    log_mel = unpatchify(patches)
    brighter = patchify(np.stack([change(clip, "brighter", 64) for clip in log_mel]))
    clips, kind = np.concatenate([patches, brighter]), np.repeat([0, 1], 32)
    params = {**TINY, "max_epochs": 80, "lr": 1e-3, "time_mask": 0, "frequency_mask": 0}
    embedder = AnoPatchEmbedder(pretext="augmentation", **params).fit(patches)
    assert embedder.classes_ is None
    assert spread(embedder.transform(clips), kind) > 0.35
    assert spread(AnoPatchEmbedder(**params).fit_transform(clips), kind) < 0.2


def test_the_clusters_of_the_pretext_are_told_apart():
    patches, _ = make_patches(n_clips=40, n_classes=4)
    params = {**TINY, "max_epochs": 10, "lr": 1e-3, "time_mask": 0, "frequency_mask": 0}
    embedder = AnoPatchEmbedder(pretext="cluster", **params).fit(patches)
    fresh, labels = make_patches(n_clips=40, n_classes=4, seed=1)
    assert spread(embedder.transform(fresh), labels) > 0.8


def test_the_loss_falls(fine_tuned):
    losses = [epoch["train_loss"] for epoch in fine_tuned.history_]
    assert len(losses) == 8
    assert losses[-1] < 0.5 * losses[0]
    assert fine_tuned.classes_ == [0, 1, 2]


@pytest.mark.parametrize(
    "params",
    [
        {"pooling": "mean"},
        {"pooling": "gem", "keep_bands": True},
        {"pooling": "rdp", "layers": (2, 5)},
        {"n_subcenters": 3, "n_dims": 64},
        {"mixup": 0.3, "time_mask": 0, "frequency_mask": 0},
        {"optimizer": "SGD", "lr": 0.05, "gradient_clip": None},
    ],
    ids=str,
)
def test_every_way_of_fine_tuning_lowers_the_loss(params):
    patches, labels = make_patches(n_clips=48)
    embedder = AnoPatchEmbedder(**{**TINY, "max_epochs": 6, **params}).fit(patches, labels=labels)
    losses = [epoch["train_loss"] for epoch in embedder.history_]
    assert losses[-1] < 0.9 * losses[0]


def test_two_fits_with_one_seed_agree_to_the_bit_whatever_ran_before():
    patches, labels = make_patches()
    first = AnoPatchEmbedder(**TINY).fit(patches, labels=labels)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    second = AnoPatchEmbedder(**TINY).fit(patches, labels=labels)
    assert_array_equal(first.transform(patches), second.transform(patches))
    assert torch.equal(torch.random.get_rng_state(), state)  # and the caller's stays as it was
    other = AnoPatchEmbedder(**{**TINY, "random_state": 1}).fit(patches, labels=labels)
    assert np.abs(other.transform(patches) - first.transform(patches)).max() > 0.01


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
    params = {**TINY, "max_epochs": 1}
    expected = AnoPatchEmbedder(**params).fit(patches, labels=numbers)
    embedder = AnoPatchEmbedder(**params).fit(patches, labels=labels)
    assert_array_equal(embedder.transform(patches), expected.transform(patches))
    assert len(embedder.classes_) == 2


def test_early_stopping_stops_and_keeps_the_best_epoch():
    patches, _ = make_patches(n_clips=40)
    labels = np.random.default_rng(1).integers(2, size=40)  # nothing to learn: it overfits
    embedder = AnoPatchEmbedder(
        **{**TINY, "max_epochs": 50, "lr": 1e-3}, early_stopping=3, validation_fraction=0.25
    ).fit(patches, labels=labels)
    losses = [epoch["valid_loss"] for epoch in embedder.history_]
    assert len(losses) < 50
    assert len(losses) - 1 - int(np.argmin(losses)) == 3


class CountEpochs(Callback):
    count = 0

    def on_epoch_end(self, net, **kwargs):
        CountEpochs.count += 1


def test_callbacks_are_found_by_name():
    patches, labels = make_patches()
    AnoPatchEmbedder(**TINY, callbacks=["EpochTimer", f"{__name__}:CountEpochs"]).fit(
        patches, labels=labels
    )
    assert CountEpochs.count == 3


def test_a_progress_bar_is_shown_on_request(capsys):
    patches, labels = make_patches()
    AnoPatchEmbedder(**{**TINY, "max_epochs": 1}, verbose=1).fit_transform(patches, labels=labels)
    shown = capsys.readouterr().err
    assert "train_loss" in shown
    assert "Embedding: 100%" in shown


# --- Interruption -----------------------------------------------------------------------------


class _Interrupt(Exception):
    pass


@pytest.mark.parametrize("extra", [{}, {"early_stopping": 2, "mixup": 0.2}], ids=["plain", "early"])
def test_an_interrupted_fit_goes_on_to_the_same_weights(tmp_path, monkeypatch, extra):
    patches, labels = make_patches()
    params = {**TINY, "max_epochs": 4, **extra}
    expected = AnoPatchEmbedder(**params).fit(patches, labels=labels)

    run_epoch = FineTuningNet.run_single_epoch

    def run_two_epochs(net, *args, **kwargs):
        if len(net.history) > 2:
            raise KeyboardInterrupt
        return run_epoch(net, *args, **kwargs)

    embedder = AnoPatchEmbedder(**params, checkpoint_dir=tmp_path)
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
    AnoPatchEmbedder(**params, checkpoint_dir=checkpoint_dir).fit(patches, labels=labels)


def test_a_killed_process_is_continued_by_another(tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=_fit_and_die, args=(tmp_path, TINY)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    patches, labels = make_patches()
    expected = AnoPatchEmbedder(**TINY).fit_transform(patches, labels=labels)
    resumed = AnoPatchEmbedder(**TINY, checkpoint_dir=tmp_path).fit(patches, labels=labels)
    assert_array_equal(resumed.transform(patches), expected)


def test_a_finished_fit_is_not_run_again(tmp_path, monkeypatch):
    patches, labels = make_patches()
    embedder = AnoPatchEmbedder(**TINY, checkpoint_dir=tmp_path)
    expected = embedder.fit_transform(patches, labels=labels)
    monkeypatch.setattr(FineTuningNet, "train_on", None)
    assert_array_equal(embedder.fit_transform(patches, labels=labels), expected)


def test_other_clips_or_parameters_do_not_take_a_checkpoint_of_others(tmp_path):
    patches, labels = make_patches()
    params = {**TINY, "max_epochs": 1, "checkpoint_dir": tmp_path}
    AnoPatchEmbedder(**params).fit(patches, labels=labels)
    AnoPatchEmbedder(**{**params, "lr": 1e-4}).fit(patches, labels=labels)
    AnoPatchEmbedder(**params).fit(patches + 1, labels=labels)
    AnoPatchEmbedder(**params).fit(patches, labels=np.arange(24) // 12)
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
        AnoPatchEmbedder().fit(patches)


def test_a_pickle_holds_no_tensor_so_it_needs_no_gpu(fine_tuned):
    """Tensors are pickled with the device they were on; arrays have none."""
    data = pickle.dumps(fine_tuned)
    assert b"torch" not in data
    assert b"_rebuild" not in data


def test_a_checkpoint_written_on_a_gpu_resumes_without_one(tmp_path, monkeypatch):
    patches, labels = make_patches()
    expected = AnoPatchEmbedder(**TINY).fit_transform(patches, labels=labels)
    embedder = AnoPatchEmbedder(**TINY, checkpoint_dir=tmp_path)
    # Make torch.save write the tags of CUDA storages.
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    embedder.fit(patches, labels=labels)
    monkeypatch.undo()
    (checkpoint,) = tmp_path.iterdir()
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
        torch.load(checkpoint, weights_only=True)
    assert_array_equal(embedder.fit_transform(patches, labels=labels), expected)


def test_bfloat16_training_is_close_to_float32():
    patches, labels = make_patches(n_clips=16)
    params = {**TINY, "max_epochs": 1, "lr": 1e-5}
    float32 = AnoPatchEmbedder(**params, precision="float32").fit(patches, labels=labels)
    bfloat16 = AnoPatchEmbedder(**params, precision="bfloat16").fit(patches, labels=labels)
    losses = [e.history_[0]["train_loss"] for e in (float32, bfloat16)]
    assert losses[0] != losses[1]
    assert_allclose(losses[0], losses[1], rtol=0.02)
    assert bfloat16.transform(patches).dtype == np.float32


def test_automatic_precision_follows_the_hardware(monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: native)  # noqa: B023
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})  # noqa: B023
        assert autocast_dtype(cuda, "auto") == expected
        assert autocast_dtype(cpu, "auto") == expected
    assert autocast_dtype(cpu, "bfloat16") == torch.bfloat16
    assert autocast_dtype(cuda, "float32") is None


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
            {"backbone": "vit_tiy"},
            f"backbone must be one of {list_backbones()}. Got 'vit_tiy' instead. Did you mean "
            "'vit_tiny'?",
        ),
        ({"backbone": "timm:vit_teeny"}, "timm has no model 'vit_teeny'."),
        (
            {"layers": 6},
            "layers must be indices of the backbone's 6 layers, from -6 to 5. Got 6 instead.",
        ),
        (
            {"n_freq": 7},
            "The number of patches must be a multiple of n_freq=7. Got 16 patches a clip instead.",
        ),
        ({"device": "gpu"}, "device must be 'auto' or a torch device. Got 'gpu' instead."),
        (
            {"optimizer": "Adamw"},
            "optimizer must be the name of a class in torch.optim, such as 'AdamW'. Got 'Adamw' "
            "instead.",
        ),
        (
            {"checkpoint_dir": "here", "random_state": None},
            "checkpoint_dir needs a random_state that is an int, by which a fit that goes on is "
            "told from a new one. Got random_state=None instead.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_parameter_is_named(params, message):
    patches, labels = make_patches()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AnoPatchEmbedder(**{**TINY, **params}).fit(patches, labels=labels)


def test_a_callback_that_is_not_there_is_named():
    patches, labels = make_patches()
    for name in ("Nothing", "EpochScoring"):  # the latter needs to be told what to score
        message = rf"'module:Class', of classes that need no arguments\. Got '{name}' instead"
        with pytest.raises(ValueError, match=message):
            AnoPatchEmbedder(**TINY, callbacks=[name]).fit(patches, labels=labels)


def test_an_early_stopping_of_skorch_ends_the_training_and_no_more():
    patches, labels = make_patches(n_clips=40)
    params = {**TINY, "max_epochs": 20, "lr": 1e-12, "tuning": "head", "early_stopping": 50}
    params |= {"validation_fraction": 0.3, "callbacks": ["EarlyStopping"]}
    embedder = AnoPatchEmbedder(**params).fit(patches, labels=labels)
    assert len(embedder.history_) == 1 + 5  # the patience of skorch's own


def test_an_absent_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device='cuda' was asked for, but torch finds no CUDA"):
        AnoPatchEmbedder(device="cuda").fit(make_patches(2)[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "labels must have one entry a clip. Got 2 labels for 24 clips."),
        (
            ["fan"] * 24,
            "labels must have at least 2 distinct values to tell apart, of clips that can be read. "
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
        AnoPatchEmbedder(**TINY).fit(patches, labels=labels)


@pytest.mark.parametrize("statistics", [False, True])
def test_a_class_that_cannot_be_read_is_none(statistics):
    patches, _ = make_patches()
    patches[5] = np.nan
    labels = ["fan"] * 5 + ["pump"] + ["fan"] * 18
    with pytest.raises(ValueError, match=r"of clips that can be read\. Got only 'fan'"):
        AnoPatchEmbedder(**{**TINY, "statistics": statistics}).fit(patches, labels=labels)


@pytest.mark.parametrize(
    "estimator", [AnoPatchEmbedder(random_state=0), BandStatistics(), MelStatistics()]
)
def test_other_bands_than_those_of_fit_are_refused(estimator):
    patches, _ = make_patches()
    estimator = clone(estimator).fit(patches)
    message = r"X has 1 bands of patches, which are 16 mel bins, but \w+ was fitted on 128 mel bins"
    for one_patch in (patches[:, :1], patches[:, 0]):
        with pytest.raises(ValueError, match=message):
            estimator.transform(one_patch)
    with pytest.raises(ValueError, match="X has 4 bands of patches, which are 64 mel bins"):
        estimator.set_params(n_freq=4).transform(patches)


@pytest.mark.parametrize("layers", [np.int64(1), np.array([0, 1])[:1].tolist(), (np.int32(-5),)])
def test_layers_are_integers_of_any_kind(layers):
    patches, _ = make_patches(n_clips=2)
    embedder = AnoPatchEmbedder(statistics=False, layers=layers).fit(patches)
    index = np.ravel(layers)[0] % 6
    assert embedder._module.layers == [index]


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


def test_a_validation_that_leaves_few_clips_is_drawn_without_regard_to_classes():
    patches, labels = make_patches(n_clips=24, n_classes=4)
    params = {**TINY, "early_stopping": 1, "validation_fraction": 0.9}
    assert AnoPatchEmbedder(**params).fit(patches, labels=labels).history_


def test_a_checkpoint_is_of_the_sound_in_the_files(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(12)]

    def fit(seed, n_jobs=None):
        if seed is not None:
            rng = np.random.default_rng(seed)
            for path in paths:
                soundfile.write(path, 0.1 * rng.normal(size=8000), 16000)
        with config_context(working_memory=0.001):
            patches = MelPatcher(duration=0.5, n_jobs=n_jobs).fit_transform(paths)
        params = {**TINY, "tuning": "head", "max_epochs": 1, "checkpoint_dir": tmp_path}
        embedder = AnoPatchEmbedder(**params).fit(patches, labels=[0, 1] * 6)
        return embedder._module.state_dict()["head.weight"].numpy()

    first = fit(0)
    assert_array_equal(fit(None, n_jobs=2), first)
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert (fit(1) != first).any()
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_patches_of_another_area_are_refused():
    embedder = AnoPatchEmbedder(random_state=0).fit(make_patches(2)[0])
    message = "X has patches of 64 values, but AnoPatchEmbedder was fitted on patches of 256."
    with pytest.raises(ValueError, match=f"^{message}$"):
        embedder.transform(np.zeros((2, 64, 64)))


def test_a_hole_in_a_clip_is_refused():
    patches, _ = make_patches(4)
    patches[2, 3, 4] = np.nan
    embedder = AnoPatchEmbedder(random_state=0).fit(make_patches(4)[0])
    with pytest.raises(ValueError, match=r"^The patches of clip 2 contain NaN or infinity\.$"):
        embedder.transform(patches)


def test_nothing_but_unreadable_clips():
    with pytest.raises(ValueError, match=r"^Every clip is NaN: there is nothing to learn from\.$"):
        AnoPatchEmbedder(normalization="fit").fit(np.full((3, 8, 256), np.nan))
