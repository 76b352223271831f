"""Streams: the same scores as offline, whatever the blocks; gaps, silence, memory and alarms."""

import io
import json
import math
import re
import threading
import time
import tracemalloc
import warnings
from itertools import islice

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import lfilter
from scipy.special import ndtri
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from skanopatch import (
    AnomalousSoundDetector,
    FitOnNormal,
    GMMDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    score_stream,
)
from skanopatch.streaming.alarm_rates import (
    alarms_per_hour,
    false_alarm_rate_for,
    neighbour_correlation,
)
from skanopatch.streaming.alarms import Alarm, make_alarm
from skanopatch.streaming.cutting import Gap, WindowCutter
from skanopatch.streaming.history import History
from skanopatch.streaming.live import BlockQueue, Stop
from skanopatch.streaming.pcm import FORMATS, decode_pcm, decode_wav
from skanopatch.streaming.progress import Progress
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.scoring import silence_notes
from skanopatch.streaming.sinks import open_sink

RATE = 16000
DURATION = 0.5
N_WINDOW = int(DURATION * RATE)


def noise(n_samples, *channels, seed=0):
    return np.random.default_rng(seed).normal(scale=0.1, size=(n_samples, *channels))


@pytest.fixture(scope="module")
def normal():
    return [(clip.astype(np.float32), RATE) for clip in noise(30 * N_WINDOW).reshape(30, N_WINDOW)]


@pytest.fixture(scope="module")
def model(normal):
    patcher = MelPatcher(duration=DURATION)
    return AnomalousSoundDetector(patcher, map_detector="drop").fit(normal)


def in_blocks(samples, size, rate=None):
    for start in range(0, len(samples), size):
        block = samples[start : start + size]
        yield block if rate is None else (block, rate)


def windows_of(samples, results, rate=RATE):
    return [(samples[round(r.start * rate) : round(r.stop * rate)], rate) for r in results]


def run(model, blocks, rate=RATE, **kwargs):
    return list(score_stream(model, blocks, rate, start_time=0.0, **kwargs))


# --- The same scores as offline --------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000, N_WINDOW, 20_001, 10**6])
def test_scores_are_those_of_the_windows_to_the_bit_whatever_the_blocks(model, size):
    samples = noise(2 * N_WINDOW + 100 if size == 1 else 10 * N_WINDOW + 100, seed=1)
    results = run(model, in_blocks(samples.astype(np.float32), size))
    offline = [model.score_samples([w])[0] for w in windows_of(samples, results)]
    assert_array_equal([r.score for r in results], offline)
    p_values = [model.p_values([w])[0] for w in windows_of(samples, results)]
    assert_array_equal([r.p_value for r in results], p_values)
    assert_array_equal([r.distance for r in results], np.array(offline) / model.offset_)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<i4", ">i4", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("n_channels", [None, 1, 3])
@pytest.mark.filterwarnings("ignore:.*recorded in another way")
def test_pcm_of_any_width_byte_order_and_channels_scores_as_offline(model, dtype, n_channels):
    kind = np.dtype(dtype)
    samples = noise(3 * N_WINDOW, *([] if n_channels is None else [n_channels]), seed=2)
    if kind.kind != "f":
        scale = np.iinfo(kind).max // 2
        samples = (np.clip(samples, -1, 1) * scale) + (scale if kind.kind == "u" else 0)
    samples = samples.astype(kind)
    results = run(model, in_blocks(samples, 999))
    assert len(results) == 3
    offline = [model.score_samples([w])[0] for w in windows_of(samples, results)]
    assert_array_equal([r.score for r in results], offline)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.filterwarnings("ignore:.*recorded in another way")
def test_windows_at_another_rate_are_resampled_alone_as_offline_pairs_are(model, rate):
    samples = noise(5 * rate, seed=3).astype(np.float32)
    results = run(model, in_blocks(samples, 4096), rate)
    assert len(results) == 10
    offline = [model.score_samples([w])[0] for w in windows_of(samples, results, rate)]
    assert_array_equal([r.score for r in results], offline)
    assert f"sampled at {rate / 1000:g} kHz, fitted at 16 kHz" in results[0].note


