"""Evaluation on miniatures of DCASE: what is fitted on what, numbers, cache and files."""

import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skanopatch import (
    AnomalousSoundDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    evaluate_dcase,
)
from skanopatch.datasets import load_dcase, make_miniature_dcase, read_challenge_files
from skanopatch.metrics import dcase_scores

MACHINES = ["fan", "valve", "bandsaw"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_miniature_dcase(
        tmp_path_factory.mktemp("dcase"), year=2023, machines=MACHINES, n_test=3, random_state=0
    )


@pytest.fixture(autouse=True)
def _forget():
    BandLevels.fits.clear()
    LevelDetector.fits.clear()
    BandLevels.embedded.clear()
    SpyDetector.fits.clear()


class BandLevels(TransformerMixin, BaseEstimator):
    """Level of a clip in bands; keeps what it is given."""

    fits: list = []
    embedded: list = []

    def __init__(self, n_bands=8):
        self.n_bands = n_bands

    def fit(self, X, y=None, labels=None):
        self.fits.append((list(X), labels))
        self.fitted_ = True
        return self

    def transform(self, X):
        self.embedded.extend(X)
        spectra = [np.abs(np.fft.rfft(soundfile.read(path)[0])) for path in X]
        return np.log([[band.mean() for band in np.array_split(s, self.n_bands)] for s in spectra])


class LevelsInATable(BandLevels):
    def transform(self, X):
        return pd.DataFrame(super().transform(X)).add_prefix("band")


class SpyDetector(KNNDetector):
    fits: list = []

    def fit(self, X, y=None, *, domains=None, sessions=None):
        self.fits.append((len(X), None if domains is None else list(domains)))
        return super().fit(X, y, domains=domains, sessions=sessions)


class LevelDetector(BaseEstimator):
    """Scores clips, not embeddings: by their distance to the mean of the bands' levels."""

    fits: list = []

    def fit(self, X, y=None, labels=None, domains=None):
        self.fits.append((list(X), labels, domains))
        self.mean_ = levels_of(X).mean(axis=0)
        return self

    def score_samples(self, X):
        return -np.linalg.norm(levels_of(X) - self.mean_, axis=1)

    def predict(self, X):
        return np.where(self.score_samples(X) < -1.0, -1, 1)


class LevelDetectorOfGroups(LevelDetector):
    """Fitted once, on the clips of all groups."""

    def fit(self, X, y=None, labels=None, domains=None, groups=None):
        self.fits.append((list(X), labels, domains, list(groups)))
        levels, groups = levels_of(X), np.array(groups)
        self.means_ = {group: levels[groups == group].mean(axis=0) for group in set(groups)}
        return self

    def score_samples(self, X, groups=None):
        means = np.array([self.means_[group] for group in groups])
        return -np.linalg.norm(levels_of(X) - means, axis=1)

    def predict(self, X, groups=None):
        return np.where(self.score_samples(X, groups) < -1.0, -1, 1)


def levels_of(paths):
    return BandLevels().transform(paths)


def pipe(detector=None):
    return make_pipeline(
        BandLevels(), KNNDetector(metric="euclidean") if detector is None else detector
    )


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_numbers_are_those_of_doing_it_by_hand(root):
    evaluation = evaluate_dcase(pipe(), root, year=2023, machine=["fan", "valve"])
    tables = []
    for machine in ("fan", "valve"):
        train = load_dcase(root, year=2023, machine=machine, split="train")
        test = load_dcase(root, year=2023, machine=machine, split="test")
        detector = KNNDetector(metric="euclidean")
        detector.fit(levels_of(train.paths), domains=train.domain)
        embeddings = levels_of(test.paths)
        # GroupedDetector divides by a number and adds another: the order stays as it is.
        tables.append(
            pd.DataFrame(
                {
                    "machine": machine,
                    "path": test.paths,
                    "y": test.y,
                    "domain": test.domain,
                    "score": detector.anomaly_score(embeddings),
                    "decision": (detector.predict(embeddings) == -1).astype(int),
                }
            )
        )
    by_hand = pd.concat(tables, ignore_index=True)
    expected = dcase_scores(
        by_hand.y,
        by_hand.score,
        machine=by_hand.machine,
        section=np.zeros(len(by_hand), int),
        domain=by_hand.domain,
        year=2023,
    )
    assert evaluation.scores.official == pytest.approx(expected.official, abs=1e-12)
    assert evaluation.scores.official > 0.6  # the miniature's faults are strong
    assert_array_equal(evaluation.clips.path, by_hand.path)
    assert_array_equal(evaluation.clips.decision, by_hand.decision)
    for (machine, y), part in by_hand.groupby(["machine", "y"]):
        column = {1: "false_alarm_rate", -1: "detection_rate"}[y]
        assert evaluation.rates[column][machine, 0] == part.decision.mean()
    assert "false_alarm_rate" in str(evaluation)
    assert f"official score 2023: {expected.official:.4f} ±" in str(evaluation)


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_one_embedder_is_told_labels_and_each_detector_its_domains(root):
    evaluate_dcase(pipe(SpyDetector()), root, year=2023, machine=["fan", "valve"])
    [(paths, labels)] = BandLevels.fits
    train = load_dcase(root, year=2023, machine=["fan", "valve"], split="train")
    assert paths == train.paths.tolist()
    assert labels == train.label.tolist()
    assert len(set(labels)) > 2  # attributes are part of them
    domains = [train.domain[train.machine == machine].tolist() for machine in ("fan", "valve")]
    assert SpyDetector.fits == [(12, own) for own in domains]
    assert domains[0].count("target") == 2

    SpyDetector.fits.clear()
    grouped = GroupedDetector(SpyDetector())
    evaluate_dcase(pipe(grouped), root, year=2023, machine="fan", domains=False)
    assert SpyDetector.fits == [(12, None)]
    evaluate_dcase(pipe(IsolationForest(random_state=0)), root, year=2023, machine="fan")


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
@pytest.mark.parametrize("detector", [LevelDetector(), make_pipeline(LevelDetector())])
def test_a_detector_that_is_no_pipeline_is_fitted_for_each_section(root, detector):
    machines = ["fan", "valve"]
    evaluation = evaluate_dcase(detector, root, year=2023, machine=machines)
    train = load_dcase(root, year=2023, machine=machines, split="train")
    test = load_dcase(root, year=2023, machine=machines, split="test")
    assert evaluation.clips.path.tolist() == test.paths.tolist()
    for (paths, labels, domains), machine in zip(LevelDetector.fits, machines, strict=True):
        ours = train.machine == machine
        assert paths == train.paths[ours].tolist()
        assert labels == train.label[ours].tolist()
        assert domains == train.domain[ours].tolist()
        mean = levels_of(paths).mean(axis=0)
        found = evaluation.clips[evaluation.clips.machine == machine]
        expected = np.linalg.norm(levels_of(found.path) - mean, axis=1)
        np.testing.assert_allclose(found.anomaly_score, expected, rtol=1e-12)
        assert_array_equal(found.decision, expected > 1.0)
        rate = found.decision[found.y == 1].mean()
        assert evaluation.rates.false_alarm_rate[machine, 0] == rate


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_extra_clips_train_the_embedder_and_no_detector(root, tmp_path):
    clips = load_dcase(root, year=2023, subset="development")
    train = clips.paths[clips.split == "train"]
    extra, labels = clips.paths[clips.split == "test"][:3].tolist(), ["a", "a", "b"]
    spied = pipe(SpyDetector())
    options = {"year": 2023, "cache": tmp_path}
    evaluate_dcase(spied, root, **options, extra_clips=extra, extra_labels=labels)
    ((paths, told),) = BandLevels.fits
    assert paths == [*train, *extra]
    assert told == [*clips.label[clips.split == "train"], *labels]
    assert sum(n_clips for n_clips, _ in SpyDetector.fits) == len(train)
    evaluate_dcase(spied, root, **options, extra_clips=extra, extra_labels=["a", "b", "b"])
    evaluate_dcase(spied, root, **options)
    assert len(BandLevels.fits) == 3  # other labels, and no extra clips, are other embedders
    evaluate_dcase(spied, root, **options, extra_clips=extra, extra_labels=labels)
    assert len(BandLevels.fits) == 3
    with pytest.raises(ValueError, match=r"one label per extra clip\. Got 1 labels for 3 clips"):
        evaluate_dcase(spied, root, year=2023, extra_clips=extra, extra_labels=["a"])
    with pytest.raises(ValueError, match=r"extra_clips need a Pipeline.* Got SpyDetector\(\) inst"):
        evaluate_dcase(SpyDetector(), root, year=2023, extra_clips=extra, extra_labels=labels)


def test_a_detector_that_takes_groups_is_fitted_once(root):
    arguments = {"year": 2023, "machine": ["fan", "valve"]}
    once = evaluate_dcase(LevelDetectorOfGroups(), root, domains=False, **arguments)
    [(paths, _, domains, groups)] = LevelDetector.fits
    assert len(paths) == 24
    assert domains is None
    assert groups == ["fan/00"] * 12 + ["valve/00"] * 12
    each = evaluate_dcase(LevelDetector(), root, **arguments)
    pd.testing.assert_frame_equal(once.clips, each.clips)


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_scores_of_a_detector_that_is_no_pipeline_are_kept(root, tmp_path):
    arguments = {"year": 2023, "machine": "fan", "cache": tmp_path}
    first = evaluate_dcase(LevelDetector(), root, **arguments)
    again = evaluate_dcase(LevelDetector(), root, **arguments)
    assert len(LevelDetector.fits) == 1
    pd.testing.assert_frame_equal(first.clips, again.clips)
    evaluate_dcase(LevelDetector(), root, domains=False, **arguments)
    assert len(LevelDetector.fits) == 2


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning", "ignore:labels have:UserWarning")
def test_the_whole_recipe_is_evaluated(root):
    model = AnomalousSoundDetector(
        MelPatcher(duration=1.0), embedder="drop", map_detector="drop", random_state=0
    )
    arguments = {"year": 2023, "machine": ["fan", "valve"]}
    clips = evaluate_dcase(model, root, domains=False, **arguments).clips
    train = load_dcase(root, split="train", **arguments)
    groups = [f"{machine}/00" for machine in train.machine]
    model.fit(train.paths, groups=groups, labels=train.label)
    groups = [f"{machine}/00" for machine in clips.machine]
    expected = model.anomaly_score(clips.path, groups=groups)
    np.testing.assert_allclose(clips.anomaly_score, expected, rtol=1e-9)
    assert_array_equal(clips.decision, model.predict(clips.path, groups=groups) == -1)


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_a_second_detector_embeds_nothing(root, tmp_path):
    arguments = {"year": 2023, "machine": ["fan", "valve"], "cache": tmp_path / "cache"}
    first = evaluate_dcase(pipe(), root, **arguments)
    assert len(BandLevels.embedded) == 2 * (12 + 12)
    again = evaluate_dcase(pipe(), root, **arguments)
    evaluate_dcase(pipe(MahalanobisDetector()), root, domains=False, **arguments)
    assert len(BandLevels.embedded) == 2 * (12 + 12)
    assert len(BandLevels.fits) == 1
    pd.testing.assert_frame_equal(first.clips, again.clips)
    uncached = evaluate_dcase(pipe(), root, year=2023, machine=["fan", "valve"])
    pd.testing.assert_frame_equal(first.clips, uncached.clips)


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_embeddings_in_a_table_are_scored_alike_with_and_without_a_cache(root, tmp_path):
    expected = evaluate_dcase(pipe(), root, year=2023, machine="fan").clips
    steps = make_pipeline(LevelsInATable(), KNNDetector(metric="euclidean"))
    for cache in (None, tmp_path, tmp_path):
        found = evaluate_dcase(steps, root, year=2023, machine="fan", cache=cache).clips
        pd.testing.assert_frame_equal(found, expected)


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_all_steps_before_the_detector_embed_and_are_fitted_on_all_machines(root):
    machines = ["fan", "valve"]
    steps = make_pipeline(BandLevels(), StandardScaler(), PCA(3), KNNDetector(metric="euclidean"))
    evaluation = evaluate_dcase(steps, root, year=2023, machine=machines)
    train = load_dcase(root, year=2023, machine=machines, split="train")
    embedder = make_pipeline(StandardScaler(), PCA(3)).fit(levels_of(train.paths))
    for machine in machines:
        own = train.machine == machine
        alone = KNNDetector(metric="euclidean").fit(
            embedder.transform(levels_of(train.paths[own])), domains=train.domain[own]
        )
        found = evaluation.clips[evaluation.clips.machine == machine]
        embedded = embedder.transform(levels_of(found.path))
        assert_array_equal(
            np.argsort(found.anomaly_score), np.argsort(alone.anomaly_score(embedded))
        )
        assert_array_equal(found.decision, alone.predict(embedded) == -1)


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_other_parameters_and_other_files_are_embedded_anew(root, tmp_path):
    cache = tmp_path / "cache"
    copy = make_miniature_dcase(
        tmp_path / "copy", year=2023, machines=["fan"], n_test=1, random_state=0
    )
    arguments = {"year": 2023, "machine": "fan", "domains": False, "cache": cache}
    evaluate_dcase(pipe(), copy, **arguments)
    evaluate_dcase(make_pipeline(BandLevels(n_bands=4), KNNDetector()), copy, **arguments)
    assert len(BandLevels.fits) == 2
    test = next((copy / "fan" / "test").glob("*anomaly*"))
    samples, rate = soundfile.read(test)
    before = evaluate_dcase(pipe(), copy, **arguments)
    soundfile.write(test, samples[::-1] * np.linspace(0, 1, len(samples)), rate, subtype="PCM_16")
    after = evaluate_dcase(pipe(), copy, **arguments)
    assert len(BandLevels.fits) == 2  # the clips to train on are the same
    changed = before.clips.anomaly_score != after.clips.anomaly_score
    assert before.clips.path[changed].tolist() == [str(test)]
    train = next((copy / "fan" / "train").glob("*.wav"))
    soundfile.write(train, samples[::-1], rate, subtype="PCM_16")
    evaluate_dcase(pipe(), copy, **arguments)
    assert len(BandLevels.fits) == 3


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_an_interrupted_evaluation_goes_on_with_the_machine_it_was_at(root, tmp_path, monkeypatch):
    arguments = {"year": 2023, "machine": ["fan", "valve"], "cache": tmp_path}
    transform = BandLevels.transform

    def interrupted(self, X):
        if any("valve" in path for path in X):
            raise KeyboardInterrupt
        return transform(self, X)

    with monkeypatch.context() as patch:
        patch.setattr(BandLevels, "transform", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate_dcase(pipe(), root, **arguments)
    assert {path.split("/")[-3] for path in BandLevels.embedded} == {"fan"}
    BandLevels.embedded.clear()
    resumed = evaluate_dcase(pipe(), root, **arguments)
    assert {path.split("/")[-3] for path in BandLevels.embedded} == {"valve"}
    assert len(BandLevels.fits) == 1
    assert not list(tmp_path.rglob("*.part"))
    whole = evaluate_dcase(pipe(), root, year=2023, machine=["fan", "valve"])
    pd.testing.assert_frame_equal(resumed.clips, whole.clips)


def test_evaluation_sets_are_scored_with_and_without_their_truth(root, tmp_path):
    arguments = {"year": 2023, "machine": "bandsaw", "subset": "evaluation"}
    blind = evaluate_dcase(pipe(), root, **arguments)
    assert blind.scores is None
    assert str(blind).startswith("12 clips of DCASE 2023 Task 2 were scored. Their labels are unk")
    blind.write(tmp_path / "blind")
    known = evaluate_dcase(pipe(), root, ground_truth=root / "evaluator", **arguments)
    assert_array_equal(known.clips.anomaly_score, blind.clips.anomaly_score)

    # What the official evaluator would read gives the number that was printed.
    files = read_challenge_files(
        tmp_path / "blind" / "challenge",
        names=known.clips.name,
        machine=known.clips.machine,
        section=known.clips.section,
    )
    scores = dcase_scores(
        known.clips.y,
        files.anomaly_score,
        machine=files.machine,
        section=files.section,
        domain=known.clips.domain,
        year=2023,
    )
    assert scores.official == known.scores.official
    assert_array_equal(files.decision, known.clips.decision)


@pytest.fixture(scope="module")
def root_of_sections(tmp_path_factory):
    return make_miniature_dcase(
        tmp_path_factory.mktemp("sections"),
        year=2021,
        machines=["fan", "valve"],
        n_test=1,
        random_state=0,
    )


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
@pytest.mark.parametrize("kind", ["pipeline", "groups", "each"])
def test_sections_are_judged_by_their_own_normal_clips(root_of_sections, kind):
    root, arguments = root_of_sections, {"year": 2021, "machine": ["fan", "valve"]}
    detector = {
        "pipeline": pipe(),
        "groups": LevelDetectorOfGroups(),
        "each": make_pipeline(LevelDetector()),
    }[kind]
    evaluation = evaluate_dcase(detector, root, **arguments)
    clips = evaluation.clips
    assert list(clips.columns) == [
        "path", "machine", "section", "domain", "y", "anomaly_score", "decision", "name",
    ]  # fmt: skip
    data = load_dcase(root, subset="development", **arguments)
    levels = levels_of(data.paths)
    is_train = data.split == "train"
    sections = sorted(set(zip(data.machine.tolist(), data.section.tolist(), strict=True)))
    assert len(sections) == 6
    for machine, section in sections:
        own = (data.machine == machine) & (data.section == section)
        train, test = own & is_train, own & (data.split == "test")
        found = clips[(clips.machine == machine) & (clips.section == section)]
        assert found.path.tolist() == data.paths[test].tolist()
        if kind == "pipeline":
            alone = KNNDetector(metric="euclidean").fit(levels[train], domains=data.domain[train])
            distances, decisions = alone.anomaly_score(levels[test]), alone.predict(levels[test])
            assert_array_equal(np.argsort(found.anomaly_score), np.argsort(distances))
            assert_array_equal(found.decision, decisions == -1)
        else:
            mean = levels[train].mean(axis=0)
            distances = np.linalg.norm(levels[test] - mean, axis=1)
            np.testing.assert_allclose(found.anomaly_score, distances, rtol=1e-9)
            assert_array_equal(found.decision, distances > 1)
        rates = evaluation.rates.loc[machine, section]
        assert list(rates.index) == ["false_alarm_rate", "detection_rate"]
        assert rates.false_alarm_rate == found.decision[found.y == 1].mean()
        assert rates.detection_rate == found.decision[found.y == -1].mean()
    assert_array_equal(clips.y, data.y[data.split == "test"])
    assert_array_equal(clips.domain, data.domain[data.split == "test"])
    assert clips.name.tolist() == [path.split("/")[-1] for path in clips.path]
    assert len(evaluation.scores.per_section) == 6
    assert evaluation.year == evaluation.scores.year == 2021
    assert evaluation.rates.columns.name is None


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_supplemental_clips_are_neither_embedded_nor_scored(tmp_path):
    root = make_miniature_dcase(tmp_path, year=2025, machines=["fan"], n_test=1, random_state=0)
    data = load_dcase(root, year=2025, machine="fan", subset="development")
    supplemental = data.paths[data.split == "supplemental"]
    assert len(supplemental) > 0
    BandLevels.embedded.clear()
    evaluation = evaluate_dcase(pipe(), root, year=2025, machine="fan")
    assert not set(supplemental) & set(BandLevels.embedded)
    assert evaluation.clips.path.tolist() == data.paths[data.split == "test"].tolist()
    ((paths, _),) = BandLevels.fits
    assert paths == data.paths[data.split == "train"].tolist()


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
@pytest.mark.parametrize(
    ("detector", "bars"),
    [(None, ["embedding"]), (LevelDetector(), ["sections"]), (LevelDetectorOfGroups(), [])],
)
def test_progress_is_shown_if_it_is_asked_for(root, capfd, detector, bars):
    detector = pipe() if detector is None else detector
    for verbose in (0, 1):
        evaluate_dcase(detector, root, year=2023, machine=["fan", "valve"], verbose=verbose)
        shown = capfd.readouterr().err
        for bar in ("embedding", "sections"):
            assert (f"{bar}: 100%" in shown) is (bool(verbose) and bar in bars)
        if verbose and bars:
            assert "2/2" in shown


def test_labels_of_extra_clips_need_their_clips(root):
    with pytest.raises(ValueError, match="Got 2 labels for 0 clips"):
        evaluate_dcase(pipe(), root, year=2023, extra_labels=["a", "b"])
    with pytest.raises(ValueError, match="Got 0 labels for 1 clips"):
        evaluate_dcase(pipe(), root, year=2023, extra_clips=["a.wav"])
    with pytest.raises(ValueError, match="extra_clips need a Pipeline, whose steps before the"):
        evaluate_dcase(
            make_pipeline(LevelDetector()), root, year=2023, extra_clips=["a"], extra_labels=["a"]
        )


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_tables_are_written(root, tmp_path):
    evaluation = evaluate_dcase(pipe(), root, year=2023, machine=["fan", "valve"])
    evaluation.write(tmp_path)
    sections = pd.read_csv(tmp_path / "per_section.csv", index_col=["machine", "section"])
    machines = pd.read_csv(tmp_path / "per_machine.csv", index_col="machine")
    scores = evaluation.scores
    assert_close = partial(assert_allclose, rtol=1e-15)  # older pandas reads the last digit amiss
    assert_close(sections.auc_source["valve", 0], scores.per_section.auc_source["valve", 0])
    assert_close(sections.detection_rate["fan", 0], evaluation.rates.detection_rate["fan", 0])
    assert_close(machines.official["fan"], scores.per_machine.official["fan"])
    assert len(pd.read_csv(tmp_path / "clips.csv")) == 24
    assert len(list((tmp_path / "challenge").iterdir())) == 4


@pytest.mark.filterwarnings("ignore:.* lacks:UserWarning")
def test_wrong_input_is_named(root, tmp_path):
    message = (
        "The 'detector' parameter of evaluate_dcase must be a detector of clips, such as a "
        "Pipeline of clips to embeddings to a detector or AnomalousSoundDetector(). Got "
        "BandLevels() instead."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        evaluate_dcase(BandLevels(), root, year=2023)
    for missing in ("fit", "score_samples", "predict"):
        names = {"fit", "score_samples", "predict"} - {missing}
        detector = type("Half", (BaseEstimator,), {name: lambda self, X: None for name in names})
        with pytest.raises(TypeError, match=r"Got Half\(\) instead"):
            evaluate_dcase(detector(), root, year=2023)
    copy = make_miniature_dcase(
        tmp_path,
        year=2023,
        machines=["valve", "fan", "slider"],
        n_train=2,
        n_test=1,
        random_state=0,
    )
    for machine in ("fan", "valve"):
        for path in (copy / machine / "train").iterdir():
            path.unlink()
    message = f"'{copy}' has no clips to train on of fan/00, valve/00."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evaluate_dcase(pipe(), copy, year=2023, machine=["valve", "fan", "slider"])
