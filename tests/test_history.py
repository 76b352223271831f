"""History: databases that survive what happens to them, and slow rises in them."""

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skanopatch.streaming.drift import DAY, drift_test
from skanopatch.streaming.history import History
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks import open_sink


def result(i, *, source="fan 3", distance=0.5, alarm="", in_alarm=False, note=""):
    score = -2 * distance
    return WindowResult(
        source, 1e9 + i, float(i), i + 10.0, score, distance, 0.25, alarm, in_alarm, note
    )


def write(path, *results):
    with open_sink(f"sqlite:{path}") as sink:
        for one in results:
            sink.write(one)


# --- What is in a database -------------------------------------------------------------------


def test_windows_come_back_as_they_were_written(tmp_path):
    unscored = result(0, source="pump", distance=math.nan, note="silent")
    write(tmp_path / "a.db", result(1, alarm="on", in_alarm=True), unscored)
    with History(tmp_path / "a.db") as history:
        table = history.windows()
        assert history.sources() == ["fan 3", "pump"]
        assert list(history.windows(source="pu*").source) == ["pump"]
        assert list(history.windows(since=1e9 + 0.5).start) == [1.0]
        assert list(history.windows(until=1e9 + 1).start) == [0.0]
    rows = [WindowResult(**row) for row in table.to_dict("records")]
    assert rows[1] == result(1, alarm="on", in_alarm=True)
    assert repr(rows[0]) == repr(unscored)  # NaN does not equal itself


def test_the_schema_is_as_documented(tmp_path):
    write(tmp_path / "a.db", result(0, alarm="on", in_alarm=True, note="silent"), result(1))
    with sqlite3.connect(tmp_path / "a.db") as reader:
        assert reader.execute("SELECT * FROM alarms").fetchall() == [(1, "on")]
        assert reader.execute("SELECT * FROM notes").fetchall() == [(1, "silent")]
        assert reader.execute("SELECT id, source, time, in_alarm FROM windows").fetchall() == [
            (1, "fan 3", 1e9, 1),
            (2, "fan 3", 1e9 + 1, 0),
        ]
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reader.close()


def test_a_window_that_is_scored_again_replaces_the_earlier_result(tmp_path):
    write(tmp_path / "a.db", result(0, alarm="on", in_alarm=True, note="silent"), result(1))
    write(tmp_path / "a.db", result(0, distance=0.25))
    with History(tmp_path / "a.db") as history:
        table = history.windows()
    assert list(table.distance) == [0.25, 0.5]
    assert (list(table.alarm), list(table.note)) == (["", ""], ["", ""])


def test_a_restart_learns_how_far_a_source_was_scored(tmp_path):
    write(tmp_path / "a.db", result(0), result(10), result(3, source="a[1].wav", in_alarm=True))
    with History(tmp_path / "a.db") as history:
        assert history.last_stop("fan 3") == 20.0
        assert history.last_stop("fan 4") is None
        assert (history.is_scored("fan 3"), history.is_scored("fan 4")) == (True, False)
        assert len(history.windows(source="a[1].wav")) == 1  # a name, not a pattern
        assert history.in_alarm
    write(tmp_path / "a.db", result(20))
    assert not History(tmp_path / "a.db").in_alarm