@pytest.mark.parametrize(("hop", "n_samples"), [(0.5, 33_000), (0.2, 40_000), (0.3, 24_001)])
def test_windows_lie_where_those_of_a_whole_recording_do(model, hop, n_samples):
    samples = noise(n_samples, seed=4).astype(np.float32)
    results = run(model, in_blocks(samples, 1234), hop=hop)
    whole = AnomalousSoundDetector(model.patcher, map_detector="drop", hop=hop)
    whole.__dict__ |= {name: value for name, value in vars(model).items() if name.endswith("_")}
    offline = whole.score_windows([(samples, RATE)])
    assert_allclose([r.start for r in results], offline["start"], atol=1e-9)
    assert_allclose([r.stop for r in results], offline["stop"], atol=1e-9)
    assert_allclose([r.score for r in results], offline["score"], rtol=1e-9)
    own = run(whole, in_blocks(samples, 1234))  # the hop of the model
    assert [r.score for r in own] == [r.score for r in results]


@pytest.mark.parametrize(
    "end",
    [
        KNNDetector(),
        MahalanobisDetector(),
        GMMDetector(random_state=0),
        IsolationForest(n_estimators=5, random_state=0),
        FitOnNormal(make_pipeline(MelPatcher(duration=DURATION), MelStatistics(), KNNDetector())),
    ],
    ids=lambda end: type(end).__name__,
)
def test_any_pipeline_from_clips_to_a_detector_scores_streams(normal, end):
    pipe = end
    if not isinstance(end, FitOnNormal):
        pipe = make_pipeline(MelPatcher(duration=DURATION), MelStatistics(), end)
    pipe.fit(normal, np.ones(len(normal)))
    samples = noise(4 * N_WINDOW, seed=5).astype(np.float32)
    results = run(pipe, in_blocks(samples, 3000))
    windows = windows_of(samples, results)
    assert_array_equal([r.score for r in results], [pipe.score_samples([w])[0] for w in windows])
    signs = [1 if r.distance <= 1 else -1 for r in results]
    assert signs == pipe.predict(windows).tolist()
    assert math.isnan(results[0].p_value) == isinstance(end, IsolationForest)


def test_a_group_is_the_machine_that_windows_are_compared_with(normal):
    groups = ["fan"] * 15 + ["pump"] * 15
    clips = [
        (samples * (1 if g == "fan" else 3), RATE)
        for (samples, _), g in zip(normal, groups, strict=True)
    ]
    patcher = MelPatcher(duration=DURATION)
    model = AnomalousSoundDetector(patcher, map_detector="drop").fit(clips, groups=groups)
    samples = noise(N_WINDOW, seed=6).astype(np.float32)
    of_group = {g: run(model, [samples], group=g)[0].score for g in ("fan", "pump")}
    for group, score in of_group.items():
        assert score == model.score_samples([(samples, RATE)], groups=[group])[0]
    assert of_group["fan"] > of_group["pump"]


