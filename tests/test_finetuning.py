"""ArcFace, poolings and augmentation against their equations."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F
from torchaudio.functional import mask_along_axis_iid

from skanopatch.backbones.base import Backbone
from skanopatch.backbones.vit import TINY_GRID
from skanopatch.embedding.arcface import ArcFace
from skanopatch.embedding.augmentation import (
    CHANGES,
    change,
    random_segment,
    spec_augment,
)
from skanopatch.embedding.module import EmbeddingNetwork
from skanopatch.embedding.net import SpectrogramDataset, WarmupCosine
from skanopatch.embedding.pooling import (
    POOLINGS,
    AttentiveStatisticsPooling,
    GeMPooling,
    RDPPooling,
)
from skanopatch.embedding.training import standardize_head
from skanopatch.spectra.patches import patchify


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def angles(embeddings, centers):
    return torch.acos(F.normalize(embeddings, dim=1) @ F.normalize(centers, dim=1).T)


def test_arcface_adds_the_margin_to_the_angle_of_the_target_class_only():
    arcface = ArcFace(8, 5, scale=30.0, margin=0.2)
    embeddings, target = torch.randn(16, 8), torch.arange(16) % 5
    theta = angles(embeddings, arcface.centers).detach()
    theta[range(16), target] += 0.2
    assert float(theta.max()) < math.pi  # else the margin is not what eq. 3 says
    torch.testing.assert_close(
        arcface.logits(embeddings, target), 30 * torch.cos(theta), atol=1e-4, rtol=0
    )


def test_arcface_falls_monotonically_over_the_half_circle():
    arcface = ArcFace(2, 2, scale=1.0, margin=0.5)
    arcface.centers.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    theta = torch.linspace(0, math.pi, 200)
    embeddings = torch.stack([theta.cos(), theta.sin()], dim=1)
    own = arcface.logits(embeddings, torch.zeros(200, dtype=torch.long))[:, 0]
    assert (own.diff() < 0).all()


def test_arcface_without_margin_is_softmax_on_cosines():
    arcface = ArcFace(8, 5, scale=10.0, margin=0.0)
    embeddings, target = torch.randn(16, 8), torch.arange(16) % 5
    cosine = torch.cos(angles(embeddings, arcface.centers))
    torch.testing.assert_close(arcface(embeddings, target), F.cross_entropy(10 * cosine, target))


def test_arcface_has_finite_gradients_at_a_centre():
    arcface = ArcFace(4, 3)
    embeddings = arcface.centers.detach().clone().requires_grad_()
    arcface(embeddings, torch.arange(3)).backward()
    assert torch.isfinite(embeddings.grad).all()


def test_attentive_pooling_is_the_form_of_ecapa_tdnn():
    pooling = AttentiveStatisticsPooling(6)
    torch.nn.init.normal_(pooling.hidden_to_attention.weight)
    tokens = torch.randn(2, 9, 6)
    for clip, pooled in zip(tokens, pooling(tokens), strict=True):
        context = torch.cat([clip.mean(dim=0), clip.std(dim=0, correction=0)]).expand(9, -1)
        weight = torch.cat(
            [pooling.token_to_hidden.weight, pooling.context_to_hidden.weight], dim=1
        )
        hidden = F.linear(torch.cat([clip, context], dim=1), weight, pooling.token_to_hidden.bias)
        attention = pooling.hidden_to_attention(hidden.tanh()).softmax(dim=0)
        mean = (attention * clip).sum(dim=0)
        deviation = ((attention * clip**2).sum(dim=0) - mean**2).sqrt()
        torch.testing.assert_close(pooled, torch.cat([mean, deviation]), atol=1e-5, rtol=1e-5)


def test_attentive_pooling_starts_as_mean_and_deviation():
    tokens = torch.randn(2, 9, 6)
    expected = torch.cat([tokens.mean(dim=1), tokens.std(dim=1, correction=0)], dim=1)
    torch.testing.assert_close(AttentiveStatisticsPooling(6)(tokens), expected)


@pytest.mark.parametrize("n_tokens", [1, 3, 500])
@pytest.mark.parametrize("name", POOLINGS)
def test_poolings_take_any_length_and_ignore_order(name, n_tokens):
    pooling = POOLINGS[name](6)
    tokens = torch.randn(2, n_tokens, 6)
    pooled = pooling(tokens)
    assert pooled.shape == (2, 6 * pooling.n_statistics)
    shuffled = pooling(tokens[:, torch.randperm(n_tokens)])
    torch.testing.assert_close(shuffled, pooled, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(pooled).all()


def test_rdp_pooling_weighs_tokens_by_their_deviation():
    clip = torch.tensor([[0.0], [0.0], [0.0], [4.0]])  # mean 1, deviations 1, 1, 1, 3
    weights = torch.tensor([(1 + 1 / 3) ** 10] * 3 + [2.0**10])
    expected = 4.0 * weights[3] / weights.sum()
    torch.testing.assert_close(RDPPooling(1)(clip[None])[0, 0], expected)


def test_gem_pooling_is_the_signed_cubic_mean():
    clip = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]])
    assert_allclose(GeMPooling(2)(clip)[0], np.cbrt([4.5, -4.5]), rtol=1e-6)


def test_spec_augment_masks_one_band_of_each_axis():
    log_mel = torch.ones(200, 100, 64)
    masked = spec_augment(log_mel, time_mask=30, frequency_mask=20) == 0
    time_widths = masked.all(dim=2).sum(dim=1)
    frequency_widths = masked.all(dim=1).sum(dim=1)
    # Uniform from 0: 200 draws come near the largest width and average half of it.
    assert 27 <= time_widths.max() < 30
    assert 17 <= frequency_widths.max() < 20
    assert_allclose(time_widths.float().mean(), 14.5, atol=2)
    outside = masked & ~masked.all(dim=2, keepdim=True) & ~masked.all(dim=1, keepdim=True)
    assert not outside.any()


@pytest.mark.parametrize(("n_frames", "n_mels"), [(100, 64), (20, 128), (1, 1)])
@pytest.mark.parametrize(("time_mask", "frequency_mask"), [(40, 60), (0, 3), (3, 0)])
def test_spec_augment_equals_torchaudio(n_frames, n_mels, time_mask, frequency_mask):
    log_mel = torch.randn(30, n_frames, n_mels)
    torch.manual_seed(0)
    ours = spec_augment(log_mel, time_mask=time_mask, frequency_mask=frequency_mask)
    torch.manual_seed(0)
    theirs = mask_along_axis_iid(log_mel, time_mask, 0.0, axis=1, p=0.5)
    theirs = mask_along_axis_iid(theirs, frequency_mask, 0.0, axis=2, p=0.5)
    assert torch.equal(ours, theirs)


def test_spec_augment_leaves_half_of_a_short_clip():
    masked = spec_augment(torch.ones(300, 20, 128), time_mask=80, frequency_mask=0) == 0
    assert masked.all(dim=2).sum(dim=1).max() < 10


def test_a_random_segment_starts_anywhere():
    log_mel = np.arange(100.0)[:, None]
    segments = [random_segment(log_mel, 60)[:, 0] for _ in range(400)]
    assert {segment[0] for segment in segments} == set(range(41))
    assert all((np.diff(segment) == 1).all() for segment in segments)


@pytest.mark.parametrize(("kind", "step"), [("none", 1.0), ("faster", 1.25), ("slower", 0.8)])
def test_a_change_of_tempo_takes_other_steps(kind, step):
    ramp = np.repeat(np.arange(100.0)[:, None], 8, axis=1)
    assert_allclose(np.diff(change(ramp, kind, 64), axis=0), step)


def test_a_clip_too_short_for_a_faster_one_starts_over():
    log_mel = np.arange(40.0)[:, None]
    assert_array_equal(change(log_mel, "faster", 40)[32], log_mel[0])


def test_changes_of_pitch_move_the_bins_and_those_of_tilt_turn_them():
    rng = np.random.default_rng(0)
    log_mel = rng.normal(size=(32, 128))
    assert_array_equal(change(log_mel, "higher", 32)[:, 3:], log_mel[:, :-3])
    assert_array_equal(change(log_mel, "lower", 32)[:, :-3], log_mel[:, 3:])
    tilt = np.broadcast_to(np.linspace(-1, 1, 128), log_mel.shape)
    assert_allclose(change(log_mel, "brighter", 32) - log_mel, tilt)
    assert_allclose(change(log_mel, "darker", 32) - log_mel, -tilt)


def test_a_change_makes_a_class_of_its_own_of_each_label():
    log_mel = np.random.default_rng(0).normal(size=(6, 64, 128)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    data = SpectrogramDataset(patchify(log_mel), labels, np.array([1, 3, 5]), changes=CHANGES)
    seen = set()
    for data.epoch_seed in range(40):
        for row, (found, target) in zip([1, 3, 5], data.__getitems__([0, 1, 2]), strict=True):
            label, kind = divmod(target, len(CHANGES))
            assert label == labels[row]
            if CHANGES[kind] != "slower":  # the one that starts at a random place
                expected = change(log_mel[row], CHANGES[kind], 64)
                assert_array_equal(found, expected)
            seen.add(kind)
    assert seen == set(range(7))


def test_patches_are_left_out_in_training_only():
    module = EmbeddingNetwork("vit_tiny", grid=TINY_GRID, patch_dropout=0.5)
    log_mel = torch.randn(2, 192, 128)
    assert module.train().tokens(log_mel).shape == (2, 48, 192)
    assert module.eval().tokens(log_mel).shape == (2, 96, 192)
    # Others in each clip, and each with the position embedding of its place.
    module.backbone.vit.blocks = torch.nn.Sequential()
    module.backbone.vit.blocks.append(torch.nn.Identity())
    module.layers = [0]
    whole, part = module.tokens(log_mel), module.train().tokens(log_mel)
    same = torch.cdist(part, whole).argmin(dim=2)
    assert_allclose(part.detach(), whole.take_along_dim(same[..., None], 1).detach(), atol=1e-5)
    assert all(len(set(row.tolist())) == 48 for row in same)
    assert set(same[0].tolist()) != set(same[1].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"keep_bands": True, "pooling": "gem"}])
@pytest.mark.parametrize("n_clips", [40, 12])
def test_a_head_starts_on_standardized_features(params, n_clips, monkeypatch):
    """It is the random head of before, on what scikit-learn's scaler makes of the features."""
    monkeypatch.setattr("skanopatch.embedding.training._CLIPS_FOR_HEAD", 12)
    module = EmbeddingNetwork("vit_tiny", grid=TINY_GRID, n_dims=8, **params)
    log_mel = np.random.default_rng(0).normal(1, 2, size=(n_clips, 192, 128)).astype(np.float32)
    weight, bias = (x.detach().numpy().copy() for x in (module.head.weight, module.head.bias))
    data = SpectrogramDataset(patchify(log_mel), np.zeros(n_clips, int), np.arange(n_clips))
    standardize_head(module, data, 5, torch.device("cpu"))
    with torch.no_grad():
        features = module.pooled(torch.from_numpy(log_mel)).numpy()
        embeddings = module(torch.from_numpy(log_mel)).numpy()
    sample = np.random.default_rng(0).permutation(n_clips)[:12]
    standardized = StandardScaler().fit(features[sample]).transform(features)
    assert_allclose(embeddings, standardized @ weight.T + bias, atol=1e-3)
    assert np.abs(embeddings - features @ weight.T - bias).max() > 0.1


