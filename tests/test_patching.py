"""MelPatcher against torchaudio, patches against their spectrograms, bad clips against a batch."""

import pickle
import re
import threading
import time
import warnings
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from threadpoolctl import threadpool_info, threadpool_limits
from torchaudio.compliance.kaldi import fbank, get_mel_banks
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

from skanopatch import MelPatcher, patchify, unpatchify
from skanopatch.spectra.lazy_patches import LazyPatches
from skanopatch.spectra.log_mel import FrontEnd, hertz_to_mel, mel_to_hertz, mel_weights

N_SAMPLES = 160_000
TIME = np.arange(N_SAMPLES) / 16000
NOISE = np.random.default_rng(0).normal(size=N_SAMPLES)

SIGNALS = {
    "noise": 0.1 * NOISE,
    "silence": np.zeros(N_SAMPLES),
    "constant": np.ones(N_SAMPLES),
    "impulse": (np.arange(N_SAMPLES) == 5000).astype(float),
    "full-scale square": np.sign(np.sin(2 * np.pi * 25 * TIME)),
    "full-scale sine": np.sin(2 * np.pi * 1000 * TIME),
    "one bit of noise": np.round(NOISE) / 2**15,
    "noise under an offset": 0.9 + 1e-6 * NOISE,
    "denormal": 1e-40 * NOISE,
    "far beyond full scale": 1e6 * NOISE,
    "chirp": np.sin(2 * np.pi * 400 * TIME**2),
}


def kaldi(samples, *, sample_rate=16000, n_mels=128, dtype=torch.float32, **settings):
    waveform = torch.tensor(samples, dtype=torch.float32).to(dtype)[None] * 2**15
    return fbank(waveform, num_mel_bins=n_mels, sample_frequency=sample_rate, **settings).numpy()


def assert_equal_to_kaldi(log_mel, samples, **settings):
    """Compare with torchaudio in double precision, and its float32 with that.

    Where a bin is far below the others of its frame, float32 keeps few of its digits: how far
    torchaudio's own float32 is off is what float32 can do. Filters may differ in the last bits.
    """
    exact = kaldi(samples, dtype=torch.float64, **settings)[: len(log_mel)]
    error = np.abs(log_mel - exact)
    torchaudio_error = np.abs(kaldi(samples, **settings)[: len(log_mel)] - exact)
    for quantile, least in [(0.5, 3e-6), (0.99, 3e-5), (0.999, 3e-5), (0.9999, 1e-4)]:
        bound = max(least, 3 * np.quantile(torchaudio_error, quantile))
        assert np.quantile(error, quantile) <= bound, quantile


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.filterwarnings("ignore:A clip of floats has samples up to 5e.06:UserWarning")
def test_log_mel_equals_torchaudio(name):
    log_mel = unpatchify(MelPatcher().fit_transform([SIGNALS[name]]))[0]
    assert len(log_mel) == 992  # of 998 frames, as 62 patches cover them
    assert_equal_to_kaldi(log_mel, SIGNALS[name])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"n_mels": 64}, {"n_mels": 64}),
        ({"sample_rate": 44100}, {"sample_rate": 44100}),
        ({"sample_rate": 8000, "n_mels": 48}, {"sample_rate": 8000, "n_mels": 48}),
        ({"frame_length": 0.032, "frame_shift": 0.016}, {"frame_length": 32, "frame_shift": 16}),
        ({"f_min": 50.0, "f_max": 7000.0}, {"low_freq": 50.0, "high_freq": 7000.0}),
        ({"preemphasis": 0.0}, {"preemphasis_coefficient": 0.0}),
        *(
            ({"window": window}, {"window_type": window})
            for window in ("povey", "hanning", "hamming", "blackman", "rectangular")
        ),
    ],
    ids=str,
)
def test_every_setting_equals_torchaudio(ours, theirs):
    log_mel = unpatchify(MelPatcher(duration=None, **ours).fit_transform([SIGNALS["noise"]]))[0]
    assert_equal_to_kaldi(log_mel, SIGNALS["noise"], **theirs)
    difference = np.abs(log_mel - kaldi(SIGNALS["noise"], **theirs)[: len(log_mel)])
    assert np.quantile(difference, 0.999) < 1e-4


