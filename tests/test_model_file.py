"""Model files: what comes back to the bit, and what is refused."""

import errno
import io
import json
import os
import pickle
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import skanopatch
from skanopatch import (
    AnoPatchEmbedder,
    BandStatistics,
    FitOnNormal,
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    PatchKNNDetector,
    SharedSubspace,
    SubbandKNNDetector,
    anomaly_map,
    load_model,
    make_map_pipeline,
    model_file,
    save_model,
)
from skanopatch.files import atomic_write

UNITS = [("fan", i % 2) for i in range(16)]


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).normal(size=(20, 8000)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(clips):
    pipeline = make_pipeline(MelPatcher(duration=0.5), MelStatistics(), KNNDetector())
    return pipeline.fit(clips[:16])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fan.skano"


def fit(clips, *steps, **params):
    pipeline = make_pipeline(MelPatcher(duration=0.5), *steps)
    name = pipeline.steps[-1][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 8 clips a unit place no quantile at 0.1
        return pipeline.fit(clips[:16], **{f"{name}__{key}": v for key, v in params.items()})


def read_members(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(file, members, change=None, **kwargs):
    """Write a model file of members, after a change of its JSON or of them, and return it."""
    header = json.loads(members["model.json"])
    if change is not None:
        change(header, members)
    members["model.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(file, "w", **kwargs) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def estimators_in(value):
    """Go through a fitted estimator and those within."""
    if isinstance(value, BaseEstimator):
        yield value
        value = vars(value)
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from estimators_in(item)


# --- What comes back ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "params"),
    [
        ([MelStatistics(), KNNDetector(2)], {}),
        (
            [MelStatistics(), KNNDetector(normalization="local_density")],
            {"domains": ["source", "target"] * 8},
        ),
        ([BandStatistics(), KNNDetector(normalization="variance_min")], {}),
        ([MelStatistics(), StandardScaler(), KNNDetector(metric="euclidean")], {}),
        ([BandStatistics(), MahalanobisDetector(0.5)], {"domains": ["source", "target"] * 8}),
        ([BandStatistics(), SharedSubspace(), MahalanobisDetector()], {}),
        ([MelStatistics(), GMMDetector(1, random_state=0)], {}),
        ([MelStatistics(), GMMDetector(1, covariance_type="full", random_state=0)], {}),
        ([MelStatistics(), GroupedDetector(MahalanobisDetector())], {"groups": UNITS}),
        ([MelStatistics(), GroupedDetector()], {}),
        ([MelStatistics(), FitOnNormal(KNNDetector(threshold="gamma"))], {}),
    ],
    ids=lambda value: type(value[-1]).__name__ if isinstance(value, list) else "",
)
def test_a_pipeline_scores_as_the_saved_one_to_the_bit(clips, file, steps, params):
    pipeline = fit(clips, *steps, **params)
    save_model(file, pipeline)
    loaded = load_model(file).pipeline
    assert_array_equal(loaded.score_samples(clips), pipeline.score_samples(clips))
    assert_array_equal(loaded.predict(clips), pipeline.predict(clips))
    assert str(loaded.get_params()) == str(pipeline.get_params())
    # And no attribute is forgotten: what `fit` comes to set has to be entered.
    for estimator in estimators_in(pipeline):
        learnt = set(vars(estimator)) - set(estimator.get_params()) - set(model_file._OF_THE_INPUT)
        if learnt and not isinstance(estimator, (Pipeline, GaussianMixture)):
            assert learnt == set(model_file._ATTRIBUTES[type(estimator)])


def test_groups_and_their_names_come_back(clips, file):
    pipeline = fit(clips, MelStatistics(), GroupedDetector(), groups=UNITS)
    save_model(file, pipeline)
    loaded = load_model(file).pipeline[-1]
    embeddings = pipeline[:-1].transform(clips[16:])
    assert list(loaded.detectors_) == [("fan", 0), ("fan", 1)]
    for unit in loaded.detectors_:
        expected = pipeline[-1].score_samples(embeddings, groups=[unit] * 4)
        assert_array_equal(loaded.score_samples(embeddings, groups=[unit] * 4), expected)


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
def test_a_network_and_maps_come_back_to_the_bit(clips, file, tuning):
    embedder = AnoPatchEmbedder(tuning=tuning, max_epochs=1, statistics=False, random_state=0)
    pipeline = make_pipeline(MelPatcher(duration=0.5), embedder, KNNDetector())
    pipeline.fit(clips[:16], anopatchembedder__labels=UNITS)
    maps = make_map_pipeline(melpatcher__duration=0.5, anopatchembedder__random_state=0)
    maps.fit(clips[:16])
    save_model(file, pipeline, map_pipeline=maps)
    loaded = load_model(file)
    assert_array_equal(loaded.pipeline.score_samples(clips), pipeline.score_samples(clips))
    assert_array_equal(anomaly_map(loaded.map_pipeline, clips), anomaly_map(maps, clips))
    assert loaded.pipeline[1].classes_ == embedder.classes_
    names = [name for name in zipfile.ZipFile(file).namelist() if name.startswith("weights/")]
    assert len(names) == (2 if tuning == "lora" else 1)  # the same network is written once


@pytest.mark.parametrize("detector", [PatchKNNDetector(), SubbandKNNDetector(metric="cosine")])
def test_a_detector_of_maps_comes_back_to_the_bit(clips, file, detector):
    rng = np.random.default_rng(1)
    tokens, new = rng.normal(size=(12, 16, 6)), rng.normal(size=(3, 16, 6))
    detector.fit(tokens)
    save_model(file, Pipeline([("detector", detector)]))
    loaded = load_model(file).pipeline[-1]
    for X in (tokens, new):
        assert_array_equal(loaded.anomaly_map(X), detector.anomaly_map(X))
        assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    learnt = set(vars(detector)) - set(detector.get_params()) - {"n_features_in_"}
    assert learnt == set(model_file._ATTRIBUTES[type(detector)])


def test_every_public_estimator_can_be_saved():
    public = (getattr(skanopatch, name) for name in skanopatch.__all__)
    estimators = {x for x in public if isinstance(x, type) and issubclass(x, BaseEstimator)}
    assert estimators <= set(model_file._ATTRIBUTES)


def test_a_file_of_version_1_scores_as_it_did():
    """It was written before statistics knew of `log_unit`; scores as printed then."""
    model = load_model(Path(__file__).parent / "data" / "model_v1.skano")
    rng = np.random.default_rng(0)
    rng.normal(size=(10, 4000))  # what it was fitted on
    scores = model.pipeline.score_samples(rng.normal(size=(3, 4000)).astype(np.float32))
    assert model.pipeline[1].log_unit == model.pipeline[1].log_unit_ == 1.0
    assert_allclose(scores, [-0.8380354, -0.8348554, -0.8796521], rtol=1e-4)


def test_a_file_of_version_2_scores_as_it_did():
    """It was written before Mahalanobis detectors knew of blocks; scores as printed then."""
    model = load_model(Path(__file__).parent / "data" / "model_v2.skano")
    rng = np.random.default_rng(0)
    rng.normal(size=(20, 4000))  # what it was fitted on
    scores = model.pipeline.score_samples(rng.normal(size=(3, 4000)).astype(np.float32))
    assert model.pipeline[-1].block_sizes_ == (model.pipeline[-1].n_features_in_,)
    assert len(model.pipeline[-1].shrinkage_) == 1
    assert_allclose(scores, [-7.995709, -5.895390, -7.150077], rtol=1e-4)


def test_classes_of_version_4_are_taken_to_be_of_one_size(clips, file):
    """It did not say how many clips each class had; what is fitted scores as it did."""
    pipeline = make_pipeline(
        MelPatcher(duration=0.5), BandStatistics(), SharedSubspace(), MahalanobisDetector()
    )
    pipeline.fit(clips[:16], sharedsubspace__labels=[0] * 4 + [1] * 12)
    save_model(file, pipeline)

    def to_version_4(header, members):
        subspace = header["pipeline"]["params"]["steps"][2]["tuple"][1]
        for name in ("class_sizes_", "marks_"):
            del members[subspace["fitted"].pop(name)["array"]]
        del subspace["fitted"]["distance_optimism_"]
        header["version"] = 4

    rewrite(file, read_members(file), to_version_4)
    loaded = load_model(file).pipeline
    assert_array_equal(loaded.score_samples(clips), pipeline.score_samples(clips))
    assert_array_equal(loaded[2].seen_clips().class_sizes, [8, 8])
    assert_array_equal(pipeline[2].seen_clips().class_sizes, [4, 12])
    assert loaded[2].seen_clips().marks is None
    save_model(file, loaded)  # a file of this version, which still does not know
    assert load_model(file).pipeline[2].seen_clips() == loaded[2].seen_clips()


def test_normal_clips_come_back_with_their_embeddings(clips, fitted, file):
    embeddings = fitted[:-1].transform(clips[:2])
    save_model(file, fitted, clips=[Path("a.wav"), "b.wav"], embeddings=embeddings)
    model = load_model(file)
    assert model.clips == ("a.wav", "b.wav")
    assert model.embeddings.dtype == np.float32
    assert_array_equal(model.embeddings, embeddings)
    assert model.map_pipeline is None
    assert model.version == skanopatch.__version__
    assert model.created.endswith("+00:00")
    with pytest.raises(ValueError, match=r"one row per clip. Got 2 rows for 1 clips"):
        save_model(file, fitted, clips=["a.wav"], embeddings=embeddings)


def test_what_belongs_to_the_machine_stays_there(clips, file, tmp_path):
    steps = MelPatcher(duration=0.5, n_jobs=1), MelStatistics(), KNNDetector()
    pipeline = make_pipeline(*steps, memory=str(tmp_path / "cache")).fit(clips)
    save_model(file, pipeline)
    loaded = load_model(file).pipeline
    assert loaded.memory is None
    assert loaded[0].n_jobs is None
    assert loaded[0].duration == 0.5


def test_scalars_keep_their_types_and_arrays_their_order(file, fitted, clips):
    pipeline = fit(clips, MelStatistics(), KNNDetector())
    detector = pipeline[-1]
    detector.offset_ = np.float64(detector.offset_)
    detector.bank_ = np.asfortranarray(detector.bank_)
    save_model(file, pipeline)
    loaded = load_model(file).pipeline[-1]
    assert type(loaded.offset_) is np.float64
    assert loaded.bank_.flags.f_contiguous
    assert loaded.bank_.dtype == detector.bank_.dtype


# --- What cannot be saved -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "error", "message"),
    [
        (make_pipeline(MelPatcher(), KNNDetector()), NotFittedError, "not fitted yet"),
        (KNNDetector(), ValueError, "of save_model must be a Pipeline. Got KNNDetector()"),
        (None, ValueError, "'pipeline' parameter of save_model must be a Pipeline. Got None"),
    ],
)
def test_only_fitted_pipelines_are_saved(file, pipeline, error, message):
    with pytest.raises(error, match=message):
        save_model(file, pipeline)
    assert not file.exists()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([PCA(2), KNNDetector()], r"pipeline.steps\[2\]\[1\] must consist of.*Got PCA"),
        (
            [KNNDetector(random_state=np.random.RandomState(0))],
            r"steps\[2\]\[1\].random_state must consist of.*Got RandomState",
        ),
    ],
)
def test_what_the_form_does_not_know_is_named(clips, file, steps, message):
    with pytest.raises(ValueError, match=message):
        save_model(file, fit(clips, MelStatistics(), *steps))
    assert list(file.parent.iterdir()) == []


