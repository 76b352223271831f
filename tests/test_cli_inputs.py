"""What the command line takes: folders, links, lists, standard input and file names."""

import json
import os
import shlex
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest
import soundfile
from command_line import DAYS, FAST, aged, fit_model, make_workspace, run, scores_of, write

from skanopatch import (
    load_model,
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(autouse=True)
def stand_in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def model(workspace):
    return fit_model(workspace)


# --- Folders of anomalies --------------------------------------------------------------------


@pytest.fixture
def fan(tmp_path, monkeypatch):
    """Three clips of each kind in folders of those names, and two clips beside the folders."""
    for i in range(3):
        write(tmp_path / f"fan/normal/day {i % 2}/{i}.wav", seed=i)
        write(tmp_path / f"fan/Abnormal/{i}.wav", seed=i + 3)
    for i in range(2):
        write(tmp_path / f"fan/extra/{i}.wav", seed=i + 6)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "fan"


def line_to_pass(result):
    assert result.exit_code == 1
    assert not Path("m.skano").exists()
    return shlex.split(result.stderr.rpartition("Pass the others: ")[2])


@pytest.mark.parametrize("name", ["abnormal", "anomaly", "Anomalous"])
def test_fit_refuses_a_folder_of_anomalies_and_says_what_to_pass(fan, name):
    (fan / "Abnormal").rename(fan / name)
    result = run("fit", "fan", "-o", "m.skano", *FAST, "--false-alarm-rate", 0.2)
    assert result.stderr.startswith(
        "Error: fit takes normal recordings, and 3 of 8 are in folders of anomalies, such as "
        f"'fan/{name}/0.wav'. "
    )
    line = line_to_pass(result)
    assert sorted(line[2:4]) == ["fan/extra", "fan/normal"]
    assert line[:2] == ["skanopatch", "fit"]
    assert line[4:] == ["--output", "m.skano", "--false-alarm-rate", "0.2", "--no-maps"]
    assert run(*line[1:]).exit_code == 0
    fitted = load_model("m.skano")
    assert len(fitted.clip_names_) == 5
    assert fitted.false_alarm_rate == 0.2


def test_files_beside_a_folder_of_anomalies_are_passed_by_a_pattern(fan):
    shutil.copy(fan / "extra/0.wav", fan / "beside.wav")
    line = line_to_pass(run("fit", "fan", "-o", "m.skano", *FAST))
    assert sorted(line[2:5]) == ["fan/*.wav", "fan/extra", "fan/normal"]
    assert run(*line[1:]).exit_code == 0
    assert len(load_model("m.skano").clip_names_) == 6


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["fan/Abnormal", "fan/normal"], ["fan/normal"]),  # as a shell writes fan/*
        (["fan/extra", "fan/Abnormal/0.wav"], ["fan/extra"]),
        (["fan/Abnormal/0.wav", "fan/extra/1.wav"], ["fan/extra/1.wav"]),
    ],
)
def test_anomalies_are_found_in_what_a_shell_lists(fan, arguments, others):
    line = line_to_pass(run("fit", *arguments, "-o", "m.skano", *FAST))
    assert line[2 : 2 + len(others)] == others
    assert not any("Abnormal" in argument for argument in line)


def test_the_demo_refuses_folders_of_anomalies_too(fan):
    result = run("demo", "--clips", "fan", "--test", "fan/Abnormal")
    assert result.exit_code == 1
    assert result.stderr.endswith("Pass the others: fan/extra fan/normal\n")


def test_anomalies_alone_are_refused(fan):
    result = run("fit", "fan/Abnormal", "-o", "m.skano", *FAST)
    assert result.exit_code == 1
    assert "3 of 3 are in folders of anomalies" in result.stderr
    assert "Rename the folder if they are normal." in result.stderr