@pytest.mark.parametrize("settings", [{}, {"n_mels": 64}, {"sample_rate": 44100, "f_max": 9000.0}])
def test_mel_filters_equal_torchaudio(settings):
    front_end = MelPatcher(**settings).front_end
    expected, _ = get_mel_banks(
        front_end.n_mels,
        front_end.fft_samples,
        float(front_end.sample_rate),
        front_end.f_min,
        front_end.f_max or 0.0,  # 0 is half the rate
        vtln_low=100.0,
        vtln_high=-500.0,
        vtln_warp_factor=1.0,
    )
    # A mel is stored to 2e-4, and the filters are 20 mel wide.
    assert_allclose(mel_weights(front_end)[:-1].T, expected, atol=4e-5)
    assert not mel_weights(front_end)[-1].any()


DECIBELS = {"filterbank": "decibels", "preemphasis": 0.0, "window": "hanning", "scale": 1.0}


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"frame_length": 0.032}, {"n_fft": 512, "win_length": 512, "f_max": 8000.0}),
        ({"f_min": 50.0, "f_max": 7000.0}, {"n_fft": 512, "win_length": 400, "f_max": 7000.0}),
    ],
    ids=str,
)
def test_decibels_equal_torchaudio(settings, theirs):
    samples = 0.1 * NOISE[:8000]
    samples[:4000] *= 1e-7  # below the range of 120 dB
    settings = {**DECIBELS, "n_mels": 64, "f_min": 0.0, "duration": None, **settings}
    decibels = unpatchify(MelPatcher(**settings).fit_transform([samples]))[0]
    of_torchaudio = MelSpectrogram(
        16000, hop_length=160, f_min=settings["f_min"], n_mels=64, **theirs
    )
    power = of_torchaudio(torch.from_numpy(samples.astype("float32"))[None])
    expected = AmplitudeToDB(top_db=120)(power)[0].T.numpy()
    assert len(expected) == 51  # centred frames
    assert_allclose(decibels, expected[:48], atol=1e-2)
    assert np.ptp(expected) > 90


def test_decibels_have_a_floor_of_a_power_and_of_a_range():
    settings = {**DECIBELS, "duration": 1.0, "patch_size": 1}
    silence = MelPatcher(**settings).fit_transform([np.zeros(16000)])
    assert_allclose(silence, -100)
    impulse = np.zeros(16000)
    impulse[8000] = 1e4
    (decibels,) = unpatchify(MelPatcher(**settings).fit_transform([impulse / 1e4]))
    louder = MelPatcher(**{**settings, "scale": 1e6}).fit_transform([impulse / 1e4])
    assert decibels.min() == pytest.approx(-100)
    assert louder.max() - louder.min() == pytest.approx(120)
    assert louder.max() == pytest.approx(decibels.max() + 120, abs=1e-3)


@pytest.mark.parametrize("f_max", [None, 7000.0])
def test_edges_of_mel_bins_are_halfway_between_the_peaks_of_filters_on_the_mel_scale(f_max):
    """The O'Shaughnessy scale: 2595 log10(1 + f / 700), which is 1127 ln(1 + f / 700)."""
    front_end = MelPatcher(n_mels=64, f_min=50.0, f_max=f_max).front_end
    lowest, highest = 1127 * np.log(1 + np.array([50.0, f_max or 8000.0]) / 700)
    peaks = np.linspace(lowest, highest, 66)  # those of no filter at either end
    edges = 700 * (np.exp((peaks[:-1] + peaks[1:]) / 2 / 1127) - 1)
    assert_allclose(front_end.bin_edges(), edges, rtol=1e-12)
    weights = mel_weights(front_end)
    hertz = np.arange(len(weights)) * 16000 / 512
    wide = np.flatnonzero(np.diff(edges) > 100)  # of several lines of the spectrum
    of_peaks = hertz[weights[:, wide].argmax(axis=0)]
    assert ((of_peaks > edges[wide]) & (of_peaks < edges[wide + 1])).all()
    assert_allclose(hertz_to_mel(mel_to_hertz(np.array([0.0, 3.0, 2840.0]))), [0, 3, 2840])
    assert hertz_to_mel(1000.0) == pytest.approx(2595 * np.log10(1 + 1000 / 700), rel=1e-4)


def test_a_mel_bin_that_no_line_of_the_spectrum_falls_into_is_empty():
    settings = {"n_mels": 256, "frame_length": 0.002, "f_max": 500.0, "patch_size": 1}
    patcher = MelPatcher(**settings, duration=0.1)
    log_mel = unpatchify(patcher.fit_transform([NOISE[:1600]]))[0]
    is_empty = ~mel_weights(patcher.front_end).any(axis=0)
    assert is_empty[:64].all()  # as a whole band of those that are multiplied at once
    assert (log_mel[:, is_empty] == np.float32(np.log(np.finfo(np.float32).eps))).all()
    assert (log_mel[:, ~is_empty] > 0).all()