def test_results_come_as_soon_as_a_window_is_full(model):
    consumed = []

    def blocks():
        for i in range(10**9):
            consumed.append(i)
            yield noise(N_WINDOW // 4, seed=i)

    results = list(islice(score_stream(model, blocks(), RATE), 3))
    assert len(results) == 3
    assert len(consumed) == 12
    assert_allclose(results[0].time, time.time(), atol=60)
    assert_allclose(results[2].time - results[0].time, 2 * DURATION)


def test_memory_does_not_grow_with_the_stream():
    block = noise(RATE).astype(np.float32)
    cutter = WindowCutter(DURATION, DURATION / 3, RATE)
    peaks = []
    for _ in range(2):
        tracemalloc.start()
        for _ in range(300):
            for _ in cutter.add(block):
                pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 10 * block.nbytes
    tiny = WindowCutter(DURATION, DURATION, RATE)
    tracemalloc.start()
    for _ in range(10 * N_WINDOW // 16):
        list(tiny.add(block[:16]))
    assert tracemalloc.get_traced_memory()[1] < 12 * 4 * N_WINDOW  # an array has 100 bytes itself
    tracemalloc.stop()


# --- What is said of a stream ----------------------------------------------------------------


def test_windows_do_not_reach_over_gaps_and_the_clock_goes_on(model):
    samples = noise(3 * N_WINDOW, seed=7).astype(np.float32)
    cut = N_WINDOW + N_WINDOW // 2
    blocks = [samples[:cut], Gap(7.0, "cable"), samples[cut:], None, samples[:100]]
    results = run(model, blocks)
    starts = [0.0, 0.25, 7.75, 8.0, 8.5]
    assert_allclose([r.start for r in results], starts)
    assert_allclose([r.time for r in results], starts)
    notes = [r.note for r in results]
    assert notes[:4] == ["", "", "after a gap of 7 s (cable)", ""]
    assert notes[4] == (
        "after a gap of unknown length; 0.00625 s are too short for a window of 0.5 s"
    )
    assert math.isnan(results[4].score)
    assert math.isnan(results[4].distance)
    parts = [samples[:N_WINDOW], samples[cut - N_WINDOW : cut], samples[cut : cut + N_WINDOW]]
    offline = [model.score_samples([(part, RATE)])[0] for part in parts]
    assert_array_equal([r.score for r in results[:3]], offline)


def test_changes_of_rate_and_channels_end_a_stretch_and_are_said(model):
    first, second, third = noise(N_WINDOW), noise(4000, seed=1), noise(N_WINDOW, 2, seed=2)
    results = run(model, [first, (second, 8000), third])
    assert_allclose([r.start for r in results], [0.0, 0.5, 1.0])
    assert "the sample rate changed from 16000 to 8000 Hz" in results[1].note
    assert "the sample rate changed from 8000 to 16000 Hz" in results[2].note
    assert "the channels changed from 1 to 2" in results[2].note
    assert results[0].note == ""


def test_silence_dead_channels_dropouts_and_nan_are_said(model):
    sound = noise(N_WINDOW, seed=8)
    dead = np.column_stack([sound, np.zeros(N_WINDOW)])
    dropout = sound.copy()
    dropout[1000:4200] = 0.0
    broken = sound.copy()
    broken[5] = np.nan
    short = sound.copy()
    short[1000:2500] = 0.0  # 0.09 s
    blocks = [np.zeros(N_WINDOW), dropout, short, broken, dead]
    notes = [r.note for r in run(model, blocks)]
    assert notes[0] == "silent"
    assert notes[1].startswith("constant for 0.2 of 0.5 s")
    assert "constant" not in notes[2]
    assert notes[3] == "no score: it contains NaN or infinity"
    assert "channel 1 is silent" in notes[4]


def test_silence_of_a_model_without_notes_is_said_too(normal):
    pipe = make_pipeline(MelPatcher(duration=DURATION), MelStatistics(), KNNDetector()).fit(normal)
    assert [r.note for r in run(pipe, [np.zeros(N_WINDOW)])] == ["silent"]


def test_silence_notes_of_files_and_of_what_cannot_be_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    assert silence_notes(tmp_path / "a.wav") == ["silent"]
    assert silence_notes(tmp_path / "none.wav") == []


def test_what_the_model_warns_of_is_a_note(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = run(model, [noise(N_WINDOW) * 32768])
    assert re.search(r"samples up to \de\+04, and sound lies in \[-1, 1\]", result.note)


def test_results_are_ready_for_json():
    result = WindowResult("fan", 3600.25, 1.0, 2.0, math.nan, 1.5, math.inf, "", False, "note")
    fields = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert fields["score"] is fields["p_value"] is None
    assert (fields["distance"], fields["in_alarm"], fields["source"]) == (1.5, False, "fan")
    assert fields["time_utc"] == "1970-01-01T01:00:00.250+00:00"


@pytest.mark.parametrize(
    ("blocks", "kwargs", "error", "message"),
    [
        ([b"\0\0"], {}, TypeError, "block 0 of the stream must be an array. Got bytes"),
        ([np.zeros(3), ["a"]], {}, ValueError, "block 1 of the stream must be .* dtype <U1"),
        ([np.zeros((2, 3, 4))], {}, ValueError, r"Got ndarray of dtype float64 and shape \(2, 3"),
        ([(np.zeros(3), 0)], {}, ValueError, "block 0 .* sample rate must be a whole number"),
        ([np.full(9, 300, "u2")], {}, ValueError, "block 0 .* uint16 .* no known full scale"),
        ([], {"hop": 0.6}, ValueError, "hop must be above 0 and at most the 0.5 s of a window"),
        ([], {"hop": 0.0}, ValueError, "hop must be above 0"),
        ([], {"sample_rate": 0}, ValueError, "sample rate must be a whole number"),
    ],
)
def test_wrong_blocks_and_parameters_are_named(model, blocks, kwargs, error, message):
    with pytest.raises(error, match=message):
        list(score_stream(model, iter(blocks), **{"sample_rate": RATE} | kwargs))


def test_a_wrong_hop_or_model_is_refused_before_the_first_block(model):
    with pytest.raises(ValueError, match="hop must be"):
        score_stream(model, [], RATE, hop=1.0)
    with pytest.raises(ValueError, match="must be an AnomalousSoundDetector of clips"):
        score_stream(KNNDetector(), [], RATE)


def test_a_gap_has_a_length():
    with pytest.raises(ValueError, match=r"must be at least 0. Got -1"):
        Gap(-1)


# --- Alarms ----------------------------------------------------------------------------------


def test_an_alarm_needs_windows_in_a_row_and_has_hysteresis():
    alarm = Alarm(on=1.0, off=0.8, persistence=2)
    distances = [1.1, 0.9, 1.1, 1.0, 1.1, 1.2, 0.9, 0.7, 0.8, 0.7, math.nan, 0.7, 0.9, 1.1, 1.1]
    changes = {5: "on", 11: "off", 14: "on"}
    assert [alarm.update(d) for d in distances] == [changes.get(i, "") for i in range(15)]
    assert alarm.in_alarm


def test_a_single_window_may_be_an_alarm():
    alarm = Alarm(persistence=1)
    assert [alarm.update(d) for d in (1.0, 1.01, 0.81, 0.79)] == ["", "on", "", "off"]


def test_a_stream_raises_the_alarm_that_it_is_given(model):
    loud = [noise(N_WINDOW, seed=i) * (5 if 2 <= i < 6 else 1) for i in range(10)]
    results = run(model, loud, alarm=Alarm(off=1.0, persistence=2))
    assert [(i, r.alarm) for i, r in enumerate(results) if r.alarm] == [(3, "on"), (7, "off")]
    assert [r.in_alarm for r in results] == [3 <= i < 7 for i in range(10)]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"off": 1.1}, "0 < off <= on. Got on=1 and off=1.1"),
        ({"off": 0.0}, "0 < off <= on"),
        ({"persistence": 0}, "at least 1 window. Got 0"),
    ],
)
def test_alarms_that_cannot_be_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Alarm(**parameters)