def test_normal_clips_below_a_folder_of_anomalies_are_normal(fan):
    shutil.rmtree(fan / "extra")
    (fan / "normal").rename(fan.parent / "normal")
    (fan.parent / "normal").rename(fan / "Abnormal" / "normal")
    line = line_to_pass(run("fit", "fan", "-o", "m.skano", *FAST))
    assert line[2] == "fan/Abnormal/normal"
    assert run(*line[1:]).exit_code == 0


def test_the_innermost_name_decides_and_names_above_the_argument_do_not_count(fan):
    normal = fan.rename(fan.parent / "anomaly") / "normal"
    assert run("fit", "anomaly/normal", "-o", "m.skano", *FAST).exit_code == 0
    normal.rename(normal.parent / "plain")
    assert run("fit", normal.parent / "plain", "-o", "m.skano", *FAST).exit_code == 0
    assert run("fit", "anomaly/plain", "-o", "m.skano", *FAST).exit_code == 0


# --- Files that are not read, or not yet -----------------------------------------------------


def test_recordings_of_other_kinds_are_counted(model, tmp_path):
    write(tmp_path / "new/a.wav")
    for name in ("b.m4a", "deep/c.M4A", "d.wma", "notes.txt"):
        (tmp_path / "new" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "new" / name).write_bytes(b"?")
    result = run("score", model, tmp_path / "new")
    assert result.exit_code == 0
    assert "3 files passed over: 2 .m4a, 1 .wma.\n" in result.stderr
    (tmp_path / "new/a.wav").unlink()
    result = run("score", model, tmp_path / "new")
    assert result.exit_code == 1
    assert "Error: There is no recording that can be read. 3 files passed over" in result.stderr
    result = run("score", model, tmp_path / "new", "recordings/new")
    assert result.exit_code == 0
    assert "3 files passed over: 2 .m4a, 1 .wma.\n" in result.stderr
    assert "holds no recording" not in result.stderr


def test_a_file_that_is_being_written_is_passed_over(model, tmp_path):
    finished, unfinished = (write(tmp_path / f"{name}.wav") for name in ("finished", "growing"))
    os.utime(unfinished)
    is_done = threading.Event()

    def grow():
        with unfinished.open("ab") as file:
            while not is_done.wait(0.05):
                file.write(bytes(100))
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        result = run("score", model, tmp_path, "--json", "-")
    finally:
        is_done.set()
        thread.join()
    assert list(scores_of(result)) == [str(finished)]
    assert f"'{unfinished}' is passed over, since it is still being written." in result.stderr


def test_fit_on_files_that_are_all_being_written_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr("skanopatch.audio.files_in_writing", list)
    result = run("fit", "recordings/new", "-o", tmp_path / "m.skano")
    assert result.exit_code == 1
    assert result.stderr.endswith("Error: There is no recording to work on.\n")


# --- No recording is no error ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-"], "There is no recording to work on: standard input is empty."),
        (["nothing"], "The folder 'nothing' holds no recording ("),
        (["day-*/*.wav"], "No file or folder matches 'day-*/*.wav'."),
    ],
)
def test_no_new_recording_is_said_and_no_error(model, tmp_path, arguments, sentence):
    result = run("score", model, *arguments, stdin="")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(sentence)
    tables = ["--csv", tmp_path / "x.csv", "--json", tmp_path / "x.jsonl"]
    assert run("score", model, *arguments, *tables, "--p-values", stdin="").exit_code == 0
    assert (tmp_path / "x.csv").read_text() == "file,score,anomaly,p_value\n"
    assert (tmp_path / "x.jsonl").read_text() == ""
    result = run("report", model, *arguments, "-o", tmp_path / "x.html", stdin="")
    assert result.exit_code == 0
    assert result.stderr.startswith(sentence)
    assert not (tmp_path / "x.html").exists()


def test_the_other_folders_are_scored_where_one_is_empty(model):
    result = run("score", model, "nothing", "recordings/new", "--json", "-")
    assert len(scores_of(result)) == 4
    assert "The folder 'nothing' holds no recording" in result.stderr