@pytest.mark.parametrize(
    ("sample_rate", "frame_length", "frame_shift", "samples"),
    [
        (16000, 0.025, 0.010, (400, 160, 512)),
        (44100, 0.025, 0.010, (1102, 441, 2048)),  # of 1102.5
        (100, 0.29, 0.57, (29, 57, 32)),  # floats: 28.999999999999996 and 56.99999999999999
        (16000, 0.032, 0.0001, (512, 1, 512)),
        (1000, 0.002, 0.001, (2, 1, 2)),
        (1000, 0.003, 0.001, (3, 1, 4)),
    ],
)
def test_frames_are_whole_samples_padded_to_a_power_of_two(
    sample_rate, frame_length, frame_shift, samples
):
    front_end = replace(
        MelPatcher().front_end,
        sample_rate=sample_rate,
        frame_length=frame_length,
        frame_shift=frame_shift,
    )
    found = front_end.window_samples, front_end.shift_samples, front_end.fft_samples
    assert found == samples


@pytest.mark.parametrize("patch_size", [1, 2, 16])
@pytest.mark.parametrize("filterbank", ["kaldi", "decibels"])
@pytest.mark.parametrize("frame_length", [0.025, 0.0100625, 0.064])
def test_frames_lie_where_the_front_end_says(filterbank, frame_length, patch_size):
    front_end = replace(
        MelPatcher(**DECIBELS).front_end,
        filterbank=filterbank,
        frame_length=frame_length,
        patch_size=patch_size,
    )
    n_window = front_end.window_samples
    at_ends = n_window // 2 if filterbank == "decibels" else 0
    # An impulse shows in the frame in whose middle it is more than in any other.
    for frame in (3, 7):
        samples = np.zeros(4000, np.float32)
        samples[round(16000 * front_end.first_frame) + 160 * frame] = 1
        log_mel = front_end.log_mel(samples)
        assert log_mel.shape == (front_end.n_frames(4000), 128)
        assert log_mel.max(axis=1).argmax() == frame
    assert front_end.n_frames(4000) == len(range(-at_ends, 4000 + at_ends - n_window + 1, 160))
    assert front_end.first_frame == (n_window / 2 - at_ends) / 16000
    n_frames = front_end.n_frames(4000)
    assert front_end.grid_shape(4000) == (n_frames // patch_size, 128 // patch_size)
    # One sample less is too few, for a patch or to be reflected.
    least = front_end.min_samples
    sizes = [front_end.grid_shape(least - i)[0] for i in range(2)]
    assert sizes == [1, 0] or (sizes[0] >= 1 and least == at_ends + 1)
    assert least > at_ends
    assert front_end.log_mel(np.ones(least, np.float32)).shape == (front_end.n_frames(least), 128)
    unit = {"kaldi": 1, "decibels": np.log(10) / 10}[filterbank]
    assert front_end.log_unit == pytest.approx(unit)


def test_scale_is_the_factor_on_the_samples():
    quiet = MelPatcher(scale=1.0).fit_transform([SIGNALS["noise"]])
    loud = MelPatcher(scale=100.0).fit_transform([SIGNALS["noise"]])
    above = quiet > -10  # the floor, float32's epsilon: log 1.2e-7 = -15.9
    assert_allclose((loud - quiet)[above], 2 * np.log(100), atol=1e-3)


def test_the_fourth_mel_bin_is_empty_at_the_default_settings():
    log_mel = unpatchify(MelPatcher().fit_transform([SIGNALS["noise"]]))[0]
    assert_array_equal(log_mel[:, 3], np.float32(np.log(np.finfo(np.float32).eps)))


def test_a_patch_is_16_frames_of_16_bins_at_its_place_on_the_grid():
    log_mel = np.random.default_rng(0).normal(size=(2, 40, 48)).astype(np.float32)
    patches = patchify(log_mel)
    assert patches.shape == (2, 2, 3, 256)
    for t in range(2):
        for f in range(3):
            block = log_mel[1, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16]
            assert_array_equal(patches[1, t, f], block.ravel())


def test_unpatchify_is_the_inverse():
    log_mel = np.random.default_rng(0).normal(size=(3, 64, 128)).astype(np.float32)
    assert_array_equal(unpatchify(patchify(log_mel)), log_mel)
    assert_array_equal(unpatchify(patchify(log_mel, patch_size=8)), log_mel)
    # 32 is no square number: a patch is one frame of 32 bins.
    assert_array_equal(unpatchify(log_mel.reshape(3, 64, 4, 32)), log_mel)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (998, 128),
            "log_mel must have shape (n_clips, n_frames, n_mels). "
            "Got an array of shape (998, 128) instead.",
        ),
        (
            (1, 1, 998, 128),
            "log_mel must have shape (n_clips, n_frames, n_mels). "
            "Got an array of shape (1, 1, 998, 128) instead.",
        ),
        (
            (1, 998, 100),
            "log_mel must have a multiple of patch_size=16 mel bins and at least as many frames. "
            "Got 998 frames and 100 mel bins instead.",
        ),
        (
            (1, 15, 128),
            "log_mel must have a multiple of patch_size=16 mel bins and at least as many frames. "
            "Got 15 frames and 128 mel bins instead.",
        ),
    ],
)
def test_patchify_says_what_is_wrong(shape, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        patchify(np.zeros(shape))


def test_unpatchify_says_what_is_wrong():
    message = (
        "patches must have the shape (n_clips, n_time, n_freq, patch_area) of patches that "
        "MelPatcher makes of clips and patchify of spectrograms. Got an array of shape "
        "(1, 12, 256) instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        unpatchify(np.zeros((1, 12, 256)))


def test_every_kind_of_clip_gives_the_same_patches(tmp_path):
    samples = np.round(3000 * NOISE) / 2**15
    path = tmp_path / "clip.wav"
    soundfile.write(path, samples, 16000, subtype="PCM_24")
    expected = MelPatcher().fit_transform(samples[None])[0]
    kinds = [samples, (samples, 16000), (samples[:, None], 16000), path, str(path)]
    patches = MelPatcher().fit_transform(kinds)
    assert patches.dtype == np.float32
    for clip_patches in patches:
        assert_array_equal(clip_patches, expected)
    paths = [str(path), str(path)]
    for container in (pd.Series(paths, index=[5, 2]), np.array(paths), np.array(paths, object)):
        assert_array_equal(MelPatcher().fit_transform(container), patches[:2])


@pytest.mark.parametrize(("dtype", "scale"), [(np.int16, 2**15), (np.int32, 2**31)])
def test_a_table_of_integers_is_pcm(dtype, scale):
    pcm = np.round(0.1 * scale * NOISE[:16000] / np.abs(NOISE).max()).astype(dtype)[None]
    patches = MelPatcher().fit_transform(pcm)
    assert_array_equal(patches, MelPatcher().fit_transform((pcm / scale).astype(np.float32)))
    assert_array_equal(patches, MelPatcher().fit_transform([(pcm[0], 16000)]))


@pytest.mark.slow
def test_workers_compute_the_same_patches():
    clips = [np.roll(SIGNALS["noise"], 100 * i)[: 16000 + 10 * i] for i in range(20)]
    patcher = MelPatcher(duration=1.0).fit(clips)
    expected = patcher.transform(clips)
    assert_array_equal(patcher.set_params(n_jobs=2).transform(clips), expected)


def count_threads(monkeypatch, patcher, clips):
    """Transform clips, and return in how many threads their spectrograms were computed."""
    threads = set()
    log_mel = FrontEnd.log_mel

    def compute(front_end, samples):
        threads.add(threading.get_ident())
        time.sleep(0.01)  # so that no thread can do the tasks of all
        return log_mel(front_end, samples)

    with monkeypatch.context() as patch:
        patch.setattr(FrontEnd, "log_mel", compute)
        patcher.transform(clips)
    return len(threads)


def test_many_clips_are_computed_by_threads_to_the_same_bits(monkeypatch):
    clips = [np.roll(SIGNALS["noise"], 100 * i)[:16000] for i in range(40)]
    monkeypatch.setattr("skanopatch.spectra.lazy_patches.cpu_count", lambda: 2)
    patcher = MelPatcher(duration=1.0).fit(clips)
    assert count_threads(monkeypatch, patcher, clips) == 2
    assert count_threads(monkeypatch, patcher, clips[:16]) == 1  # threads would not pay
    expected = MelPatcher(duration=1.0, n_jobs=1).fit_transform(clips)
    assert_array_equal(patcher.transform(clips), expected)


def test_contexts_and_workers_of_joblib_decide_how_many_threads_there_are(monkeypatch):
    clips = [np.roll(SIGNALS["noise"], 100 * i)[:16000] for i in range(40)]
    monkeypatch.setattr("skanopatch.spectra.lazy_patches.cpu_count", lambda: 2)
    patcher = MelPatcher(duration=1.0).fit(clips)
    assert count_threads(monkeypatch, MelPatcher(duration=1.0, n_jobs=1).fit(clips), clips) == 1
    with joblib.parallel_config(n_jobs=1):
        assert count_threads(monkeypatch, patcher, clips) == 1
    with joblib.parallel_config(backend="threading", n_jobs=3):
        assert count_threads(monkeypatch, patcher, clips) == 3
    # As in GridSearchCV(n_jobs=2), whose workers take a core each.
    numbers = joblib.Parallel(n_jobs=2, backend="threading")(
        joblib.delayed(count_threads)(monkeypatch, patcher, clips) for _ in range(1)
    )
    assert numbers == [1]


def test_the_longest_clip_in_fit_sets_an_open_duration():
    patcher = MelPatcher(duration=None).fit([NOISE[:16000], (NOISE[:16000], 8000)])
    assert patcher.duration_ == 2.0
    assert patcher.transform([NOISE[:16000]]).shape == patcher.transform([NOISE]).shape
    # A clip of half a second is repeated four times.
    assert_array_equal(
        patcher.transform([NOISE[:8000]]), patcher.transform([np.tile(NOISE[:8000], 4)])
    )


def test_one_sample_is_silence_and_no_error():
    patches = MelPatcher().fit_transform([np.array([0.5])])
    assert_array_equal(patches, MelPatcher().fit_transform([np.zeros(N_SAMPLES)]))
    assert MelPatcher(duration=None).fit_transform([np.array([0.5])]).shape == (1, 1, 8, 256)


def test_normalized_clips_have_a_root_mean_square_of_a_tenth():
    loud, quiet = 3 * NOISE[:16000], 1e-4 * NOISE[:16000]
    tenth = NOISE[:16000] * 0.1 / np.sqrt(np.mean(NOISE[:16000] ** 2))
    found = MelPatcher(duration=1.0, level="normalized").fit_transform([loud, quiet, np.zeros(9)])
    (expected,) = MelPatcher(duration=1.0).fit_transform([tenth])
    assert_allclose(found[0], expected, atol=2e-3)
    assert_allclose(found[1], expected, atol=2e-3)
    assert_array_equal(found[2], np.float32(np.log(np.finfo(np.float32).eps)))


def test_the_channel_is_the_first_another_or_their_mean():
    pair = (np.stack([NOISE[:16000], NOISE[16000:32000]], axis=1), 16000)
    for channel, samples in ((0, pair[0][:, 0]), (1, pair[0][:, 1]), ("mean", pair[0].mean(1))):
        found = MelPatcher(duration=1.0, channel=channel).fit_transform([pair])
        expected = MelPatcher(duration=1.0).fit_transform([samples])
        assert_allclose(found, expected, atol=2e-3)
    assert MelPatcher().channel == 0


def test_clips_that_are_cut_are_warned_of_and_counted():
    """More than a patch is missing: of clips of 1.16 s at 16 frames of 0.01 s none is."""
    clips = [NOISE[: round(16000 * seconds)] for seconds in (1.16, 1.17, 2, 3, 4, 5, 6, 0.5)]
    patcher = MelPatcher(duration=1.0).fit(clips)
    message = (
        "6 of 8 clips are longer than the 1 s of which patches are made, and the rest of them is "
        "not used:\n- clip 1: 1 of 1.17 s\n- clip 2: 1 of 2 s\n- clip 3: 1 of 3 s\n"
        "- clip 4: 1 of 4 s\n- clip 5: 1 of 5 s\n- and 1 more\nAnomalousSoundDetector and "
        "split_recording take long recordings apart; duration=None takes the longest clip of fit "
        "as a whole."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        patches = patcher.transform(clips)
    assert len(caught) == 1
    assert_array_equal(patches[1], patches[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patcher.transform(clips[:1])


@pytest.mark.parametrize("settings", [{"n_mels": 100, "patch_size": 10}, {"n_mels": 48}])
def test_a_short_clip_is_long_enough_for_one_patch_with_an_open_duration(settings):
    patcher = MelPatcher(duration=None, **settings).fit([NOISE[:100]])
    assert patcher.duration_ == patcher.front_end.min_samples / 16000
    assert patcher.transform([NOISE[:100]]).shape[1] == 1


def test_the_length_of_a_clip_that_cannot_be_read_is_no_duration(tmp_path):
    clips = [NOISE[:8000], tmp_path / "gone.wav", NOISE[:16000]]
    message = "1 of 3 clips cannot be used:\n- clip 1 ('{}'): there is no such file"
    with pytest.raises(ValueError, match=re.escape(message.format(clips[1]))):
        MelPatcher(duration=None).fit(clips)
    assert MelPatcher(duration=None, on_error="nan").fit(clips).duration_ == 1.0
    with pytest.raises(ValueError, match=r"^1 of 1 clips cannot be used:\n- clip 0 "):
        MelPatcher(duration=None, on_error="nan").fit(clips[1:2])


def test_rows_of_a_table_that_hold_nan_are_named_by_fit():
    table = np.random.default_rng(0).normal(size=(4, 16000))
    table[1, 5], table[3, 7] = np.nan, np.inf
    message = (
        "2 of 4 clips cannot be used:\n- clip 1: it contains NaN or infinity\n"
        "- clip 3: it contains NaN or infinity"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MelPatcher(duration=1.0).fit(table)
    fitted = MelPatcher(duration=1.0).fit(table[::2])
    with pytest.raises(ValueError, match=r"^2 of 4 clips cannot be used:\n- clip 1: it contains"):
        fitted.transform(table)
    assert fitted.n_features_in_ == 16000
    with pytest.raises(ValueError, match="15999 features"):
        fitted.transform(table[::2, :-1])
    with pytest.warns(UserWarning, match="2 of 4 clips cannot be used"):
        patches = MelPatcher(duration=1.0, on_error="nan").fit_transform(table)
    assert np.isnan(patches).all(axis=(1, 2, 3)).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("mebibytes", "limit", "is_lazy"),
    # Patches of 16 x 16: of 32 frames of 128 bins, 64 clips take 1 MiB.
    [(128, 1024, False), (128.25, 1024, True), (3, 3, False), (3.25, 3, True)],
)
def test_patches_are_lazy_from_128_mebibytes_or_the_working_memory_on(
    monkeypatch, mebibytes, limit, is_lazy
):
    monkeypatch.setattr(LazyPatches, "__array__", lambda *a, **k: np.zeros(0))  # takes long
    clips = np.zeros((round(64 * mebibytes), 5360))
    patcher = MelPatcher(duration=0.335).fit(clips)
    with config_context(working_memory=limit):
        assert isinstance(patcher.transform(clips), LazyPatches) is is_lazy


@pytest.fixture
def lazy():
    clips = [np.roll(NOISE, 777 * i)[:16000] for i in range(40)]
    patcher = MelPatcher(duration=1.0).fit(clips)
    eager = patcher.transform(clips)
    with config_context(working_memory=1):  # MiB; the patches take 1.9
        patches = patcher.transform(clips)
    assert isinstance(patches, LazyPatches)
    return patches, eager


def test_lazy_patches_stand_for_the_array(lazy):
    patches, eager = lazy
    assert (patches.shape, patches.dtype, patches.ndim, len(patches), patches.nbytes) == (
        eager.shape,
        eager.dtype,
        eager.ndim,
        len(eager),
        eager.nbytes,
    )
    assert_array_equal(np.asarray(patches), eager)
    for key in (3, -1, slice(4, 30, 5), [7, 2, 2], eager[:, 0, 0, 0] > eager[0, 0, 0, 0]):
        assert_array_equal(patches[key], eager[key])
    assert [len(batch) for batch in patches.batches(16)] == [16, 16, 8]


def test_lazy_patches_survive_pickling_and_hash_alike(lazy):
    patches, eager = lazy
    copy = pickle.loads(pickle.dumps(patches))
    assert_array_equal(copy[5], eager[5])
    assert joblib.hash(copy) == joblib.hash(patches)


def test_lazy_patches_of_some_clips_are_lazy_and_have_all_settings(lazy):
    patches, eager = lazy
    rows = np.array([7, 2, 30])
    some = patches.take(rows)
    assert isinstance(some, LazyPatches)
    assert_array_equal(np.asarray(some), eager[rows])
    settings = ("front_end", "channel", "level", "n_samples", "on_error", "n_jobs")
    for name in settings:
        assert getattr(some, name) == getattr(patches, name)
    assert np.asarray(patches, dtype=np.float64).dtype == np.float64
    assert patches[[]].shape == (0, *eager.shape[1:])
    assert patches[[]].dtype == np.float32
    assert patches[3].shape == eager.shape[1:]


def test_lazy_patches_are_known_by_their_clips_and_settings(lazy, tmp_path):
    patches, _ = lazy
    same = patches.take(np.arange(40))
    assert joblib.hash(same.identity()) == joblib.hash(patches.identity())
    changes = {
        "front_end": MelPatcher(f_min=30.0).front_end,
        "channel": 1,
        "level": "normalized",
        "n_samples": 8000,
        "clips": patches.clips[:-1],
    }
    known = {joblib.hash(patches.identity())}
    for name, value in changes.items():
        other = patches.take(np.arange(40))
        setattr(other, name, value)
        known.add(joblib.hash(other.identity()))
    assert len(known) == 6
    # What changes no patch is no part of it.
    same.n_jobs, same.on_error = 3, "nan"
    assert joblib.hash(same.identity()) == joblib.hash(patches.identity())


def test_a_data_loader_that_may_have_no_workers_computes_by_itself(lazy, monkeypatch):
    patches, eager = lazy
    patches.n_jobs = 2
    assert patches._workers() == (2, None)
    daemon = SimpleNamespace(daemon=True)
    monkeypatch.setattr("skanopatch.spectra.lazy_patches.current_process", lambda: daemon)
    assert patches._workers() == (1, None)
    assert_array_equal(patches[:3], eager[:3])


@pytest.mark.parametrize(("n_cores", "n_threads"), [(1, 1), (3, 3), (64, 4)])
def test_there_is_a_thread_a_core_and_at_most_four(lazy, monkeypatch, n_cores, n_threads):
    monkeypatch.setattr("skanopatch.spectra.lazy_patches.cpu_count", lambda: n_cores)
    assert lazy[0]._workers() == (n_threads, "threads")
    with joblib.parallel_config(n_jobs=2):
        assert lazy[0]._workers() == (None, None)


def test_a_warning_of_lazy_patches_counts_the_clips_of_all_batches(mixed_clips):
    patcher = MelPatcher(duration=1.0, on_error="nan").fit(mixed_clips)
    with config_context(working_memory=0.001):
        patches = patcher.transform(mixed_clips)
    with pytest.warns(UserWarning, match=r"^4 of 6 clips cannot be used: their patches") as caught:
        batches = list(patches.batches(2))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message).count("\n- clip ") == 4
    assert [np.isnan(batch).all(axis=(1, 2, 3)).tolist() for batch in batches] == [
        [False, True],
        [False, True],
        [True, True],
    ]


def test_lazy_patches_do_not_pretend_to_be_a_view(lazy):
    with pytest.raises(ValueError, match=r"^LazyPatches are computed on demand: an array of them"):
        np.asarray(lazy[0], copy=False)


@pytest.fixture
def mixed_clips(tmp_path):
    good = tmp_path / "good.wav"
    soundfile.write(good, NOISE[:16000] / 10, 16000)
    text = tmp_path / "text.wav"
    text.write_text("not a sound")
    return [good, text, NOISE[:16000], tmp_path / "gone.wav", np.array([np.nan]), np.zeros(0)]


def test_all_bad_clips_of_a_batch_are_named(mixed_clips):
    message = (
        "4 of 6 clips cannot be used:\n"
        f"- clip 1 ('{mixed_clips[1]}'): libsndfile cannot read it (Format not recognised)\n"
        f"- clip 3 ('{mixed_clips[3]}'): there is no such file\n"
        "- clip 4: it contains NaN or infinity\n"
        "- clip 5: it has no samples\n"
        "Leave them out, or set on_error='nan': they are then not fitted on and score NaN."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MelPatcher().fit_transform(mixed_clips)


def test_bad_clips_can_become_nan_with_one_warning(mixed_clips):
    patcher = MelPatcher(duration=1.0, on_error="nan").fit(mixed_clips)
    with pytest.warns(UserWarning, match=r"^4 of 6 clips cannot be used: their patches") as caught:
        patches = patcher.transform(mixed_clips)
    assert len(caught) == 1
    assert_array_equal(
        np.isnan(patches).all(axis=(1, 2, 3)), [False, True, False, True, True, True]
    )
    assert np.isfinite(patches[[0, 2]]).all()


def test_a_long_list_of_bad_clips_is_shortened():
    with pytest.raises(ValueError, match=r"(?s)30 of 30 clips .*\n- and 10 more\n") as caught:
        MelPatcher().fit_transform([np.zeros(0)] * 30)
    assert len(str(caught.value).splitlines()) == 23


@pytest.mark.slow
def test_a_bad_clip_in_a_worker_is_named_too():
    clips = [NOISE[:16000]] * 39 + [np.zeros(0)]
    with pytest.raises(ValueError, match=r"1 of 40 clips cannot be used:\n- clip 39: it has no"):
        MelPatcher(duration=1.0, n_jobs=2).fit_transform(clips)


def test_good_clips_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MelPatcher(duration=1.0, on_error="nan").fit_transform([NOISE[:16000]])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_mels": 100}, "n_mels=100 must be a multiple of patch_size=16."),
        (
            {"duration": 0.1},
            "duration=0.1 is too short: one patch of 16 frames takes 0.175 seconds.",
        ),
        (
            {"f_max": 9000.0},
            "f_min=20.0 and f_max=9000.0 must satisfy 0 <= f_min < f_max <= 8000, half the sample "
            "rate (sample_rate=16000).",
        ),
        (
            {"f_min": 8000.0},
            "f_min=8000.0 and f_max=None must satisfy 0 <= f_min < f_max <= 8000, half the sample "
            "rate (sample_rate=16000).",
        ),
        (
            {"f_min": 4000.0, "f_max": 4000.0},
            "f_min=4000.0 and f_max=4000.0 must satisfy 0 <= f_min < f_max <= 8000, half the "
            "sample rate (sample_rate=16000).",
        ),
        (
            {"filterbank": "decibels"},
            "preemphasis must be 0 with filterbank='decibels', which has none. Got 0.97 instead.",
        ),
        (
            {"frame_length": 1e-4},
            "frame_length=0.0001 and frame_shift=0.01 seconds must cover at least 2 samples and 1 "
            "sample at sample_rate=16000.",
        ),
        (
            {"frame_shift": 1e-5},
            "frame_length=0.025 and frame_shift=1e-05 seconds must cover at least 2 samples and 1 "
            "sample at sample_rate=16000.",
        ),
    ],
)
def test_settings_that_cannot_be_met_are_refused(params, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MelPatcher(**params).fit([NOISE])


@pytest.mark.parametrize(
    ("name", "values", "reach"),
    [
        ("sample_rate", [0], "an int in the range [1, inf)"),
        ("frame_length", [0.0, -0.5], "a float in the range (0.0, inf)"),
        ("frame_shift", [0.0, -0.5], "a float in the range (0.0, inf)"),
        ("f_min", [-0.5], "a float in the range [0.0, inf)"),
        ("f_max", [0.0, -0.5], "a float in the range (0.0, inf) or None"),
        ("preemphasis", [-0.1, 1.5], "a float in the range [0.0, 1.0]"),
        ("scale", [0.0, -0.5], "a float in the range (0.0, inf)"),
        ("patch_size", [0], "an int in the range [1, inf)"),
        ("channel", [-1, 0.5], "an int in the range [0, inf) or a str among {'mean'}"),
        ("duration", [0.0, -0.5], "a float in the range (0.0, inf) or None"),
    ],
)
def test_settings_out_of_their_range_are_refused(name, values, reach):
    for value in values:
        message = f"The '{name}' parameter of MelPatcher must be {reach}. Got {value} instead."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            MelPatcher(**{name: value}).fit([NOISE])


@pytest.mark.parametrize(
    "params",
    [
        {"channel": 0},
        {"f_max": 8000.0},
        {"f_min": 0.0},
        {"f_min": 7990.0},
        {"duration": 0.175},
        {"duration": 0.3, "frame_length": 0.000125, "frame_shift": 0.01},
        {"duration": 0.0259375, "frame_shift": 0.0000625},
        {"preemphasis": 1.0},
        {"n_jobs": 1},
        {"sample_rate": 1, "frame_length": 2.0, "frame_shift": 1.0, "f_min": 0.0, "duration": 17.0},
    ],
    ids=str,
)
def test_settings_at_the_end_of_their_range_are_met(params):
    patcher = MelPatcher(**{"duration": 0.2, **params})
    n_samples = round(patcher.duration * patcher.sample_rate)
    patches = patcher.fit_transform([NOISE[:n_samples]])
    assert np.isfinite(patches).all()
    assert patches.shape[2:] == (8, 256)


def test_the_least_patch_is_one_cell():
    patches = MelPatcher(patch_size=1).fit_transform([NOISE])
    whole = unpatchify(MelPatcher().fit_transform([NOISE]))[0]
    assert_array_equal(patches[0, : len(whole), :, 0], whole)


def test_no_clips_at_all():
    with pytest.raises(ValueError, match=r"^Found array with 0 sample\(s\) while a minimum of 1"):
        MelPatcher().fit([])


def test_a_worker_is_one_thread(monkeypatch):
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    seen = []
    log_mel = FrontEnd.log_mel
    monkeypatch.setattr(FrontEnd, "log_mel", lambda *a: (seen.append(threads()), log_mel(*a))[1])
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        MelPatcher(duration=0.2).fit_transform(np.ones((40, 3200)) * np.arange(3200) / 3200)
        assert threads() == before
    assert len(seen) == 40
    assert {number for numbers in seen for number in numbers} == {1}
