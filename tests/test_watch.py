"""``skanopatch watch``: what grows, stops, restarts and is too slow; the real command too."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import aged, fit_model, make_workspace, run
from numpy.testing import assert_allclose

from skanopatch import (
    KNNDetector,
    MelPatcher,
    MelStatistics,
    Segment,
    load_model,
    save_model,
    score_stream,
)
from skanopatch.streaming.alarm_rates import false_alarm_rate_for, neighbour_correlation
from skanopatch.streaming.alarms import Alarm
from skanopatch.streaming.cutting import Gap
from skanopatch.streaming.history import History
from skanopatch.streaming.live import BlockQueue, Stop, read_descriptor
from skanopatch.streaming.progress import Progress
from skanopatch.streaming.results import LATE, WindowResult
from skanopatch.streaming.scoring import WindowScorer
from skanopatch.streaming.sinks import open_sink
from skanopatch.streaming.watching import Watch

RATE = 16000
PATIENCE = 60  # seconds that a process may take to start on a busy machine


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def path_of_model(workspace):
    return fit_model(workspace)


@pytest.fixture(scope="module")
def model(path_of_model):
    return load_model(path_of_model)


def hum(seconds, seed=0, whine=0.0):
    """Return the machine of the workspace, with a whine on top."""
    rng, moments = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    sound = 0.1 * np.sin(2 * np.pi * 100 * moments) + 0.02 * rng.normal(size=len(moments))
    return (sound + whine * np.sin(2 * np.pi * 3000 * moments)).astype(np.float32)


def record(path, seconds=1.0, seed=0, age=3600.0, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, hum(seconds, seed, **kwargs), RATE)
    os.utime(path, (time.time() - age,) * 2)
    return path


class ListSink(list):
    """A sink that may stop the watch after a number of windows, or be slow."""

    def __init__(self, stop=None, most=math.inf, seconds=0.0):
        self.stop, self.most, self.seconds = stop, most, seconds

    def write(self, result):
        time.sleep(self.seconds)
        self.append(result)
        if len(self) >= self.most:
            self.stop.set()

    def flush(self):
        pass


@pytest.fixture
def watch(model):
    """Return a function that makes a `Watch`, its results and what it said."""

    def make(state=None, *, most=math.inf, seconds=0.0, alarm=None, hop=None):
        stop, said = Stop(), []
        sink = ListSink(stop, most, seconds)
        scorer = WindowScorer(model, alarm=Alarm() if alarm is None else alarm)
        made = Watch(scorer, [sink], Progress(state), stop=stop, say=said.append, hop=hop)
        made.stop = stop
        return made, sink, said

    return make


# --- Folders ---------------------------------------------------------------------------------


def test_files_of_a_folder_are_scored_by_their_windows_as_offline(watch, model, tmp_path):
    long = record(tmp_path / "night/long.wav", 3.4, age=100.0)
    short = record(tmp_path / "day.wav", 0.5, seed=1, age=50.0)
    watcher, results, _ = watch()
    watcher.folder(str(tmp_path), once=True)
    places = [(r.source, round(r.start, 6), round(r.stop, 6)) for r in results]
    starts = [0.0, 1.0, 2.0, 2.4]
    assert places == [(str(long), s, s + 1) for s in starts] + [(str(short), 0.0, 0.5)]
    windows = [Segment(source, start, stop) for source, start, stop in places[:4]]
    expected = [model.score_samples([clip])[0] for clip in [*windows, str(short)]]
    assert_allclose([r.score for r in results], expected, rtol=1e-12)
    ends = [os.stat(long).st_mtime - 3.4 + s for s in starts]
    assert_allclose([r.time for r in results[:4]], ends, atol=1e-3)
    assert (watcher.n_windows, watcher.n_unscored) == (5, 0)


def test_a_file_that_is_still_being_written_is_waited_for(watch, tmp_path):
    whole = record(tmp_path / "whole.wav", 2.0).read_bytes()
    (tmp_path / "whole.wav").unlink()

    def write():
        with (tmp_path / "new.wav").open("wb", buffering=0) as file:
            for i in range(0, len(whole), len(whole) // 12):
                file.write(whole[i : i + len(whole) // 12])
                time.sleep(0.1)

    thread = threading.Thread(target=write)
    thread.start()
    watcher, results, _ = watch(most=2)
    watcher.folder(str(tmp_path), every=0.05, settle=0.4)
    thread.join()
    assert [(r.start, r.stop) for r in results] == [(0.0, 1.0), (1.0, 2.0)]
    assert not any(math.isnan(r.score) for r in results)


def test_a_file_that_grows_whole_is_waited_for_too(watch, tmp_path):
    def write():
        for i in range(1, 9):
            soundfile.write(tmp_path / "new.part", hum(0.25 * i), RATE, format="WAV")
            (tmp_path / "new.part").replace(tmp_path / "new.wav")
            time.sleep(0.1)

    thread = threading.Thread(target=write)
    thread.start()
    watcher, results, _ = watch(most=2)
    watcher.folder(str(tmp_path), every=0.05, settle=0.5)
    thread.join()
    assert [(r.start, r.stop) for r in results] == [(0.0, 1.0), (1.0, 2.0)]


def test_a_file_whose_writer_pauses_is_not_reported_as_damaged(watch, tmp_path):
    whole = record(tmp_path / "whole.wav", 1.0).read_bytes()
    (tmp_path / "whole.wav").unlink()
    new = tmp_path / "new.wav"
    new.write_bytes(whole[:8000])
    threading.Timer(1.0, lambda: new.write_bytes(whole)).start()
    watcher, results, _ = watch(most=1)
    watcher.folder(str(tmp_path), every=0.05, settle=0.1)
    assert [(r.stop, math.isnan(r.score)) for r in results] == [(1.0, False)]


def test_a_damaged_file_has_one_result_that_says_why(watch, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    aged(tmp_path / "text.wav")
    for expected in (1, 0):
        watcher, results, _ = watch(tmp_path / "state")
        watcher.folder(str(tmp_path), once=True)
        assert len(results) == expected
        assert watcher.n_unscored == expected
        if expected:
            assert math.isnan(results[0].score)
            assert "no score: libsndfile cannot read it" in results[0].note


def test_an_empty_folder_is_waited_for_and_a_missing_one_is_an_error(watch, tmp_path):
    watcher, results, _ = watch(most=1)
    threading.Timer(0.3, record, [tmp_path / "first.wav"]).start()
    watcher.folder(str(tmp_path), every=0.05, settle=0.1)
    assert len(results) == 1
    with pytest.raises(FileNotFoundError):
        watch()[0].folder(str(tmp_path / "none"))


def scored(source, stop, *, in_alarm=False):
    return WindowResult(source, 0.0, stop - 1, stop, -0.5, 0.5, 0.5, "", in_alarm, "")


class LittleSpace(io.RawIOBase):
    """A file on a disk that takes ten bytes at a time, and no more than `most`."""

    def __init__(self, file, most):
        self.file, self.most = file, most

    def write(self, data):
        n_bytes = min(len(data), 10, self.most - os.fstat(self.file.fileno()).st_size)
        if n_bytes <= 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data[:n_bytes])

    def fileno(self):
        return self.file.fileno()

    def truncate(self, size):
        return self.file.truncate(size)


@pytest.mark.parametrize("is_freed", [True, False])
def test_progress_survives_short_writes_and_a_full_disk(tmp_path, monkeypatch, is_freed):
    path = tmp_path / "state"
    progress = Progress(path)
    file = progress._file._file
    monkeypatch.setattr(progress._file, "_file", LittleSpace(file, most=130))
    progress.record(scored("a.wav", 1.0))
    progress.record(scored("a.wav", 2.0))
    whole = path.read_bytes()
    assert whole.count(b"\n") == 2
    with pytest.warns(UserWarning, match=r"state' cannot be written \(No space left on device\)"):
        progress.record(scored("b.wav", 1.0, in_alarm=True))
    progress.record(scored("a.wav", 3.0, in_alarm=True))  # said once
    assert path.read_bytes() == whole  # nothing of a line
    assert progress.last_stop("b.wav") == 1.0
    if is_freed:
        monkeypatch.setattr(progress._file, "_file", file)
    progress.close()
    file.close()
    again = Progress(path)
    stops = (3.0, 1.0, True) if is_freed else (2.0, None, False)
    assert (again.last_stop("a.wav"), again.last_stop("b.wav"), again.in_alarm) == stops
    again.close()


DISTANCES = [1.2, 1.3, math.nan, 1.1, 0.9, 0.7, 0.6, 0.9, 0.5, 0.6, 0.7, 1.5, 0.7, 1.5, 1.6, 1.7]


@pytest.mark.parametrize("by", ["state file", "database"])
@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_an_alarm_comes_as_early_after_restarts_as_without(tmp_path, by, every):
    """After every few windows the process ends; a window that was scored late does not count."""
    undisturbed = Alarm()
    expected = [undisturbed.update(distance) for distance in DISTANCES]
    assert expected.count("on") == 2
    path, changes, late = tmp_path / "state", [], f"silent; {LATE}"
    for first in range(0, len(DISTANCES), every):
        if by == "state file":
            sink, progress = None, Progress(path)
        else:
            sink = open_sink(f"sqlite:{path}")
            progress = Progress(history=History(path))
        alarm = Alarm()
        progress.resume(alarm)
        assert alarm.run < alarm.persistence
        for i in range(first, min(first + every, len(DISTANCES))):
            changes.append(alarm.update(DISTANCES[i]))
            of_this = DISTANCES[i], 0.5, changes[-1], alarm.in_alarm
            results = [
                WindowResult("a.wav", 0.0, i, i + 1, -1.0, *of_this, ""),
                WindowResult("b.wav", 0.0, i, i + 1, -1.0, 9.0, 0.5, "", alarm.in_alarm, late),
            ]
            for result in results:
                if sink is not None:
                    sink.write(result)
                    sink.flush()
                progress.record(result, alarm.run)
        progress.close()
        if sink is not None:
            sink.close()
    assert changes == expected


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_a_restart_scores_no_window_twice_and_loses_none(watch, tmp_path, most):
    record(tmp_path / "sounds/a.wav", 3.5, age=100)
    record(tmp_path / "sounds/b.wav", 2.0, seed=1, age=50)
    places = []
    for _ in range(math.ceil(6 / most)):
        watcher, results, _ = watch(tmp_path / "state", most=most)
        watcher.folder(str(tmp_path / "sounds"), once=True)
        assert 1 <= len(results) <= most
        places += [(Path(r.source).name, r.start) for r in results]
    assert places == [("a.wav", s) for s in (0, 1, 2, 2.5)] + [("b.wav", 0), ("b.wav", 1)]
    watcher, results, _ = watch(tmp_path / "state")
    watcher.folder(str(tmp_path / "sounds"), once=True)
    assert results == []


def test_a_file_that_grew_has_its_new_windows_scored(watch, tmp_path):
    path = record(tmp_path / "sounds/a.wav", 2.0)
    watcher, results, _ = watch(tmp_path / "state", most=3)
    threading.Timer(0.5, record, [path, 3.0]).start()
    watcher.folder(str(tmp_path / "sounds"), every=0.05)
    assert [r.start for r in results] == [0.0, 1.0, 2.0]
    record(path, 4.0)  # while nobody watches
    watcher, results, _ = watch(tmp_path / "state")
    watcher.folder(str(tmp_path / "sounds"), once=True)
    assert [r.start for r in results] == [3.0]


def test_the_oldest_file_comes_first_but_the_newest_when_many_wait(watch, tmp_path):
    for i in range(4):
        record(tmp_path / f"{i}.wav", seed=i, age=1000.0 - i)
    for most, order in ((4, [0, 1, 2, 3]), (3, [3, 2, 1, 0])):
        watcher, results, said = watch()
        watcher.folder(str(tmp_path), most_waiting=most, once=True)
        assert [int(Path(r.source).stem) for r in results] == order
        assert said == (["4 files wait, more than 3: the newest come first."] if most == 3 else [])


def test_files_that_are_scored_late_do_not_change_the_alarm(watch, tmp_path):
    for i in range(4):
        record(tmp_path / f"{i}.wav", seed=i, age=1000.0 - i, whine=0.3 * (i < 3))
    watcher, results, _ = watch(alarm=Alarm(on=3.0, off=2.0, persistence=1))
    watcher.folder(str(tmp_path), most_waiting=1, once=True)
    assert [r.distance > 3 for r in results] == [False, True, True, True]
    assert {r.alarm for r in results} == {""}
    assert "scored late: it does not count for the alarm" in results[1].note
    watcher, results, said = watch(alarm=Alarm(on=3.0, off=2.0, persistence=2))
    watcher.folder(str(tmp_path), once=True)
    assert [r.alarm for r in results] == ["", "on", "", ""]
    assert watcher.n_alarms == 1
    assert re.search(r"UTC: alarm on, '.*1.wav', 0.0 to 1.0 s, at \S+ times the threshold", said[0])


def test_an_alarm_goes_on_after_a_restart(watch, tmp_path):
    record(tmp_path / "sounds/a.wav", 4.0, whine=0.3)
    alarms = []
    for _ in range(2):
        watcher, results, _ = watch(tmp_path / "state", most=2, alarm=Alarm(persistence=1))
        watcher.file(str(tmp_path / "sounds/a.wav"))
        alarms += [(r.alarm, r.in_alarm) for r in results]
    assert alarms == [("on", True), ("", True), ("", True), ("", True)]


# --- Live sound ------------------------------------------------------------------------------


def test_a_stream_goes_on_counting_where_the_last_run_ended(watch, tmp_path, model):
    for start, note in ((0.0, ""), (2.0, "after a gap of unknown length (restart)")):
        watcher, results, _ = watch(tmp_path / "state")
        queue = BlockQueue(watcher.stop)
        queue.put(hum(2.0), RATE)
        queue.end()
        watcher.stream(queue, "hall 3")
        assert [(r.source, r.start) for r in results] == [("hall 3", start), ("hall 3", start + 1)]
        assert [r.note for r in results] == [note, ""]
        assert_allclose(results[0].time, time.time(), atol=30)
    assert results[0].score == next(score_stream(model, [hum(2.0)], RATE)).score


def test_sound_that_comes_faster_than_it_is_scored_is_skipped_and_counted(watch):
    watcher, results, said = watch(seconds=0.5)
    queue = BlockQueue(watcher.stop, most_seconds=2.0, is_live=True)

    def speak():
        for i in range(12):
            queue.put(hum(1.0, seed=i), RATE)
            time.sleep(0.1)
        queue.end()

    thread = threading.Thread(target=speak)
    thread.start()
    watcher.stream(queue, "mic")
    thread.join()
    assert queue.skipped >= 3
    assert len(results) + queue.skipped == 12
    assert results[-1].stop == 12.0  # the clock counts what is missing
    assert f"Scoring is too slow: {queue.skipped:.3g} s of sound were skipped so far." in said
    gaps = [r.note for r in results if r.note]
    assert all(re.fullmatch(r"after a gap of \d+ s \(scoring is too slow\)", n) for n in gaps)
    assert sum(int(note.split()[4]) for note in gaps) == queue.skipped


def test_time_goes_on_after_a_gap_of_unknown_length(watch, monkeypatch):
    watcher, results, _ = watch()
    clock = iter(np.arange(1000.0, 9000.0, 1000.0))
    monkeypatch.setattr("skanopatch.streaming.watching.time.time", lambda: next(clock))
    queue = BlockQueue(watcher.stop)
    queue.put(hum(1.0), RATE)
    queue.put_gap(Gap())
    queue.put(hum(1.0), RATE)
    queue.end()
    watcher.stream(queue, "mic")
    assert [(r.start, r.time) for r in results] == [(0.0, 1000.0), (1.0, 3000.0)]


# --- The command -----------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path):
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    return {**os.environ, **home, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def start(path_of_model, environment, tmp_path):
    """Return a function that starts the command; what still runs is killed."""
    processes = []

    def start(source, *options, sink="jsonl:results.jsonl", **kwargs):
        command = [sys.executable, "-m", "skanopatch", "watch", str(path_of_model), str(source)]
        command += [*(["--to", sink] if sink else []), *map(str, options)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=tmp_path, **{"env": environment, **pipes, **kwargs})
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)


def ends(process, code=0, **kwargs):
    """Return what a process wrote to standard error, after its end."""
    _, error = process.communicate(timeout=PATIENCE, **kwargs)
    assert process.returncode == code, error.decode()
    return error.decode()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*recorded in another way")
def test_a_folder_is_scored_once_and_not_again(path_of_model, model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for i in range(3):
        record(tmp_path / f"sounds/{i}.wav", seed=i, age=100.0 - i, whine=0.1 * i)
    command = ["watch", path_of_model, tmp_path / "sounds", "--once"]
    result = run(*command, "--for", 2)
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    files = [str(tmp_path / f"sounds/{i}.wav") for i in range(3)]
    assert [row["source"] for row in rows] == files
    assert_allclose([row["score"] for row in rows], model.score_samples(files), rtol=1e-12)
    assert [row["alarm"] for row in rows] == ["", "", "on"]
    assert "alarm on, '" in result.stderr
    assert result.stderr.endswith("Done: 3 windows, 1 alarms, 0 without a score.\n")
    record(tmp_path / "sounds/3.wav", seed=3)
    result = run(*command)
    assert "3 files were scored before" in result.stderr
    assert "Done: 1 windows" in result.stderr
    assert "Done: 4 windows" in run(*command, "--again").stderr
    assert "Done: 4 windows" in run(*command, "--state", tmp_path / "other").stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_results_that_are_lost_are_an_error(path_of_model, tmp_path):
    sound, database = record(tmp_path / "a.wav", 3.0), tmp_path / "history.db"
    result = run(
        "watch", path_of_model, sound, "--to", "jsonl:/dev/full", "--to", f"sqlite:{database}"
    )
    assert result.exit_code == 1
    assert "Warning: '/dev/full': 3 results could not be delivered and are lost." in result.stderr
    assert result.stderr.endswith(
        "Done: 3 windows, 0 alarms, 0 without a score.\n"
        "Error: 3 results could not be delivered and are lost. The warnings say where.\n"
    )
    with History(database) as history:  # the other sink has them
        assert history.last_stop(str(sound)) == 3.0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_watch_of_a_folder_cleanly(start, tmp_path, number):
    record(tmp_path / "sounds/a.wav")
    results = tmp_path / "results.jsonl"
    process = start("sounds")
    wait_for(lambda: len(lines_of(results)) == 1, process)
    record(tmp_path / "sounds/b.wav", 2.0, age=0.0)
    wait_for(lambda: len(lines_of(results)) == 3, process)
    process.send_signal(number)
    assert ends(process).endswith("Stopped: 3 windows, 0 alarms, 0 without a score.\n")
    assert [row["start"] for row in lines_of(results)] == [0.0, 0.0, 1.0]


@pytest.mark.slow
def test_after_kill_9_no_window_is_lost(start, tmp_path):
    record(tmp_path / "long.wav", 150.0)
    results = tmp_path / "results.jsonl"
    process = start("long.wav")
    wait_for(lambda: len(lines_of(results)) > 3, process)
    process.kill()
    process.communicate()
    n_before = len(lines_of(results))
    assert n_before < 150
    ends(start("long.wav"))
    starts = [row["start"] for row in lines_of(results)]
    assert sorted(set(starts)) == list(range(150))
    assert len(starts) <= 151  # the window in work may come twice


@pytest.mark.slow
def test_raw_pcm_of_standard_input_is_scored(start, tmp_path, model):
    sound = np.column_stack([hum(3.5), hum(3.5, seed=1)])
    file = tmp_path / "sound.raw"
    raw = {"samplerate": RATE, "subtype": "PCM_24", "endian": "BIG", "format": "RAW"}
    soundfile.write(file, sound, **raw)
    decoded, _ = soundfile.read(file, channels=2, dtype="float32", **raw)
    options = ["--sample-rate", RATE, "--channels", 2, "--format", "s24be"]
    process = start("-", *options, "--name", "fan 3", "--hop", 0.5, sink=None)
    output, error = process.communicate(file.read_bytes(), timeout=PATIENCE)
    assert process.returncode == 0, error
    rows = [json.loads(line) for line in output.splitlines()]
    expected = list(score_stream(model, [decoded], RATE, hop=0.5))
    assert [row["score"] for row in rows] == [result.score for result in expected]
    assert {row["source"] for row in rows} == {"fan 3"}
    assert "2 channel(s), fitted with 1" in rows[0]["note"]


@pytest.mark.slow
def test_a_wav_on_a_pipe_is_scored_while_it_comes(start, tmp_path):
    data = record(tmp_path / "a.wav", 3.0).read_bytes()
    process = start("-")
    results = tmp_path / "results.jsonl"
    process.stdin.write(data[: 44 + 2 * RATE + 1001])
    process.stdin.flush()
    wait_for(lambda: len(lines_of(results)) == 1, process)
    assert "Done: 3 windows" in ends(process, input=data[44 + 2 * RATE + 1001 :])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_watch_of_a_silent_pipe(start, tmp_path, number):
    process = start("-", "--sample-rate", RATE)
    process.stdin.write((hum(1.5) * 32767).astype("<i2").tobytes())
    process.stdin.flush()
    results = tmp_path / "results.jsonl"
    wait_for(lambda: len(lines_of(results)) == 1, process)
    process.send_signal(number)
    process.wait(timeout=10)
    assert process.returncode == 0
    assert [row["stop"] for row in lines_of(results)] == [1.0, 1.5]  # what had come is scored
    assert b"Stopped: 2 windows" in process.stderr.read()


@pytest.mark.parametrize(
    ("signals", "code", "said"),
    [
        ([signal.SIGINT], 0, "Stopped: 0 windows"),
        ([signal.SIGTERM, signal.SIGTERM], 0, "Stopped: 0 windows"),
        ([signal.SIGTERM, signal.SIGINT], 130, "Interrupted."),
        ([signal.SIGINT, signal.SIGINT], 130, "Interrupted."),
    ],
)
def test_a_second_ctrl_c_ends_at_once(path_of_model, tmp_path, monkeypatch, signals, code, said):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Watch, "folder", lambda *_, **__: [*map(signal.raise_signal, signals)])
    result = run("watch", path_of_model, tmp_path)
    assert result.exit_code == code
    assert said in result.stderr
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_live_standard_input_skips_what_is_too_much(start, tmp_path):
    sound = (hum(600.0) * 32767).astype("<i2").tobytes()
    said = ends(start("-", "--sample-rate", RATE, "--live"), input=sound)
    rows = lines_of(tmp_path / "results.jsonl")
    skipped = float(re.findall(r"too slow: (\S+) s of sound were skipped so far", said)[-1])
    assert skipped > 100
    assert len(rows) < 500
    assert any("(scoring is too slow)" in row["note"] for row in rows)
    assert_allclose(rows[-1]["stop"], 600.0, atol=1e-6)


FAKE = """
import threading, time
import numpy as np

