"""The head of the report: numbers with their intervals, warnings, machines, and times."""

import os
import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.testing import assert_allclose
from scipy.stats import beta

from skanopatch import AnomalousSoundDetector, MelPatcher
from skanopatch.audio import Segment
from skanopatch.report import make_report
from skanopatch.report.overview import (
    Scale,
    facts_of,
    headline,
    interval,
    machines_of,
    timeline_of,
    warnings_of,
)
from skanopatch.report.times import Times, recording_times

RATE = 16000


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    clips = [rng.normal(scale=0.1, size=RATE) for _ in range(12)]
    return AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop").fit(
        clips, sessions=[f"shift {i}" for i in range(12)]
    )


def table_of(scores, labels=None, groups="", notes=""):
    """Return the table of a page, whose clips are called clip 0, clip 1, ..."""
    table = pd.DataFrame({"score": np.asarray(scores, dtype=float)})
    table["name"] = [f"clip {i}" for i in range(len(table))]
    table["label"] = [""] * len(table) if labels is None else labels
    table["group"], table["note"] = groups, notes
    is_nan = table.score.isna()
    table["decision"] = np.select([is_nan, table.score > 1], ["unreadable", "anomaly"], "normal")
    return table


# 5 of 9 normal clips are alarms, and 1 of 3 faults is not.
FALSE_ALARMS = table_of(
    [2.0] * 5 + [0.5] * 4 + [3.0, 3.0, 0.9], labels=["normal"] * 9 + ["whine"] * 3
)


@pytest.mark.parametrize(("count", "n"), [(0, 8), (5, 9), (9, 9)])
def test_intervals_are_those_of_clopper_and_pearson(count, n):
    low, high = interval(count, n)
    assert low == pytest.approx(beta.ppf(0.025, count, n - count + 1) if count else 0)
    assert high == pytest.approx(beta.ppf(0.975, count + 1, n - count) if count < n else 1)


def test_facts_are_numbers_with_what_they_rest_on(model):
    facts = {fact.term: fact for fact in facts_of(FALSE_ALARMS, model)}
    assert facts["anomalies"].value == "7 of 12 (58%)"
    assert facts["anomalies"].detail == "95% interval 28% to 85%; a score above 1"
    assert facts["false alarms"].value == "5 of 9 (56%)"
    assert facts["false alarms"].detail == "95% interval 21% to 86%; asked: 10%"
    assert facts["false alarms"].is_bad
    assert facts["missed anomalies"].value == "1 of 3 (33%)"
    assert not facts["missed anomalies"].is_bad
    assert (facts["fitted on"].value, facts["fitted on"].detail) == ("12 clips", "12 sessions")


def test_without_labels_the_false_alarm_rate_that_was_asked_for_is_there(model):
    facts = {fact.term: fact for fact in facts_of(table_of([0.5, 2.0, np.nan]), model)}
    assert facts["false alarms asked"].value == "10%"
    assert facts["anomalies"].value == "1 of 2 (50%)"
    assert facts["clips"].detail == "1 could not be read"
    assert not {"false alarms", "missed anomalies"} & set(facts)


def test_many_false_alarms_are_an_alarm(model):
    (sentence, is_bad), *_ = warnings_of(FALSE_ALARMS, model, 99)
    assert is_bad
    assert "5 of 9 clips that are known to be normal (56%), where 10% were asked for" in sentence
    assert "(95% interval 21% to 86%)" in sentence


def test_false_alarms_that_chance_explains_are_no_warning(model):
    table = table_of([2.0, 0.5, 0.5, 0.5, 0.5], labels=["normal"] * 5)  # 1 of 5: 1 to 72 %
    assert warnings_of(table, model, 99) == []
    assert not any(fact.is_bad for fact in facts_of(table, model))


def test_without_labels_a_majority_of_anomalies_is_an_alarm(model):
    (sentence, is_bad), *_ = warnings_of(table_of([2.0] * 5 + [0.5] * 4), model, 99)
    assert is_bad
    assert sentence.startswith("5 of 9 clips are anomalies (56%). Unless most of the machines are")
    assert warnings_of(table_of([2.0] * 4 + [0.5] * 5), model, 99) == []


