"""Saved embedders: what comes back, from older versions too, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_beats import save_mini_beats
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError

from skanopatch import AnoPatchEmbedder, BandStatistics, patchify, persistence

VERSION_1 = Path(__file__).parent / "data" / "embedder_v1"


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    labels = np.arange(8) % 2
    log_mel = rng.normal(size=(8, 32, 128))
    log_mel[labels == 1, :, 30:60] += 2
    return patchify(log_mel).astype(np.float32), [("fan", int(label)) for label in labels]


@pytest.fixture
def fit(tmp_path, clips):
    """Fit a small BEATs, whose file is mini.pt in the test's folder."""

    def fit(tuning="lora", labels=clips[1], **params):
        params = {"pooling": "mean", "n_dims": 2, "max_epochs": 1, "random_state": 0, **params}
        name = save_mini_beats(tmp_path / "mini.pt")
        embedder = AnoPatchEmbedder(name, tuning=tuning, lr=0.01, lora_rank=2, **params)
        return embedder.fit(clips[0], labels=labels)

    return fit


@pytest.fixture
def saved(fit, tmp_path):
    """Save one with merged weights, and return its folder and what changes one of its files."""
    folder = tmp_path / "saved"
    fit("head", statistics=True).save(folder)

    def change(what):
        if what == "weights":
            weights = load_file(folder / "embedder.safetensors")
            yield weights
            save_file(weights, folder / "embedder.safetensors")
        else:
            header = json.loads((folder / "embedder.json").read_text())
            yield header
            (folder / "embedder.json").write_text(json.dumps(header))

    return folder, change


# --- What comes back ------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", ["full", "lora", "head", "frozen"])
def test_an_embedder_comes_back_without_the_file_of_its_backbone(fit, clips, tmp_path, tuning):
    embedder = fit(tuning, layers=(0, 1), normalization=(0.5, 2.0), statistics=True)
    embedder.save(tmp_path / "saved")
    (tmp_path / "mini.pt").unlink()
    loaded = AnoPatchEmbedder.load(tmp_path / "saved")
    assert_allclose(loaded.transform(clips[0]), embedder.transform(clips[0]), atol=1e-5)
    assert loaded.get_params() == embedder.get_params()
    for attribute in ("classes_", "history_", "normalization_", "n_features_in_"):
        assert getattr(loaded, attribute) == getattr(embedder, attribute)
    assert_array_equal(loaded.get_feature_names_out(), embedder.get_feature_names_out())
    loaded.set_params(output="patches")
    assert_allclose(
        loaded.transform(clips[0]),
        embedder.set_params(output="patches").transform(clips[0]),
        atol=1e-5,
    )


@pytest.mark.parametrize("tuning", ["lora", "head", "frozen"])
def test_what_was_learnt_comes_back_without_the_backbone(fit, clips, tmp_path, tuning):
    embedder = fit(tuning, statistics=False)
    embedder.save(tmp_path / "whole")
    embedder.save(tmp_path / "learnt", with_backbone=False)
    loaded = AnoPatchEmbedder.load(tmp_path / "learnt")
    assert_array_equal(loaded.transform(clips[0]), embedder.transform(clips[0]))
    if tuning != "frozen":
        assert loaded.transform(clips[0]).notes == embedder.transform(clips[0]).notes
    names = set(load_file(tmp_path / "learnt" / "embedder.safetensors"))
    learnt = {"mean", "std"}
    if tuning != "frozen":
        learnt |= {"head.weight", "head.bias", "class_means"}
    if tuning == "lora":
        update = "backbone.blocks.{}.attn.qkv.parametrizations.weight.0.{}"
        learnt |= {update.format(i, part) for i in (0, 1) for part in ("down", "up")}
    assert names == learnt
    sizes = [(tmp_path / f / "embedder.safetensors").stat().st_size for f in ("learnt", "whole")]
    assert sizes[0] < sizes[1] / 5


def test_the_shipped_backbone_need_not_be_saved(clips, tmp_path):
    embedder = AnoPatchEmbedder(tuning="head", max_epochs=1, random_state=0)
    embedder.fit(clips[0], labels=clips[1]).save(tmp_path, with_backbone=False)
    assert_array_equal(
        AnoPatchEmbedder.load(tmp_path).transform(clips[0]), embedder.transform(clips[0])
    )