def test_a_head_is_standardized_by_1000_clips_at_most():
    class Identity(torch.nn.Module):
        def parts(self, features):
            return features.split(30)

        def pooled(self, features):
            return features[:, 0]

        def standardize(self, mean, scale):
            self.mean, self.scale = mean, scale

    values = np.random.default_rng(0).normal(3, 2, size=1200).astype(np.float32)
    # One frame of three bins a clip: 3 is no square number.
    data = SpectrogramDataset(
        np.repeat(values, 3).reshape(1200, 1, 1, 3), np.zeros(1200, int), np.arange(1200)
    )
    module = Identity()
    standardize_head(module, data, 100, torch.device("cpu"))
    sample = values[np.random.default_rng(0).permutation(1200)[:1000]]
    assert_allclose(module.mean, [sample.mean(dtype=float)] * 3, rtol=1e-6)
    assert_allclose(module.scale, [sample.std(dtype=float)] * 3, rtol=1e-5)


def test_what_needs_all_patches_refuses_to_leave_some_out():
    with pytest.raises(ValueError, match=r"patch_dropout must be 0 with keep_bands=True.* Got 0.3"):
        EmbeddingNetwork("vit_tiny", grid=TINY_GRID, keep_bands=True, patch_dropout=0.3)
    with pytest.raises(ValueError, match=r"patch_dropout must be 0 .*for Backbone, .* Got 0.3"):
        Backbone(4, 1).drop_patches(0.3)


