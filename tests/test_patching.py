"""MelPatcher against torchaudio, patches against their spectrograms, bad clips against a batch."""

import pickle
import re
import threading
import time
import warnings

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

from skanopatch import MelPatcher, patchify, unpatchify
from skanopatch.spectra.lazy_patches import LazyPatches
from skanopatch.spectra.log_mel import FrontEnd, mel_weights

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
        ("duration", [0.0, -0.5], "a float in the range (0.0, inf) or None"),
    ],
)
def test_settings_out_of_their_range_are_refused(name, values, reach):
    for value in values:
        message = f"The '{name}' parameter of MelPatcher must be {reach}. Got {value} instead."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            MelPatcher(**{name: value}).fit([NOISE])


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
