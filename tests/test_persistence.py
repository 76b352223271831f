"""Model files: what comes back to the bit, what is refused, and what reading does not do."""

import contextlib
import errno
import io
import json
import os
import pickle
import random
import stat
import subprocess
import sys
import time
import warnings
import zipfile
from importlib import import_module
from pathlib import Path, PosixPath

import numpy as np
import pytest
import sklearn
import torch
from mini_beats import save_mini_beats
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

import skanopatch
from skanopatch import (
    AnoPatchEmbedder,
    BandStatistics,
    FineTuning,
    FitOnNormal,
    GMMDetector,
    GroupedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    anomaly_map,
    make_map_pipeline,
    patchify,
)
from skanopatch.files import atomic_write
from skanopatch.persistence.encoding import OTHER_CLASSES, class_named
from skanopatch.persistence.header import read_header
from skanopatch.persistence.model_files import load_model, save_model

UNITS = [("fan", i % 2) for i in range(16)]
LABELS = [
    *("fan", "1", 1, 2.5, float("inf"), None, True, ("fan", 0, None), frozenset(["fan"]), b"fan"),
    *(np.int64(7), np.float32(0.1), np.str_("pump"), (np.int64(1), np.str_("pump")), 10**30),
]


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).normal(size=(20, 8000)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(clips):
    return fit(clips, MelStatistics(), KNNDetector())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fan.skano"


@pytest.fixture
def forge(fitted, file):
    """Save a model, and return a function that changes its members and writes it again."""
    save_model(file, fitted)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def forge(change, **kwargs):
        schema, header = json.loads(members["model.json"]), json.loads(members["skanopatch.json"])
        changed = dict(members)
        change(schema, header, changed)
        texts = {"model.json": json.dumps(schema), "skanopatch.json": json.dumps(header)}
        with zipfile.ZipFile(file, "w", **kwargs) as archive:
            for name, content in {**changed, **texts}.items():
                archive.writestr(name, content)
        return file

    return forge


def fit(clips, *steps, **params):
    pipeline = make_pipeline(MelPatcher(duration=0.5), *steps)
    name = pipeline.steps[-1][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 8 clips a unit are few for a threshold
        return pipeline.fit(clips[:16], **{f"{name}__{key}": v for key, v in params.items()})


def detector_of(schema):
    """Return the attributes of the last step."""
    return schema["state"]["steps"][-1]["tuple"][1]["state"]


def array_of(schema):
    """Return the code of an array of the last step."""
    codes = detector_of(schema).values()
    return next(code for code in codes if isinstance(code, dict) and "array" in code)


# --- What comes back ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "params"),
    [
        ([MelStatistics(), KNNDetector(2, metric="euclidean")], {}),
        ([MelStatistics(), StandardScaler(), KNNDetector()], {}),
        ([MelStatistics(), FunctionTransformer(), KNNDetector()], {}),
        ([make_union(MelStatistics(), BandStatistics()), KNNDetector()], {}),
        ([BandStatistics(), MahalanobisDetector()], {"domains": ["source", "target"] * 8}),
        ([MelStatistics(), GMMDetector(1, random_state=0)], {}),
        ([MelStatistics(), GroupedDetector(MahalanobisDetector())], {"groups": UNITS}),
        ([MelStatistics(), FitOnNormal(KNNDetector())], {}),
        ([MelStatistics().set_output(transform="pandas"), KNNDetector()], {}),
    ],
    ids=lambda value: "-".join(type(s).__name__ for s in value) if type(value) is list else "",
)
def test_a_pipeline_scores_as_the_saved_one_to_the_bit(clips, file, steps, params):
    pipeline = fit(clips, *steps, **params)
    save_model(file, pipeline)
    loaded = load_model(file)
    assert_array_equal(loaded.score_samples(clips), pipeline.score_samples(clips))
    assert_array_equal(loaded.predict(clips), pipeline.predict(clips))
    assert str(loaded.get_params()) == str(pipeline.get_params())


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_network_comes_back_to_the_bit(clips, file, tuning):
    fine_tuning = FineTuning(tuning, max_epochs=1)
    embedder = AnoPatchEmbedder(fine_tuning=fine_tuning, random_state=0)
    pipeline = make_pipeline(MelPatcher(duration=0.5), embedder, KNNDetector())
    pipeline.fit(clips[:16], anopatchembedder__labels=UNITS)
    save_model(file, pipeline)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    loaded = load_model(file)
    assert torch.rand(1) == expected  # the global generator is left alone
    assert_array_equal(loaded.score_samples(clips), pipeline.score_samples(clips))
    assert loaded[1].classes_ == [("fan", 0), ("fan", 1)]
    assert loaded[1].history_ == embedder.history_
    refitted = loaded.fit(clips[:16], anopatchembedder__labels=UNITS)
    assert_array_equal(refitted.score_samples(clips), pipeline.score_samples(clips))


def test_an_embedder_comes_back_without_the_file_of_its_backbone(file, tmp_path):
    patches = patchify(np.random.default_rng(0).normal(size=(4, 32, 128))).astype(np.float32)
    embedder = AnoPatchEmbedder(save_mini_beats(tmp_path / "mini.pt"), normalization="fit")
    embedder.fit(patches)
    save_model(file, embedder)
    (tmp_path / "mini.pt").unlink()
    assert_array_equal(load_model(file).transform(patches), embedder.transform(patches))


def test_maps_come_back_to_the_bit(clips, file):
    maps = make_map_pipeline(melpatcher__duration=0.5, anopatchembedder__random_state=0)
    maps.fit(clips[:16])
    save_model(file, maps)
    assert_array_equal(anomaly_map(load_model(file), clips), anomaly_map(maps, clips))


@pytest.mark.parametrize(
    "labels", [LABELS, ["fan", "pump"], [np.str_("fan"), "pump"], [False, True]]
)
def test_labels_of_any_kind_come_back_as_keys(file, labels):
    detector = GroupedDetector(KNNDetector())
    X = np.random.default_rng(0).normal(size=(12 * len(labels), 4))
    groups = labels * 12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector.fit(X, groups=groups)
    save_model(file, detector)
    loaded = load_model(file)
    assert list(loaded.detectors_) == list(detector.detectors_)
    assert [type(key) for key in loaded.detectors_] == [type(key) for key in detector.detectors_]
    scores = detector.score_samples(X, groups=groups)
    assert_array_equal(loaded.score_samples(X, groups=groups), scores)


def test_arrays_keep_their_types_and_order(fitted, file, tmp_path):
    np.save(tmp_path / "bank.npy", np.ones((3, 2)))
    values = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.float32(0.1),
        "names": np.array(["a", "bb"]),
        "objects": np.array([("fan", 0), None, "b"], dtype=object),
        "mapped": np.load(tmp_path / "bank.npy", mmap_mode="r"),
        "raw": b"\x00\xff",
        "nested": [(1, None), {"a": {1: [2.5]}}],
    }
    detector = KNNDetector().fit(np.random.default_rng(0).normal(size=(12, 4)))
    detector.values_ = values
    save_model(file, detector)
    loaded = load_model(file).values_
    assert loaded["fortran"].flags.f_contiguous
    assert type(loaded["scalar"]) is np.float32
    assert type(loaded["mapped"]) is np.ndarray
    assert loaded["nested"] == values["nested"]
    assert loaded["raw"] == values["raw"]
    for name in ("fortran", "names", "objects", "mapped"):
        assert_array_equal(loaded[name], values[name])
        assert loaded[name].dtype == values[name].dtype