# --- Standard input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        {"format": "WAV", "subtype": "FLOAT"},
        {"format": "WAV", "subtype": "PCM_16", "endian": "BIG"},  # RIFX
        {"format": "RF64"},
        {"format": "W64"},
        {"format": "AIFF"},
        {"format": "AU"},
        {"format": "CAF"},
        {"format": "FLAC"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "MP3"},
    ],
    ids=lambda kind: "-".join(kind.values()),
)
def test_a_recording_on_standard_input_scores_as_its_file_does(model, tmp_path, kind):
    samples, rate = soundfile.read("recordings/new/d.wav")
    suffix = ".mp3" if kind["format"] == "MP3" else ".wav"
    path = tmp_path / f"new{suffix}"
    soundfile.write(path, samples, rate, **kind)
    aged(path)
    (expected,) = scores_of(run("score", model, path, "--json", "-")).values()
    result = run("score", model, "-", "--json", "-", stdin=path.read_bytes())
    assert scores_of(result) == {"-": expected}
    assert expected > 1


def test_a_recording_on_standard_input_is_scored_beside_files_and_in_a_report(model, tmp_path):
    data = Path("recordings/new/d.wav").read_bytes()
    result = run("score", model, "recordings/new/a.wav", "-", stdin=data)
    assert result.exit_code == 0
    assert [line.split()[2] for line in result.stdout.splitlines()[1:3]] == [
        "-",
        "recordings/new/a.wav",
    ]
    page = tmp_path / "page.html"
    assert run("report", model, "-", "-o", page, stdin=data).exit_code == 0
    assert "clip 0" in page.read_text()


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_stream_whose_header_does_not_know_its_length_is_scored(model, length):
    data = bytearray(Path("recordings/new/d.wav").read_bytes())
    (expected,) = scores_of(run("score", model, "-", "--json", "-", stdin=bytes(data))).values()
    data[4:8] = length.to_bytes(4, "little")  # as ffmpeg and arecord write to a pipe
    data[40:44] = length.to_bytes(4, "little")
    result = run("score", model, "-", "--json", "-", stdin=bytes(data))
    assert scores_of(result) == {"-": expected}


def test_standard_input_that_is_neither_audio_nor_names_is_one_error(model):
    result = run("score", model, "-", stdin=bytes(range(256)) * 40)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: Standard input must be a recording (WAV, FLAC, OGG, MP3 or AIFF) or a list of "
        "paths, one a line. It begins with b'\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\x07' and is "
        "neither.\n"
    )