def test_notes_of_one_kind_are_one_warning_that_names_the_furthest(model):
    notes = [
        "12 dB quieter than any normal clip",
        "sampled at 8 kHz, fitted at 16 kHz; 4 dB quieter than any normal clip",
        "",
    ]
    assert warnings_of(table_of([0.5] * 3, notes=notes), model, 99) == [
        (
            "Level: 2 of 3 clips are not as in fit, such as clip 0 (12 dB quieter than any normal "
            "clip). Scores may come from this.",
            False,
        ),
        (
            "Sample rate: 1 of 3 clips is not as in fit, clip 1 (sampled at 8 kHz, fitted at 16 "
            "kHz). Scores may come from this.",
            False,
        ),
    ]


def test_what_the_threshold_rests_on_is_a_warning_where_it_is_little():
    rng = np.random.default_rng(0)
    clips = [rng.normal(scale=0.1, size=RATE) for _ in range(12)]
    detector = AnomalousSoundDetector(
        MelPatcher(duration=1.0), map_detector="drop", false_alarm_rate=0.01
    ).fit(clips)
    few, no_sessions = (sentence for sentence, _ in warnings_of(table_of([0.5]), detector, 99))
    assert few == (
        "The model was fitted on 12 clips: too few to check a false-alarm rate of 0.01, which "
        "takes 100 or more."
    )
    assert no_sessions.startswith("Sessions were not given when the model was fitted")


def test_clips_without_a_player_are_counted(model):
    assert warnings_of(table_of([0.9, 0.5, np.nan]), model, 1) == [
        ("Only the 1 most anomalous of 2 clips can be played.", False)
    ]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (table_of([np.nan]), "No clip could be read."),
        (
            table_of([0.5, 0.25]),
            "No clip is an anomaly: the highest score is 0.50, and 1 is the threshold.",
        ),
        (table_of([0.5, 1.25]), "1 of 2 clips is an anomaly. The most anomalous: clip 1 (1.25)."),
        (
            table_of([2, 3, 4, 5, 0.5], groups=["fan", "pump", "pump", "fan", "pump"]),
            "4 of 5 clips are anomalies, of 2 machines. The most anomalous: clip 3 (5), clip 2 "
            "(4), clip 1 (3).",
        ),
        (
            table_of([2, 3, 4, 0.5], groups=["fan", "pump", "pump", "pump"]),
            "3 of 4 clips are anomalies, 2 of pump (2 of its 3). The most anomalous: clip 2 "
            "(4), clip 1 (3), clip 0 (2).",
        ),
        (
            table_of([2, 0.5], groups=["fan", "pump"]),
            "1 of 2 clips is an anomaly, all of fan (1 of its 1). The most anomalous: clip 0 (2).",
        ),
    ],
)
def test_headline_says_which_clips_and_which_machine(table, sentence):
    assert headline(table) == sentence


def test_scale_keeps_the_region_of_the_threshold_apart():
    scale = Scale.of_scores(np.array([0.5, 385.0, np.nan, np.inf]))
    assert scale.top == 100  # what is beyond is at the end
    places = [scale.place(score) for score in (0, 0.5, 1, 2, 10, 100, 385)]
    assert places[0] == 0
    assert places[-2:] == [100, 100]
    assert (np.diff(places[:-1]) > 7).all()
    assert Scale.of_scores(np.array([0.5])).top == 10
    assert [text for text, _ in Scale(20.0).ticks()] == ["1", "2", "5", "10", "20"]


def test_machines_are_ranked_by_their_anomalies():
    table = table_of([0.5, 3, 2, 0.7, np.nan], groups=["fan", "pump", "pump", "valve", "fan"])
    machines = machines_of(table, Scale(10.0))
    assert [(m["name"], m["n_anomalies"], m["n_clips"]) for m in machines] == [
        ("pump", 2, 2),
        ("valve", 0, 1),
        ("fan", 0, 1),
    ]
    assert machines[0]["dots"] == [
        (Scale(10.0).place(3), "anomaly"),
        (Scale(10.0).place(2), "anomaly"),
    ]


# Times


def seconds(*date):
    return datetime(*date, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fan_2025-11-28T14-30-05.wav", seconds(2025, 11, 28, 14, 30, 5)),
        ("20251128_143005_fan.wav", seconds(2025, 11, 28, 14, 30, 5)),
        ("2025-11-28 14:30.wav", seconds(2025, 11, 28, 14, 30)),
        ("2025.11.28.wav", seconds(2025, 11, 28)),
        ("2025-11-28/clip 7.wav", seconds(2025, 11, 28)),
        ("2024-01-01/20251128.wav", seconds(2025, 11, 28)),  # the name goes before the folder
        ("20251328.wav", np.nan),  # no such month
        ("section_00_source_test_normal_0002_pat_00.wav", np.nan),
        ("20991128.wav", np.nan),  # not yet
        ("120251128.wav", np.nan),
    ],
)
def test_dates_in_names_are_understood(name, expected):
    clips = [name, "2020-01-01.wav", "2020-01-02.wav"]
    times = recording_times(clips, np.ones(3))
    assert times.source == "names"
    assert_allclose(times.seconds[0], expected)