def test_an_estimator_in_two_places_stays_one(clips, file):
    patches = MelPatcher(duration=0.5).fit_transform(clips)
    embedder = AnoPatchEmbedder(statistics=False, random_state=0).fit(patches)
    detector = KNNDetector().fit(embedder.transform(patches))
    save_model(file, embedder)
    size = file.stat().st_size
    detector.named_ = Bunch(embedder=embedder)
    detector.embedders_ = [embedder]
    save_model(file, detector)
    assert file.stat().st_size < 1.2 * size  # its weights are written once
    loaded = load_model(file)
    assert loaded.embedders_[0] is loaded.named_.embedder
    assert_array_equal(loaded.named_["embedder"].transform(patches), embedder.transform(patches))


def test_parameters_of_the_machine_come_back_as_defaults(clips, file, tmp_path, forge):
    embedder = AnoPatchEmbedder(
        fine_tuning=FineTuning(checkpoint_dir=tmp_path / "checkpoints", n_workers=3),
        device="cuda:1",
        verbose=1,
    )
    steps = MelPatcher(duration=0.5, n_jobs=1), embedder.set_params(device="cpu"), KNNDetector()
    pipeline = make_pipeline(*steps, memory=str(tmp_path / "cache")).fit(clips)
    fitted_embedder = pipeline[1].set_params(device="cuda:1")
    save_model(file, pipeline)
    loaded = load_model(file)
    assert (loaded.memory, loaded[0].n_jobs, loaded[0].duration) == (None, None, 0.5)
    assert (loaded[1].device, loaded[1].verbose) == ("auto", 0)
    settings = loaded[1].fine_tuning
    assert (settings.checkpoint_dir, settings.n_workers) == (None, 0)
    assert fitted_embedder.device == "cuda:1"  # the saved one is not changed
    assert str(tmp_path).encode() not in file.read_bytes()

    def set_memory(schema, header, members):
        schema["state"]["memory"] = str(tmp_path)

    assert load_model(forge(set_memory)).memory is None


