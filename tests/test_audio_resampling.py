"""Resampling against torchaudio, in memory and in blocks."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from torchaudio.transforms import Resample

from skanopatch import BandStatistics, MahalanobisDetector, MelPatcher
from skanopatch.audio import load_clip

NOISE = np.random.default_rng(0).normal(scale=0.1, size=480_000).astype(np.float32)


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
    residue = load_clip((above_nyquist, rate))[512:-512]  # as far as the ends reach
    assert np.abs(residue).max() < 1e-5  # -100 dB


def decibels(difference, reference):
    return 20 * np.log10(np.abs(difference).max() / np.abs(reference).max())


def kaiser_best(samples, rate, new_rate):
    return Resample(
        rate,
        new_rate,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )(torch.from_numpy(samples)).numpy()


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000])
def test_resampling_equals_torchaudio_up_to_87_percent_of_half_the_rate(rate):
    frequencies = np.linspace(0.01, 0.87, 30) * min(rate, 16000) / 2
    phases = np.random.default_rng(0).uniform(0, 6.28, size=(30, 1))
    tones = np.sin(2 * np.pi * frequencies[:, None] * np.arange(rate) / rate + phases)
    clip = tones.mean(axis=0).astype(np.float32)
    expected = kaiser_best(clip, rate, 16000)[512:-512]
    assert decibels(load_clip((clip, rate))[512:-512] - expected, expected) < -90


@pytest.mark.parametrize(("frequency", "gain"), [(7800, 0.0), (7920, -6.02), (8000, -93.3)])
def test_resampling_is_flat_up_to_98_percent_of_half_the_rate(frequency, gain):
    tone = np.sin(2 * np.pi * frequency * np.arange(96000) / 48000 + 0.3)
    samples = load_clip((tone, 48000))[1000:-1000]
    level = 10 * np.log10(2 * np.mean(samples**2) + 1e-20)
    assert level == pytest.approx(gain, abs=0.01) if gain > -90 else level < -90


@pytest.mark.parametrize("rate", [26667, 11111, 24414, 97656, 15999, 999_983])
def test_a_rate_without_a_common_divisor_takes_little_memory(rate):
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    tracemalloc.start()
    samples = load_clip((tone, rate))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    assert len(samples) == 16000
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    np.testing.assert_allclose(samples[512:-512], expected[512:-512], atol=1e-5)


def test_rates_of_a_long_common_period_are_approximated():
    rate = 99_999_989  # a prime: a period of the two rates is a second, 400 MB
    tracemalloc.start()
    samples = load_clip((np.ones(2_000_000, dtype=np.float32), rate))
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    np.testing.assert_allclose(samples, np.ones(320), atol=1e-5)


def test_resampling_up_and_down_gives_the_clip_back():
    clip = NOISE[:160_000]
    spectrum = np.fft.rfft(clip)
    spectrum[int(0.97 * len(spectrum)) :] = 0
    clip = np.fft.irfft(spectrum).astype(np.float32)
    up = load_clip((clip, 16000), sample_rate=48000)
    assert len(up) == 480_000
    back = load_clip((up, 48000))
    assert decibels((back - clip)[512:-512], clip) < -90


def test_a_training_clip_that_was_resampled_is_no_anomaly():
    rng = np.random.default_rng(0)
    clips = [(rng.normal(scale=rng.uniform(0.05, 0.1), size=32000), 16000) for _ in range(60)]
    pipe = make_pipeline(MelPatcher(duration=2.0), BandStatistics(), MahalanobisDetector())
    pipe.fit(clips)
    upsampled = [load_clip(clip, sample_rate=48000) for clip in clips]
    assert (pipe.predict([(samples, 48000) for samples in upsampled]) == 1).all()
    # The usual filter takes the top mel bins away, as is plain in noise up to half the rate.
    assert (pipe.predict([kaiser_best(samples, 48000, 16000) for samples in upsampled]) == -1).all()


def test_a_constant_stays_one_when_it_is_resampled():
    np.testing.assert_allclose(load_clip((np.full(4800, 0.5), 48000)), 0.5, atol=1e-6)


def test_resampling_in_blocks_equals_resampling_at_once(monkeypatch):
    at_once = load_clip((NOISE, 48000))
    monkeypatch.setattr("skanopatch.audio.resampling._BLOCK", 10_000)
    assert decibels(load_clip((NOISE, 48000)) - at_once, at_once) < -100