# --- What is refused ------------------------------------------------------------------------


@pytest.fixture
def forge(fitted, file):
    """Save a model and return what writes it anew, with other members or JSON."""
    save_model(file, fitted)
    members = read_members(file)
    return lambda change=None, **kwargs: rewrite(file, members, change, **kwargs)


def detector_of(header):
    steps = header["pipeline"]["params"]["steps"]
    return steps[-1]["tuple"][1]


def bank_of(header):
    return detector_of(header)["fitted"]["bank_"]["array"]


class Bomb:
    """What touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(forge, tmp_path):
    hit = tmp_path / "hit"

    def change(header, members):
        file = io.BytesIO()
        np.save(file, np.array([Bomb(hit)], dtype=object), allow_pickle=True)
        members[bank_of(header)] = file.getvalue()

    with pytest.raises(ValueError, match="holds Python objects, which are not read"):
        load_model(forge(change))
    (tmp_path / "pickle.skano").write_bytes(pickle.dumps(Bomb(hit)))
    with pytest.raises(ValueError, match="is not a model file of skanopatch, or it is damaged"):
        load_model(tmp_path / "pickle.skano")
    assert not hit.exists()


def test_a_member_is_never_unpacked_to_where_its_name_says(forge, tmp_path):
    def refer(header, members):
        members["../outside.npy"] = members.pop(bank_of(header))
        detector_of(header)["fitted"]["bank_"] = {"array": "../outside.npy"}

    load_model(forge(refer))  # a name like any other
    assert not (tmp_path.parent / "outside.npy").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, m: h.update(version=7), r"one of \[1, 2, 3, 4, 5, 6\]. Got 7 instead; a later"),
        (lambda h, m: h.update(version=[1]), r"one of \[1, 2, 3, 4, 5, 6\]. Got \[1\] instead"),
        (lambda h, m: h.update(format="other"), "is not the file of a model: it has no format="),
        (lambda h, m: h.pop("created"), r"lacks \['created'\]"),
        (lambda h, m: h.update(more=1), r"has the unknown \['more'\]"),
        (lambda h, m: detector_of(h).update({"class": "os.system"}), "unknown class 'os.system'"),
        (lambda h, m: detector_of(h).update({"class": ["x"]}), "is damaged: unhashable"),
        (lambda h, m: detector_of(h).pop("fitted"), r"KNNDetector of .* lacks \['fitted'\]"),
        (
            lambda h, m: detector_of(h)["fitted"].update({"offset_": "x"}),
            "offset_ of KNNDetector of .*fan.skano' must be a finite number",
        ),
        (
            lambda h, m: h["pipeline"]["params"]["steps"][0]["tuple"][1]["fitted"].update(
                {"duration_": None}
            ),
            "duration_ of MelPatcher of .*fan.skano' must be a finite number",
        ),
        (
            lambda h, m: detector_of(h)["fitted"].pop("offset_"),
            r"Fitted of KNNDetector of .*fan.skano' lacks \['offset_'\]",
        ),
        (
            lambda h, m: detector_of(h)["fitted"].update(predict=1),
            r"Fitted of KNNDetector of .* has the unknown \['predict'\]",
        ),
        (
            lambda h, m: detector_of(h)["fitted"].update(__class__=1),
            r"has the unknown \['__class__'\]",
        ),
        (lambda h, m: detector_of(h)["params"].pop("metric"), r"Params of .* lacks \['metric'\]"),
        (
            lambda h, m: detector_of(h)["params"].update(metric="l1"),
            "The 'metric' parameter of KNNDetector must be",
        ),
        (lambda h, m: detector_of(h).update(fitted=[1]), r"must have names. Got \[1\] instead"),
        (lambda h, m: detector_of(h)["params"].update(metric={"eval": "1"}), r"kind: \['eval'\]"),
        (lambda h, m: m.pop(bank_of(h)), r"fan.skano' lacks 'arrays/\d+.npy'"),
        (lambda h, m: m.update({"../evil": b""}), r"has the unknown \['../evil'\]"),
        (lambda h, m: m.update({bank_of(h): b"\x93NUMPY\x01\x00"}), r"\d+.npy of .* is damaged"),
        (lambda h, m: h.update(pipeline={"array": 3}), "fan.skano' lacks 3"),
        (lambda h, m: h.update(clips={"names": 3, "embeddings": None}), "is damaged: 'int' object"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(forge, change, message):
    with pytest.raises(ValueError, match=message):
        load_model(forge(change))


def test_sizes_that_a_file_only_claims_are_refused(forge, file):
    def huge(header, members):
        content = io.BytesIO()
        shape = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(content, shape)
        members[bank_of(header)] = content.getvalue()

    with pytest.raises(ValueError, match=r"its shape \(1000000000000,\) is not that of its data"):
        load_model(forge(huge))

    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", b" " * 10**7)
    assert file.stat().st_size < 20_000
    with pytest.raises(ValueError, match="must hold plain members only, not compressed"):
        load_model(file)

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.json", b"{}")
        archive.getinfo("model.json").file_size = 2**31
    with pytest.raises(ValueError, match="its members are larger than the file"):
        load_model(file)


def test_json_without_end_is_refused(forge, file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.json", b"[" * 10**6)
    with pytest.raises(ValueError, match=r"model.json in .* is damaged: maximum recursion"):
        load_model(file)


def test_a_damaged_file_is_named(fitted, file, tmp_path):
    save_model(file, fitted)
    content = file.read_bytes()
    for part in (b"", b"no model at all", content[:-30]):
        file.write_bytes(part)
        with pytest.raises(ValueError, match=r"fan.skano' is not a model file of skanopatch, or"):
            load_model(file)
    middle = content.index(b"NUMPY") + 200  # within the data of the first array
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(ValueError, match="Bad CRC-32"):
        load_model(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<p/>")
    with pytest.raises(ValueError, match=r"is not a model file of skanopatch: no model.json"):
        load_model(file)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.skano")
    with pytest.raises(IsADirectoryError):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.update(backbone_sha256="0" * 64), "must come with its backbone"),
        (lambda saved: saved["network"].update(backbone="hf_hub:a/b"), "must come with its"),
        (
            lambda saved: saved["network"].update(
                backbone="hf_hub:a/b", config={"architecture": "hf-hub:a/b", "model_args": {}}
            ),
            "timm has no model 'hf-hub:a/b'",
        ),
    ],
)
def test_a_file_makes_nothing_be_fetched(clips, file, monkeypatch, change, message):
    def fetch(*args, **kwargs):
        raise AssertionError("a file made us download")

    monkeypatch.setattr("skanopatch.backbones.hub.hf_hub_download", fetch)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fetch)
    pipeline = make_pipeline(MelPatcher(duration=0.5), AnoPatchEmbedder(), KNNDetector())
    save_model(file, pipeline.fit(clips))
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["model.json"])
    change(header["pipeline"]["params"]["steps"][1]["tuple"][1]["embedder"])
    members["model.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=message):
        load_model(file)


# --- Files that are whole or not there ------------------------------------------------------


@pytest.mark.parametrize("n_members", [0, 3])
def test_an_interrupted_save_leaves_what_was_there(fitted, file, monkeypatch, n_members):
    write = zipfile.ZipFile.writestr
    written = []

    def interrupt(self, *args):
        if len(written) == n_members:
            raise KeyboardInterrupt
        written.append(args)
        write(self, *args)

    file.write_text("what was there")
    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(file, fitted)
    assert file.read_text() == "what was there"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("moment", ["open", "replace"])
def test_an_interrupt_around_writing_leaves_no_temporary_file(tmp_path, monkeypatch, moment):
    method = getattr(Path, moment)

    def interrupt(self, *args):
        method(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, moment, interrupt)
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.csv") as file:
        file.write(b"whole")
    expected = {"open": [], "replace": ["a.csv"]}[moment]
    assert [path.name for path in tmp_path.iterdir()] == expected


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path):
    with atomic_write(tmp_path / "a.csv") as file:
        file.write(b"1")
        assert not (tmp_path / "a.csv").exists()
    (tmp_path / "b.csv").write_text("1")
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "b.csv").stat().st_mode


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(FileNotFoundError) as error, atomic_write(tmp_path / "gone" / "a.csv"):
        pass
    assert error.value.filename == str(tmp_path / "gone" / "a.csv")
    with pytest.raises(OSError, match="No space left") as error, atomic_write(tmp_path / "a.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "a.csv")


@pytest.mark.skipif(
    os.name != "posix", reason="Windows has no named pipes in folders and no links for everyone"
)
def test_links_are_followed_and_pipes_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"1"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(tmp_path / "pipe") as file:
        file.write(b"2")
    assert os.read(reader, 10) == b"2"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