def test_training_takes_a_segment_of_a_long_clip():
    log_mel = np.arange(320, dtype=np.float32)[None, :, None].repeat(128, axis=2)
    data = SpectrogramDataset(patchify(log_mel), np.zeros(1, int), np.zeros(1, int), segment=192)
    starts = set()
    for data.epoch_seed in range(50):
        starts.add(data[0][0][0, 0])
    assert len(starts) > 20
    assert max(starts) <= 320 - 192


@pytest.mark.parametrize("n_frames", [192, 96])
def test_training_starts_a_short_clip_anywhere(n_frames):
    log_mel = np.arange(n_frames, dtype=np.float32)[None, :, None].repeat(128, axis=2)
    data = SpectrogramDataset(patchify(log_mel), np.zeros(1, int), np.zeros(1, int), segment=192)
    starts = set()
    for data.epoch_seed in range(50):
        clip = data[0][0][:, 0]
        starts.add(clip[0])
        assert_array_equal(clip, np.roll(log_mel[0, :, 0], -int(clip[0])))
    assert len(starts) > 20
    whole = SpectrogramDataset(patchify(log_mel), np.zeros(1, int), np.zeros(1, int))
    assert_array_equal(whole[0][0], log_mel[0])


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    schedule = WarmupCosine(n_steps=100, warmup=0.1)
    factors = np.array([schedule.factor(step) for step in range(101)])
    assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert_allclose(factors[10:], (1 + np.cos(np.pi * np.arange(91) / 90)) / 2, atol=1e-12)