def test_a_backbone_that_moved_is_named(fit, clips, tmp_path):
    embedder = fit()
    embedder.save(tmp_path / "saved", with_backbone=False)
    (tmp_path / "mini.pt").rename(tmp_path / "moved.pt")
    with pytest.raises(OSError, match="There is no file"):
        AnoPatchEmbedder.load(tmp_path / "saved")
    moved = f"beats:{tmp_path / 'moved.pt'}"
    loaded = AnoPatchEmbedder.load(tmp_path / "saved", backbone=moved)
    assert_array_equal(loaded.transform(clips[0]), embedder.transform(clips[0]))
    assert loaded.backbone == moved


def test_a_backbone_with_other_weights_is_refused(fit, tmp_path):
    fit().save(tmp_path / "saved", with_backbone=False)
    other = save_mini_beats(tmp_path / "other.pt", seed=1)
    with pytest.raises(ValueError, match=r"other\.pt' has other weights here than the one"):
        AnoPatchEmbedder.load(tmp_path / "saved", backbone=other)


def test_what_belongs_to_the_machine_stays_there(fit, clips, tmp_path):
    embedder = fit(checkpoint_dir=tmp_path / "checkpoints")
    expected = embedder.transform(clips[0])
    embedder.set_params(device="cuda:1", n_workers=3).save(tmp_path / "saved")
    loaded = AnoPatchEmbedder.load(tmp_path / "saved")
    assert (loaded.device, loaded.n_workers, loaded.checkpoint_dir) == ("auto", 0, None)
    assert_allclose(loaded.transform(clips[0]), expected, atol=1e-5)


def test_a_loaded_embedder_is_fitted_and_saved_again(fit, clips, tmp_path):
    embedder = fit("head")
    expected = embedder.transform(clips[0])
    embedder.save(tmp_path / "first")
    loaded = AnoPatchEmbedder.load(tmp_path / "first")
    loaded.save(tmp_path / "second")
    for name in ("embedder.json", "embedder.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert_array_equal(loaded.fit(clips[0], labels=clips[1]).transform(clips[0]), expected)


def test_nothing_is_unpickled(fit, tmp_path, monkeypatch):
    fit("full").save(tmp_path / "saved")
    for place in ("pickle.load", "pickle.loads", "torch.load"):
        monkeypatch.setattr(place, lambda *args, **kwargs: pytest.fail("unpickled"))
    AnoPatchEmbedder.load(tmp_path / "saved")


# --- What is not saved ----------------------------------------------------------------------


def test_a_backbone_fine_tuned_in_full_has_to_be_saved(fit, tmp_path):
    with pytest.raises(ValueError, match=r"with_backbone must be True.*tuning='full'"):
        fit("full").save(tmp_path / "saved", with_backbone=False)
    fit("lora").save(tmp_path / "merged")
    with pytest.raises(ValueError, match=r"with_backbone must be True.*merged with LoRA"):
        AnoPatchEmbedder.load(tmp_path / "merged").save(tmp_path / "again", with_backbone=False)


def test_a_backbone_of_random_weights_has_to_be_saved(clips, tmp_path):
    embedder = AnoPatchEmbedder("timm:test_vit", random_state=0).fit(clips[0])
    with pytest.raises(ValueError, match=r"with_backbone must be True.*'timm:test_vit', which has"):
        embedder.save(tmp_path, with_backbone=False)
    embedder.save(tmp_path)
    assert_array_equal(
        AnoPatchEmbedder.load(tmp_path).transform(clips[0]), embedder.transform(clips[0])
    )


def test_what_json_does_not_have_is_named(fit, tmp_path):
    labels = [frozenset([i % 2]) for i in range(8)]
    with pytest.raises(ValueError, match=r"fitted\['classes_'\] must consist of.*frozenset"):
        fit(labels=labels).save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"params\['random_state'\] must consist of.*RandomState"):
        fit(random_state=np.random.RandomState(0)).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_an_embedder_has_to_be_fitted_first(tmp_path):
    with pytest.raises(NotFittedError):
        AnoPatchEmbedder().save(tmp_path)


# --- Versions -------------------------------------------------------------------------------


def test_a_file_of_version_1_is_read():
    """It was written by `save` after a fit of `fit` above, with LoRA and weighted layers."""
    embedder = AnoPatchEmbedder.load(VERSION_1)
    assert embedder.classes_ == [("fan", 0), ("fan", 1)]
    patches = np.linspace(-1, 1, 16 * 256).reshape(1, 16, 256) ** 3
    expected = np.load(VERSION_1 / "embedding.npy")
    assert_allclose(embedder.transform(patches), expected, atol=1e-5)


LATER = ("class_sizes", "distance_optimism", "has_marks")


