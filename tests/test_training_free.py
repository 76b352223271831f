"""The training-free recipe against plain NumPy, on a miniature of the challenge."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skanopatch import (
    AnoPatchEmbedder,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    OnnxScorer,
    export_onnx,
    make_training_free_pipeline,
)
from skanopatch.datasets import load_dcase, make_miniature_dcase
from skanopatch.detectors.contributions import contributions

LAYERS = (2, 5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = make_miniature_dcase(
        tmp_path_factory.mktemp("dcase"), year=2023, machines=["fan"], random_state=0
    )
    data = load_dcase(root, year=2023, machine="fan")
    is_train = data.split == "train"
    return list(data.paths[is_train]), list(data.paths[data.split == "test"])


@pytest.fixture(scope="module")
def pipe(clips):
    pipe = make_training_free_pipeline(layers=LAYERS, anopatchembedder__random_state=0)
    return pipe.fit(clips[0])


@pytest.fixture(scope="module")
def patches(pipe, clips):
    return [np.asarray(pipe[0].transform(part)) for part in clips]


@pytest.fixture(scope="module")
def tokens(patches):
    """Return the mean tokens (n_clips, n_tokens, n_dims) of the layers, in float64."""
    train, test = patches
    layers = [
        AnoPatchEmbedder(layers=layer, statistics=False, output="patches").fit(train)
        for layer in LAYERS
    ]
    tokens = np.mean([layer.transform(test) for layer in layers], axis=0, dtype=np.float64)
    return tokens.reshape(len(test), -1, tokens.shape[-1])


def generalised_mean(tokens, weights):
    cube = np.sum(weights * tokens**3, axis=0)
    return np.sign(cube) * np.abs(cube) ** (1 / 3)


def rdp_weights(tokens, gamma):
    deviation = np.linalg.norm(tokens - tokens.mean(axis=0), axis=1, keepdims=True)
    weights = (1 + deviation / deviation.max()) ** gamma
    return weights / weights.sum()


POOLED = {
    "mean": lambda tokens: tokens.mean(axis=0),
    "gem": lambda tokens: generalised_mean(tokens, 1 / len(tokens)),
    "rdp": lambda tokens: np.sum(rdp_weights(tokens, 10) * tokens, axis=0),
    "rdp_gem": lambda tokens: generalised_mean(tokens, rdp_weights(tokens, 9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLED)
def test_an_embedding_is_the_pooled_mean_of_the_chosen_layers(patches, tokens, pooling):
    embedder = AnoPatchEmbedder(layers=LAYERS, pooling=pooling, statistics=False)
    expected = [POOLED[pooling](of_clip) for of_clip in tokens]
    found = embedder.fit(patches[0]).transform(patches[1])
    scale = np.abs(expected).max()
    # The cube root of a sum near 0 magnifies rounding.
    power = 3 if "gem" in pooling else 1
    assert_allclose(
        (found.astype(float) / scale) ** power, (expected / scale) ** power, rtol=0, atol=2e-6
    )


def test_the_recipe_embeds_by_rdp_and_gem(pipe, clips, tokens):
    expected = [POOLED["rdp_gem"](of_clip) for of_clip in tokens]
    scale = np.abs(expected).max()
    found = pipe[:-1].transform(clips[1]) / scale
    assert_allclose(found.astype(float) ** 3, (expected / scale) ** 3, rtol=0, atol=2e-6)


def cosine_distances(first, second):
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    return 1 - first @ second.T


def test_scores_are_the_least_standardized_logarithm_of_three_distances(pipe, clips):
    train, test = (pipe[:-1].transform(part).astype(float) for part in clips)
    n = len(train)
    among = cosine_distances(train, train)
    np.fill_diagonal(among, np.inf)
    # Half of a bank at most are neighbours.
    density = np.sort(among, axis=1)[:, : min(8, n // 2)].mean(axis=1)
    to_train = cosine_distances(test, train)
    distances = {
        "nearest": to_train.min(axis=1),
        "density": (to_train / density).min(axis=1),
        "mahalanobis": -MahalanobisDetector().fit(train).score_samples(test),
    }
    fitted = pipe[-1].named_detectors_
    standardized, deviations = [], []
    for name, own in distances.items():
        assert_allclose(-fitted[name].score_samples(test), own, rtol=1e-5)
        log = np.log(-fitted[name].training_scores_)
        standardized.append((np.log(own) - log.mean()) / log.std(ddof=1))
        deviations.append(log.std(ddof=1))
    least = np.exp(np.min(standardized, axis=0) * 3 / np.sum(1 / np.array(deviations)))
    assert_allclose(-pipe.score_samples(clips[1]), least, rtol=1e-4)
    mean = np.exp(np.sum(standardized, axis=0) / np.sum(1 / np.array(deviations)))
    joined = JoinedDetector(pipe[-1].detectors, joining="mean").fit(train)
    assert_allclose(-joined.score_samples(test), mean, rtol=1e-4)


def test_choices_reach_the_steps():
    pipe = make_training_free_pipeline(
        "vit_tiny",
        layers="all",
        pooling="gem",
        joining="mean",
        joineddetector__density__n_density_neighbors=4,
    )
    embedder, detector = pipe[1:]
    assert (embedder.backbone, embedder.layers, embedder.pooling) == ("vit_tiny", "all", "gem")
    assert not embedder.statistics
    assert detector.joining == "mean"
    assert dict(detector.detectors)["density"].n_density_neighbors == 4
    assert dict(detector.detectors)["density"].normalization == "local_density"


def test_weights_of_layers_need_training():
    with pytest.raises(ValueError, match=re.escape("Got 'weighted' instead")):
        make_training_free_pipeline(layers="weighted")


# --- Joining by the minimum ---------------------------------------------------------------------

MEMBERS = [("spread", MahalanobisDetector()), ("near", KNNDetector(metric="euclidean"))]


def normal(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4)) + 3


def test_the_minimum_has_the_false_alarm_rate_that_was_asked_for():
    detector = JoinedDetector(MEMBERS, joining="min").fit(normal(400))
    share = np.mean(detector.predict(normal(4000, seed=1)) == -1)
    assert 0.07 < share < 0.13


def test_the_minimum_is_as_normal_as_the_most_normal_member():
    X = np.concatenate([normal(20, seed=1), 2 * normal(20, seed=2)])
    least = JoinedDetector(MEMBERS, joining="min").fit(normal(60))
    scales = least.joint_.scales
    standardized = [
        scale.standardize(-member.score_samples(X))
        for scale, member in zip(scales, least.detectors_, strict=True)
    ]
    order = np.argsort(np.min(standardized, axis=0))
    assert_array_equal(np.argsort(-least.score_samples(X)), order)
    mean = JoinedDetector(MEMBERS).fit(normal(60))
    assert not np.array_equal(np.argsort(-mean.score_samples(X)), order)


def test_a_member_to_which_all_clips_are_equal_does_not_set_the_minimum():
    X = normal(60)
    columns = np.column_stack([X, np.ones(60)])

    class OneColumn(KNNDetector):
        """Distances in a column that is constant."""

        def fit(self, X, y=None, **metadata):
            return super().fit(np.asarray(X)[:, -1:], **metadata)

        def score_samples(self, X):
            return super().score_samples(np.asarray(X)[:, -1:])

    members = [MEMBERS[0], ("constant", OneColumn(metric="euclidean"))]
    with pytest.warns(UserWarning, match="All 60 clips are equal"):
        joined = JoinedDetector(members, joining="min").fit(columns)
    assert joined.weights_[1] == 0
    alone = MahalanobisDetector().fit(columns)
    tested = np.column_stack([2 * normal(9, seed=1), np.ones(9)])
    assert_array_equal(
        np.argsort(joined.score_samples(tested)), np.argsort(alone.score_samples(tested))
    )


def test_contributions_to_a_minimum_are_of_the_member_that_has_it():
    detector = JoinedDetector(MEMBERS, joining="min").fit(normal(60))
    X = 1.3 * normal(30, seed=2)
    typical, parts = contributions(detector, X)
    assert_allclose(typical + parts.sum(axis=1), -detector.score_samples(X))
    is_used = np.abs(parts).reshape(30, 2, 4).sum(axis=2) > 0
    assert_array_equal(is_used.sum(axis=1), 1)
    standardized = np.stack(
        [
            scale.standardize(-member.score_samples(X))
            for scale, member in zip(detector.joint_.scales, detector.detectors_, strict=True)
        ],
        axis=1,
    )
    assert_array_equal(is_used.argmax(axis=1), standardized.argmin(axis=1))
    assert set(is_used.argmax(axis=1)) == {0, 1}


@pytest.mark.slow
def test_an_exported_minimum_scores_the_same(pipe, clips, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    export_onnx(pipe, tmp_path / "model.onnx")
    found = OnnxScorer(tmp_path / "model.onnx").score_samples(clips[1])
    assert_allclose(found, pipe.score_samples(clips[1]), rtol=1e-3)