def test_a_segment_is_later_by_its_seconds():
    clips = [Segment("20251128_140000.wav", start, start + 10) for start in (0.0, 90.0)]
    times = recording_times([*clips, "20251128_150000.wav"], np.full(3, 10.0))
    assert_allclose(np.diff(times.seconds), [90, 3510])
    assert times.texts() == ["2025-11-28 14:00", "2025-11-28 14:01:30", "2025-11-28 15:00"]


def test_times_of_files_count_if_there_was_time_to_record_them(tmp_path):
    files = [tmp_path / f"{name}.wav" for name in "abc"]
    for i, file in enumerate(files):
        file.write_bytes(b"")
        os.utime(file, (1.7e9 + 100 * i, 1.7e9 + 100 * i))
    times = recording_times(files, np.full(3, 60.0))
    assert times.source == "files"
    assert_allclose(np.diff(times.seconds), 100)
    copied = recording_times(files, np.full(3, 70.0))  # 210 s of sound within 200 s
    assert copied.source == ""
    assert np.isnan(copied.seconds).all()
    assert recording_times(files, np.full(3, 70.0), n_machines=2).source == "files"
    assert recording_times([np.zeros(9), np.zeros(9)], np.ones(2)).source == ""


def test_timeline_places_clips_by_time_and_score():
    table = table_of([3.0, 1.0, np.nan, 0.5])
    table["rank"] = [1, 2, 3, 4]
    table["recorded"] = [seconds(2025, 3, 1), seconds(2025, 3, 11), 0.0, np.nan]
    table["time"] = ["1 March", "11 March", "", ""]
    scale = Scale(10.0)
    timeline = timeline_of(table, Times(table.recorded.to_numpy(), "names"), scale)
    first, second = timeline["points"]
    assert (first["x"], second["x"]) == (2, 98)
    assert first["y"] == pytest.approx(100 - scale.place(3), abs=0.01)
    assert first["title"] == "clip 0, 1 March: 3"
    assert timeline["n_missing"] == 2
    assert timeline["span"] == "2025-03-01 to 2025-03-11"
    labels, places = zip(*timeline["ticks"], strict=True)
    assert 2 <= len(labels) <= 6
    days = [datetime.strptime(f"{label} 2025", "%d %b %Y").day for label in labels]
    assert_allclose(places, 2 + 96 * (np.array(days) - 1) / 10, atol=0.01)


@pytest.mark.parametrize(
    ("last", "form"),
    [
        ((2025, 3, 1, 0, 0, 40), r"\d\d:\d\d:\d\d"),
        ((2025, 3, 1, 9), r"\d\d:\d\d"),
        ((2025, 12, 1), r"\w{3} \d{4}"),
        ((2035, 3, 1), r"\d{4}"),
    ],
)
def test_times_are_labelled_in_the_unit_of_their_span(last, form):
    table = table_of([3.0, 1.0]).assign(rank=[1, 2], time="", recorded=[0.0, 0.0])
    table["recorded"] = [seconds(2025, 3, 1), seconds(*last)]
    timeline = timeline_of(table, Times(table.recorded.to_numpy(), "names"), Scale(10.0))
    assert timeline["ticks"]
    assert all(re.fullmatch(form, label) for label, _ in timeline["ticks"])


def test_a_page_of_dated_clips_has_a_timeline_and_a_column(model, tmp_path):
    rng = np.random.default_rng(1)
    files = [tmp_path / f"2025-03-{day:02}.wav" for day in (1, 9)]
    for file in files:
        soundfile.write(file, rng.normal(scale=0.1, size=RATE), RATE)
    html = make_report(model, files)
    assert 'class="points"' in html
    assert "Times are those in the names" in html
    assert re.findall(r'class="time" data-value="([\d.]+)">', html).__len__() == 2
    without = make_report(model, [soundfile.read(file)[0] for file in files])
    assert 'class="points"' not in without
    assert 'class="time"' not in without