def test_requests_of_metadata_do_not_keep_an_estimator_from_being_saved(clips, file):
    detector = MahalanobisDetector()
    with sklearn.config_context(enable_metadata_routing=True):
        detector.set_fit_request(domains=True)
    pipeline = fit(clips, BandStatistics(), detector)
    save_model(file, pipeline)
    assert_array_equal(load_model(file).score_samples(clips), pipeline.score_samples(clips))


def test_every_public_estimator_can_be_saved():
    public = [getattr(skanopatch, name) for name in skanopatch.__all__]
    estimators = [x for x in public if isinstance(x, type) and issubclass(x, BaseEstimator)]
    estimators += [getattr(import_module(m), name) for name, m in OTHER_CLASSES.items()]
    assert len(estimators) > 20
    for cls in estimators:
        assert class_named(cls.__name__) is cls


def test_the_header_says_who_wrote_a_file_and_needs_neither_numpy_nor_torch(fitted, file):
    save_model(file, fitted)
    code = (
        "import sys; from skanopatch.persistence.header import read_header\n"
        f"print(read_header({str(file)!r}), {{'torch', 'sklearn', 'numpy'}} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    header = read_header(file)
    assert result.stdout == f"{header} set()\n"
    assert (header["format"], header["version"]) == ("skanopatch model", 1)
    assert header["skanopatch"] == skanopatch.__version__
    assert header["created"].endswith("+00:00")
    assert header["facts"]["normal clips"] == 16
    assert header["facts"]["threshold distance"] == -fitted[-1].offset_


# --- What cannot be saved -------------------------------------------------------------------


def test_only_fitted_estimators_are_saved(file):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        save_model(file, make_pipeline(MelPatcher(), KNNDetector()))
    with pytest.raises(TypeError, match="not an estimator instance"):
        save_model(file, None)
    assert not file.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (KMeans(), r"sklearn.cluster._kmeans.KMeans \(steps\[2\]\[1\].value_\)"),
        (np.random.RandomState(0), r"numpy.random.mtrand.RandomState \(steps\[2\]\[1\].value_\)"),
        ({"a": [np.log]}, r"numpy.ufunc \(steps\[2\]\[1\].value_.a\[0\]\)"),
        (lambda x: x, "<lambda>"),
        (PosixPath("a"), "pathlib.PosixPath"),
        (KNNDetector, "skanopatch.detectors.knn.KNNDetector"),
        (len, "builtins.len"),
        ("fan".upper, "value_"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (np.ma.masked_array([1.0]), "numpy.ma.MaskedArray"),
        (np.longdouble(1), "numpy.longdouble"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_file_must_not_hold_is_named(clips, file, value, message):
    pipeline = fit(clips, MelStatistics(), KNNDetector())
    pipeline[-1].value_ = value
    with pytest.raises(ValueError, match=f"This Pipeline cannot be saved.*{message}|{message}"):
        save_model(file, pipeline)
    assert list(file.parent.iterdir()) == []


# --- What reading does not do ---------------------------------------------------------------

WATCHED = ("open", "import", "exec", "pickle.find_class", "os.", "subprocess.", "socket.", "shutil")
watched: list | None = None


def watch(event, args):
    if watched is not None and event.startswith(WATCHED):
        watched.append((event, *args[:1]))


def test_reading_opens_the_file_alone_and_runs_nothing(clips, file):
    global watched
    embedder = AnoPatchEmbedder(statistics=False, random_state=0)
    pipeline = make_pipeline(MelPatcher(duration=0.5), embedder, KNNDetector()).fit(clips)
    save_model(file, pipeline)
    load_model(file)  # imports what it needs, of our own package and its dependencies
    sys.addaudithook(watch)
    watched = []
    try:
        load_model(file)
    finally:
        events, watched = watched, None
    assert [event for event in events if event[0] != "exec"] == [("open", str(file))]
    # NumPy reads the header of an array, and a dataclass writes its methods.
    assert all(event[1].co_filename.startswith("<") for event in events if event[0] == "exec")


@pytest.mark.parametrize("member", ["skanopatch.json", "model.json"])
def test_a_file_does_not_choose_how_its_json_is_decoded(clips, file, member):
    """`json.loads` of bytes guesses UTF-16 and UTF-32, and imports their codecs."""
    save_model(file, fit(clips, MelStatistics(), KNNDetector()))
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = members[member].decode().encode("utf-32")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"is damaged, .*'utf-8' codec can't decode"):
        load_model(file)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(forge, tmp_path):
    hit = tmp_path / "hit"

    def change(schema, header, members):
        content = io.BytesIO()
        np.save(content, np.array([Bomb(hit)], dtype=object), allow_pickle=True)
        members[array_of(schema)["array"]] = content.getvalue()

    with pytest.raises(ValueError, match=r"fan.skano' is damaged, .*Object arrays cannot be"):
        load_model(forge(change))
    (tmp_path / "pickle.skano").write_bytes(pickle.dumps(Bomb(hit)))
    with pytest.raises(ValueError, match=r"pickle.skano' is damaged, or is no"):
        load_model(tmp_path / "pickle.skano")
    assert not hit.exists()


def test_a_member_is_never_unpacked_to_where_its_name_says(forge, tmp_path):
    def change(schema, header, members):
        bank = array_of(schema)
        members["../outside.npy"] = members.pop(bank["array"])
        bank["array"] = "../outside.npy"

    load_model(forge(change))  # a name like any other
    assert not (tmp_path.parent / "outside.npy").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "system", "open", "eval", "exec", "antigravity", "object", "type"),
        *("KMeans", "Tree", "RandomState", "csr_matrix", "ufunc", "partial", "Path"),
        *("atomic_write", "ScoreDisplay", "Segment", "metrics", "load_model", "__version__", ""),
    ],
)
def test_a_class_that_is_not_allowed_is_named_and_not_built(forge, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)

    def change(schema, header, members):
        state = {"args": ["touch hit"]}
        detector_of(schema)["offset_"] = [{"class": name, "number": 99, "state": state}]

    with pytest.raises(ValueError, match=rf"must not hold {name} \(steps\[2\]\[1\].offset_\[0\]\)"):
        load_model(forge(change))
    assert "antigravity" not in sys.modules
    assert [path.name for path in tmp_path.iterdir()] == ["fan.skano"]


