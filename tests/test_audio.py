"""What a clip is, read from every kind of file and memory."""

import re

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.io import wavfile

from skanopatch.audio.clips import as_clip_list, clip_duration, load_clip


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


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000])
def test_resampling_keeps_a_tone(rate):
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    samples = load_clip((tone, rate))
    assert len(samples) == 16000
    # The filter reaches over the ends; inside, the pass band is flat to float32 rounding.
    np.testing.assert_allclose(samples[300:-300], expected[300:-300], atol=2e-5)


@pytest.mark.parametrize("rate", [22050, 48000, 192000])
def test_resampling_leaves_no_alias(rate):
    above_nyquist = np.sin(2 * np.pi * 9000 * np.arange(rate) / rate)
    residue = load_clip((above_nyquist, rate))[300:-300]
    assert np.abs(residue).max() < 1e-4  # -80 dB


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


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("nowhere.wav", "there is no such file"),
        (np.zeros(0), "it has no samples"),
        (np.array([0.0, np.nan]), "it contains NaN or infinity"),
        ((np.array([0.0, np.inf]), 8000), "it contains NaN or infinity"),
        ((np.zeros(3), 0), "its sample rate must be a whole number of Hz above 0. Got 0"),
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
def test_what_is_wrong_with_a_clip_is_said(clip, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_clip(clip, channel=0)


def test_a_channel_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"^channel=2 was asked for, but it has 2 channel\(s\)$"):
        load_clip((np.zeros((3, 2)), 16000), channel=2)


def test_a_text_file_named_wav_is_refused(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("the pump was loud on Monday")
    with pytest.raises(ValueError, match=r"^libsndfile cannot read it \(Format not recognised\)$"):
        load_clip(path)


def test_a_truncated_header_is_refused(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros(100), 16000)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"^libsndfile cannot read it \("):
        load_clip(path)
