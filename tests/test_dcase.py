"""Loading DCASE Task 2 of every year, from miniatures in its layout."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from skanopatch import MelPatcher
from skanopatch.datasets import load_dcase, load_folder, make_miniature_dcase
from skanopatch.datasets.folder import find_recordings
from skanopatch.datasets.layout import CHALLENGES, parse_attributes, parse_name

MACHINES = {
    2020: ["ToyConveyor"],
    2021: ["fan"],
    2022: ["valve"],
    2023: ["fan", "bandsaw"],
    2024: ["fan", "3DPrinter"],
    2025: ["fan", "AutoTrash"],
    2026: ["fan", "Sander"],
}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """Make the miniature of a year once."""
    roots = {}

    def make(year):
        if year not in roots:
            roots[year] = make_miniature_dcase(
                tmp_path_factory.mktemp(str(year)),
                year=year,
                machines=MACHINES[year],
                n_train=4,
                n_test=1,
                random_state=0,
            )
        return roots[year]

    return make


@pytest.mark.parametrize("year", MACHINES)
def test_every_clip_of_a_year_is_listed_with_its_truth(miniature, year):
    root = miniature(year)
    clips = load_dcase(root, year=year, machine=MACHINES[year], ground_truth=root / "evaluator")
    challenge = CHALLENGES[year]
    sections = {
        (machine, section): subset
        for machine in MACHINES[year]
        for subset in ("development", "evaluation")
        for section in getattr(challenge, subset).get(machine, ())
    }
    assert clips.absent == []
    assert set(zip(clips.machine, clips.section, clips.subset, strict=True)) == {
        (*key, subset) for key, subset in sections.items()
    }
    n_sections = len(sections)
    is_train, is_test = clips.split == "train", clips.split == "test"
    assert is_train.sum() == 4 * n_sections
    assert (clips.y[is_train] == 1).all()
    n_domains = 1 if year == 2020 else 2
    assert np.sum(is_test & (clips.y == 1)) == n_domains * n_sections
    assert np.sum(is_test & (clips.y == -1)) == n_domains * n_sections
    if year == 2020:
        assert set(clips.domain) == {"unknown"}
    else:
        for domain in ("source", "target"):
            assert np.sum(is_test & (clips.domain == domain)) == 2 * n_sections
        assert np.sum(is_train & (clips.domain == "target")) == n_sections  # the first of four
    assert np.sum(clips.split == "supplemental") == (n_sections if year >= 2025 else 0)
    assert soundfile.info(clips.paths[0]).channels == (2 if year == 2026 else 1)


@pytest.mark.parametrize("year", MACHINES)
def test_evaluation_tests_are_unknown_without_the_evaluator(miniature, year):
    root = miniature(year)
    clips = load_dcase(
        root, year=year, machine=MACHINES[year][-1:], subset="evaluation", split="test"
    )
    assert set(clips.y) == {0}
    assert set(clips.domain) == ({"source", "target"} if year == 2021 else {"unknown"})


def test_labels_are_those_of_the_evaluators_table(miniature):
    root = miniature(2023)
    evaluator = root.parent / "swapped"
    shutil.copytree(root / "evaluator", evaluator, dirs_exist_ok=True)
    before = load_dcase(
        root, year=2023, machine="bandsaw", split="test", ground_truth=root / "evaluator"
    )
    table = evaluator / "ground_truth_data" / "ground_truth_bandsaw_section_00_test.csv"
    table.write_text(
        re.sub(r",([01])$", lambda label: f",{1 - int(label[1])}", table.read_text(), flags=re.M)
    )
    after = load_dcase(root, year=2023, machine="bandsaw", split="test", ground_truth=evaluator)
    assert (after.y == -before.y).all()
    assert (after.domain == before.domain).all()


def test_channels_of_2026_hold_one_machine_near_and_far(miniature):
    root = miniature(2026)
    path = load_dcase(root, year=2026, machine="fan", split="train").paths[0]
    near, far = soundfile.read(path)[0].T
    assert 0.2 < np.corrcoef(near, far)[0, 1] < 0.95
    patches = [MelPatcher(channel=channel).fit_transform([path]) for channel in (0, 1)]
    assert np.abs(patches[0] - patches[1]).mean() > 0.1


@pytest.mark.parametrize(
    ("year", "split", "stem", "expected"),
    [
        (2020, "train", "normal_id_01_00000000", (1, False, None, {})),
        (2020, "test", "anomaly_id_06_00000012", (6, True, None, {})),
        (2020, "test", "id_05_00000000", (5, None, None, {})),
        (
            2021,
            "train",
            "section_00_source_train_normal_0000_strength_1_ambient",
            (0, False, "source", {"strength": "1", "ambient": ""}),
        ),
        (2021, "test", "section_03_target_test_0007", (3, None, "target", {})),
        (2022, "test", "section_03_test_0000", (3, None, None, {})),
        (
            2022,
            "test",
            "section_05_target_test_anomaly_0000_v1pat_05_v2pat_05",
            (5, True, "target", {"v1pat": "05", "v2pat": "05"}),
        ),
        (
            2023,
            "train",
            "section_00_source_train_normal_0326_car_B2_spd_7_mic_1",
            (0, False, "source", {"car": "B2", "spd": "7", "mic": "1"}),
        ),
        (2023, "test", "section_00_0199", (0, None, None, {})),
        (
            2024,
            "train",
            "section_00_target_train_normal_0010_noAttribute",
            (0, False, "target", {}),
        ),
        (2025, "train", "section_00_source_train_normal_0000_", (0, False, "source", {})),
        (
            2025,
            "supplemental",
            "section_00_machine_0001_spd_3",
            (0, False, None, {"sound": "machine", "spd": "3"}),
        ),
        (
            2025,
            "supplemental",
            "section_00_noise_supplemental_normal_0000",
            (0, False, None, {"sound": "noise"}),
        ),
        (
            2026,
            "train",
            "section_00_source_train_normal_0000_car_D2_spd_5_mic_2_mic_1",
            (0, False, "source", {"car": "D2", "spd": "5", "mic": "2+1"}),
        ),
        (2023, "train", "normal_id_01_00000000", None),
        (2020, "train", "section_00_source_train_normal_0000", None),
        (2025, "supplemental", "section_00_source_train_normal_0000", None),
    ],
)
def test_names_tell_what_they_tell(year, split, stem, expected):
    parsed = parse_name(stem, year=year, split=split)
    assert (parsed and tuple(parsed)) == expected


def test_attributes_are_pairs():
    assert parse_attributes("vel_10_f-n_A") == {"vel": "10", "f-n": "A"}
    assert parse_attributes("noAttribute") == {}


def test_tables_add_what_names_do_not_tell(miniature, tmp_path):
    root = shutil.copytree(miniature(2024), tmp_path / "copy")
    names = sorted((root / "fan" / "train").glob("*.wav"))
    (root / "fan" / "attributes_00.csv").write_text(
        "file_name,d1p,d1v,d2p,d2v,file_name_with_attributes\n"
        f"fan/train/{names[0].name},spd,0,oil,old,x\n"
        f"{names[1].stem},oil,new,,,y\n"
    )
    clips = load_dcase(root, year=2024, machine="fan", split="train")
    from_name = re.search(r"spd_(\d+)", names[0].name)
    assert clips.attributes.spd[0] == (from_name[1] if from_name else "0")  # the name comes first
    assert clips.attributes.oil.tolist()[:2] == ["old", "new"]
    assert clips.attributes.oil.isna().tolist()[2:] == [True, True]
    assert clips.label[1].endswith("_oil_new")
    assert clips.label[1].startswith("fan_00")


def test_a_partial_copy_says_what_is_absent(miniature, tmp_path):
    root = shutil.copytree(miniature(2022), tmp_path / "copy")
    shutil.rmtree(root / "valve" / "train")
    for path in (root / "valve" / "test").glob("section_01_*"):
        path.unlink()
    message = (
        f"'{root}' lacks 2 part(s) of DCASE 2022 Task 2: valve/train, valve/test (section 01)."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        clips = load_dcase(root, year=2022, machine="valve", subset="development")
    assert clips.absent == ["valve/train", "valve/test (section 01)"]
    # A set of which nothing is there is in the list, and no reason for a warning.
    for path in (root / "valve" / "test").glob("section_0[345]_*"):
        path.unlink()
    with pytest.warns(UserWarning, match=r"lacks 1 part\(s\)"):
        clips = load_dcase(root, year=2022, machine="valve", split="test")
    assert clips.absent == ["valve/test (section 01)", "valve/test"]


def test_wrong_input_is_named(miniature, tmp_path):
    root = miniature(2023)
    with pytest.raises(ValueError, match=r"^year must be one of the challenges, 2020 to 2026. Got"):
        load_dcase(root, year=2019)
    with pytest.raises(ValueError, match=r"^split must be None or one of \['train', 'test', 'supp"):
        load_dcase(root, year=2023, split="dev")
    with pytest.raises(ValueError, match=r"^machine must be of \['ToyCar', .*Got \['drill'\] inst"):
        load_dcase(root, year=2023, machine=["fan", "drill"], subset="development")
    with pytest.raises(FileNotFoundError, match=r"holds no such clip of DCASE 2023 Task 2. Looked"):
        load_dcase(tmp_path, year=2023)
    with pytest.raises(ValueError, match=r"has no name of DCASE 2020 Task 2. Is it a clip of anot"):
        load_dcase(root, year=2020, machine="fan")
    with pytest.raises(FileNotFoundError, match=r"^'.*' holds no table ground_truth_<machine>_sec"):
        load_dcase(root, year=2023, machine="bandsaw", ground_truth=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"eval_data_list.csv'. Give the folder of the off"):
        load_dcase(miniature(2020), year=2020, machine="ToyConveyor", ground_truth=tmp_path)
    table = root / "evaluator" / "ground_truth_data" / "ground_truth_bandsaw_section_00_test.csv"
    short = tmp_path / "evaluator" / "ground_truth_data" / table.name
    short.parent.mkdir(parents=True)
    short.write_text("".join(table.open().readlines()[:3]))
    shutil.copytree(
        root / "evaluator" / "ground_truth_domain", short.parents[1] / "ground_truth_domain"
    )
    with pytest.raises(
        ValueError, match=r"tells nothing of 1 of 4 test clips, .* 'section_00_0003"
    ):
        load_dcase(root, year=2023, machine="bandsaw", ground_truth=tmp_path / "evaluator")
    twice = tmp_path / "twice"
    shutil.copytree(root, twice / "a")
    shutil.copytree(root, twice / "b")
    with pytest.raises(
        ValueError, match=r"are the same clip. Give the folder of one copy of one y"
    ):
        load_dcase(twice, year=2023, machine="fan")


def test_copies_of_the_organizers_script_are_listed_once(miniature, tmp_path):
    root = shutil.copytree(miniature(2021), tmp_path / "copy")
    before = load_dcase(root, year=2021, machine="fan")
    test = root / "fan" / "test"
    test.mkdir()
    for path in [*root.glob("fan/source_test/*"), *root.glob("fan/target_test/*")]:
        shutil.copy(path, test)
    after = load_dcase(root, year=2021, machine="fan")
    assert after.paths.tolist() == before.paths.tolist()
    assert np.sum(after.split == "test") == 24  # six sections, two domains, two labels
    for path in root.glob("fan/*_test/*"):
        path.unlink()
    alone = load_dcase(root, year=2021, machine="fan", split="test")
    assert {Path(path).parent.name for path in alone.paths} == {"test"}
    assert len(alone.paths) == 24


def test_clips_of_one_name_and_two_sizes_are_no_copies(miniature, tmp_path):
    root = shutil.copytree(miniature(2021), tmp_path / "copy")
    path = next(root.glob("fan/source_test/*"))
    (root / "fan" / "test").mkdir()
    (root / "fan" / "test" / path.name).write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"are the same clip. Give the folder of one copy of one"):
        load_dcase(root, year=2021, machine="fan")


def test_machines_and_clips_are_named_by_links_not_by_their_targets(miniature, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(miniature(2023) / "fan" / "train", store / "8c")
    (tmp_path / "root" / "fan" / "test").mkdir(parents=True)
    (tmp_path / "root" / "fan" / "train").symlink_to(store / "8c")
    (tmp_path / "root" / "fan" / "loop").symlink_to(tmp_path / "root")
    for number, path in enumerate((miniature(2023) / "fan" / "test").iterdir()):
        shutil.copy(path, store / f"{number}.blob")
        (tmp_path / "root" / "fan" / "test" / path.name).symlink_to(store / f"{number}.blob")
    found = load_dcase(tmp_path / "root", year=2023, machine="fan", subset="development")
    expected = load_dcase(miniature(2023), year=2023, machine="fan", subset="development")
    relative = [Path(path).relative_to(tmp_path / "root").as_posix() for path in found.paths]
    assert relative == [Path(p).relative_to(miniature(2023)).as_posix() for p in expected.paths]
    assert found.y.tolist() == expected.y.tolist()
    assert found.domain.tolist() == expected.domain.tolist()


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        (
            "ground_truth_data/ground_truth_bandsaw_section_00_test.csv",
            "section_00_0000.wav\n",
            "Line 1 of '{path}' must have at least 2 columns. Got 'section_00_0000.wav'.",
        ),
        (
            "ground_truth_domain/ground_truth_bandsaw_section_00_test.csv",
            "section_00_0000.wav,2\n",
            "'{path}' must have 0 or 1 for 'section_00_0000.wav'. Got '2' instead.",
        ),
    ],
)
def test_wrong_lines_of_the_evaluator_are_named(miniature, tmp_path, table, content, message):
    evaluator = shutil.copytree(miniature(2023) / "evaluator", tmp_path / "evaluator")
    path = evaluator / table
    path.write_text("\n" + path.read_text().replace("\n", "\n\n"))  # blank lines are none
    load_dcase(miniature(2023), year=2023, machine="bandsaw", ground_truth=evaluator)
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        load_dcase(miniature(2023), year=2023, machine="bandsaw", ground_truth=evaluator)


def test_wrong_lines_of_other_tables_are_named(miniature, tmp_path):
    evaluator = shutil.copytree(miniature(2020) / "evaluator", tmp_path / "evaluator")
    path = evaluator / "eval_data_list.csv"
    path.write_text("ToyConveyor\n\nid_04_00000000.wav,normal_id_04_00000000.wav\n")
    message = (
        f"'{path}' must have 0 or 1 for 'id_04_00000000.wav'. Got 'normal_id_04_00000000.wav' "
        "instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_dcase(miniature(2020), year=2020, machine="ToyConveyor", ground_truth=evaluator)
    root = shutil.copytree(miniature(2024), tmp_path / "copy")
    for content, got in (("", "[]"), ("name,d1p,d1v\n", "['name', 'd1p', 'd1v']")):
        (root / "fan" / "attributes_00.csv").write_text(content)
        message = f"attributes_00.csv' must have a column file_name. Got {got} instead."
        with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
            load_dcase(root, year=2024, machine="fan", split="train")


def test_miniatures_are_seeded_and_machines_do_not_depend_on_each_other(miniature, tmp_path):
    alone = make_miniature_dcase(
        tmp_path, year=2023, machines=["bandsaw"], n_train=4, n_test=1, random_state=0
    )
    for path in alone.rglob("*.wav"):
        assert path.read_bytes() == (miniature(2023) / path.relative_to(alone)).read_bytes()


def test_own_recordings_in_any_nesting(tmp_path):
    for name in (
        "fan/id_00/normal/0.wav",  # MIMII
        "fan/id_00/abnormal/0.wav",
        "Normal/pump/1.FLAC",
        "anomaly/2.ogg",
        "pump/anomalous/deep/3.wav",
        "pump/anomalous/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clips = load_folder(tmp_path)
    found = {
        Path(path).relative_to(tmp_path).as_posix(): (y, machine)
        for path, y, machine in zip(clips.paths, clips.y.tolist(), clips.machine, strict=True)
    }
    assert found == {
        "fan/id_00/normal/0.wav": (1, "fan/id_00"),
        "fan/id_00/abnormal/0.wav": (-1, "fan/id_00"),
        "Normal/pump/1.FLAC": (1, "pump"),
        "anomaly/2.ogg": (-1, ""),
        "pump/anomalous/deep/3.wav": (-1, "pump/deep"),
    }
    (tmp_path / "stray.wav").touch()
    with pytest.raises(ValueError, match=r"stray.wav' lies in no folder called normal, anomaly, "):
        load_folder(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no recording \(\.aif, "):
        load_folder(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_folder(tmp_path / "nowhere")


def test_recordings_are_found_where_links_lead_once_and_without_an_end(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("a.wav", "sub/b.MP3", "sub/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    elsewhere.mkdir()
    (elsewhere / "c.aiff").touch()
    (root / "link").symlink_to(elsewhere)
    (root / "sub" / "up").symlink_to(root)
    (root / "sub" / "again").symlink_to(elsewhere)
    found = find_recordings(root)
    assert {path.name for path in found} == {"a.wav", "b.MP3", "c.aiff"}
    assert len(found) == 3


def linked_folders(tmp_path):
    """A store of git-annex beside its links, and one folder that a link names."""
    root, store = tmp_path / "root", tmp_path / "root" / ".git" / "annex"
    for name in ("root/.git/annex/a1.wav", "root/.git/annex/b2.wav", "elsewhere/77/0.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for label, blob in (("normal", "a1.wav"), ("abnormal", "b2.wav")):
        (root / "fan" / label).mkdir(parents=True)
        (root / "fan" / label / f"{label} 1.wav").symlink_to(store / blob)
    (root / "pump").mkdir()
    (root / "pump" / "normal").symlink_to(tmp_path / "elsewhere" / "77")
    return root


def test_labels_and_names_of_own_recordings_are_those_of_the_links(tmp_path):
    root = linked_folders(tmp_path)
    clips = load_folder(root)
    assert [Path(path).relative_to(root).as_posix() for path in clips.paths] == [
        "fan/abnormal/abnormal 1.wav",
        "fan/normal/normal 1.wav",
        "pump/normal/0.wav",
    ]
    assert clips.y.tolist() == [-1, 1, 1]
    assert clips.machine.tolist() == ["fan", "fan", "pump"]
    assert find_recordings(root) == [Path(path) for path in clips.paths]


@pytest.mark.parametrize("store", ["a store", "the store"])  # before and behind "fan" and "pump"
def test_a_folder_beside_its_links_is_listed_by_their_names(tmp_path, store):
    for name in (f"{store}/1/0.wav", f"{store}/2/0.wav", "fan/id_00/normal/0.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pump").mkdir()
    (tmp_path / "pump" / "normal").symlink_to(Path("..", store, "1"))
    (tmp_path / "pump" / "anomaly").symlink_to(Path("..", store, "2"))
    (tmp_path / "fan" / "id_02").symlink_to("id_00")  # a second machine, of the same clips
    clips = load_folder(tmp_path)
    assert clips.machine.tolist() == ["fan/id_00", "fan/id_02", "pump", "pump"]
    assert clips.y.tolist() == [1, 1, -1, 1]
    found = [path.relative_to(tmp_path).as_posix() for path in find_recordings(tmp_path)]
    assert found == ["fan/id_02/normal/0.wav", "pump/anomaly/0.wav", "pump/normal/0.wav"]


def test_a_folder_that_links_call_normal_and_anomalous_is_refused(tmp_path):
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "0.wav").touch()
    (tmp_path / "anomaly").symlink_to("normal")
    with pytest.raises(ValueError, match="are one folder, so its recordings are both normal and"):
        load_folder(tmp_path)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "a.wav").touch()
    (tmp_path / "inner").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="inner"):
        find_recordings(tmp_path)


@pytest.mark.skipif(
    "SKANOPATCH_DATA" not in os.environ,
    reason="SKANOPATCH_DATA names no folder of recordings; none are shipped",
)
def test_real_valves_of_2023():
    with pytest.warns(UserWarning, match="lacks"):
        clips = load_dcase(os.environ["SKANOPATCH_DATA"], year=2023, machine="valve")
    for y in (1, -1):
        for domain in ("source", "target"):
            assert np.sum((clips.y == y) & (clips.domain == domain)) == 25
    assert sorted(set(clips.attributes.pat)) == ["00", "01", "02", "03"]
