"""Sub-cluster AdaCos, mixup and warm-up by steps, against their equations."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from skanopatch import AnoPatchEmbedder, FineTuning
from skanopatch.embedding.arcface import ArcFace, SubClusterAdaCos
from skanopatch.embedding.augmentation import mixup
from skanopatch.embedding.net import FineTuningNet, WarmupCosine


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def cosines(embeddings, centers):
    x, c = embeddings.numpy().astype(float), centers.detach().numpy().astype(float)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    c /= np.linalg.norm(c, axis=2, keepdims=True)
    return np.einsum("nd,ckd->nck", x, c)


def test_adacos_sums_the_probabilities_of_the_centres_of_a_class():
    loss = SubClusterAdaCos(8, 5, n_centers=3).eval()
    embeddings, target = torch.randn(6, 8), torch.arange(6) % 5
    scale = math.sqrt(2) * math.log(14)
    exponentials = np.exp(scale * cosines(embeddings, loss.centers))
    of_class = exponentials.sum(axis=2) / exponentials.sum(axis=(1, 2))[:, None]
    expected = -np.log(of_class[np.arange(6), target.numpy()]).mean()
    assert_allclose(loss(embeddings, target).item(), expected, rtol=1e-5)
    assert loss.scale.item() == pytest.approx(scale)  # evaluation leaves it as it is


def test_adacos_adapts_its_scale_to_the_batch():
    loss = SubClusterAdaCos(8, 5, n_centers=3).train()
    embeddings, target = torch.randn(7, 8), torch.arange(7) % 5
    embeddings[:4] = loss.centers.detach()[target[:4], 1] + 0.1 * embeddings[:4]
    start, cosine = loss.scale.item(), cosines(embeddings, loss.centers)
    is_own = np.arange(5) == target.numpy()[:, None]
    median = np.median(np.arccos(cosine[is_own].max(axis=1)))
    assert median < math.pi / 4
    expected = (logsumexp(start * cosine[~is_own]) - math.log(7)) / math.cos(median)
    loss(embeddings, target)
    assert loss.scale.item() == pytest.approx(expected, rel=1e-5)
    assert "scale" in loss.state_dict()  # a resumed training goes on with it


@pytest.mark.parametrize(
    ("n_centers", "expected"),
    [
        (
            4,
            [
                (3.9685781528157937, 1.4505297584002665),
                (4.258203107298588, 1.5065341838914894),
                (4.422310259996045, 1.539702979993029),
            ],
        ),
        (
            1,
            [
                (1.666735447391005, 0.502343919316778),
                (2.139367386296362, 0.3991566380985361),
                (2.49917552093536, 0.3371015982148146),
            ],
        ),
    ],
)
def test_adacos_of_mixed_clips_has_scale_and_loss_of_its_authors_equations(n_centers, expected):
    """Numbers of the equations in the author's code, computed in NumPy on 28 November 2026.

    The code is that of https://github.com/wilkinghoff/sub-cluster-AdaCos, of 7 June 2022, commit
    260d509. Of one centre, clips are near it, and the median is below pi / 4.
    """
    rng = np.random.RandomState(0)
    x, centers = rng.normal(size=(5, 6)), rng.normal(size=(3, n_centers, 6))
    first, second = np.array([0, 1, 2, 0, 1]), np.array([1, 1, 0, 2, 0])
    weight = np.array([0.3, 0.6, 1.0, 0.9, 0.5])
    if n_centers == 1:
        weight = np.array([0.95, 1.0, 1.0, 1.0, 0.9])
        x = 0.1 * rng.normal(size=(5, 6)) + centers[first, 0]
    loss = SubClusterAdaCos(6, 3, n_centers=n_centers).train()
    loss.centers.data = torch.from_numpy(centers).float()
    target = (torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(weight).float())
    for scale, value in expected:
        found = loss(torch.from_numpy(x).float(), target).item()
        assert loss.scale.item() == pytest.approx(scale, rel=2e-6)
        assert found == pytest.approx(value, rel=2e-6)


def test_adacos_trains_its_centres():
    loss = SubClusterAdaCos(8, 5)
    assert loss.centers.shape == (5, 16, 8)
    loss(torch.randn(6, 8), torch.arange(6) % 5).backward()
    assert loss.centers.grad.norm() > 0


@pytest.mark.parametrize("kind", [ArcFace, SubClusterAdaCos])
def test_the_loss_of_a_mixed_clip_is_the_mean_of_both_classes_by_weight(kind):
    loss = kind(8, 3).eval()
    embeddings, first, second = torch.randn(1, 8), torch.tensor([0]), torch.tensor([2])
    mixed = loss(embeddings, (first, second, torch.tensor([0.3])))
    expected = 0.3 * loss(embeddings, first) + 0.7 * loss(embeddings, second)
    torch.testing.assert_close(mixed, expected)


def test_mixup_mixes_a_share_of_the_clips_with_others():
    log_mel = torch.arange(2000.0)[:, None, None].expand(-1, 3, 2)
    target = torch.arange(2000)
    mixed, (first, second, weight) = mixup(log_mel, target, probability=0.5)
    expected = weight * first + (1 - weight) * second
    torch.testing.assert_close(mixed, expected[:, None, None].expand(-1, 3, 2))
    torch.testing.assert_close(first, target)
    is_mixed = weight < 1
    assert 0.45 < is_mixed.float().mean() < 0.55
    assert 0.45 < weight[is_mixed].mean() < 0.55  # uniform in [0, 1]
    torch.testing.assert_close(mixed[~is_mixed], log_mel[~is_mixed])


def test_warm_up_may_be_a_number_of_steps():
    schedule = WarmupCosine(100, 20)
    rates = [schedule.factor(step) for step in range(100)]
    assert_allclose(rates[:20], (np.arange(20) + 1) / 20)
    assert_allclose(rates[60], 0.5, atol=1e-12)  # half way down
    assert_allclose(rates, [WarmupCosine(100, 0.2).factor(step) for step in range(100)])


PATCHES = np.random.default_rng(0).normal(size=(12, 2, 2, 256)).astype(np.float32)
LABELS = [0, 1, 2] * 4


def embed(**settings):
    fine_tuning = FineTuning("head", **{"max_epochs": 2, "n_dims": 16, **settings})
    embedder = AnoPatchEmbedder("vit_tiny", fine_tuning=fine_tuning, batch_size=6, random_state=0)
    return embedder.fit(PATCHES, labels=LABELS)


def test_settings_choose_loss_and_mixup(monkeypatch):
    steps = []
    step = FineTuningNet.get_loss

    def watch(net, y_pred, y_true, **kwargs):
        steps.append((net.criterion_, y_true))
        return step(net, y_pred, y_true, **kwargs)

    monkeypatch.setattr(FineTuningNet, "get_loss", watch)
    embed()
    assert all(isinstance(loss, ArcFace) and torch.is_tensor(y) for loss, y in steps)
    steps.clear()
    embed(scale="adaptive", mixup=1.0)
    assert len(steps) == 4
    for loss, (first, second, weight) in steps:
        assert isinstance(loss, SubClusterAdaCos)
        assert len(first) == len(second) == 6
        assert (weight < 1).all()


def test_a_training_with_adacos_and_mixup_resumes_to_the_same_weights(monkeypatch, tmp_path):
    settings = {"scale": "adaptive", "mixup": 0.5, "max_epochs": 3}
    straight = embed(**settings).transform(PATCHES)
    notify, epochs = FineTuningNet.notify, []

    def stop(net, method_name, **kwargs):
        if method_name == "on_epoch_begin":
            epochs.append(len(net.history))
            if epochs == [0, 1]:
                raise KeyboardInterrupt
        notify(net, method_name, **kwargs)

    monkeypatch.setattr(FineTuningNet, "notify", stop)
    with pytest.raises(KeyboardInterrupt):
        embed(**settings, checkpoint_dir=tmp_path)
    resumed = embed(**settings, checkpoint_dir=tmp_path).transform(PATCHES)
    assert epochs == [0, 1, 1, 2]
    assert_array_equal(resumed, straight)


def test_a_warm_up_that_takes_the_whole_training_is_warned_of():
    with pytest.warns(
        UserWarning, match="warmup=40 steps take the whole training of 4 steps.* 10%"
    ):
        embed(warmup=40)