@pytest.mark.parametrize(
    "code",
    [
        *({}, {"type": "int"}, {"function": "numpy.log"}, {"list": []}, {"tuple": "ab"}),
        *({"class": "KNNDetector"}, {"bytearray": []}, {"defaultdict": []}, {"dict": {}}),
        *({"scalar": [1], "dtype": "int64"}, {"tuple": [], "set": []}, {"array": 1}),
    ],
    ids=str,
)
def test_a_code_that_stands_for_nothing_is_named(forge, code):
    message = r"steps\[2\]\[1\].offset_.a is no value that a model file has"
    with pytest.raises(ValueError, match=message):
        load_model(forge(lambda s, h, m: detector_of(s).update(offset_={"dict": [["a", code]]})))


def test_scalars_have_the_types_that_are_allowed(forge):
    for dtype in ("complex128", "datetime64", "object_", "void", "ndarray", "fromfile", "memmap"):
        code = {"scalar": 1, "dtype": dtype}
        with pytest.raises(ValueError, match=rf"KeyError\('{dtype}'\)"):
            load_model(forge(lambda s, h, m, code=code: detector_of(s).update(offset_=code)))


@pytest.mark.parametrize(
    "name",
    [
        *("beats:secret.pt", "ast:secret", "audiomae:a/b", "eat:a/b", "ced:a/b", "dasheng:a/b"),
        *("hf_hub:a/b", "timm:hf-hub:a/b", "timm:a.b"),
    ],
)
@pytest.mark.parametrize("config", [None, {"architecture": "hf-hub:a/b", "model_args": {}}])
def test_the_name_of_a_backbone_makes_nothing_be_read_or_downloaded(
    clips, file, monkeypatch, name, config
):
    reached = []
    for place in (
        "skanopatch.backbones.hub.Source.parse",
        "skanopatch.backbones.hub.hf_hub_download",
        "timm.models._hub.hf_hub_download",
        "timm.models._builder.load_pretrained",
    ):
        monkeypatch.setattr(place, lambda *args, **kwargs: reached.append(args) or 1 / 0)
    embedder = AnoPatchEmbedder(statistics=False, random_state=0)
    embedder.fit(patchify(np.random.default_rng(0).normal(size=(4, 32, 128))))
    embedder._module_params |= {"backbone": name, "config": config}
    embedder.backbone = name
    save_model(file, embedder)
    with pytest.raises(ValueError, match=r"fan.skano' is damaged"):
        load_model(file)
    assert reached == []


