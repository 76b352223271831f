"""Normal clips that join a fitted model, and clips that are taken out of it."""

import warnings
from datetime import datetime, timedelta

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_array_equal

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    FineTuning,
    KNNDetector,
    MelPatcher,
    load_model,
    save_model,
)

RATE = 16000


def noise(seed, seconds=1.0):
    rng = np.random.default_rng(seed)
    return 0.1 * rng.normal(size=round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normal")
    paths = []
    for seed in range(24):
        paths.append(str(folder / f"{seed:02}.wav"))
        soundfile.write(paths[-1], noise(seed, 2.5 if seed % 5 == 4 else 1.0), RATE, "FLOAT")
    return paths


NEW = [noise(100 + seed, 1 + seed % 3) for seed in range(8)]


def detector(**parameters):
    return AnomalousSoundDetector(MelPatcher(duration=1.0), **parameters)


def assert_same(one, two, new=NEW, **groups):
    assert one.offset_ == two.offset_
    for method in ("score_samples", "p_values", "anomaly_map"):
        assert_array_equal(getattr(one, method)(new, **groups), getattr(two, method)(new, **groups))
    assert one.notes(new, **groups) == two.notes(new, **groups)
    assert list(map(str, one.explain(new, **groups))) == list(map(str, two.explain(new, **groups)))


@pytest.mark.parametrize(
    "parameters", [{}, pytest.param({"detector": KNNDetector()}, marks=pytest.mark.slow)]
)
def test_an_update_equals_a_fit_on_all_clips(files, parameters):
    updated = detector(**parameters).fit(files[:12]).update(files[12:18]).update(files[18:])
    assert_same(updated, detector(**parameters).fit(files))
    assert updated.clip_names_ == detector().fit(files).clip_names_


@pytest.mark.slow
def test_an_update_of_groups_equals_a_fit_on_all_clips(files):
    groups = ["a", "b"] * 12
    updated = detector().fit(files[:12], groups=groups[:12])
    updated.update(files[12:], groups=groups[12:])
    assert_same(updated, detector().fit(files, groups=groups), groups=["a", "b"] * 4)


@pytest.mark.slow
def test_a_machine_can_be_added(files):
    updated = detector().fit(files[:12], groups=["a"] * 12).update(files[12:], groups=["b"] * 12)
    assert updated.groups_ == ["a", "b"]
    assert_same(updated, detector().fit(files, groups=["a"] * 12 + ["b"] * 12))


def test_sessions_and_domains_join_too(files):
    sessions, domains = [i // 2 for i in range(24)], ["day", "day", "night", "night"] * 6
    updated = detector().fit(files[:12], sessions=sessions[:12], domains=domains[:12])
    updated.update(files[12:], sessions=sessions[12:], domains=domains[12:])
    assert_same(updated, detector().fit(files, sessions=sessions, domains=domains))


@pytest.mark.slow
def test_forgotten_clips_leave_no_trace(files):
    model = detector().fit(files).forget(files[12:])
    assert_same(model, detector().fit(files[:12]))
    assert [entry["action"] for entry in model.updates_] == ["fit", "forget"]
    assert [entry["n_clips"] for entry in model.updates_] == [24, 12]


def test_an_update_and_forgetting_it_lead_back(files):
    model = detector().fit(files[:12])
    expected = model.score_samples(NEW)
    assert_array_equal(model.update(files[12:]).forget(files[12:]).score_samples(NEW), expected)


@pytest.mark.slow
def test_clips_before_a_date_are_replaced(files):
    model = detector().fit(files[:12])
    model.windows_["added"] -= 100
    since = datetime.now() - timedelta(seconds=50)
    model.update(files[12:], replace_before=since)
    assert_same(model, detector().fit(files[12:]))
    assert model.updates_[-1]["replaced_before"].startswith(str(since.astimezone().year))
    model.windows_["added"][:3] -= 100
    model.forget(before=since.isoformat())
    assert model.clip_names_ == detector().fit(files[12:]).clip_names_[3:]


def test_a_false_alarm_that_joins_is_none_any_more():
    clips = [noise(seed) for seed in range(16)]
    humming = [noise(50 + s) + 0.02 * np.sin(np.arange(RATE) / 3).astype("f") for s in range(12)]
    model = detector(map_detector="drop").fit(clips)
    assert (model.predict(humming[6:]) == -1).all()
    model.reference_ = None  # arrays cannot be read again
    with pytest.warns(UserWarning, match="Maps and explanations still compare with the clips bef"):
        model.update(humming[:6])
    assert (model.predict(humming[6:]) == 1).mean() > 0.5


def test_a_network_is_not_trained_again(files):
    labels = ["x", "y"] * 12
    tuned = AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=1), statistics=False, random_state=0)
    model = detector(embedder=tuned, map_detector="drop").fit(files[:12], labels=labels[:12])
    weights = model._features()[0]
    before = model.embeddings_
    model.update(files[12:], labels=labels[12:])
    assert model._features()[0] is weights
    assert_array_equal(model.embeddings_[: len(before)], before)
    assert len(model.embeddings_) == len(model.windows_) == len(model.training_scores_)


