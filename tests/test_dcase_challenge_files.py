"""Challenge files: names, precision, round trip and what is refused."""

import re

import numpy as np
import pytest

from skanopatch.datasets import read_challenge_files, write_challenge_files

# Numbers that fewer than 17 digits would change.
SCORES = np.array([0.1 + 0.2, -1 / 3, 1e-300, 12345678.000000002, 5.0, np.nextafter(1.0, 2.0)])
CLIPS = {
    "names": [f"section_0{section}_{n:04d}.wav" for section in (0, 1) for n in (2, 0, 1)],
    "machine": ["fan", "fan", "3D_Printer"] * 2,
    "section": [0, 0, 0, 1, 1, 1],
}


def write(folder, **changes):
    arrays = CLIPS | {"anomaly_score": SCORES, "decision": [0, 1, 0, 1, 1, 0]} | changes
    return write_challenge_files(folder, **arrays)


def test_files_are_those_that_the_evaluators_read(tmp_path):
    paths = write(tmp_path / "new" / "folder", names=[f"a/b/{name}" for name in CLIPS["names"]])
    assert sorted(path.name for path in paths) == sorted(
        f"{kind}_{machine}_section_{section}_test.csv"
        for kind in ("anomaly_score", "decision_result")
        for machine in ("fan", "3D_Printer")
        for section in ("00", "01")
    )
    folder = tmp_path / "new" / "folder"
    assert (folder / "anomaly_score_fan_section_00_test.csv").read_bytes() == (
        b"section_00_0002.wav,0.30000000000000004\nsection_00_0000.wav,-0.3333333333333333\n"
    )
    assert (folder / "decision_result_fan_section_00_test.csv").read_bytes() == (
        b"section_00_0002.wav,0\nsection_00_0000.wav,1\n"
    )


def test_round_trip_to_the_bit(tmp_path):
    write(tmp_path)
    results = read_challenge_files(
        tmp_path, names=CLIPS["names"], machine=CLIPS["machine"], section=CLIPS["section"]
    )
    assert results.anomaly_score.tobytes() == SCORES.tobytes()
    assert results.decision.tolist() == [0, 1, 0, 1, 1, 0]
    everything = read_challenge_files(tmp_path)
    assert set(zip(everything.machine, everything.section, everything.names, strict=True)) == set(
        zip(CLIPS["machine"], CLIPS["section"], CLIPS["names"], strict=True)
    )


def test_the_years_before_2022_have_names_of_their_own(tmp_path):
    names = ["section_03_source_test_0000.wav", "section_03_target_test_0000.wav"]
    arrays = {"machine": ["fan"] * 2, "section": [3] * 2, "anomaly_score": [0.5, 1.5]}
    paths = write_challenge_files(
        tmp_path / "21", names=names, **arrays, decision=[False, True], year=2021
    )
    assert [path.name for path in paths] == [
        f"{kind}_fan_section_03_{domain}_test.csv"
        for domain in ("source", "target")
        for kind in ("anomaly_score", "decision_result")
    ]
    names_2020 = ["id_03_00000000.wav", "id_03_00000001.wav"]
    paths = write_challenge_files(
        tmp_path / "20", names=names_2020, **arrays, decision=[0, 1], year=2020
    )
    assert paths[0].name == "anomaly_score_fan_id_03.csv"
    for folder, expected in (("21", names), ("20", names_2020)):
        results = read_challenge_files(tmp_path / folder)
        assert (results.names.tolist(), results.section.tolist()) == (expected, [3, 3])
        assert results.decision.tolist() == [0, 1]
    with pytest.raises(
        ValueError, match=r"^Names of 2021 must tell the domain, as section_03_sour"
    ):
        write_challenge_files(tmp_path, names=names_2020, **arrays, decision=[0, 1], year=2021)


def test_scores_without_decisions_are_read(tmp_path):
    for path in write(tmp_path):
        if path.name.startswith("decision"):
            path.unlink()
    assert read_challenge_files(tmp_path).decision is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decision": [1, 1, -1, 1, 1, 1]},
            "decision must hold 0 (normal) and 1 (anomalous), such as pipe.predict(X) == -1. Got "
            "[-1, 1] instead.",
        ),
        (
            {"anomaly_score": [0, np.nan, 0, 0, 0, np.nan]},
            "The scores of 2 of 6 clips are NaN, the first of 'section_00_0000.wav'. The challenge "
            "wants a number for each.",
        ),
        (
            {"names": ["a.wav"] * 6},
            "Section 0 of machine 'fan' has two clips named 'a.wav'.",
        ),
        ({"section": [0]}, "section must have one entry per clip. Got the shape (1,) for 6."),
        (
            {"anomaly_score": [[0.0]] * 6},
            "anomaly_score must have one entry per clip. Got the shape (6, 1) for 6.",
        ),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_missing_and_mixed_up_clips_are_named(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"has no scores for 1 of 2 clips: section_00_0009.wav\.$"):
        read_challenge_files(
            tmp_path,
            names=["section_00_0000.wav", "section_00_0009.wav"],
            machine=["fan"] * 2,
            section=[0] * 2,
        )
    (tmp_path / "decision_result_fan_section_00_test.csv").write_text("section_00_0002.wav,0\n")
    with pytest.raises(ValueError, match=r"must hold the same clips\.$"):
        read_challenge_files(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"holds no file of the form anomaly_score_<machine"
    ):
        read_challenge_files(tmp_path / "nothing")


def test_blank_lines_are_passed_over(tmp_path):
    for path in write(tmp_path):
        path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\r\n\r\n") + b"  \n\n")
    results = read_challenge_files(
        tmp_path, names=CLIPS["names"], machine=CLIPS["machine"], section=CLIPS["section"]
    )
    assert results.anomaly_score.tobytes() == SCORES.tobytes()
    assert results.decision.tolist() == [0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (
            "anomaly_score",
            b"section_00_0000.wav,0.5\n\nsection_00_0002.wav\n",
            "Line 3 of '{path}' must have at least 2 columns. Got 'section_00_0002.wav'.",
        ),
        (
            "anomaly_score",
            b"section_00_0000.wav,high\n",
            "'{path}' must have a number for 'section_00_0000.wav'. Got 'high' instead.",
        ),
        (
            "decision_result",
            b"section_00_0000.wav,0.5\nsection_00_0002.wav,1\n",
            "'{path}' must have 0 or 1 for 'section_00_0000.wav'. Got '0.5' instead.",
        ),
        (
            "anomaly_score",
            "section_00_0000.wav,0,5 \u00b1".encode("latin-1"),
            "'{path}' must be a CSV file in UTF-8: 'utf-8' codec can't decode byte 0xb1 in "
            "position 24: invalid start byte.",
        ),
    ],
)
def test_wrong_lines_are_named(tmp_path, kind, content, message):
    write(tmp_path)
    path = tmp_path / f"{kind}_fan_section_00_test.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_challenge_files(tmp_path)
