"""The trend of a machine: what is drawn, and the page of the command line."""

import json
import re
from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pytest
from command_line import run
from matplotlib.dates import date2num
from numpy.testing import assert_allclose, assert_array_equal

import skanopatch
from skanopatch import TrendDisplay
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks import open_sink

START = 1764288000.0  # 2025-11-28 00:00 UTC
HOUR = 3600.0


@pytest.fixture(autouse=True)
def closed_figures(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a display must not call plt.show"))
    yield
    plt.close("all")


def hours(n):
    return START + HOUR * np.arange(n)


def labels(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


# --- TrendDisplay ----------------------------------------------------------------------------


def test_the_display_is_public():
    assert skanopatch.TrendDisplay is skanopatch.inspection.TrendDisplay


def test_few_windows_are_drawn_one_by_one_in_the_order_of_their_times():
    scores = np.array([0.5, 1.5, 0.7, 0.6])
    display = TrendDisplay.from_predictions(hours(4)[::-1], scores)
    assert_allclose(display.line_.get_ydata(), scores[::-1])
    assert_allclose(date2num(display.line_.get_xdata()) * 86400, hours(4))
    assert labels(display) == ["score", "threshold"]
    assert_array_equal(display.threshold_line_.get_ydata(), [1, 1])
    assert display.ax_.get_ylabel() == "anomaly score (1 = threshold)"
    assert display.ax_.get_xlabel() == "time (UTC)"
    assert (len(display.alarms_), len(display.gaps_), display.rise_line_) == (0, 0, None)


def test_many_windows_are_medians_and_a_band_that_keeps_the_extremes():
    scores = np.random.default_rng(0).uniform(0.4, 0.6, 6000)
    scores[3456] = 7.0
    display = TrendDisplay.from_predictions(hours(6000), scores)
    assert len(display.line_.get_ydata()) <= 601
    assert np.nanmax(display.line_.get_ydata()) < 0.7
    (path,) = display.band_.get_paths()
    assert_allclose([path.vertices[:, 1].min(), path.vertices[:, 1].max()], [scores.min(), 7.0])
    assert labels(display) == ["median score", "lowest to highest", "threshold"]


def test_alarms_are_shaded_from_their_first_to_the_end_of_their_last_window():
    in_alarm = np.isin(np.arange(100), [10, 11, 12, 40])
    display = TrendDisplay.from_predictions(hours(100), np.ones(100), in_alarm=in_alarm)
    assert_allclose((display.alarms_ - START) / HOUR, [[10, 13], [40, 41]])
    assert labels(display) == ["score", "threshold", "alarm"]


def test_gaps_are_shaded_and_break_the_line():
    times, scores = hours(100), np.ones(100)
    scores[50:70] = np.nan  # could not be scored
    is_there = (np.arange(100) < 20) | (np.arange(100) >= 30)
    display = TrendDisplay.from_predictions(times[is_there], scores[is_there])
    assert_allclose((display.gaps_ - START) / HOUR, [[20, 30], [50, 70]])
    assert np.isnan(display.line_.get_ydata()).sum() == 2
    assert "no score" in labels(display)
    shorter = TrendDisplay.from_predictions(times[is_there], scores[is_there], gap=15 * HOUR)
    assert_allclose((shorter.gaps_ - START) / HOUR, [[50, 70]])


def test_an_alarm_does_not_reach_over_a_gap():
    times = np.concatenate([hours(10), hours(10) + 100 * HOUR])
    display = TrendDisplay.from_predictions(times, np.ones(20), in_alarm=np.ones(20, bool))
    assert_allclose((display.alarms_ - START) / HOUR, [[0, 10], [100, 110]])


def test_a_rise_is_drawn_through_its_points():
    rise = np.array([[START, 0.5], [START + 9 * HOUR, 0.9]])
    display = TrendDisplay.from_predictions(hours(10), np.ones(10), rise=rise, threshold=None)
    assert_allclose(display.rise_line_.get_ydata(), [0.5, 0.9])
    assert display.threshold_line_ is None
    assert labels(display) == ["score", "slow rise"]


def test_axes_given_are_drawn_on_and_one_window_is_enough():
    _, ax = plt.subplots()
    display = TrendDisplay.from_predictions([START], [0.5], ax=ax)
    assert (display.ax_, display.figure_) == (ax, ax.figure)
    assert_allclose(display.line_.get_ydata(), [0.5])


@pytest.mark.parametrize(
    ("times", "scores", "in_alarm", "message"),
    [
        ([1, 2], [1, 2, 3], None, r"Got the shapes \(2,\) and \(3,\) for 3 scores, and 0 times"),
        ([1, np.nan], [1, 2], None, "and 1 times without a value"),
        ([1, 2], [1, 2], [True], r"shapes \(2,\) and \(1,\) for 2 scores"),
        ([1, 2], [np.nan, np.nan], None, "No window has a score: all 2 are NaN"),
    ],
)
def test_wrong_input_is_refused(times, scores, in_alarm, message):
    with pytest.raises(ValueError, match=message):
        TrendDisplay.from_predictions(times, scores, in_alarm=in_alarm)


# --- skanopatch trend ------------------------------------------------------------------------


def write(path, n_hours, *, rise=0.0, source="fan 3", alarm_at=(), note=""):
    """Write the history of a machine, one window in 10 minutes."""
    rng = np.random.default_rng(0)
    times = np.arange(0, n_hours * HOUR, 600.0)
    with open_sink(f"sqlite:{path}") as sink:
        for i, t in enumerate(times):
            distance = 0.6 + 0.05 * rng.normal() + rise * t / times[-1]
            is_on = i in alarm_at
            sink.write(
                WindowResult(
                    source,
                    START + t,
                    t,
                    t + 10,
                    -distance,
                    5.25 if is_on else distance,
                    0.2,
                    "on" if is_on and i - 1 not in alarm_at else "",
                    is_on,
                    note if i == 0 else "",
                )
            )


def pictures(html):
    return [
        b64decode(data) for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    ]


def test_the_page_says_that_a_machine_rises_and_lists_its_alarms(tmp_path):
    write(
        tmp_path / "history.db",
        24 * 20,
        rise=0.4,
        source="fan <3>",
        alarm_at=range(300, 306),
        note="<b>silent</b>",
    )
    page = tmp_path / "trend.html"
    found = run("trend", str(tmp_path / "history.db"), "-o", str(page), "--title", "Hall & fans")
    assert found.exit_code == 0, found.output
    html = page.read_text()
    assert "<h1>Hall &amp; fans</h1>" in html
    slope = float(re.search(r"The distance rises slowly: (\S+) times the threshold a day", html)[1])
    assert_allclose(slope, 0.4 / 20, rtol=0.1)
    cells = re.findall(r"<td>([^<]*)</td>", html)
    alarm = ["2025-11-30 02:00:00 UTC", "60 min", "5.25", "fan &lt;3&gt;", "180000.0 s"]
    assert cells[:5] == alarm
    assert cells[5:] == ["&lt;b&gt;silent&lt;/b&gt;", "1"]
    assert [b"<svg" in picture for picture in pictures(html)] == [True] * 3  # all, a week, a day
    assert "http" not in re.sub(r'http-equiv|base64,[^"]+', "", html)


@pytest.mark.slow
def test_a_steady_machine_does_not_rise_and_a_day_is_too_little(tmp_path):
    write(tmp_path / "steady.db", 24 * 10)
    write(tmp_path / "short.db", 24)
    steady = run("trend", str(tmp_path / "steady.db"), "-o", "-").output
    assert "No slow rise: " in steady
    assert len(pictures(steady)) == 2  # all, a day
    short = run("trend", str(tmp_path / "short.db"), "-o", "-").output
    assert "cannot be said: 7 periods of 24 h are needed, and there are 23.8 h." in short
    without = run("trend", str(tmp_path / "short.db"), "-o", "-", "--period", "0").output
    assert "No slow rise: " in without


def test_source_and_dates_choose_windows(tmp_path):
    path = str(tmp_path / "a.db")
    write(path, 48)
    write(path, 24, source="/recordings/pump/1.wav")

    def n_windows(*options):
        html = run("trend", path, "-o", "-", *options).output
        return int(re.search(r"<dt>windows</dt><dd>([\d,]+)", html)[1])

    assert n_windows() == 48 * 6 + 24 * 6
    assert n_windows("--source", "/recordings/pump/*") == 24 * 6
    assert n_windows("--source", "fan 3", "--since", "2025-11-29") == 24 * 6
    assert n_windows("--source", "fan 3", "--until", "2025-11-28T06:00:00") == 36
    found = run("trend", path, "-o", "-", "--source", "valve")
    assert found.exit_code == 1
    assert "has no score in this time of this source. Its first sources: 'fan 3', '/rec" in (
        found.output
    )


def test_what_is_no_history_is_one_sentence(tmp_path):
    (tmp_path / "a.db").write_text(json.dumps({"source": "fan"}))
    found = run("trend", str(tmp_path / "a.db"), "-o", "-")
    assert (found.exit_code, found.output.count("\n")) == (1, 1)
    assert "a.db' is no history, which skanopatch watch --to sqlite:FILE writes." in found.output