# --- What is damaged ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, h, m: h.update(version=2), "it says 'skanopatch model', 2"),
        (lambda s, h, m: h.update(version=[1]), r"it says 'skanopatch model', \[1\]"),
        (lambda s, h, m: h.update(format="other"), "it says 'other', 1"),
        (lambda s, h, m: h.pop("format"), r"KeyError\('format'\)"),
        (lambda s, h, m: s.pop("state"), r"KeyError\(0\)"),
        (lambda s, h, m: s.update(number="0"), "the model is no value"),
        (lambda s, h, m: detector_of(s).pop("metric"), "has no attribute 'metric'"),
        (
            lambda s, h, m: detector_of(s).update(metric="l1"),
            "The 'metric' parameter of KNNDetector must be",
        ),
        (lambda s, h, m: detector_of(s).update(metric={"number": 99}), r"KeyError\(99\)"),
        (lambda s, h, m: detector_of(s).update(metric={"set": [[]]}), "unhashable"),
        (
            lambda s, h, m: detector_of(s).update(x={"class": "PCA", "number": 0, "state": {}}),
            "have the number 0",
        ),
        (lambda s, h, m: array_of(s).clear(), "is no value"),
        (lambda s, h, m: m.pop(array_of(s)["array"]), "no item named"),
        (lambda s, h, m: m.update({array_of(s)["array"]: b"PK"}), "expected 8 bytes got 2"),
        (lambda s, h, m: m.update({array_of(s)["array"]: b"PK345678"}), "magic string"),
        (lambda s, h, m: m.update({array_of(s)["array"]: b"\x93NUMPY"}), ""),
        (
            lambda s, h, m: detector_of(s).update(x={"objects": [1], "shape": [10**12]}),
            "cannot reshape array of size 1",
        ),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(forge, change, message):
    with pytest.raises(ValueError, match=rf"fan.skano' is damaged, or is no.*({message})"):
        load_model(forge(change))


def test_sizes_that_a_file_only_claims_are_refused(forge, file):
    def claim(schema, header, members):
        content = io.BytesIO()
        shape = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(content, shape)
        members[array_of(schema)["array"]] = content.getvalue()

    with pytest.raises(ValueError, match=r"fan.skano' is damaged"):
        load_model(forge(claim))

    with pytest.raises(ValueError, match="its members are compressed or encrypted"):
        load_model(forge(lambda *parts: None, compression=zipfile.ZIP_DEFLATED))

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.json", b"{}")
        archive.getinfo("model.json").file_size = 2**31
    with pytest.raises(ValueError, match="its members are larger than the file"):
        load_model(file)