def count_alarms(beyond, persistence):
    """Count alarms that end at once, which are the most that there can be."""
    alarm = Alarm(on=1.0, off=1.0, persistence=persistence)
    return sum(alarm.update(2.0 if b else 0.5) == "on" for b in beyond)


def count_runs(beyond, persistence):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], beyond.astype(int), [0]])))
    return int((edges[1::2] - edges[::2] >= persistence).sum())


@pytest.mark.parametrize("persistence", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_independent_windows_raise_as_many_alarms_as_the_formula_says(persistence, rate):
    n_windows = 400_000
    beyond = np.random.default_rng(0).random(n_windows) < rate
    hours = n_windows * 10 / 3600
    expected = alarms_per_hour(rate, 10.0, persistence, correlation=0.0)
    n_runs = count_runs(beyond, persistence)
    assert_allclose(n_runs / hours, expected, rtol=4 / math.sqrt(n_runs))
    assert count_alarms(beyond[:20_000], persistence) <= count_runs(beyond[:20_000], persistence)


def gaussian(correlation, n_windows, rng):
    steps = rng.normal(size=n_windows) * math.sqrt(1 - correlation**2)
    return lfilter([1.0], [1.0, -correlation], steps)


def regimes(rng, n_windows, rate):
    """Windows of two loads that last for an hour; those of the higher one are nearly all beyond."""
    state = np.repeat(rng.random(n_windows // 360) < rate / 0.9, 360)
    return np.where(state, rng.random(len(state)) < 0.9, False)


@pytest.mark.parametrize("persistence", [1, 3])
@pytest.mark.parametrize("kind", ["0.3", "0.6", "0.9", "0.99", "worst Markov", "regimes"])
def test_no_dependence_raises_more_alarms_than_the_bound(kind, persistence):
    rng, n_windows, rate = np.random.default_rng(1), 360_000, 0.05
    correlation = None
    if kind == "regimes":
        beyond = regimes(rng, n_windows, rate)
    elif kind == "worst Markov":
        stays = (persistence - 1) / persistence
        lengths = rng.geometric(1 - stays, size=n_windows // 50)
        between = rng.geometric(1 / (np.mean(lengths) * (1 / rate - 1)), size=len(lengths))
        beyond = np.repeat(
            np.tile([True, False], len(lengths)), np.column_stack([lengths, between]).ravel()
        )
    else:
        correlation = float(kind)
        beyond = gaussian(correlation, n_windows, rng) > -ndtri(rate)
    per_hour = count_runs(beyond, persistence) / (len(beyond) / 360)
    noise_ = 1 + 4 / math.sqrt(max(count_runs(beyond, persistence), 1))
    assert per_hour <= noise_ * alarms_per_hour(rate, 10.0, persistence)
    if correlation is not None:
        bound = alarms_per_hour(rate, 10.0, persistence, correlation)
        assert per_hour <= noise_ * bound
        if correlation < 0.7 and persistence > 1:  # the rate still grows with the correlation
            assert per_hour >= (2 - noise_) * bound


@pytest.mark.parametrize("correlation", [None, 0.0, 0.5, 0.95])
@pytest.mark.parametrize("n_alarms", [0.05, 1.0, 5.0])
def test_a_rate_of_windows_follows_from_a_rate_of_alarms(correlation, n_alarms):
    rate = false_alarm_rate_for(n_alarms, 10.0, 3, correlation)
    assert_allclose(alarms_per_hour(rate, 10.0, 3, correlation), n_alarms, rtol=1e-6)
    assert alarms_per_hour(rate / 2, 10.0, 3, correlation) < n_alarms


def test_rates_of_alarms_that_no_threshold_gives():
    assert false_alarm_rate_for(1000.0, 10.0, 3) == 0.5
    with pytest.raises(ValueError, match=r"1e-09 alarms an hour are too few for windows every"):
        false_alarm_rate_for(1e-9, 0.01, 1)
    with pytest.raises(ValueError, match=r"must be above 0. Got 0"):
        false_alarm_rate_for(0, 10.0, 3)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_correlation_of_neighbours_is_estimated_from_above(correlation):
    rng = np.random.default_rng(2)
    table = np.zeros(400, dtype=[("clip", int), ("start", float)])
    table["clip"], table["start"] = np.repeat(range(4), 100), np.tile(np.arange(100) * 10.0, 4)
    estimates = []
    for _ in range(100):
        sequences = [gaussian(correlation, 200, rng)[100:] for _ in range(4)]
        model = Bunch(windows_=table, training_scores_=-np.exp(np.concatenate(sequences)))
        estimates.append(neighbour_correlation(model, 10.0))
    assert np.mean(np.array(estimates) < correlation) <= 0.12  # 0.05 but for noise
    assert np.mean(estimates) < correlation + 0.12


def test_the_correlation_is_unknown_without_neighbours_such_as_those_of_the_stream():
    table = np.zeros(40, dtype=[("clip", int), ("start", float)])
    table["start"] = np.arange(40) * 10.0
    scores = -np.random.default_rng(0).random(40)
    assert neighbour_correlation(Bunch(windows_=table, training_scores_=scores), 10.0) is not None
    assert neighbour_correlation(Bunch(windows_=table, training_scores_=scores), 5.0) is None
    few = Bunch(windows_=table[:30], training_scores_=scores[:30])
    assert neighbour_correlation(few, 10.0) is None
    table["clip"] = np.arange(40)
    assert neighbour_correlation(Bunch(windows_=table, training_scores_=scores), 10.0) is None
    assert neighbour_correlation(KNNDetector(), 10.0) is None


def test_an_alarm_ends_where_three_quarters_of_the_normal_windows_are(model):
    normal = np.quantile(model.training_scores_ / model.offset_, 0.75)
    assert 0.8 < normal < 1  # of noise, all windows are nearly as far
    assert_allclose(make_alarm(model).off, normal)
    assert make_alarm(model, on=2.0).off == 1.6
    assert make_alarm(model, off=0.5).off == 0.5
    assert make_alarm(Bunch(offset_=-1.0)).off == 0.8
    loud = [noise(N_WINDOW, seed=i) * (5 if 2 <= i < 6 else 1) for i in range(20)]
    assert [r.alarm for r in run(model, loud) if r.alarm] == ["on", "off"]


# --- Bytes -----------------------------------------------------------------------------------

SUBTYPES = {"u8": "PCM_U8", "s8": "PCM_S8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32"}
SUBTYPES |= {"f32": "FLOAT", "f64": "DOUBLE"}


def chunks_of(data, size):
    return (data[i : i + size] for i in range(0, len(data), size))


@pytest.mark.parametrize("sample_format", FORMATS)
@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_raw_pcm_is_decoded_as_libsndfile_does(sample_format, size):
    samples, file = noise(101, 2), io.BytesIO()
    subtype = SUBTYPES[sample_format.removesuffix("le").removesuffix("be")]
    raw = {
        "samplerate": RATE,
        "subtype": subtype,
        "format": "RAW",
        "endian": "BIG" if sample_format.endswith("be") else "LITTLE",
    }
    soundfile.write(file, samples, **raw)
    data = file.getvalue()
    decoded = np.concatenate(list(decode_pcm(chunks_of(data + b"\1", size), sample_format, 2)))
    expected, _ = soundfile.read(io.BytesIO(data), channels=2, dtype="float32", **raw)
    assert_array_equal(decoded, expected)
    assert decoded.dtype == np.float32


def test_wrong_formats_of_pcm_are_named():
    with pytest.raises(ValueError, match=r"must be one of u8, s8, s16le, .* Got 's16' instead"):
        next(decode_pcm([b""], "s16"))
    with pytest.raises(ValueError, match=r"n_channels must be at least 1. Got 0"):
        next(decode_pcm([b""], "s16le", 0))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("size", [3, 10**6])
def test_wav_is_decoded_while_it_comes(subtype, form, size):
    file = io.BytesIO()
    soundfile.write(file, noise(200, 2), 22050, format=form, subtype=subtype)
    rate, blocks = decode_wav(chunks_of(file.getvalue(), size))
    expected, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
    assert rate == 22050
    assert_array_equal(np.concatenate(list(blocks))[: len(expected)], expected)


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
def test_a_wav_of_unknown_length_goes_on_to_the_end(length):
    file = io.BytesIO()
    soundfile.write(file, noise(200), RATE, format="WAV", subtype="PCM_16")
    data = file.getvalue()
    at = data.index(b"data") + 4
    _, blocks = decode_wav([data[:at] + length + data[at + 4 :]])
    assert len(np.concatenate(list(blocks))) == 200


def test_a_known_length_of_a_wav_ends_it():
    file = io.BytesIO()
    soundfile.write(file, noise(200), RATE, format="WAV", subtype="PCM_16")
    _, blocks = decode_wav([file.getvalue(), b"LIST of what comes behind"])
    assert len(np.concatenate(list(blocks))) == 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"fLaC" + bytes(40), "must be a WAV file. It begins with b'fLaC"),
        (b"RIFF\0\0\0\0WAVE", "ends before its samples"),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\6\0\1\0\x40\x1f\0\0\0\0\0\0\0\0\x08\0data\0\0\0\0",
            "It has the format 6 of 8 bits",
        ),
    ],
)
def test_streams_that_are_no_wav_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        decode_wav([data])