def test_clips_of_the_model_are_passed_over_with_their_number(files):
    model = detector().fit(files[:12])
    expected = model.score_samples(NEW)
    with pytest.warns(UserWarning, match="2 of 2 clips are in the model already, and are passed"):
        model.update(files[3:5])
    assert_array_equal(model.score_samples(NEW), expected)
    assert model.updates_[-1]["n_clips"] == 0


def test_maps_stay_where_files_are_gone(files, tmp_path):
    moved = [str(tmp_path / f"{i}.wav") for i in range(12)]
    for i, path in enumerate(moved):
        soundfile.write(path, noise(i), RATE, "FLOAT")
    model = detector().fit(moved)
    maps = model.map_pipeline_
    soundfile.write(moved[3], noise(77), RATE, "FLOAT")  # another recording of that name
    with pytest.warns(UserWarning, match="some of the 12 earlier clips .* can no longer be read"):
        model.update(files[12:])
    assert model.map_pipeline_ is maps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (
            model.offset_ == detector().fit([*moved[:3], noise(3), *moved[4:], *files[12:]]).offset_
        )


def test_what_cannot_be_updated_leaves_the_model_as_it_was(files, tmp_path):
    model = detector().fit(files[:12], groups=["a", "b"] * 6)
    expected, state = model.score_samples(NEW), dict(model.__dict__)
    with pytest.raises(ValueError, match=r"metadata that fit was given: groups. Got none."):
        model.update(files[12:])
    with pytest.raises(ValueError, match=r"Group 'c' has 1 sample"):
        model.update(files[12:13], groups=["c"])
    with pytest.raises(ValueError, match=r"1 of 1 files are not in the model"):
        model.forget([tmp_path / "other.wav"])
    with pytest.raises(ValueError, match=r"Group 'a' has 0|needs at least 3 normal clips"):
        model.forget(files[:11])
    with pytest.raises(ValueError, match=r"A time must be in the ISO format, .* Got 'yesterday'"):
        model.forget(before="yesterday")
    assert model.__dict__ == state
    assert_array_equal(model.score_samples(NEW), expected)


@pytest.mark.slow
def test_a_model_file_keeps_what_was_added_when(files, tmp_path):
    model = detector().fit(files[:12])
    save_model(tmp_path / "m.skano", model)
    again = load_model(tmp_path / "m.skano").update(files[12:])
    save_model(tmp_path / "m.skano", again)
    loaded = load_model(tmp_path / "m.skano")
    assert [entry["n_clips"] for entry in loaded.updates_] == [12, 12]
    assert_same(loaded, detector().fit(files))
    assert_array_equal(loaded.windows_["added"], again.windows_["added"])