def test_a_member_is_read_once(forge):
    def change(schema, header, members):
        detector_of(schema)["more_"] = [array_of(schema)] * 9

    detector = load_model(forge(change))[-1]
    assert len({id(array) for array in detector.more_}) == 1
    assert detector.more_[0] is next(x for x in vars(detector).values() if type(x) is np.ndarray)


@pytest.mark.parametrize("change", [lambda h: h.pop("facts"), lambda h: h.update(facts=[])])
def test_a_header_that_is_not_complete_is_refused(forge, change):
    file = forge(lambda schema, header, members: change(header) and None)
    with pytest.raises(ValueError, match=r"fan.skano' is damaged, .*header is not complete"):
        read_header(file)


def test_json_without_end_is_refused(forge, file):
    forge(lambda schema, header, members: None)
    with zipfile.ZipFile(file) as archive:
        header = archive.read("skanopatch.json")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("skanopatch.json", header)
        archive.writestr("model.json", b"[" * 10**6)
    with pytest.raises(ValueError, match=r"fan.skano' is damaged, .*RecursionError"):
        load_model(file)


def test_another_file_is_named(fitted, file, tmp_path):
    save_model(file, fitted)
    content = file.read_bytes()
    for part in (b"", b"no model at all", content[:-30], content[: len(content) // 2]):
        file.write_bytes(part)
        for read in (load_model, read_header):
            with pytest.raises(ValueError, match=r"fan.skano' is damaged, or is no 'skanopatch mo"):
                read(file)
    middle = content.index(b"NUMPY") + 200  # within the data of the first array
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(ValueError, match="Bad CRC-32"):
        load_model(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<p/>")
    with pytest.raises(ValueError, match=r"no item named 'skanopatch.json'"):
        load_model(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("skanopatch.json", '{"format": "skanopatch model", "version": 1}')
    with pytest.raises(ValueError, match=r"no item named 'model.json'"):
        load_model(file)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.skano")
    with pytest.raises(IsADirectoryError):
        load_model(tmp_path)


def test_no_damage_raises_anything_but_a_value_error(fitted, file):
    """Bytes are cut or changed, and entries of the schema deleted, replaced or exchanged."""
    save_model(file, fitted)
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    rng = random.Random(0)
    n_read = 0
    for i in range(400):
        if i % 2:
            changed = bytearray(content[: rng.randrange(len(content))] if i % 4 == 1 else content)
            for _ in range(3):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            file.write_bytes(changed)
        else:
            schema = json.loads(members["model.json"])
            places = list(places_in(schema))
            (holder, key), (other, other_key) = rng.sample(places, 2)
            value = rng.choice([None, -1, [], {}, "x", json.loads(json.dumps(other[other_key]))])
            holder[key] = value
            with zipfile.ZipFile(file, "w") as archive:
                for name, member in {**members, "model.json": json.dumps(schema)}.items():
                    archive.writestr(name, member)
        with contextlib.suppress(ValueError):
            load_model(file)
            n_read += 1
    assert 0 < n_read < 150  # a replaced number is a number


def places_in(value):
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in keys:
        yield value, key
        yield from places_in(value[key])


# --- Files that are whole or not there ------------------------------------------------------


def test_a_disk_that_is_full_leaves_what_was_there(fitted, file, monkeypatch):
    class FullDisk(io.FileIO):
        def write(self, content):
            super().write(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    file.write_text("what was there")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: FullDisk(path, mode))
        with pytest.raises(OSError, match="No space left") as error:
            save_model(file, fitted)
    assert error.value.filename == str(file)
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


def test_what_killed_processes_left_is_removed_after_an_hour(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, age in {
        f".a.csv.{gone.pid}.part": 3601,
        f".a.csv.{gone.pid}0.part": 3500,  # perhaps of a process on another machine
        f".a.csv.{os.getpid()}.part": 3601,  # of a process that runs: overwritten below
        f".a.csv.{os.getppid()}.part": 3601,
        f".b.csv.{gone.pid}.part": 3601,  # of another file
        ".a.csv.backup.part": 3601,
    }.items():
        (tmp_path / name).write_text("partial")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with atomic_write(tmp_path / "a.csv") as file:
        file.write(b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("a.csv", f".a.csv.{gone.pid}0.part", f".a.csv.{os.getppid()}.part"),
        *(f".b.csv.{gone.pid}.part", ".a.csv.backup.part"),
    }


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
