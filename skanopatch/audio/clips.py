"""What a clip is: reading, channel choice, resampling and length."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import soundfile
import torch
from torchaudio.transforms import Resample

Clip: TypeAlias = "str | PathLike[str] | np.ndarray | tuple[np.ndarray, int]"

# Integer samples of these types are PCM and are divided by their full scale, as soundfile does.
_PCM_FULL_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}

# Samples read past the wanted end, so that the resampling filter sees what follows the cut.
_READ_AHEAD_SECONDS = 0.1


def is_path(clip: Any) -> TypeGuard[str | PathLike[str]]:
    """Tell whether a clip is a path (str or os.PathLike)."""
    return isinstance(clip, (str, PathLike))


def is_pair(clip: Any) -> TypeGuard[tuple[np.ndarray, int]]:
    """Tell whether a clip is a pair (array, sample_rate)."""
    return (
        isinstance(clip, (tuple, list))
        and len(clip) == 2
        and np.ndim(clip[0]) > 0
        and np.ndim(clip[1]) == 0
    )


def clip_name(clip: Any, index: int) -> str:
    """Name a clip in a message: its index in X, and its path where it has one."""
    return f"clip {index} ('{fspath(clip)}')" if is_path(clip) else f"clip {index}"


def file_state(path: str | PathLike[str]) -> tuple[int, int] | None:
    """Return size and time of a file, which change when its content does; None if it is absent."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def as_clip_list(X: Any) -> list[Clip] | None:
    """Return the clips of X as a list, or None when X is a table of numbers.

    Parameters
    ----------
    X : list, tuple, 1-D object or string array, Series
        Paths, 1-D arrays and (array, sample_rate) pairs, in any mixture.

    Returns
    -------
    clips : list of clips or None
        None for what scikit-learn validates itself: a 2-D array or something like it,
        one clip a row.

    Raises
    ------
    TypeError
        If X is a single path, or has no length.
    ValueError
        If X is empty.
    """
    if is_path(X):
        raise TypeError(
            f"X must be a sequence of clips. Got the single path '{fspath(X)}' instead; "
            "put it into a list, or list a folder with sorted(Path(folder).glob('*.wav'))."
        )
    if getattr(X, "ndim", None) == 1 and getattr(X.dtype, "kind", "O") not in "biufc":
        clips = list(X)  # object arrays, arrays of strings, pandas Series
    elif isinstance(X, (list, tuple)) and not _is_table(X):
        clips = list(X)
    else:
        return None
    if not clips:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 clip is required.")
    return clips


def _is_table(X: Sequence[Any]) -> bool:
    """Tell lists of numbers, or of lists of numbers, from lists of clips."""
    return len(X) > 0 and all(
        (np.isscalar(row) and not isinstance(row, str))
        or (isinstance(row, (list, tuple)) and not is_pair(row))
        for row in X
    )


def clip_duration(clip: Any, *, sample_rate: int) -> float:
    """Return the length of a clip in seconds; of a file only the header is read.

    Parameters
    ----------
    clip : path, array or (array, sample_rate)
    sample_rate : int
        Rate in Hz of a clip that is a bare array.
    """
    if is_path(clip):
        info = _file_info(clip)
        return info.frames / info.samplerate
    samples, rate = clip if is_pair(clip) else (clip, sample_rate)
    return len(samples) / _valid_rate(rate)


def read_clip(clip: Clip) -> tuple[np.ndarray, int | None]:
    """Read one clip as it is.

    Parameters
    ----------
    clip : str, Path, array of shape (n_samples,) or (array, sample_rate)
        As for `load_clip`.

    Returns
    -------
    samples : ndarray of shape (n_samples, n_channels), float32
    sample_rate : int or None
        In Hz; None for a bare array.

    Raises
    ------
    ValueError
        If the clip cannot be read, is empty, or holds NaN or infinity.
    """
    samples, rate = _read_file(clip, None) if is_path(clip) else _from_memory(clip, 1)
    _check_samples(samples)
    return samples, rate if is_path(clip) or is_pair(clip) else None