# --- Live sound and restarts -----------------------------------------------------------------


def test_a_live_queue_drops_the_oldest_sound_and_says_so():
    queue = BlockQueue(Stop(), most_seconds=3.0, is_live=True)
    for i in range(10):
        queue.put(np.full(RATE, i), RATE)
    queue.end()
    gap, *blocks = queue
    assert gap == Gap(7.0, "scoring is too slow")
    assert [block[0][0] for block in blocks] == [7, 8, 9]
    assert queue.skipped == 7.0


def test_a_live_queue_says_where_no_sound_came(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("skanopatch.streaming.live.time.monotonic", lambda: clock[0])
    queue = BlockQueue(Stop(), is_live=True)
    for moment in (100.0, 101.0, 106.0, 107.5):
        clock[0] = moment
        queue.put(np.zeros(RATE), RATE)
    queue.end()
    assert [item for item in queue if isinstance(item, Gap)] == [Gap(4.0, "no sound came")]


def test_another_queue_makes_the_writer_wait():
    queue = BlockQueue(Stop(), most_seconds=3.0)
    written = []

    def write():
        for i in range(10):
            queue.put(np.full(RATE, i), RATE)
            written.append(i)
        queue.end()

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.2)
    assert written == [0, 1, 2]
    assert [block[0][0] for block in queue] == list(range(10))
    thread.join()
    assert queue.skipped == 0