class PortAudioError(Exception):
    pass

class Status:
    input_overflow = False

class InputStream:
    def __init__(self, *, device, samplerate, channels, dtype, callback):
        if device == "broken":
            raise PortAudioError("Invalid device")
        assert (device, samplerate, channels, dtype) == (3, 16000, 1, "float32")
        self.callback, self.is_open = callback, True

    def __enter__(self):
        threading.Thread(target=self.speak, daemon=True).start()

    def speak(self):
        buffer = np.empty((4000, 1), dtype="float32")
        for i in range(10**6):
            if not self.is_open:
                return
            buffer[:] = np.random.default_rng(i).normal(scale=0.1, size=(4000, 1))
            status = Status()
            status.input_overflow = i == 6
            self.callback(buffer, 4000, None, status)
            time.sleep(0.02)

    def __exit__(self, *error):
        self.is_open = False
"""


@pytest.mark.slow
def test_a_microphone_is_scored_until_a_signal(start, tmp_path, environment):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "sounddevice.py").write_text(FAKE)
    paths = [str(tmp_path / "fake"), *filter(None, [os.environ.get("PYTHONPATH")])]
    fake = environment | {"PYTHONPATH": os.pathsep.join(paths)}
    process = start("mic:3", env=fake)
    results = tmp_path / "results.jsonl"
    wait_for(lambda: len(lines_of(results)) > 4, process)
    process.send_signal(signal.SIGINT)
    ends(process)
    rows = lines_of(results)
    assert [row["start"] for row in rows[:3]] == [0.0, 0.5, 1.5]
    assert rows[2]["note"].startswith("after a gap of unknown length (the microphone lost sound)")
    assert {row["source"] for row in rows} == {"mic:3"}
    said = ends(start("mic:broken", env=fake), code=1)
    assert "The microphone broken cannot be opened at 16000 Hz with 1 channel(s)" in said


def test_without_sounddevice_the_error_names_the_pip_line(path_of_model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = run("watch", path_of_model, "mic")
    assert result.exit_code == 1
    assert "is not installed: pip install 'skanopatch[microphone]'." in result.stderr


def test_raw_pcm_without_a_rate_is_an_error():
    reader, writer = os.pipe()
    os.write(writer, bytes(100))
    os.close(writer)
    queue = BlockQueue(Stop())
    read_descriptor(queue, reader, sample_rate=None, n_channels=1, sample_format="s16le")
    with pytest.raises(ValueError, match="a WAV file, or raw PCM whose --sample-rate is given"):
        list(queue)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alarms-per-hour", 1, "--on", 2], "excludes --false-alarm-rate and --on"),
        (["--alarms-per-hour", 1, "--false-alarm-rate", 0.1], "excludes --false-alarm-rate"),
        (["--off", 1.5], "--off must be at most --on. Got 1.5 and 1."),
        (["--hop", 5], "--hop must be at most the 1 s of a window. Got 5."),
    ],
)
def test_wrong_usage_is_named(path_of_model, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    result = run("watch", path_of_model, tmp_path, "--once", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_source_that_is_not_there_is_named(path_of_model):
    result = run("watch", path_of_model, "nowhere")
    assert result.exit_code == 2
    assert "SOURCE 'nowhere' is no file or folder." in result.stderr
    result = run("watch", path_of_model, "-", "--again")
    assert "--again is for files and folders: live sound comes once" in result.stderr


def test_alarms_per_hour_place_the_threshold(path_of_model, model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = str(record(tmp_path / "sounds/a.wav"))
    command = ["watch", path_of_model, tmp_path / "sounds", "--once", "--again"]
    result = run(*command, "--alarms-per-hour", 20, "--for", 2)
    rate = 20 * 2 / 3600  # windows of 1 s, two of which raise an alarm
    assert_allclose(rate, false_alarm_rate_for(20, 1.0, 2, neighbour_correlation(model, 1.0)))
    assert "1.11% of windows every 1 s may be beyond the threshold, 2 in a row" in result.stderr
    assert "correlation of neighbouring windows: unknown" in result.stderr
    assert "The 12 normal windows of fit reach down to a rate of 7.69%" in result.stderr
    moved = load_model(path_of_model).set_false_alarm_rate(rate)
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert_allclose(row["distance"], model.score_samples([path])[0] / moved.offset_)
    (row,) = [json.loads(line) for line in run(*command).stdout.splitlines()]
    assert_allclose(row["distance"], model.score_samples([path])[0] / model.offset_)


def test_a_pipeline_watches_too(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    normal = sorted(map(str, (workspace / "recordings/normal").rglob("*.wav")))
    pipe = make_pipe().fit(normal)
    save_model(tmp_path / "pipe.skano", pipe)
    path = str(record(tmp_path / "sounds/a.wav", 2.0))
    result = run("watch", tmp_path / "pipe.skano", path, "--false-alarm-rate", 0.05)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    expected = pipe.score_samples([Segment(path, 0, 1), Segment(path, 1, 2)])
    assert_allclose([row["score"] for row in rows], expected)


def make_pipe():
    from sklearn.pipeline import make_pipeline

    return make_pipeline(MelPatcher(duration=1.0), MelStatistics(), KNNDetector())


@pytest.mark.slow
def test_a_sqlite_sink_is_what_a_restart_goes_on_from(start, tmp_path):
    from skanopatch.streaming.history import History

    record(tmp_path / "sounds/a.wav", 2.0)
    sink = "sqlite:history.db"
    assert "Done: 2 windows" in ends(start("sounds", "--once", sink=sink))
    assert History(tmp_path / "history.db").last_stop(str(tmp_path / "sounds/a.wav")) == 2.0
    record(tmp_path / "sounds/b.wav", 1.0)
    assert "Done: 1 windows" in ends(start("sounds", "--once", sink=sink))
    assert not (tmp_path / "config").exists()  # no state file beside it