def load_clip(
    clip: Clip,
    *,
    sample_rate: int = 16000,
    channel: int | str = "mean",
    duration: float | None = None,
) -> np.ndarray:
    """Read one clip as mono samples at a given rate and length.

    Parameters
    ----------
    clip : str, Path, array of shape (n_samples,) or (array, sample_rate)
        A path is read by soundfile (wav, flac, ogg, mp3; every PCM width). A bare array is taken
        to be at `sample_rate`. The array of a pair may be 2-D, channels last. Samples lie in
        [-1, 1]; int16 and int32 are PCM and are divided by their full scale.
    sample_rate : int, default=16000
        The rate wanted, in Hz. Other rates are resampled with a windowed sinc (Kaiser, 64 zero
        crossings).
    channel : int or "mean", default="mean"
        Which channel of several to take, from 0, or their mean. A mono clip has channel 0 only.
    duration : float, default=None
        Seconds wanted. A longer clip is cut: what comes later is not heard. A shorter one is
        repeated from its start, so its seams may sound like clicks. None keeps the length.

    Returns
    -------
    samples : ndarray of shape (n_samples,), float32

    Raises
    ------
    ValueError
        If the clip cannot be read, is empty, holds NaN or infinity, or lacks the channel. The
        message says what is wrong; callers put the name of the clip before it.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.audio.clips import load_clip
    >>> load_clip((np.ones((8000, 2)), 8000), sample_rate=16000, duration=2.0).shape
    (32000,)
    """
    if is_path(clip):
        samples, rate = _read_file(clip, duration)
    else:
        samples, rate = _from_memory(clip, sample_rate)
    samples = _pick_channel(samples, channel)
    _check_samples(samples)
    if rate != sample_rate:
        samples = _resample(samples, rate, sample_rate)
    if duration is not None:
        samples = fit_length(samples, round(duration * sample_rate))
    return samples


def fit_length(samples: np.ndarray, n_samples: int) -> np.ndarray:
    """Cut samples to a length, or repeat them from the start until they reach it."""
    if len(samples) < n_samples:
        samples = np.tile(samples, math.ceil(n_samples / len(samples)))
    return samples[:n_samples]


def pcm_to_float(samples: np.ndarray) -> np.ndarray:
    """Return samples as float32; int16 and int32 PCM is scaled to [-1, 1]."""
    scale = _PCM_FULL_SCALE.get(samples.dtype)
    samples = samples.astype(np.float32, copy=False)
    return samples if scale is None else samples / np.float32(scale)


def _file_info(path: Any) -> Any:
    if not Path(path).is_file():
        raise ValueError("there is no such file")
    try:
        return soundfile.info(fspath(path))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"libsndfile cannot read it ({error.error_string.strip('. ')})") from error


def _read_file(path: Any, duration: float | None) -> tuple[np.ndarray, int]:
    info = _file_info(path)
    n_frames = -1
    if duration is not None:
        n_frames = math.ceil((duration + _READ_AHEAD_SECONDS) * info.samplerate)
    try:
        return soundfile.read(fspath(path), frames=n_frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"libsndfile cannot read it ({error.error_string.strip('. ')})") from error


def _check_samples(samples: np.ndarray) -> None:
    if samples.size == 0:
        raise ValueError("it has no samples")
    if not np.isfinite(samples).all():
        raise ValueError("it contains NaN or infinity")


def _from_memory(clip: Any, sample_rate: int) -> tuple[np.ndarray, int]:
    samples, rate = clip if is_pair(clip) else (clip, sample_rate)
    samples = np.asarray(samples)
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
    samples = pcm_to_float(samples)
    return samples[:, None] if samples.ndim == 1 else samples, _valid_rate(rate)


def _valid_rate(rate: Any) -> int:
    if isinstance(rate, bool) or not np.isreal(rate) or rate != int(rate) or rate < 1:
        raise ValueError(f"its sample rate must be a whole number of Hz above 0. Got {rate!r}")
    return int(rate)


def _pick_channel(samples: np.ndarray, channel: int | str) -> np.ndarray:
    n_channels = samples.shape[1]
    if channel == "mean":
        return samples[:, 0] if n_channels == 1 else samples.mean(axis=1)
    if int(channel) >= n_channels:
        raise ValueError(f"channel={channel} was asked for, but it has {n_channels} channel(s)")
    return np.ascontiguousarray(samples[:, int(channel)])


def _resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    return _resampler(rate, new_rate)(torch.from_numpy(samples)).numpy()


@lru_cache(maxsize=8)
def _resampler(rate: int, new_rate: int) -> Resample:
    # The settings that torchaudio documents as equal to librosa's "kaiser_best".
    return Resample(
        rate,
        new_rate,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )


def file_names(X: Any, n_clips: int) -> list[str]:
    """Return the absolute path of each clip, "" for clips that are no files."""
    clips = None if getattr(X, "ndim", 1) > 2 else as_clip_list(X)
    if clips is None:
        return [""] * n_clips
    return [os.path.abspath(os.fspath(clip)) if is_path(clip) else "" for clip in clips]
