"""Samples of a clip: their scale, channel, rate and length."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from skanopatch.audio.clips import is_pair, split_pair

# What integer samples are divided by, as libsndfile does. Those of 8 bits without a sign have
# silence at 128.
_FULL_SCALE = {"u1": 2.0**7, "i1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}

# The smallest full scale: floats that reach it are no sound in [-1, 1].
_SMALLEST_FULL_SCALE = 128

_HIGHEST_RATE = 100_000_000

# A float32 spectrum overflows above 1e17. Integers that were read as floats are below 1e10.
_LARGEST = 1e15


def pcm_to_float(samples: np.ndarray) -> np.ndarray:
    """Return samples as float32, integers scaled to [-1, 1].

    Integers of other types than those of sound files are refused; values below 128, as in toy
    data, are taken as they are.
    """
    floats = samples.astype(np.float32, copy=False)
    scale = _FULL_SCALE.get(samples.dtype.str[1:])
    if samples.dtype.kind not in "iu":
        return floats
    if scale is not None:
        return (floats - scale if samples.dtype.kind == "u" else floats) / np.float32(scale)
    peak = np.abs(samples).max(initial=0)
    if peak >= _SMALLEST_FULL_SCALE:
        raise ValueError(
            f"samples of type {samples.dtype} (here up to {peak}) have no known full scale: "
            "convert them to int16 or int32, or divide them by their full scale"
        )
    return floats


def masked_to_nan(samples: Any) -> Any:
    """Return samples with NaN where a masked array has none; others as they are."""
    if not np.ma.is_masked(samples):
        return samples
    return samples.astype(np.result_type(samples.dtype, np.float32)).filled(np.nan)


def refuse_masked(X: Any) -> None:
    """Raise ValueError if a masked array lacks values, which `numpy.asarray` would not say."""
    if np.ma.is_masked(X):
        raise ValueError(
            f"X has {np.ma.count_masked(X)} masked values of {X.size}. Fill them, or leave out "
            "their rows."
        )


class Samples(NamedTuple):
    """A clip in memory, with what `soundfile.SoundFile` says of a file."""

    array: np.ndarray  # (frames, channels), float32
    samplerate: int
    frames: int
    channels: int


def samples_of(clip: Any, sample_rate: int) -> Samples:
    """Return the samples of a clip that is no file."""
    samples, rate = split_pair(clip) if is_pair(clip) else (clip, sample_rate)
    try:
        samples = np.asarray(masked_to_nan(samples))
    except (RuntimeError, TypeError, ValueError):  # a list of unlike things, a tensor elsewhere
        samples = np.asarray(None)
    if samples.dtype.kind not in "iuf":
        raise ValueError(
            "a clip must be a path, a 1-D array of numbers or a pair (array, sample_rate). "
            f"Got {type(clip).__name__} of dtype {samples.dtype} instead"
        )
    if samples.ndim > (2 if is_pair(clip) else 1) or samples.ndim == 0:
        raise ValueError(
            "a bare array must be 1-D, and the array of a pair (array, sample_rate) 1-D or 2-D, "
            f"channels last. Got shape {samples.shape} instead"
        )
    samples = samples[:, None] if samples.ndim == 1 else samples
    if 0 < len(samples) < samples.shape[1]:
        raise ValueError(
            f"its array has shape {samples.shape}, which is fewer samples than channels. Channels "
            "come last: transpose it"
        )
    _check_scale(samples)
    return Samples(pcm_to_float(samples), valid_rate(rate), *samples.shape)


def _check_scale(samples: np.ndarray) -> None:
    """Refuse integers, and warn of floats, that seem to have another full scale than their type."""
    kind, width = samples.dtype.kind, samples.dtype.itemsize
    if not samples.size:
        return
    if kind == "f":
        peak = np.abs(samples).max()
        if _SMALLEST_FULL_SCALE <= peak < math.inf:
            warnings.warn(
                f"A clip of floats has samples up to {peak:.0e}, and sound lies in [-1, 1]. "
                "Divide samples that were int16 by 32768. Another unit, such as Pa or g, must be "
                "that of the clips of fit.",
                UserWarning,
                stacklevel=2,
            )
    elif kind == "i" and width == 4 and (samples & 0xFF).any():
        # 24 bits stand in the upper bytes (the lowest is 0) or, unscaled, in the lower ones.
        peak = int(np.abs(samples.astype(np.int64)).max())
        if peak < 2**23:
            raise ValueError(
                f"its int32 samples reach {peak} of 2147483648 only: they seem to have 24 bits "
                "or fewer. Divide them by their full scale, such as 2**23"
            )


def valid_rate(rate: Any) -> int:
    """Return a sample rate as an int."""
    try:
        is_whole = int(rate) == rate and not isinstance(rate, bool)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole or rate < 1:
        raise ValueError(f"its sample rate must be a whole number of Hz above 0. Got {rate!r}")
    if rate > _HIGHEST_RATE:
        raise ValueError(f"its sample rate must be at most {_HIGHEST_RATE} Hz. Got {rate!r}")
    return int(rate)


def pick_channel(samples: np.ndarray, channel: int | str) -> np.ndarray:
    """Return one channel of samples (n_samples, n_channels), or their mean."""
    n_channels = samples.shape[1]
    if channel == "mean":
        return samples[:, 0] if n_channels == 1 else samples.mean(axis=1)
    if int(channel) >= n_channels:
        raise ValueError(f"channel={channel} was asked for, but it has {n_channels} channel(s)")
    return np.ascontiguousarray(samples[:, int(channel)])


def check_samples(samples: np.ndarray) -> None:
    """Refuse no samples, NaN, infinity, and numbers that no sound has."""
    if samples.size == 0:
        raise ValueError("it has no samples")
    if not np.isfinite(samples).all():
        raise ValueError("it contains NaN or infinity")
    if (peak := float(np.abs(samples).max())) > _LARGEST:
        raise ValueError(f"it is no sound: its largest sample is {peak:.2g}, where 1 is full scale")


def fit_length(samples: np.ndarray, n_samples: int) -> np.ndarray:
    """Cut samples to a length, or repeat them from the start until they reach it."""
    if len(samples) < n_samples:
        samples = np.tile(samples, math.ceil(n_samples / len(samples)))
    return samples[:n_samples]