def forget(folder, version, *, names, arrays="subspace.marks_"):
    """Turn a saved embedder into one of an earlier version; return what was left out."""
    header = json.loads((folder / "embedder.json").read_text())
    left_out = {name: header["fitted"].pop(name) for name in names}
    (folder / "embedder.json").write_text(json.dumps({**header, "version": version}))
    weights = load_file(folder / "embedder.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith(arrays)}
    save_file(kept, folder / "embedder.safetensors")
    return left_out


def test_labels_leave_the_statistics_of_version_2_as_they_are(fit, clips, tmp_path):
    embedder = fit("head", statistics=True)
    embedder.save(tmp_path)
    names = ("has_subspace", "n_seen", "optimism", *LATER)
    forget(tmp_path, 2, names=names, arrays="subspace.")
    embeddings = AnoPatchEmbedder.load(tmp_path).transform(clips[0])
    assert_allclose(embeddings[:, :-2], BandStatistics().fit_transform(clips[0]), rtol=1e-5)
    assert_allclose(embeddings[:, -2:], embedder.transform(clips[0])[:, -2:], atol=1e-5)


def test_clips_seen_by_version_3_are_taken_as_new_ones(fit, clips, tmp_path):
    embedder = fit("head", statistics=True)
    embedder.save(tmp_path)
    forget(tmp_path, 3, names=("n_seen", "optimism", *LATER))
    embeddings = AnoPatchEmbedder.load(tmp_path).transform(clips[0])
    assert_array_equal(embeddings, embedder.transform(clips[0]))
    assert_array_equal(embeddings.notes.seen.as_new(embeddings), embeddings)


def test_classes_of_version_4_are_taken_to_be_of_one_size(fit, clips, tmp_path):
    embedder = fit("head", statistics=True)
    embedder.save(tmp_path)
    sizes = np.array(forget(tmp_path, 4, names=LATER)["class_sizes"])
    assert_array_equal(sizes, embedder.transform(clips[0]).notes.seen.class_sizes)
    loaded = AnoPatchEmbedder.load(tmp_path)
    seen = loaded.transform(clips[0]).notes.seen
    assert_array_equal(seen.class_sizes, np.full(len(sizes), sizes.mean()))
    loaded.save(tmp_path)  # a file of this version, which still does not know
    assert AnoPatchEmbedder.load(tmp_path).transform(clips[0]).notes.seen == seen


def test_networks_of_version_5_tell_no_classes(fit, clips, tmp_path):
    embedder = fit("head", statistics=False)
    embedder.save(tmp_path)
    sizes = forget(tmp_path, 5, names=LATER, arrays="class_means")["class_sizes"]
    assert sizes == [4, 4]
    header = json.loads((tmp_path / "embedder.json").read_text())
    header["fitted"]["class_sizes"] = None
    (tmp_path / "embedder.json").write_text(json.dumps(header))
    embeddings = AnoPatchEmbedder.load(tmp_path).transform(clips[0])
    assert type(embeddings) is np.ndarray
    assert_array_equal(embeddings, embedder.transform(clips[0]))


def test_all_clips_are_seen_ones_to_version_5(fit, clips, tmp_path):
    embedder = fit("head", statistics=True)
    embedder.save(tmp_path)
    forget(tmp_path, 5, names=LATER[1:])
    new = embedder.transform(clips[0] + np.float32(0.1))
    embeddings = AnoPatchEmbedder.load(tmp_path).transform(clips[0] + np.float32(0.1))
    assert_array_equal(new.notes.seen.as_new(new), new)
    assert (embeddings.notes.seen.as_new(embeddings) != new).any()


def test_an_older_version_is_brought_up_to_this_one(fit, saved, clips, monkeypatch):
    """Version 0 is made up: it knew no LoRA, nor a subspace of statistics."""
    folder, change = saved
    fit("frozen").save(folder)
    expected = AnoPatchEmbedder.load(folder).transform(clips[0])
    for header in change("json"):
        header["version"] = 0
        for place in ("params", "network"):
            del header[place]["lora_rank"], header[place]["lora_targets"]

    def upgrade(header):
        lora = {"lora_rank": 16, "lora_targets": ["q", "v"]}
        parts = {place: {**header[place], **lora} for place in ("params", "network")}
        return {**header, **parts}

    with pytest.raises(
        ValueError, match=r"version of .* must be one of \[1, 2, 3, 4, 5, 6\]. Got 0"
    ):
        AnoPatchEmbedder.load(folder)
    monkeypatch.setitem(persistence._UPGRADES, 0, upgrade)
    loaded = AnoPatchEmbedder.load(folder)
    assert_array_equal(loaded.transform(clips[0]), expected)
    assert loaded.lora_rank == 16


# --- What is refused ------------------------------------------------------------------------


def add(key, value):
    return lambda entries: entries.__setitem__(key, value)


def remove(key):
    return lambda entries: entries.pop(key)


@pytest.mark.parametrize(
    ("place", "edit", "message"),
    [
        (
            None,
            add("version", 7),
            r"must be one of \[1, 2, 3, 4, 5, 6\]. Got 7 instead; a later version",
        ),
        (None, add("format", "other"), "is not the file of an embedder"),
        (None, remove("fitted"), r"embedder.json' lacks \['fitted'\]"),
        (None, add("extra", 1), r"embedder.json' has the unknown \['extra'\]"),
        ("params", add("learning", 1), r"Params of .* has the unknown \['learning'\]"),
        ("params", remove("margin"), r"Params of .* lacks \['margin'\]"),
        ("params", add("margin", -1), "The 'margin' parameter of AnoPatchEmbedder must be"),
        ("network", remove("layers"), r"Network of .* lacks \['layers'\]"),
        ("network", add("patch_dropout", 1.5), r"patch_dropout must be in \[0, 1\). Got 1.5"),
        ("network", add("grid", 5), r"embedder.json' is damaged: "),
        ("network", add("pooling", "none"), r"embedder.json' is damaged: 'none'"),
        ("fitted", add("classes_", 3), r"embedder.json' is damaged: "),
        ("fitted", add("n_", 1), r"Fitted of .* has the unknown \['n_'\]"),
        ("fitted", add("class_sizes", [8]), r"must be null or 2 numbers of clips, .* Got \[8\]"),
        ("fitted", add("class_sizes", [8, 0]), r"2 numbers of clips, .* Got \[8, 0\]"),
        ("fitted", add("class_sizes", ["8", "9"]), r"2 numbers of clips, .* Got \['8', '9'\]"),
    ],
)
def test_a_wrong_entry_is_named(saved, place, edit, message):
    folder, change = saved
    for header in change("json"):
        edit(header if place is None else header[place])
    with pytest.raises(ValueError, match=message):
        AnoPatchEmbedder.load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (remove("head.bias"), r"safetensors' lacks \['head.bias'\]"),
        (add("tail.bias", np.zeros(1)), r"safetensors' has the unknown \['tail.bias'\]"),
        (
            add("head.bias", np.zeros(3)),
            r"head.bias in .* must have the shape \(2,\). Got \(3,\) instead",
        ),
        (remove("subspace.marks_"), r"safetensors' lacks \['subspace.marks_'\]"),
        (
            add("subspace.marks_", np.zeros((8, 3))),
            r"subspace.marks_ in .* must have the shape \(n_clips, 2\). Got \(8, 3\) instead",
        ),
        (remove("subspace.scale_"), r"safetensors' lacks \['subspace.scale_'\]"),
        (add("subspace.more", np.zeros(1)), r"safetensors' has the unknown \['subspace.more'\]"),
        (
            add("subspace.scale_", np.ones(3)),
            r"as many features as scales. Got the shapes \(4, 186\), \(4,\), \(2, 186\), \(3,\)",
        ),
    ],
)
def test_a_wrong_weight_is_named(saved, edit, message):
    folder, change = saved
    for weights in change("weights"):
        edit(weights)
    with pytest.raises(ValueError, match=message):
        AnoPatchEmbedder.load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (remove("class_means"), r"safetensors' lacks \['class_means'\]"),
        (
            add("class_means", np.zeros((2, 3), np.float32)),
            r"class_means in .* must have the shape \(n_classes, 2\). Got \(2, 3\) instead",
        ),
        (
            add("class_means", np.zeros((3, 2), np.float32)),
            r"must be null or 3 numbers of clips, .* Got \[4, 4\]",
        ),
    ],
)
def test_wrong_class_means_of_a_network_are_named(fit, tmp_path, edit, message):
    fit("head", statistics=False).save(tmp_path)
    weights = load_file(tmp_path / "embedder.safetensors")
    edit(weights)
    save_file(weights, tmp_path / "embedder.safetensors")
    with pytest.raises(ValueError, match=message):
        AnoPatchEmbedder.load(tmp_path)


@pytest.mark.parametrize("name", ["embedder.json", "embedder.safetensors"])
def test_a_damaged_or_absent_file_is_named(saved, name):
    folder, _ = saved
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:100])
    with pytest.raises(ValueError, match=f"{name}' is damaged"):
        AnoPatchEmbedder.load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        AnoPatchEmbedder.load(folder)


def test_loading_leaves_the_global_generator_alone(saved):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    AnoPatchEmbedder.load(saved[0])
    assert torch.rand(1) == expected