def test_what_is_no_history_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no history '.*none\.db'"):
        History(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(ValueError, match=r"empty\.db' is no history"):
        History(tmp_path / "empty.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE windows (x)")
    other.close()
    for open_it in (History, lambda path: open_sink(f"sqlite:{path}")):
        with pytest.raises(ValueError, match=r"other\.db' is no history"):
            open_it(tmp_path / "other.db")
    write(tmp_path / "newer.db", result(0))
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(ValueError, match="history of version 2, and this skanopatch reads version"):
        History(tmp_path / "newer.db")
    with pytest.raises(OSError, match="unable to open") as caught:
        open_sink(f"sqlite:{tmp_path / 'no folder' / 'a.db'}")
    assert caught.value.filename.endswith("a.db")


# --- Kills, readers, locks -------------------------------------------------------------------

WRITER = """
import sys
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks import open_sink

sink = open_sink("sqlite:" + sys.argv[1])
i = int(sys.argv[2])
while True:
    sink.write(WindowResult("fan", 1e9 + i, float(i), i + 1.0, -1.0, 0.5, 0.2,
                            "on" if i % 10 == 0 else "", i % 10 < 5, f"note {i}"))
    sink.flush()
    print(i, flush=True)
    i += 1
"""


def test_what_was_flushed_survives_a_killed_writer_and_nothing_is_half_written(tmp_path):
    path, first = tmp_path / "a.db", 0
    for round_ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = [writer.stdout.readline() for _ in range(20)]
        time.sleep(random.Random(round_).uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.communicate()[0].splitlines()
        last = int([line for line in lines + rest if line.strip()][-1])
        with History(path) as history:
            table = history.windows()
            first = int(history.last_stop("fan"))
        assert first - 1 in (last, last + 1)  # it may have died between the flush and the print
        assert list(table.start) == list(range(first))
        assert list(table.note) == [f"note {i}" for i in range(first)]
        assert list(np.flatnonzero(table.alarm == "on")) == list(range(0, first, 10))
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_readers_see_whole_windows_while_two_writers_write(tmp_path):
    path, n_windows = tmp_path / "a.db", 100
    write(path, result(0, source="a"), result(0, source="b"))

    def write_all(source):
        with open_sink(f"sqlite:{path}") as sink:
            for i in range(1, n_windows):
                sink.write(result(i, source=source, note=f"note {i}"))
                sink.flush()

    writers = [threading.Thread(target=write_all, args=(source,)) for source in "ab"]
    for writer in writers:
        writer.start()
    sizes = []
    while any(writer.is_alive() for writer in writers):
        with History(path) as history:
            table = history.windows()
        sizes.append(len(table))
        assert (table.note[table.start > 0] != "").all()
    for writer in writers:
        writer.join()
    assert sizes == sorted(sizes)
    with History(path) as history:
        for source in "ab":
            assert list(history.windows(source=source).start) == list(range(n_windows))


def test_results_wait_while_another_program_locks_the_database(tmp_path, monkeypatch):
    monkeypatch.setattr("skanopatch.streaming.history._PATIENCE", 0.05)
    sink = open_sink(f"sqlite:{tmp_path / 'a.db'}")
    sink.write(result(0))
    sink.flush()
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    sink.write(result(1))
    with pytest.warns(UserWarning, match=r"a\.db': results cannot be written \(database is lock"):
        sink.flush()
    other.execute("ROLLBACK")
    other.close()
    sink.write(result(2))
    with pytest.warns(UserWarning, match="delivered again"):
        sink.close()
    with History(tmp_path / "a.db") as history:
        assert list(history.windows().start) == [0, 1, 2]


def test_a_flush_that_fails_leaves_nothing(tmp_path):
    sink = open_sink(f"sqlite:{tmp_path / 'a.db'}")
    sink.write(result(0))
    sink.write(result(1, alarm="perhaps"))
    with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
        sink.flush()
    with History(tmp_path / "a.db") as history:
        assert len(history.windows()) == 0


# --- Slow rises ------------------------------------------------------------------------------


def machine(days, *, seed=0, rise=0.0, memory=3.0, cycle=0.1, hop=600.0, period=DAY):
    """Return the times and distances of a machine with a memory of some hours."""
    rng = np.random.default_rng(seed)
    times = np.arange(0, days * DAY, hop)
    keeps = math.exp(-hop / 3600 / memory) if memory else 0.0
    slow = np.zeros(len(times))
    steps = 0.1 * rng.normal(size=len(times)) * math.sqrt(1 - keeps**2)
    for i in range(1, len(times)):
        slow[i] = keeps * slow[i - 1] + steps[i]
    log = slow + cycle * np.sin(2 * np.pi * times / period) + 0.1 * rng.normal(size=len(times))
    return 1e9 + times, 0.7 * np.exp(log) + rise * times / times[-1]


def test_a_slow_rise_has_its_slope_and_a_small_p_value():
    drift = drift_test(*machine(14, rise=0.28))
    assert drift.is_rising
    assert drift.p_value <= 0.01
    assert_allclose(drift.slope, 0.02, rtol=0.2)  # of the threshold a day
    (start, low), (stop, high) = drift.line
    assert_allclose((high - low) / (stop - start) * DAY, drift.slope)
    assert drift.sentence().startswith("The distance rises slowly: +0.0")
    falling = drift_test(*machine(14, rise=-0.28))
    assert not falling.is_rising
    assert falling.p_value > 0.9


def test_stationary_machines_with_memory_are_seldom_said_to_rise():
    n_found = sum(drift_test(*machine(7, seed=seed)).is_rising for seed in range(100))
    assert n_found <= 4  # 1 is expected; a test of independent blocks finds about 20


def test_single_events_are_no_rise():
    times, distance = machine(7, memory=0)
    for day in range(7):  # more from day to day, one window of an hour
        distance[day * 144 + 6 * np.arange(3 * day) + 2] = 50.0
    drift = drift_test(times, distance)
    assert not drift.is_rising
    assert drift.blocks[:, 1].max() < 2


def test_a_daily_cycle_is_no_rise():
    times, distance = machine(7.5, memory=0, cycle=1.0)
    drift = drift_test(times, distance)
    assert not drift.is_rising
    assert abs(drift.slope) < 0.05
    # Without the cycle, half a day from morning to noon is one.
    morning = times - times[0] < DAY / 4
    assert drift_test(times[morning], distance[morning], period=0).is_rising


def test_gaps_order_and_unscored_windows_do_not_matter():
    times, distance = machine(14, rise=0.28)
    expected = drift_test(times, distance)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(times))
    shuffled = drift_test(times[order], distance[order])
    assert (shuffled.p_value, shuffled.slope) == (expected.p_value, expected.slope)
    more = drift_test(np.append(times, times + 1), np.append(distance, np.full(len(times), np.nan)))
    assert_allclose(more.slope, expected.slope)
    is_gap = (times > times[600]) & (times < times[900])
    gappy = drift_test(times[~is_gap], distance[~is_gap])
    assert gappy.is_rising
    assert_allclose(gappy.slope, expected.slope, rtol=0.2)
    assert len(gappy.blocks) < len(expected.blocks)


@pytest.mark.parametrize(
    ("days", "n_blocks", "hours"), [(7, 168, 1), (14, 168, 2), (28, 224, 3), (400, 200, 48)]
)
def test_blocks_grow_with_the_days(days, n_blocks, hours):
    times = np.arange(0, days * DAY, 1800)
    drift = drift_test(times, np.random.default_rng(0).normal(size=len(times)))
    assert (len(drift.blocks), drift.block) == (n_blocks, hours * 3600)
    assert drift.correlation < 0.3


@pytest.mark.parametrize(
    ("times", "period", "reason"),
    [
        (np.arange(0, 6.5 * DAY, 600), DAY, "7 periods of 24 h are needed, and there are 156 h"),
        (np.arange(5) * 3600.0, 0.0, "12 blocks of 0.104 h are needed, 5 have enough windows"),
        (np.empty(0), DAY, "no window has a score"),
    ],
)
def test_too_little_has_no_p_value_but_a_reason(times, period, reason):
    drift = drift_test(times, np.ones(len(times)), period=period)
    assert math.isnan(drift.p_value)
    assert (drift.is_rising, drift.reason) == (False, reason)
    assert reason in drift.sentence()


def test_wrong_input_of_the_test_is_refused():
    with pytest.raises(ValueError, match=r"Got the shapes \(3,\) and \(2,\)"):
        drift_test([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"period must be at least 0 seconds\. Got -1"):
        drift_test([1, 2], [1, 2], period=-1)