def test_a_stop_ends_a_queue_whose_writer_is_silent():
    stop = Stop()
    queue = BlockQueue(stop)
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    assert list(queue) == []
    assert 0.1 < time.monotonic() - started < 2


def test_a_stop_may_be_requested_while_the_same_thread_waits_for_it():
    stop = Stop()
    with pytest.MonkeyPatch.context() as patch:
        # As a signal handler does, between any two steps of `wait`.
        patch.setattr("skanopatch.streaming.live.time.sleep", lambda seconds: stop.set())
        started = time.monotonic()
        stop.wait(1000.0)
    assert time.monotonic() - started < 100
    assert stop.is_set()


def test_an_error_of_the_reader_reaches_the_scorer():
    queue = BlockQueue(Stop())
    queue.end(ValueError("no rate"))
    with pytest.raises(ValueError, match="no rate"):
        list(queue)


def result_of(source, stop, in_alarm=False):
    return WindowResult(source, 0.0, stop - 1, stop, -1.0, 1.0, 0.5, "", in_alarm, "")


def test_progress_goes_on_where_a_killed_process_was(tmp_path):
    path = tmp_path / "deep" / "state.jsonl"
    progress = Progress(path)
    for i in range(1, 100):
        progress.record(result_of("a", float(i)))
    progress.record(result_of("b", 2.0, in_alarm=True))
    with path.open("ab") as file:
        file.write(b'{"source": "c", "st')  # killed while it wrote
    again = Progress(path)
    assert (again.last_stop("a"), again.last_stop("b"), again.last_stop("c")) == (99.0, 2.0, None)
    assert again.in_alarm
    assert again.n_sources == 2
    assert len(path.read_bytes().splitlines()) == 2  # one a source
    again.close()


def test_a_file_that_is_no_state_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("file,score\nb,1\n")
    with pytest.raises(ValueError, match=r"Line 1 of '.*a.csv' is no state of skanopatch watch"):
        Progress(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "file,score\nb,1\n"


def test_a_history_knows_what_the_state_does_not(tmp_path):
    with open_sink(f"sqlite:{tmp_path / 'history.db'}") as sink:
        sink.write(result_of("a", 5.0, in_alarm=True))
    progress = Progress(history=History(tmp_path / "history.db"))
    assert progress.in_alarm
    assert (progress.last_stop("a"), progress.last_stop("b")) == (5.0, None)
    progress.record(result_of("a", 6.0))
    assert progress.last_stop("a") == 6.0
    progress.close()
