"""What a clip is: its kinds, their scale, channels and order, and sequences of them."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.io import wavfile

from skanopatch import Segment
from skanopatch.audio import as_clip_list, clip_duration, clip_format, load_clip, pcm_to_float

NOISE = np.random.default_rng(0).normal(scale=0.1, size=480_000).astype(np.float32)


@pytest.fixture
def tone():
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 2**-7),
        ("wav", "PCM_16", 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "PCM_32", 2**-24),
        ("wav", "FLOAT", 2**-24),
        ("wav", "DOUBLE", 2**-24),
        ("flac", "PCM_16", 2**-15),
        ("flac", "PCM_24", 2**-23),
    ],
)
def test_every_sample_width_is_read_to_its_precision(tmp_path, tone, container, subtype, tolerance):
    path = tmp_path / f"clip.{container}"
    soundfile.write(path, tone, 16000, subtype=subtype)
    np.testing.assert_allclose(load_clip(path), tone, rtol=0, atol=tolerance)


def test_ogg_is_read_up_to_its_compression(tmp_path, tone):
    soundfile.write(tmp_path / "clip.ogg", tone, 16000)
    samples = load_clip(str(tmp_path / "clip.ogg"))
    assert np.corrcoef(samples, tone)[0, 1] > 0.999


def test_a_file_and_its_array_are_one_clip(tmp_path, tone):
    soundfile.write(tmp_path / "clip.wav", tone, 16000, subtype="DOUBLE")
    np.testing.assert_array_equal(load_clip(tmp_path / "clip.wav"), load_clip(tone))
    np.testing.assert_array_equal(load_clip((tone, 16000)), load_clip(tone))


def test_integer_samples_are_pcm(tmp_path, tone):
    pcm = np.round(tone * 2**15).astype(np.int16)
    wavfile.write(tmp_path / "clip.wav", 16000, pcm)
    rate, from_scipy = wavfile.read(tmp_path / "clip.wav")
    np.testing.assert_array_equal(load_clip((from_scipy, rate)), load_clip(tmp_path / "clip.wav"))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<i4", ">i4"])
def test_pcm_of_every_width_and_byte_order_is_scaled(tone, dtype):
    bits = 8 * np.dtype(dtype).itemsize
    silence = 128 if dtype == "u1" else 0
    pcm = (np.round(tone * (2.0 ** (bits - 1) - 1)) + silence).astype(dtype)
    tolerance = 2.0 ** -(bits - 2) + 2**-22
    np.testing.assert_allclose(load_clip((pcm, 16000)), tone, rtol=0, atol=tolerance)
    table = pcm_to_float(pcm[None].repeat(2, axis=0))
    np.testing.assert_allclose(table, [tone, tone], rtol=0, atol=tolerance)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_what_scipy_reads_of_a_file_is_the_file(tmp_path, tone, subtype):
    soundfile.write(tmp_path / "clip.wav", tone, 16000, subtype=subtype)
    rate, samples = wavfile.read(tmp_path / "clip.wav")
    np.testing.assert_array_equal(load_clip((samples, rate)), load_clip(tmp_path / "clip.wav"))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            np.array([0, 20_000, -30_000]),
            "samples of type int64 (here up to 30000) have no known full scale: convert them to "
            "int16 or int32, or divide them by their full scale",
        ),
        (
            np.array([0, 40_000], dtype=np.uint16),
            "samples of type uint16 (here up to 40000) have no known full scale: convert them to "
            "int16 or int32, or divide them by their full scale",
        ),
        (
            np.array([0, 8_388_607, -8_388_607], dtype=np.int32),
            "its int32 samples reach 8388607 of 2147483648 only: they seem to have 24 bits or "
            "fewer. Divide them by their full scale, such as 2**23",
        ),
    ],
)
def test_integers_without_a_full_scale_are_refused(samples, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_clip((samples, 16000))


def test_24_bits_in_the_upper_bytes_of_int32_are_scaled():
    quiet = np.array([256, -256, 512], dtype=np.int32)  # as SciPy reads 24 bits: -138 dB
    np.testing.assert_array_equal(load_clip(quiet), quiet / np.float32(2**31))


def test_floats_of_the_scale_of_int16_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"samples up to 3e\+04, and sound lies in \[-1, 1\]\. Div"
    ):
        samples = load_clip(np.array([0.0, 32_000.0]))
    np.testing.assert_array_equal(samples, [0.0, 32_000.0])


@pytest.mark.parametrize("n_channels", [1, 2, 8])
def test_channels_before_samples_are_turned_as_torchaudio_gives_them(n_channels):
    samples = NOISE[: 800 * n_channels].reshape(800, n_channels)
    expected = load_clip((samples, 16000), channel=n_channels - 1)
    for clip in ((samples.T, 16000), (torch.from_numpy(samples.T.copy()), 16000)):
        np.testing.assert_array_equal(load_clip(clip, channel=n_channels - 1), expected)
        assert clip_duration(clip, sample_rate=1) == 800 / 16000
        assert clip_format(clip) == (16000, n_channels)


def test_an_array_with_neither_axis_for_channels_is_refused():
    message = (
        "its array has shape (40, 100), which is fewer samples than channels. Channels come last: "
        "transpose it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_clip((np.zeros((40, 100)), 16000))


def test_a_pair_in_the_order_of_scipy_is_turned():
    pair = (8000, NOISE[:8000])
    np.testing.assert_array_equal(load_clip(pair), load_clip(pair[::-1]))
    (samples, rate), other = as_clip_list([pair, (NOISE[:16].reshape(2, 8).tolist(), 48000)])
    assert (len(samples), rate, *np.shape(other[0]), other[1]) == (8000, 8000, 2, 8, 48000)


def test_clips_of_a_list_have_their_channels_last():
    clips = as_clip_list([(NOISE[:16].reshape(1, 16), 8000), (16000, [[0.5] * 32] * 2)])
    assert [np.shape(samples) for samples, _ in clips] == [(16, 1), (32, 2)]


@pytest.mark.parametrize("channel", [0, 3, 7])
def test_a_channel_of_eight_is_picked(tmp_path, channel):
    samples = np.random.default_rng(0).uniform(-1, 1, size=(800, 8))
    soundfile.write(tmp_path / "array.wav", samples, 16000, subtype="DOUBLE")
    heard = load_clip(tmp_path / "array.wav", channel=channel)
    np.testing.assert_array_equal(heard, samples[:, channel].astype(np.float32))


def test_channels_are_averaged():
    samples = np.random.default_rng(0).uniform(-1, 1, size=(800, 4))
    np.testing.assert_allclose(
        load_clip((samples, 16000), channel="mean"), samples.mean(axis=1), atol=1e-7
    )


def test_a_short_clip_is_repeated_and_a_long_one_cut():
    clip = np.arange(1, 6) / 8
    np.testing.assert_array_equal(
        load_clip(clip, sample_rate=1, duration=12.0), np.concatenate([clip, clip, clip[:2]])
    )
    np.testing.assert_array_equal(load_clip(clip, sample_rate=1, duration=3.0), clip[:3])


def test_a_long_file_is_read_as_far_as_it_is_heard(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, size=48000 * 3)
    soundfile.write(tmp_path / "clip.wav", samples, 48000, subtype="FLOAT")
    whole = load_clip(tmp_path / "clip.wav")
    np.testing.assert_allclose(
        load_clip(tmp_path / "clip.wav", duration=1.0), whole[:16000], atol=1e-6
    )


def test_the_duration_of_a_file_comes_from_its_header(tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros(12000), 48000)
    assert clip_duration(tmp_path / "clip.wav", sample_rate=16000) == 0.25
    assert clip_duration(np.zeros(12000), sample_rate=16000) == 0.75
    assert clip_duration((np.zeros((12000, 2)), 8000), sample_rate=16000) == 1.5


@pytest.mark.parametrize(
    "X",
    [
        ["a.wav", "b.wav"],
        ("a.wav", "b.wav"),
        np.array(["a.wav", "b.wav"]),
        pd.Series(["a.wav", "b.wav"], index=[7, 3]),
    ],
    ids=["list", "tuple", "array", "series"],
)
def test_paths_come_in_many_containers(X):
    assert as_clip_list(X) == ["a.wav", "b.wav"]


def test_clips_of_all_kinds_mix_in_one_list():
    X = ["a.wav", np.zeros(3), (np.zeros((3, 2)), 8000), [np.zeros(3), 8000]]
    assert as_clip_list(X) is not None
    assert as_clip_list(np.array([*X, None], dtype=object)[:-1]) is not None


@pytest.mark.parametrize("X", [np.zeros((2, 3)), [[0.0, 1.0], [1.0, 2.0]], [0.0, 1.0]])
def test_tables_of_numbers_are_left_to_scikit_learn(X):
    assert as_clip_list(X) is None


def test_a_single_path_is_no_sequence_of_clips():
    message = (
        "X must be a sequence of clips. Got the single path 'a.wav' instead; put it into a list, "
        "or list a folder with sorted(Path(folder).glob('*.wav'))."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        as_clip_list("a.wav")


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_single_array_is_no_sequence_of_clips(dtype):
    message = (
        "X must be a sequence of clips. Got one array of 16000 numbers instead. Reshape your data "
        "with X[np.newaxis], or put the clip into a list."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        as_clip_list(np.ones(16000, dtype))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("nowhere.wav", "there is no such file"),
        (np.zeros(0), "it has no samples"),
        (np.array([0.0, np.nan]), "it contains NaN or infinity"),
        (
            np.array([0.0, 4e31]),
            "it is no sound: its largest sample is 4e+31, where 1 is full scale",
        ),
        ((np.array([0.0, np.inf]), 8000), "it contains NaN or infinity"),
        ((np.zeros(3), 0), "its sample rate must be a whole number of Hz above 0. Got 0"),
        ((np.zeros(3), np.nan), "its sample rate must be a whole number of Hz above 0. Got nan"),
        ((np.zeros(3), 2e8), "its sample rate must be at most 100000000 Hz. Got 200000000.0"),
        ((np.zeros(3), 100), "its sample rate of 100 Hz is less than 1 % of the 16000 wanted"),
        (
            ([[1.0], [1.0, 2.0]], 8000),
            "a clip must be a path, a 1-D array of numbers or a pair (array, sample_rate). "
            "Got tuple of dtype object instead",
        ),
        (
            (np.zeros(3), 16000.5),
            "its sample rate must be a whole number of Hz above 0. Got 16000.5",
        ),
        ((np.zeros((3, 0)), 8000), "channel=0 was asked for, but it has 0 channel(s)"),
        (
            np.zeros((3, 2)),
            "a bare array must be 1-D, and the array of a pair (array, sample_rate) 1-D or 2-D, "
            "channels last. Got shape (3, 2) instead",
        ),
        (
            None,
            "a clip must be a path, a 1-D array of numbers or a pair (array, sample_rate). "
            "Got NoneType of dtype object instead",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:A clip of floats has samples up to")
def test_what_is_wrong_with_a_clip_is_said(clip, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_clip(clip, channel=0)


def test_a_channel_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"^channel=2 was asked for, but it has 2 channel\(s\)$"):
        load_clip((np.zeros((3, 2)), 16000), channel=2)


def test_a_column_of_paths_is_a_list_of_clips():
    for table in (
        pd.DataFrame({"file": ["a.wav", "b.wav"]}, index=[3, 1]),
        np.array([["a.wav"]] * 2),
    ):
        assert as_clip_list(table) == list(np.asarray(table)[:, 0])
    assert as_clip_list(pd.DataFrame({0: [0.5, 1.5], 1: [0.0, 2.0]})) is None


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            (path for path in ["a.wav"]),
            "Got a generator instead; clips are read more than once and have an order: pass "
            "list(X), or sorted(X).",
        ),
        (
            {"a.wav", "b.wav"},
            "Got a set instead; clips are read more than once and have an order: pass list(X), or "
            "sorted(X).",
        ),
        ({"paths": ["a.wav"]}, "Got a dict instead; pass the list of clips in it."),
        (
            pd.DataFrame({"file": ["a.wav"], "label": ["normal"]}),
            "Got a table of shape (1, 2) with the columns ['file', 'label'] instead; pass the one "
            "column with the clips.",
        ),
        (
            (np.zeros(5), 8000),
            "Got a single pair of array and rate instead; put it into a list.",
        ),
        (
            (8000, np.zeros((5, 2))),
            "Got a single pair of array and rate instead; put it into a list.",
        ),
        (Segment("a.wav", 0, 1), "Got a single Segment instead; put it into a list."),
    ],
    ids=["generator", "set", "dict", "table", "pair", "scipy", "segment"],
)
def test_what_is_no_sequence_of_clips_is_refused_with_what_to_pass(X, message):
    with pytest.raises(TypeError, match=f"^X must be a sequence of clips. {re.escape(message)}$"):
        as_clip_list(X)


def test_reading_and_log_mel_import_no_torch():
    code = (
        "import sys, numpy, skanopatch.audio.labels\n"
        "from skanopatch.audio import load_clip\n"
        "from skanopatch import MelPatcher\n"
        "MelPatcher(duration=1.0).fit_transform([load_clip((numpy.ones(48000), 48000))])\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'torchaudio')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