def test_a_list_whose_first_path_begins_as_audio_does_is_a_list(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RIFF", "FORMULA", "OggS", "L\xfcfter"):
        write(Path(name, "a.wav"))
        result = run("score", model, "-", "--json", "-", stdin=f"{name}/a.wav\n")
        assert list(scores_of(result)) == [f"{name}/a.wav"]


def test_a_damaged_recording_on_standard_input_is_one_error(model):
    data = Path("recordings/new/d.wav").read_bytes()
    result = run("score", model, "-", stdin=data[: len(data) // 2])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: The recording on standard input cannot be used: its header promises 1.00 s"
    )
    assert len(result.stderr.splitlines()) == 1


def test_fit_asks_for_files_in_place_of_a_recording_on_standard_input():
    for others in ([], ["recordings/normal"]):
        data = Path("recordings/new/d.wav").read_bytes()
        result = run("fit", "-", *others, "-o", "m.skano", stdin=data)
        assert result.exit_code == 1
        assert "Standard input holds a recording. Normal ones must be files." in result.stderr


# --- Names that are no UTF-8, and links ------------------------------------------------------


@pytest.fixture
def latin1(tmp_path, workspace):
    """Write clips whose names are in Latin-1, as old recorders do."""
    folder = os.fsencode(tmp_path / "new")
    os.mkdir(folder)
    try:
        for name in (b"L\xfcfter.wav", b"plain.wav"):
            shutil.copy(os.fsencode(workspace / "recordings/new/d.wav"), os.path.join(folder, name))
            aged(os.path.join(folder, name))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    return tmp_path / "new"


def test_names_that_are_no_utf8_are_scored_and_written_readably(model, tmp_path, latin1):
    result = run("score", model, latin1)
    assert result.exit_code == 0
    assert f"{latin1}/L\\xfcfter.wav" in result.stdout
    files = {"csv": tmp_path / "x.csv", "json": tmp_path / "x.jsonl"}
    assert (
        run("score", model, latin1, "--csv", files["csv"], "--json", files["json"]).exit_code == 0
    )
    names = [f"{latin1}/L\\xfcfter.wav", f"{latin1}/plain.wav"]
    table = pd.read_csv(files["csv"])
    assert table.file.tolist() == names
    assert table.score[0] == table.score[1]
    assert [json.loads(line)["file"] for line in files["json"].open()] == names
    listed = b"\n".join(os.fsencode(latin1 / name) for name in os.listdir(latin1))
    assert sorted(scores_of(run("score", model, "-", "--json", "-", stdin=listed))) == names


def test_names_that_are_no_utf8_are_in_a_report(model, tmp_path, latin1):
    page = tmp_path / "page.html"
    title = os.fsdecode(b"L\xfcfter")  # as a shell passes it
    assert run("report", model, latin1, "-o", page, "--title", title).exit_code == 0
    assert "L\\xfcfter.wav" in page.read_text(encoding="utf-8")
    assert "<title>L\\udcfcfter" in page.read_text(encoding="utf-8")


def test_a_model_is_fitted_on_names_that_are_no_utf8(tmp_path, latin1, workspace):
    table = tmp_path / "sessions.csv"
    write(latin1 / "plain.wav")  # unlike the other
    rows = [b"new/L\xfcfter.wav,1", b"new/plain.wav,2"]
    table.write_bytes(b"file,session\n" + b"\n".join(rows))
    (latin1 / "extra.opus").touch()
    result = run("fit", latin1, "-o", tmp_path / "m.skano", *FAST, "--sessions", table)
    assert result.exit_code == 0, result.stderr
    assert os.fsencode(load_model(tmp_path / "m.skano").clip_names_[0]).endswith(b"L\xfcfter.wav")
    result = run("info", tmp_path / "m.skano", "--json")
    assert result.exit_code == 0
    assert "L\\\\xfcfter.wav" in result.stdout
    renamed = os.fsdecode(os.fsencode(tmp_path) + b"/L\xfcfter.skano")
    (tmp_path / "m.skano").rename(renamed)
    result = run("info", renamed)
    assert result.exit_code == 0
    assert "L\\udcfcfter.skano" in result.stdout


def test_labels_sessions_and_tables_go_by_the_names_of_links(tmp_path, workspace):
    cache = tmp_path / "cache"
    cache.mkdir()
    rows = []
    for i, day in enumerate(DAYS):
        # Equal clips are one file there.
        content = cache / f"{i // 2 * 2:032x}"
        shutil.copy(workspace / f"recordings/normal/{day}/{i:02}.wav", content)
        link = tmp_path / "data" / day / f"{i}.wav"
        link.parent.mkdir(exist_ok=True, parents=True)
        link.symlink_to(content)
        rows.append({"file": f"data/{day}/{i}.wav", "label": f"machine {i % 2}"})
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    output = tmp_path / "m.skano"
    options = ["-o", output, *FAST]
    result = run("fit", tmp_path / "data", *options, "--labels-from-folder")
    assert result.exit_code == 0, result.stderr
    assert load_model(output).groups_ == ["monday", "tuesday"]
    run("fit", tmp_path / "data", *options, "--labels", tmp_path / "labels.csv")
    assert load_model(output).groups_ == ["machine 0", "machine 1"]
