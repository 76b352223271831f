"""AnomalousSoundDetector: what it is made of, when a network joins, what it says when misused."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    BandStatistics,
    CalibratedDetector,
    FineTuning,
    FitOnNormal,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    PatchKNNDetector,
    PatchStatistics,
    SubbandKNNDetector,
    load_model,
    make_anomaly_scorer,
    patchify,
    save_model,
    unpatchify,
)
from skanopatch.datasets import make_machine_sounds
from skanopatch.metrics import auc_score
from skanopatch.recipes import clip_scores
from skanopatch.recipes import network as policy
from skanopatch.recipes.explanation import score_maps

RATE = 16000
PATCHER = MelPatcher(duration=1.0)


@pytest.fixture(scope="module")
def sounds():
    return make_machine_sounds(
        ["fan"],
        n_units=2,
        n_train=14,
        n_normal=6,
        n_anomalous=6,
        severity=4.0,
        duration=1.0,
        random_state=0,
    )


@pytest.fixture(scope="module")
def train(sounds):
    return sounds.clips[sounds.split == "train"]


@pytest.fixture(scope="module")
def test(sounds):
    return sounds.clips[sounds.split == "test"]


@pytest.fixture(scope="module")
def units(sounds):
    return sounds.section[sounds.split == "train"].tolist()


@pytest.fixture(scope="module")
def test_units(sounds):
    return sounds.section[sounds.split == "test"].tolist()


@pytest.fixture(scope="module")
def fitted(train):
    return AnomalousSoundDetector(PATCHER).fit(train)


@pytest.fixture(scope="module")
def grouped(train, units):
    return AnomalousSoundDetector(PATCHER).fit(train, groups=units)


@pytest.fixture(scope="module")
def many():
    """Noise with a tone a unit: enough clips to train a network on, and their units."""
    rng, time = np.random.default_rng(0), np.arange(RATE) / RATE
    units = [f"unit {i % 3}" for i in range(66)]
    clips = [
        rng.uniform(0.05, 0.2) * (rng.normal(size=RATE) + np.sin(5000 * (2 + i % 3) * time))
        for i in range(66)
    ]
    return np.array(clips, dtype=np.float32), units


def one_epoch(**params):
    fine_tuning = FineTuning(max_epochs=1, n_dims=16)
    return AnoPatchEmbedder(fine_tuning=fine_tuning, random_state=0, **params)


def detector_of(**params):
    return AnomalousSoundDetector(PATCHER, **{"embedder": one_epoch(), **params})


def let_join(monkeypatch, network, statistics=1.0):
    """Let the separation of the network be a number of our own."""
    asked = []

    def separation(*args):
        asked.append(args)
        return (statistics, network)[len(asked) - 1]

    monkeypatch.setattr(policy, "_separation", separation)
    return asked


def forbid_training(monkeypatch):
    def fit(*args, **kwargs):
        pytest.fail("a network was trained")

    monkeypatch.setattr(AnoPatchEmbedder, "fit", fit)


def last_detector(found):
    """Return the detector of the statistics, without the tolerance of gains around it."""
    return found.detector_[-1].detector_


# What it is made of


def test_without_labels_it_is_statistics_and_a_detector(fitted, train, test):
    by_hand = make_pipeline(PATCHER, BandStatistics(), MahalanobisDetector()).fit(train)
    assert fitted.members_ == ["statistics"]
    assert_array_equal(fitted.score_samples(test), by_hand.score_samples(test))
    assert fitted.offset_ == by_hand[-1].offset_
    assert_array_equal(fitted.training_scores_, by_hand[-1].training_scores_)
    embeddings = by_hand[:-1].transform(test)
    assert_array_equal(fitted.p_values(test), by_hand[-1].p_values(embeddings))
    assert_array_equal(fitted.predict(test), by_hand.predict(test))
    assert_array_equal(fitted.decision_function(test), by_hand.decision_function(test))
    assert_array_equal(fitted.anomaly_score(test), -fitted.score_samples(test))


def test_its_maps_are_of_moments_and_of_the_bands_of_the_score(fitted, train, test):
    by_hand = make_pipeline(PatchStatistics(), SubbandKNNDetector())
    by_hand.fit(PATCHER.fit(train).transform(train))
    moments = by_hand[-1].anomaly_map(by_hand[:-1].transform(PATCHER.transform(test)))
    scores = fitted.score_samples(test)
    shares = score_maps(fitted, PATCHER.transform(test), scores, None, moments)
    assert_array_equal(fitted.anomaly_map(test), np.maximum(moments, shares))
    assert fitted.anomaly_map(test).shape == (len(test), 6, 8)
    assert_allclose(shares.max(axis=(1, 2)), scores / fitted.offset_)
    assert (shares >= 0).all()


def test_an_anomaly_has_a_cell_above_the_threshold(fitted, test):
    is_anomaly = fitted.predict(test) == -1
    assert is_anomaly.any()
    assert (fitted.anomaly_map(test)[is_anomaly].max(axis=(1, 2)) > 1).all()


def test_a_steady_tone_lights_its_band_all_the_time(fitted, test):
    """The mel bins from 32 on begin at 0.6 kHz, those from 48 on at 1.1 kHz: rows 2 to 3 of 8."""
    tone = 0.1 * np.sin(2 * np.pi * 800 * np.arange(test.shape[1]) / 16000)
    (lit,) = fitted.anomaly_map(test[:1] + tone.astype(np.float32))
    assert (lit[:, 2] > 1).all()
    assert lit.min(axis=0).argmax() == 2


def test_a_knock_does_not_light_the_whole_clip(fitted, test):
    knock = np.zeros(test.shape[1], dtype=np.float32)
    knock[8000:8400] = np.random.default_rng(0).normal(size=400)  # at 0.50 s, of 1 s in 6 columns
    (lit,) = fitted.anomaly_map(test[:1] + knock)
    columns = lit.max(axis=1)
    assert columns.argmax() in (2, 3)
    assert columns[columns.argmax()] > 1.3 * np.median(columns)


def test_it_finds_a_severe_fault(fitted, sounds, test):
    assert auc_score(sounds.y[sounds.split == "test"], fitted.anomaly_score(test)) > 0.9


@pytest.mark.slow
def test_a_network_that_joins_is_a_member_beside_the_statistics(many, monkeypatch):
    clips, units = many
    let_join(monkeypatch, network=2.0)
    found = detector_of(random_state=3).fit(clips, labels=units)
    assert found.members_ == ["statistics", "network"]
    assert found.separation_ == {"statistics": 1.0, "network": 2.0}

    patches = PATCHER.fit(clips).transform(clips)
    # Every tenth clip is held out, in the order of the units.
    ranks = np.argsort(np.argsort([int(unit[-1]) for unit in units], kind="stable"))
    kept = ranks % 10 != 0
    network = one_epoch().fit(
        patches[kept], labels=[unit for unit, k in zip(units, kept, strict=True) if k]
    )
    members = [
        (name, Pipeline([("features", features), ("detector", MahalanobisDetector())]))
        for name, features in (
            ("statistics", BandStatistics()),
            ("network", FrozenEstimator(network)),
        )
    ]
    by_hand = JoinedDetector(members).fit(patches, domains=units)
    assert_array_equal(found.score_samples(clips), by_hand.score_samples(patches))
    assert found.offset_ == by_hand.offset_
    assert_array_equal(found.p_values(clips), by_hand.p_values(patches))
    assert found.detector_.weights_.min() > 0


# When a network is trained, and joins


def test_no_network_is_trained_without_labels(many, monkeypatch):
    forbid_training(monkeypatch)
    found = detector_of().fit(many[0])
    assert found.members_ == ["statistics"]
    assert found.separation_ is None


def test_no_network_is_trained_on_fewer_than_64_clips(many, monkeypatch):
    forbid_training(monkeypatch)
    clips, units = many
    found = detector_of().fit(clips[:63], labels=units[:63])
    assert found.members_ == ["statistics"]
    assert found.separation_ is None
    assert last_detector(found).domains_ == ["unit 0", "unit 1", "unit 2"]


def test_a_network_is_trained_on_64_clips(many, monkeypatch):
    let_join(monkeypatch, network=2.0)
    clips, units = many
    found = detector_of(map_detector="drop").fit(clips[:64], labels=units[:64])
    assert found.separation_ == {"statistics": 1.0, "network": 2.0}


def test_no_network_is_trained_on_labels_that_are_not_separable(many, monkeypatch):
    forbid_training(monkeypatch)
    by_chance = np.random.default_rng(0).integers(3, size=66)
    found = detector_of().fit(many[0], labels=by_chance)
    assert found.members_ == ["statistics"]
    assert found.separation_ is None


@pytest.mark.filterwarnings("ignore:3 sessions are few:UserWarning")
@pytest.mark.filterwarnings("ignore:Clips of one session are much nearer:UserWarning")
def test_no_network_is_trained_where_the_held_out_sessions_have_a_label_of_their_own(
    many, monkeypatch
):
    forbid_training(monkeypatch)
    clips, units = many
    with pytest.warns(UserWarning, match="^Each of 3 labels is in one session only"):
        found = detector_of(map_detector="drop").fit(clips, labels=units, sessions=units)
    assert found.separation_ is None


def test_a_network_that_separates_as_well_as_the_statistics_does_not_join(many, monkeypatch):
    let_join(monkeypatch, network=1.0, statistics=1.0)
    clips, units = many
    found = detector_of(map_detector="drop").fit(clips, labels=units)
    assert found.members_ == ["statistics"]


def test_a_network_is_not_judged_by_labels_of_which_it_saw_one_clip(many, monkeypatch):
    clips, units = many
    units = ["rare"] * 3 + units[3:]
    fold = np.arange(2, 66), np.arange(2)  # two of the three rare clips are held out, no others
    monkeypatch.setattr(policy, "split_folds", lambda *args, **kwargs: iter([fold]))
    found = detector_of(map_detector="drop").fit(clips, labels=units)
    assert found.members_ == ["statistics"]
    assert found.separation_ is None


def test_a_frozen_network_never_joins(many, monkeypatch):
    forbid_training(monkeypatch)
    clips, units = many
    embedder = AnoPatchEmbedder(fine_tuning=FineTuning("frozen"))
    assert detector_of(embedder=embedder).fit(clips, labels=units).members_ == ["statistics"]


@pytest.mark.slow
def test_a_network_that_separates_held_out_clips_no_better_does_not_join(many):
    clips, units = many
    found = detector_of().fit(clips, labels=units)  # tones: the statistics separate them at once
    assert found.separation_["network"] <= found.separation_["statistics"]
    assert found.members_ == ["statistics"]
    alone = make_pipeline(PATCHER, BandStatistics(), MahalanobisDetector())
    alone.fit(clips, mahalanobisdetector__domains=units)
    assert_array_equal(found.score_samples(clips), alone.score_samples(clips))


@pytest.mark.slow
def test_separation_is_measured_on_clips_that_the_network_has_not_seen(many, monkeypatch):
    clips, units = many
    asked = let_join(monkeypatch, network=0.0)
    detector_of().fit(clips, labels=units)
    (seen, new, *_), (_, new_embeddings, *_) = asked
    assert (len(seen), len(new)) == (59, 7)
    assert new_embeddings.shape == (7, 16)
    assert not set(map(bytes, seen)) & set(map(bytes, new))


@pytest.mark.slow
def test_sessions_are_held_out_whole(many, monkeypatch):
    clips, units = many
    sessions = [i // 6 for i in range(66)]  # two clips of each unit in each
    asked = let_join(monkeypatch, network=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = detector_of().fit(clips, labels=units, sessions=sessions)
    new = {bytes(row) for row in asked[0][1]}
    rows = [i for i, row in enumerate(found.normal_statistics_) if bytes(row) in new]
    held_out = {sessions[row] for row in rows}
    assert len(rows) == 6 * len(held_out)
    assert_allclose(found.session_weights_, 1 / 6)


def test_a_label_of_one_clip_among_others_is_no_obstacle(many):
    clips, units = many
    with pytest.warns(UserWarning, match=r"^labels have 4 values for 66 clips, and one has 1 clip"):
        found = detector_of().fit(clips, labels=[*units[:-1], "the only one"])
    assert set(found.separation_) == {"statistics", "network"}


def test_labels_that_are_used_once_each_are_warned_of_and_change_nothing(fitted, train, test):
    message = (
        "labels have 28 values for 28 clips, and one has 1 clip(s): clips of one label hardly show "
        "how they vary, so that the statistics are modelled without labels. Give labels that more "
        "clips share, such as the unit."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        found = AnomalousSoundDetector(PATCHER).fit(train, labels=range(28))
    assert caught[0].filename == __file__
    assert_array_equal(found.score_samples(test), fitted.score_samples(test))


@pytest.mark.filterwarnings("ignore:2 sessions are few:UserWarning")
@pytest.mark.filterwarnings("ignore:Clips of one session are much nearer:UserWarning")
def test_labels_of_one_session_each_are_warned_of(train, units, test):
    without_labels = AnomalousSoundDetector(PATCHER).fit(train, sessions=units)
    with pytest.warns(
        UserWarning, match=r"^Each of 2 labels is in one session only: .* Give clips"
    ):
        found = AnomalousSoundDetector(PATCHER).fit(train, labels=units, sessions=units)
    assert_array_equal(found.score_samples(test), without_labels.score_samples(test))
    assert found.offset_ == without_labels.offset_


def test_labels_of_two_clips_each_are_domains(train):
    pairs = [f"pair {i // 2}" for i in range(28)]
    found = AnomalousSoundDetector(PATCHER, map_detector="drop").fit(train, labels=pairs)
    assert last_detector(found).domains_ == list(dict.fromkeys(pairs))


def test_labels_are_domains_where_none_are_given(train, units, test, sounds):
    found = AnomalousSoundDetector(PATCHER).fit(train, labels=units)
    by_domains = AnomalousSoundDetector(PATCHER).fit(train, domains=units)
    assert_array_equal(found.score_samples(test), by_domains.score_samples(test))
    domains = [unit == 0 for unit in units]
    both = AnomalousSoundDetector(PATCHER).fit(train, labels=units, domains=domains)
    assert last_detector(both).domains_ == [True, False]


# Groups and sessions


def test_each_group_has_a_threshold_of_its_own(grouped, train, units, test, test_units):
    scores = grouped.score_samples(test, groups=test_units)
    assert grouped.groups_ == [0, 1]
    assert grouped.offset_ == -1
    for unit in (0, 1):
        own, of_test = np.equal(units, unit), np.equal(test_units, unit)
        alone = AnomalousSoundDetector(PATCHER, map_detector="drop").fit(train[own])
        assert_array_equal(
            grouped.predict(test, groups=test_units)[of_test], alone.predict(test[of_test])
        )
        assert_allclose(
            grouped.p_values(test, groups=test_units)[of_test], alone.p_values(test[of_test])
        )
        ranks = np.argsort(scores[of_test]), np.argsort(alone.score_samples(test[of_test]))
        assert_array_equal(*ranks)
    assert_array_equal(
        grouped.score_samples(test),
        np.max([grouped.score_samples(test, groups=[u] * len(test)) for u in (0, 1)], axis=0),
    )


def test_each_group_has_maps_of_its_own(grouped, train, units, test, test_units):
    alone = AnomalousSoundDetector(PATCHER).fit(train[np.equal(units, 1)])
    of_test = np.equal(test_units, 1)
    tokens = PatchStatistics().fit_transform(PATCHER.fit(train).transform(test[of_test]))
    moments = grouped.map_pipeline_[-1].anomaly_map(tokens, groups=[1] * len(tokens))
    assert_array_equal(moments, alone.map_pipeline_[-1].anomaly_map(tokens))
    maps = grouped.anomaly_map(test, groups=test_units)
    assert (maps[of_test] >= moments).all()
    assert grouped.anomaly_map(test).shape == maps.shape


def test_a_map_is_the_same_in_any_batch(grouped, test, test_units, monkeypatch):
    expected = grouped.anomaly_map(test, groups=test_units)
    monkeypatch.setattr(clip_scores, "_BATCH_SIZE", 5)
    assert_allclose(grouped.anomaly_map(test, groups=test_units), expected, rtol=1e-6)
    with config_context(working_memory=0.1):
        assert_allclose(grouped.anomaly_map(test, groups=test_units), expected, rtol=1e-6)


def test_groups_with_labels_share_a_covariance(train, units, test, test_units):
    patterns = [f"pattern {i % 2}" for i in range(28)]
    found = AnomalousSoundDetector(PATCHER).fit(train, groups=units, labels=patterns)
    by_hand = make_pipeline(
        PATCHER, BandStatistics(), GroupedDetector(MahalanobisDetector(), pooled=True)
    )
    by_hand.fit(train, groupeddetector__groups=units, groupeddetector__domains=patterns)
    assert_array_equal(
        found.score_samples(test, groups=test_units),
        by_hand[-1].score_samples(by_hand[:-1].transform(test), groups=test_units),
    )
    assert len(set(map(id, last_detector(found).detectors_.values()))) == 1


def test_a_label_of_one_clip_in_a_group_is_warned_of(grouped, train, units, test, test_units):
    patterns = ["a", "b", *["b"] * 12, *["a"] * 14]
    with pytest.warns(UserWarning, match=r"and one has 1 clip\(s\) in a group: clips of one label"):
        found = AnomalousSoundDetector(PATCHER).fit(train, groups=units, labels=patterns)
    assert_array_equal(
        found.score_samples(test, groups=test_units), grouped.score_samples(test, groups=test_units)
    )


@pytest.mark.filterwarnings("ignore:2 sessions are few:UserWarning")
def test_labels_of_a_group_in_one_session_each_are_warned_of():
    patches = patchify(np.random.default_rng(0).normal(size=(24, 32, 128)))
    groups, labels = np.repeat(["a", "b"], 12), np.tile(np.repeat(["slow", "fast"], 6), 2)
    sessions = np.repeat(np.arange(4), 6)
    detector = AnomalousSoundDetector("passthrough", embedder="drop", map_detector="drop")
    with pytest.warns(UserWarning, match="^Each of 2 labels is in one session only, in a group at"):
        detector.fit(patches, labels=labels, groups=groups, sessions=sessions)
    assert last_detector(detector).pooled_ is False
    assert np.isfinite(detector.training_scores_).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:2 sessions are few:UserWarning")
def test_maps_are_learnt_from_clips_that_can_be_read_and_of_all_sessions():
    patches = patchify(np.random.default_rng(0).normal(size=(200, 32, 128)))
    patches[:20] = np.nan
    sessions, groups = np.arange(200) % 2, np.repeat(np.arange(40), 5)
    groups[:20] = groups[20:40]  # all clips of four groups, of which half cannot be read
    detector = AnomalousSoundDetector("passthrough", embedder="drop")
    detector.fit(patches, sessions=sessions)
    weights = detector.map_pipeline_[-1].session_weights_
    assert len(weights) == 100
    assert_allclose(weights.sum(), 2)  # sessions
    detector.fit(patches, groups=groups)
    assert np.isfinite(detector.map_pipeline_[-1].training_scores_).all()


def test_a_frozen_embedder_stays_as_it_is():
    patches = patchify(np.random.default_rng(0).normal(size=(12, 32, 128)))
    embedder = BandStatistics().set_output(transform="pandas").fit(patches)
    frozen = FrozenEstimator(embedder)
    detector = AnomalousSoundDetector("passthrough", embedder=frozen, map_detector="drop")
    detector.fit(patches).score_samples(patches)
    assert isinstance(embedder.transform(patches), pd.DataFrame)


def test_sessions_move_the_threshold(train, test):
    rng = np.random.default_rng(0)
    sessions = np.arange(28) // 4
    # Clips of one session are nearly the same.
    clips = train[4 * sessions] + 1e-4 * rng.normal(size=train.shape)
    with pytest.warns(UserWarning, match="^Clips of one session are much nearer to each other"):
        found = AnomalousSoundDetector(PATCHER).fit(clips, sessions=sessions)
    blind = AnomalousSoundDetector(PATCHER).fit(clips)
    assert found.offset_ < blind.offset_
    assert_allclose(found.session_weights_, 0.25)
    assert found.p_values(test).min() >= 1 / 8


@pytest.mark.slow
def test_the_threshold_moves_without_a_fit(fitted, train, test):
    moved = clone(fitted).fit(train).set_false_alarm_rate(0.01)
    refitted = AnomalousSoundDetector(PATCHER, false_alarm_rate=0.01).fit(train)
    assert moved.offset_ == refitted.offset_ < fitted.offset_
    assert_array_equal(moved.score_samples(test), refitted.score_samples(test))
    assert_array_equal(moved.anomaly_map(test), refitted.anomaly_map(test))
    assert (moved.anomaly_map(test) < fitted.anomaly_map(test)).mean() > 0.5
    with pytest.raises(ValueError, match=r"'false_alarm_rate' .* Got 0.6 instead"):
        moved.set_false_alarm_rate(0.6)
    assert moved.false_alarm_rate == 0.01


@pytest.mark.slow
def test_the_threshold_of_groups_moves_without_a_fit(train, units, test, test_units):
    moved = AnomalousSoundDetector(PATCHER).fit(train, groups=units).set_false_alarm_rate(0.02)
    refitted = AnomalousSoundDetector(PATCHER, false_alarm_rate=0.02).fit(train, groups=units)
    for method in ("score_samples", "anomaly_map", "predict"):
        one, two = (getattr(m, method)(test, groups=test_units) for m in (moved, refitted))
        assert_allclose(one, two)


# Other parts


@pytest.mark.parametrize(
    "detector",
    [KNNDetector(), KNNDetector(metric="euclidean"), GMMDetector(random_state=0)],
    ids=repr,
)
def test_other_detectors_find_a_severe_fault(detector, sounds, train, test):
    found = AnomalousSoundDetector(PATCHER, detector=detector, map_detector="drop").fit(train)
    assert auc_score(sounds.y[sounds.split == "test"], found.anomaly_score(test)) > 0.85
    assert detector.get_params() == clone(detector).get_params()


@pytest.mark.slow
def test_detectors_of_others_are_calibrated(train, units, test, test_units):
    forest = IsolationForest(n_estimators=10, random_state=0)
    found = AnomalousSoundDetector(PATCHER, detector=forest, map_detector="drop")
    by_hand = make_pipeline(PATCHER, BandStatistics(), CalibratedDetector(forest)).fit(train)
    found.fit(train, labels=units)  # it knows no domains
    assert_array_equal(found.score_samples(test), by_hand.score_samples(test))
    assert_array_equal(found.predict(test), by_hand.predict(test))
    assert found.offset_ == by_hand[-1].offset_
    found.fit(train, groups=units)
    by_hand = make_pipeline(PATCHER, BandStatistics(), GroupedDetector(forest))
    by_hand.fit(train, groupeddetector__groups=units)
    assert_array_equal(
        found.score_samples(test, groups=test_units),
        by_hand[-1].score_samples(by_hand[:-1].transform(test), groups=test_units),
    )


@pytest.mark.parametrize("embedder", [BandStatistics(), MelStatistics()])
def test_other_embedders_stand_alone(embedder, train, units, test):
    found = AnomalousSoundDetector(PATCHER, embedder=embedder).fit(train, labels=units)
    by_hand = make_pipeline(PATCHER, embedder, MahalanobisDetector())
    by_hand.fit(train, mahalanobisdetector__domains=units)
    assert found.members_ == ["embedder"]
    assert_array_equal(found.score_samples(test), by_hand.score_samples(test))


@pytest.mark.slow
def test_a_network_that_replaces_the_statistics_stands_alone_and_gets_labels(many):
    clips, units = many
    embedder = one_epoch(statistics=False)
    found = AnomalousSoundDetector(PATCHER, embedder=embedder, map_detector="drop")
    found.fit(clips, labels=units)
    by_hand = make_pipeline(PATCHER, embedder, MahalanobisDetector())
    by_hand.fit(clips, anopatchembedder__labels=units, mahalanobisdetector__domains=units)
    assert found.members_ == ["embedder"]
    assert_array_equal(found.score_samples(clips), by_hand.score_samples(clips))


@pytest.mark.slow
def test_bands_are_those_of_the_patcher(train, test):
    patcher = MelPatcher(duration=1.0, n_mels=64)
    expected = AnomalousSoundDetector(patcher).fit(train)
    assert expected.anomaly_map(test).shape == (len(test), 6, 4)
    given = AnomalousSoundDetector(
        patcher, embedder=AnoPatchEmbedder(), map_detector=SubbandKNNDetector()
    ).fit(train)
    assert_array_equal(given.score_samples(test), expected.score_samples(test))
    assert_array_equal(given.anomaly_map(test), expected.anomaly_map(test))
    patches = patcher.fit_transform(train)
    passed = AnomalousSoundDetector("passthrough", embedder=AnoPatchEmbedder()).fit(patches)
    assert_array_equal(passed.anomaly_map(patches), expected.anomaly_map(train))
    assert_array_equal(passed.score_samples(patches), expected.score_samples(train))


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_patches_made_elsewhere_score_alike(shift, fitted, train, test):
    def spectrograms(clips):
        return patchify(unpatchify(PATCHER.fit(clips).transform(clips)) + shift)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = AnomalousSoundDetector("passthrough").fit(spectrograms(train))
    patches = spectrograms(test)
    assert found.patcher_ is None
    assert found.clip_names_ == [""] * 28
    assert found.n_features_in_ == 256
    if not shift:
        assert_array_equal(found.score_samples(patches), fitted.score_samples(test))
        assert_array_equal(found.anomaly_map(patches), fitted.anomaly_map(test))
    assert_allclose(found.score_samples(patches), fitted.score_samples(test), rtol=1e-3)
    assert_allclose(found.anomaly_map(patches), fitted.anomaly_map(test), rtol=1e-3, atol=1e-3)
    assert_array_equal(found.predict(patches), fitted.predict(test))


def test_decibels_are_warned_of_and_score_alike_once_multiplied(fitted, train, test):
    def decibels(clips):
        return 10 / np.log(10) * PATCHER.fit(clips).transform(clips)

    message = (
        r"^The mel bins of X step by 2\.9 from frame to frame \(median\), and natural "
        r"logarithms of power by about 0\.7: .* Multiply decibels by 0\.2303, and do not standard"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        AnomalousSoundDetector("passthrough", map_detector="drop").fit(decibels(train))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = AnomalousSoundDetector("passthrough").fit(0.2303 * decibels(train))
    patches = 0.2303 * decibels(test)
    assert_allclose(found.score_samples(patches), fitted.score_samples(test), rtol=1e-2)
    assert_allclose(found.anomaly_map(patches), fitted.anomaly_map(test), rtol=1e-2, atol=1e-2)
    assert_array_equal(found.predict(patches), fitted.predict(test))


def test_maps_can_be_left_out_or_be_of_another_detector(train, test):
    found = AnomalousSoundDetector(PATCHER, map_detector="drop").fit(train)
    message = (
        "anomaly_map needs maps, and map_detector='drop' left them out of fit. Fit with "
        "map_detector=None."
    )
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}$"):
        found.anomaly_map(test)
    other = AnomalousSoundDetector(PATCHER, map_detector=PatchKNNDetector(random_state=0))
    assert other.fit(train).anomaly_map(test).shape == (len(test), 6, 8)


# In scikit-learn's company


def test_parameters_of_parts_are_reached_and_cloned():
    detector = AnomalousSoundDetector(PATCHER, embedder=one_epoch(), detector=KNNDetector())
    detector.set_params(
        patcher__duration=2.0,
        embedder__fine_tuning__max_epochs=7,
        detector__n_neighbors=3,
        false_alarm_rate=0.2,
    )
    assert PATCHER.duration == 1.0 or detector.patcher is PATCHER
    PATCHER.set_params(duration=1.0)
    params = clone(detector).get_params()
    assert params["embedder__fine_tuning__max_epochs"] == 7
    assert params["detector__n_neighbors"] == 3
    assert params["false_alarm_rate"] == 0.2
    assert not hasattr(detector, "detector_")


def test_parameters_of_parts_that_are_none_are_those_of_the_defaults():
    detector = AnomalousSoundDetector().set_params(
        detector__shrinkage=0.5,
        embedder__fine_tuning__max_epochs=2,
        map_detector__metric="cosine",
        patcher__duration=2.0,
    )
    assert repr(detector.detector) == "MahalanobisDetector(shrinkage=0.5)"
    assert detector.embedder.fine_tuning.max_epochs == 2
    assert detector.map_detector.metric == "cosine"
    assert detector.patcher.duration == 2.0
    with pytest.raises(ValueError, match="Invalid parameter 'detectr' for estimator"):
        AnomalousSoundDetector().set_params(detectr__shrinkage=0.5)


def test_fit_changes_no_parameter(train):
    detector = AnomalousSoundDetector(PATCHER, embedder=AnoPatchEmbedder(), detector=KNNDetector())
    before = {name: repr(value) for name, value in detector.get_params().items()}
    detector.fit(train)
    assert {name: repr(value) for name, value in detector.get_params().items()} == before


def test_it_is_fitted_on_normal_clips_and_judged_by_a_scorer(sounds):
    model = FitOnNormal(AnomalousSoundDetector(PATCHER, map_detector="drop"))
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    scorer = make_anomaly_scorer("auc")
    found = cross_val_score(model, sounds.clips, sounds.y, scoring=scorer, cv=folds)
    assert found.mean() > 0.8
    normal = sounds.y == 1
    model.fit(sounds.clips, sounds.y, groups=sounds.section)
    by_hand = AnomalousSoundDetector(PATCHER, map_detector="drop")
    by_hand.fit(sounds.clips[normal], groups=sounds.section[normal])
    assert_array_equal(
        model.predict(sounds.clips, groups=sounds.section),
        by_hand.predict(sounds.clips, groups=sounds.section),
    )
    search = GridSearchCV(
        model, {"estimator__detector__shrinkage": [0.1, 0.9]}, scoring=scorer, cv=folds
    )
    search.fit(sounds.clips, sounds.y)
    assert last_detector(search.best_estimator_.estimator_).shrinkage_ in (0.1, 0.9)


def test_groups_are_routed_without_a_request(train, units, grouped, test, test_units):
    with config_context(enable_metadata_routing=True):
        routed = AnomalousSoundDetector(PATCHER).fit(train, groups=units)
        assert_array_equal(
            routed.predict(test, groups=test_units), grouped.predict(test, groups=test_units)
        )


@pytest.mark.slow
def test_pandas_output_changes_nothing(train, units, grouped, test, test_units):
    with config_context(transform_output="pandas"):
        found = AnomalousSoundDetector(PATCHER).fit(train, groups=units)
        scores = found.score_samples(test, groups=test_units)
    assert_array_equal(scores, grouped.score_samples(test, groups=test_units))
    alone = AnomalousSoundDetector(PATCHER, embedder=MelStatistics()).fit(train)
    with config_context(transform_output="pandas"):
        found = AnomalousSoundDetector(PATCHER, embedder=MelStatistics()).fit(train)
    assert_array_equal(found.score_samples(test), alone.score_samples(test))


@pytest.mark.slow
def test_a_fit_depends_on_its_seed_alone(many, monkeypatch):
    clips, units = many
    scores = []
    for seed in (0, 0, 1):
        let_join(monkeypatch, network=2.0)
        embedder = AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=1, n_dims=16))
        found = AnomalousSoundDetector(
            PATCHER, embedder=embedder, map_detector="drop", random_state=seed
        )
        scores.append(found.fit(clips, labels=units).score_samples(clips))
    assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 0


@pytest.mark.slow
def test_lazy_patches_change_no_bit_and_stay_lazy(many, monkeypatch):
    clips, units = many
    let_join(monkeypatch, network=2.0)
    expected = detector_of(map_detector="drop").fit(clips, labels=units)
    let_join(monkeypatch, network=2.0)
    with config_context(working_memory=1):
        lazy = detector_of(map_detector="drop").fit(clips, labels=units)
    assert_array_equal(lazy.score_samples(clips), expected.score_samples(clips))
    assert lazy.offset_ == expected.offset_


def test_a_saved_model_is_the_same_to_the_bit(many, tmp_path, monkeypatch):
    clips, units = many
    let_join(monkeypatch, network=2.0)
    model = detector_of().fit(clips, labels=units, groups=units)
    save_model(tmp_path / "model.skano", model)
    loaded = load_model(tmp_path / "model.skano")
    assert loaded.members_ == ["statistics", "network"]
    assert loaded.separation_ == model.separation_
    for method in ("score_samples", "predict", "p_values", "anomaly_map"):
        found, expected = (getattr(m, method)(clips[:9], groups=units[:9]) for m in (loaded, model))
        assert_array_equal(found, expected)
    loaded.set_false_alarm_rate(0.02)
    model.set_false_alarm_rate(0.02)
    assert_array_equal(loaded.predict(clips, groups=units), model.predict(clips, groups=units))


# Clips in all forms


@pytest.mark.slow
def test_clips_in_any_form_score_alike(fitted, train, test, tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(len(train))]
    for path, clip in zip(paths, train, strict=True):
        soundfile.write(path, clip, RATE, subtype="FLOAT")
    forms = {
        "list": list(train),
        "pairs": [(clip, RATE) for clip in train],
        "stereo": [(np.stack([clip, clip], axis=1), RATE) for clip in train],
        "paths": paths,
        "series": pd.Series(map(str, paths)),
    }
    for name, form in forms.items():
        found = AnomalousSoundDetector(PATCHER, map_detector="drop").fit(form)
        assert_array_equal(found.score_samples(test), fitted.score_samples(test), err_msg=name)
        assert_array_equal(found.score_samples(form), fitted.score_samples(train), err_msg=name)
    assert found.clip_names_ == list(map(str, paths))
    mixed = [paths[0], train[1], (train[2], RATE)]
    assert_array_equal(fitted.score_samples(mixed), fitted.score_samples(train[:3]))
    assert fitted.clip_names_ == [""] * len(train)


@pytest.mark.slow
def test_a_clip_scores_alike_alone_and_among_others(many, monkeypatch):
    clips, units = many
    let_join(monkeypatch, network=2.0)
    found = detector_of(map_detector="drop").fit(clips, labels=units)
    order = np.random.default_rng(0).permutation(len(clips))
    for method in (found.score_samples, found.p_values, found.predict):
        together = method(clips)
        alone = np.concatenate([method([clip]) for clip in clips[:10]])
        assert_allclose(alone, together[:10], rtol=1e-5)
        assert_allclose(method(clips[order]), together[order], rtol=1e-5)
    assert {"".join(found.notes([clip])) for clip in clips[:10]} == set(found.notes(clips[:10]))


@pytest.mark.slow
def test_clips_that_cannot_be_read_are_left_out_and_score_nan(fitted, train, units, test):
    patcher = MelPatcher(duration=1.0, on_error="nan")
    with pytest.warns(UserWarning, match=r"^1 of 29 clips cannot be used"):
        found = AnomalousSoundDetector(patcher).fit([*train, "gone.wav"])
    assert_array_equal(found.score_samples(test), fitted.score_samples(test))
    assert np.isnan(found.training_scores_[-1])
    assert found.offset_ == fitted.offset_
    clips = [test[0], "gone.wav", test[1]]
    with pytest.warns(UserWarning, match=r"^1 of 3 clips cannot be used"):
        scores = found.score_samples(clips)
    assert_array_equal(np.isnan(scores), [False, True, False])
    for method, expected in (("predict", -1), ("p_values", np.nan), ("anomaly_map", np.nan)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_array_equal(getattr(found, method)(clips)[1], np.full_like(scores[1], expected))
    with pytest.warns(UserWarning, match=r"^1 of 29 clips cannot be used"):
        found = AnomalousSoundDetector(patcher).fit([*train, "gone.wav"], groups=[*units, 0])
    assert np.isnan(found.score_samples(test)).sum() == 0


# Called wrongly


WRONG_FITS = {
    "one clip": (
        {},
        lambda clips: {"X": clips[:1]},
        "AnomalousSoundDetector needs at least 3 normal clips, since each is left out once to "
        "place the threshold (2 with map_detector='drop'). X has 1 sample(s).",
    ),
    "a group of one": (
        {},
        lambda clips: {"X": clips, "groups": [0] * 27 + ["fan"]},
        "AnomalousSoundDetector needs at least 3 normal clips of each group, since each is left "
        "out once to place the threshold (2 with map_detector='drop'). Group 'fan' has 1 "
        "sample(s).",
    ),
    "too few labels": (
        {},
        lambda clips: {"X": clips, "labels": ["a", "b"]},
        "labels must have one entry per clip. Got 2 for 28.",
    ),
    "too few sessions": (
        {},
        lambda clips: {"X": clips, "sessions": ["a", "b"]},
        "sessions must have one entry per clip. Got 2 for 28.",
    ),
    "clips for patches": (
        {"patcher": "passthrough"},
        lambda clips: {"X": clips},
        "With patcher='passthrough' X must be patches of shape (n_clips, n_time, n_freq, "
        "patch_size ** 2). Got an array of shape (28, 16000) instead; patchify makes patches of "
        "spectrograms, and patcher=None takes clips.",
    ),
    "spectrograms for patches": (
        {"patcher": "passthrough"},
        lambda clips: {"X": np.zeros((9, 192, 128))},
        "With patcher='passthrough' X must be patches of shape (n_clips, n_time, n_freq, "
        "patch_size ** 2). Got an array of shape (9, 192, 128) instead; patchify makes patches of "
        "spectrograms, and patcher=None takes clips.",
    ),
    "a detector by name": (
        {"detector": "knn"},
        lambda clips: {"X": clips},
        "The 'detector' parameter of AnomalousSoundDetector must be an object implementing 'fit' "
        "and 'score_samples' or None. Got 'knn' instead.",
    ),
    "maps of what has none": (
        {"map_detector": KNNDetector()},
        lambda clips: {"X": clips},
        "The 'map_detector' parameter of AnomalousSoundDetector must be an object implementing "
        "'fit' and 'anomaly_map', a str among {'drop'} or None. Got KNNDetector() instead.",
    ),
    "a rate in percent": (
        {"false_alarm_rate": 10},
        lambda clips: {"X": clips},
        "The 'false_alarm_rate' parameter of AnomalousSoundDetector must be a float in the range "
        "(0.0, 0.5]. Got 10 instead.",
    ),
}


@pytest.mark.parametrize(("params", "given", "message"), WRONG_FITS.values(), ids=WRONG_FITS)
def test_a_wrong_fit_is_named(params, given, message, train):
    detector = AnomalousSoundDetector(**{"patcher": PATCHER, **params})
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        detector.fit(**given(train))


def test_the_path_of_a_folder_is_no_list_of_clips(fitted):
    with pytest.raises(TypeError, match=r"X must be a sequence of clips. .* list a folder with"):
        fitted.predict("recordings")


def test_an_unknown_group_is_named(fitted, grouped, test):
    message = "Group 'pump' was not seen in fit. The groups are: 0, 1."
    for method in ("predict", "p_values", "anomaly_map"):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            getattr(grouped, method)(test, groups=["pump"] * len(test))
        with pytest.raises(ValueError, match=r"^groups must have one entry per clip. Got 1 for 24"):
            getattr(grouped, method)(test, groups=[0])
        message_of_none = (
            "groups were not given in fit, so that 'pump' is not known. Leave them out, or fit "
            "with groups."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message_of_none)}$"):
            getattr(fitted, method)(test, groups=["pump"] * len(test))


@pytest.mark.parametrize("method", ["score_samples", "predict", "p_values", "anomaly_map"])
def test_what_is_not_fitted_says_so(method, test):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(AnomalousSoundDetector(), method)(test)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        AnomalousSoundDetector().set_false_alarm_rate(0.1)


def test_a_backbone_with_another_front_end_is_refused(train):
    embedder = AnoPatchEmbedder("beats:BEATs_iter3.pt")
    with pytest.raises(ValueError, match=r"was trained with n_mels=128, but .* n_mels=64\. "):
        AnomalousSoundDetector(MelPatcher(n_mels=64, duration=1.0), embedder=embedder).fit(train)


class Loudness(TransformerMixin, BaseEstimator):
    """Of each clip, and one number more: an embedder of somebody else."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        patches = np.asarray(X)
        return np.stack([patches.mean(axis=(1, 2, 3)), patches.max(axis=(1, 2, 3))], axis=1)


def test_an_embedder_of_somebody_else_needs_no_parameters_of_ours(fitted, train, test):
    found = AnomalousSoundDetector(PATCHER, embedder=Loudness()).fit(train)
    assert found.members_ == ["embedder"]
    with pytest.warns(
        UserWarning, match=r"^1 of 1 clips were recorded in another way (?s:.*): silent"
    ):
        assert_array_equal(found.predict([np.zeros(RATE)]), [-1])
    tokens = PatchStatistics().fit_transform(found.patcher_.transform(test))
    moments = fitted.map_pipeline_[-1].anomaly_map(tokens)
    assert_array_equal(found.anomaly_map(test), moments)  # embeddings belong to no band
