"""MelPatcher: clips -> log-mel spectrograms -> patches, at once or on demand."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import current_process
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import check_array, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torchaudio.compliance.kaldi import get_mel_banks

from skanopatch.audio import (
    Clip,
    as_clip_list,
    clip_duration,
    clip_name,
    load_clip,
    pcm_to_float,
)

# The mel matrix is multiplied in this many bands of mel bins: each needs the FFT bins under its
# own filters only, which saves two thirds of the product.
_N_MEL_BANDS = 4

# Clips a worker computes in one task: about 60 ms of work, against 1 ms to hand it out.
_CLIPS_PER_TASK = 16


# Paths, arrays and pairs in a list, or an array with a clip a row.
Clips: TypeAlias = "list[Clip] | np.ndarray"


def patchify(log_mel: np.ndarray, *, patch_size: int = 16) -> np.ndarray:
    """Cut spectrograms into square patches, in the order of time.

    Parameters
    ----------
    log_mel : array-like of shape (n_clips, n_frames, n_mels)
        Spectrograms, computed here or elsewhere.
    patch_size : int, default=16
        Frames and mel bins a patch covers. Frames after the last whole patch are left out.

    Returns
    -------
    patches : ndarray of shape (n_clips, n_patches, patch_size ** 2), float32
        Patch ``t * n_freq + f`` covers the ``t``-th stretch of time and the ``f``-th band, with
        ``n_freq = n_mels // patch_size``; within a patch, frames come before mel bins.

    Raises
    ------
    ValueError
        If `log_mel` is not 3-D, `n_mels` is no multiple of `patch_size`, or there are fewer
        frames than `patch_size`.

    See Also
    --------
    unpatchify : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import patchify
    >>> patchify(np.zeros((2, 998, 128))).shape
    (2, 496, 256)
    """
    log_mel = np.asarray(log_mel, dtype=np.float32)
    if log_mel.ndim != 3:
        raise ValueError(
            "log_mel must have shape (n_clips, n_frames, n_mels). "
            f"Got an array of shape {log_mel.shape} instead."
        )
    n_clips, n_frames, n_mels = log_mel.shape
    if n_mels % patch_size or n_frames < patch_size:
        raise ValueError(
            f"log_mel must have a multiple of patch_size={patch_size} mel bins and at least as "
            f"many frames. Got {n_frames} frames and {n_mels} mel bins instead."
        )
    n_time, n_freq = n_frames // patch_size, n_mels // patch_size
    cells = log_mel[:, : n_time * patch_size].reshape(
        n_clips, n_time, patch_size, n_freq, patch_size
    )
    return cells.transpose(0, 1, 3, 2, 4).reshape(n_clips, n_time * n_freq, patch_size**2)


def unpatchify(patches: np.ndarray, n_freq: int = 8) -> np.ndarray:
    """Put patches together to spectrograms: the inverse of `patchify`.

    Parameters
    ----------
    patches : array-like of shape (n_clips, n_patches, patch_area)
        Patches in the order of time. `patch_area` that is no square number stands for patches of
        one frame and `patch_area` bins.
    n_freq : int, default=8
        Patches on the frequency axis.

    Returns
    -------
    log_mel : ndarray of shape (n_clips, n_frames, n_mels)

    Raises
    ------
    ValueError
        If `patches` is not 3-D or `n_patches` is no multiple of `n_freq`.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import patchify, unpatchify
    >>> log_mel = np.random.default_rng(0).normal(size=(2, 32, 128)).astype("float32")
    >>> bool((unpatchify(patchify(log_mel), n_freq=8) == log_mel).all())
    True
    """
    patches = np.asarray(patches)
    if patches.ndim != 3:
        raise ValueError(
            "patches must have shape (n_clips, n_patches, patch_area). "
            f"Got an array of shape {patches.shape} instead."
        )
    n_clips = len(patches)
    grid = patch_grid(patches.shape[1:], n_freq)
    cells = patches.reshape(n_clips, grid.n_time, grid.n_freq, grid.height, grid.width)
    return cells.transpose(0, 1, 3, 2, 4).reshape(n_clips, grid.n_frames, grid.n_mels)


class PatchGrid(NamedTuple):
    """How the patches of a clip lie on its spectrogram."""

    n_time: int
    n_freq: int
    height: int  # frames a patch
    width: int  # mel bins a patch

    @property
    def n_frames(self) -> int:
        """Frames of the spectrogram behind the patches."""
        return self.n_time * self.height

    @property
    def n_mels(self) -> int:
        """Mel bins of the spectrogram behind the patches."""
        return self.n_freq * self.width


def patch_grid(shape: tuple[int, int], n_freq: int) -> PatchGrid:
    """Infer the grid from (n_patches, patch_area) and the number of frequency bands."""
    n_patches, patch_area = shape
    if n_patches % n_freq:
        raise ValueError(
            f"The number of patches must be a multiple of n_freq={n_freq}. "
            f"Got {n_patches} patches a clip instead."
        )
    side = round(patch_area**0.5)
    height, width = (side, side) if side * side == patch_area else (1, patch_area)
    return PatchGrid(n_patches // n_freq, n_freq, height, width)


@dataclass(frozen=True)
class FrontEnd:
    """The settings that take samples to patches; hashable, so that its filters are cached."""

    sample_rate: int
    n_mels: int
    frame_length: float
    frame_shift: float
    f_min: float
    f_max: float | None
    window: str
    preemphasis: float
    scale: float
    patch_size: int

    @property
    def window_samples(self) -> int:
        """Samples a frame; Kaldi rounds down, here after removing float noise."""
        return int(round(self.sample_rate * self.frame_length, 6))

    @property
    def shift_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(round(self.sample_rate * self.frame_shift, 6))

    @property
    def fft_samples(self) -> int:
        """Samples a frame is padded to: the next power of two."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def min_samples(self) -> int:
        """The shortest clip that fills one patch on the time axis."""
        return self.window_samples + (self.patch_size - 1) * self.shift_samples

    def n_patches(self, n_samples: int) -> int:
        """Return how many patches a clip of that many samples gives."""
        n_frames = 1 + (n_samples - self.window_samples) // self.shift_samples
        return n_frames // self.patch_size * (self.n_mels // self.patch_size)

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """Return the Kaldi log-mel spectrogram of one clip, (n_frames, n_mels), float32.

        The operations before the FFT are Kaldi's, in Kaldi's order and rounding, since the
        logarithm magnifies what differs where a band is nearly silent.
        """
        waveform = torch.from_numpy(samples * np.float32(self.scale))
        frames = waveform.unfold(0, self.window_samples, self.shift_samples)
        frames = frames - frames.mean(dim=1, keepdim=True)
        window, bands = _filters(self)
        padded = torch.zeros(len(frames), self.fft_samples)
        emphasised = padded[:, : self.window_samples]
        torch.sub(frames[:, 1:], self.preemphasis * frames[:, :-1], out=emphasised[:, 1:])
        torch.sub(frames[:, :1], self.preemphasis * frames[:, :1], out=emphasised[:, :1])
        emphasised *= window
        spectrum = torch.fft.rfft(padded)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        mel = torch.empty(len(frames), self.n_mels)
        for band in bands:
            torch.mm(power[:, band.bins], band.weights, out=mel[:, band.mels])
        return mel.clamp_min_(torch.finfo(torch.float32).eps).log_().numpy()


class _MelBand(NamedTuple):
    mels: slice
    bins: slice
    weights: torch.Tensor  # (n_bins, n_mels) of the band


@lru_cache(maxsize=8)
def _filters(front_end: FrontEnd) -> tuple[torch.Tensor, list[_MelBand]]:
    """Return the window and the mel matrix, cut into bands of mel bins."""
    mel_banks, _ = get_mel_banks(
        front_end.n_mels,
        front_end.fft_samples,
        float(front_end.sample_rate),
        front_end.f_min,
        0.0 if front_end.f_max is None else front_end.f_max,  # Kaldi: 0 is Nyquist
        vtln_low=100.0,
        vtln_high=-500.0,
        vtln_warp_factor=1.0,
    )
    weights = torch.nn.functional.pad(mel_banks, (0, 1)).T
    bands = []
    for mels in gen_batches(front_end.n_mels, -(-front_end.n_mels // _N_MEL_BANDS)):
        used = torch.nonzero(weights[:, mels].any(dim=1)).ravel().tolist() or [0]
        bins = slice(used[0], used[-1] + 1)
        bands.append(_MelBand(mels, bins, weights[bins, mels].contiguous()))
    window = _WINDOWS[front_end.window](front_end.window_samples)
    return window, bands


def _blackman_window(n_samples: int) -> torch.Tensor:
    """Return Kaldi's form: near its ends it is so small that torch's rounds differently."""
    phase = 2 * math.pi / (n_samples - 1) * torch.arange(n_samples)
    return 0.42 - 0.5 * torch.cos(phase) + 0.08 * torch.cos(2 * phase)


# Kaldi's windows by Kaldi's names; all are symmetric.
_WINDOWS: dict[str, Callable[[int], torch.Tensor]] = {
    "povey": lambda n: torch.hann_window(n, periodic=False).pow(0.85),
    "hanning": lambda n: torch.hann_window(n, periodic=False),
    "hamming": lambda n: torch.hamming_window(n, periodic=False, alpha=0.54, beta=0.46),
    "blackman": _blackman_window,
    "rectangular": torch.ones,
}


class LazyPatches:
    """Patches of many clips, computed when they are asked for.

    What `MelPatcher.transform` returns when the patches would not fit into scikit-learn's
    `working_memory`. It has the `shape`, `dtype`, length and slicing of the array it stands for,
    and ``numpy.asarray`` makes that array.

    Attributes
    ----------
    shape : tuple (n_clips, n_patches, patch_area)
    dtype : numpy.dtype
        float32.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(
        self,
        clips: Clips,
        *,
        front_end: FrontEnd,
        channel: int | str,
        n_samples: int,
        on_error: str,
        n_jobs: int | None,
    ):
        self.clips = clips
        self.front_end = front_end
        self.channel = channel
        self.n_samples = n_samples
        self.on_error = on_error
        self.n_jobs = n_jobs

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the array that this stands for."""
        n_patches = self.front_end.n_patches(self.n_samples)
        return len(self.clips), n_patches, self.front_end.patch_size**2

    @property
    def nbytes(self) -> int:
        """Bytes of the array that this stands for."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Any) -> np.ndarray:
        indices = np.arange(len(self))[key]
        patches, _ = self._compute(np.atleast_1d(indices))
        return patches if np.ndim(indices) else patches[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("LazyPatches are computed on demand: an array of them is a copy.")
        patches = np.empty(self.shape, dtype=dtype or self.dtype)
        start = 0
        for batch in self.batches(_CLIPS_PER_TASK * 16):
            patches[start : start + len(batch)] = batch
            start += len(batch)
        return patches

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Go through all clips, `batch_size` at a time; warn at the end of those left NaN.

        Parameters
        ----------
        batch_size : int
            Clips a batch; the last may be smaller.

        Yields
        ------
        patches : ndarray of shape (<= batch_size, n_patches, patch_area)
        """
        bad_clips: list[str] = []
        for batch in gen_batches(len(self), batch_size):
            patches, errors = self._compute(np.arange(batch.start, batch.stop))
            bad_clips += errors
            yield patches
        if bad_clips:
            warnings.warn(
                f"{len(bad_clips)} of {len(self)} clips cannot be used: their patches and scores "
                f"are NaN and predict calls them anomalies (-1):{_bullets(bad_clips)}",
                UserWarning,
                stacklevel=2,
            )

    def _compute(self, indices: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Return the patches of some clips, and a sentence for each that cannot be used."""
        # A data loader's worker may have no workers of its own.
        n_jobs = 1 if current_process().daemon else self.n_jobs
        # Shared evenly, so that no worker waits for another.
        n_tasks = max(effective_n_jobs(n_jobs), -(-len(indices) // _CLIPS_PER_TASK))
        tasks = [task for task in np.array_split(indices, n_tasks) if len(task)]
        results = Parallel(n_jobs=n_jobs)(
            delayed(_clips_to_patches)(
                [self.clips[i] for i in task],
                front_end=self.front_end,
                channel=self.channel,
                n_samples=self.n_samples,
                parent=os.getpid(),
            )
            for task in tasks
        )
        errors = [
            f"{clip_name(self.clips[i], i)}: {reason}"
            for task, (_, reasons) in zip(tasks, results, strict=True)
            for i, reason in zip(task, reasons, strict=True)
            if reason
        ]
        if errors and self.on_error == "raise":
            raise ValueError(
                f"{len(errors)} of {len(indices)} clips cannot be used:{_bullets(errors)}\n"
                "Leave them out, or set on_error='nan' to give them the score NaN."
            )
        if not results:
            return np.empty((0, *self.shape[1:]), dtype=self.dtype), errors
        return np.concatenate([patches for patches, _ in results]), errors


def _bullets(sentences: list[str], most: int = 20) -> str:
    lines = sentences[:most]
    if len(sentences) > most:
        lines.append(f"and {len(sentences) - most} more")
    return "".join(f"\n- {line}" for line in lines)


def _clips_to_patches(
    clips: Sequence[Any], *, front_end: FrontEnd, channel: int | str, n_samples: int, parent: int
) -> tuple[np.ndarray, list[str]]:
    """Return the patches of clips, NaN where one cannot be used, and the reasons ('' if none)."""
    if os.getpid() != parent:  # in a worker: the cores are taken by the other workers
        torch.set_num_threads(1)
    n_patches = front_end.n_patches(n_samples)
    patches = np.full((len(clips), n_patches, front_end.patch_size**2), np.nan, dtype=np.float32)
    reasons = []
    for clip, clip_patches in zip(clips, patches, strict=True):
        try:
            samples = load_clip(
                clip,
                sample_rate=front_end.sample_rate,
                channel=channel,
                duration=n_samples / front_end.sample_rate,
            )
        except ValueError as error:
            reasons.append(str(error))
            continue
        log_mel = front_end.log_mel(samples)
        clip_patches[:] = patchify(log_mel[None], patch_size=front_end.patch_size)[0]
        reasons.append("")
    return patches, reasons


def validate_patches(
    estimator: BaseEstimator, X: Any, *, n_freq: int, reset: bool
) -> tuple[np.ndarray | LazyPatches, PatchGrid]:
    """Return patches as something 3-D, and their grid.

    Parameters
    ----------
    estimator : BaseEstimator
        What is fitted (`reset`), or has `n_features_in_`, the patch area, to be met.
    X : array-like of shape (n_clips, n_patches, patch_area) or (n_clips, patch_area)
        2-D stands for one patch a clip.
    n_freq : int
        Frequency bands; a single patch is one band.
    reset : bool
        Whether to set `n_features_in_`, or to compare with it.

    Raises
    ------
    ValueError
        If the shape does not fit; for 2-D X also if there are NaN or infinities.
    """
    if isinstance(X, (list, tuple)):
        X = np.asarray(X)
    if isinstance(X, LazyPatches) or getattr(X, "ndim", 2) == 3:
        if not isinstance(X, LazyPatches):
            # A clip that could not be read is NaN throughout; iterate_batches looks closer.
            X = check_array(X, dtype=np.float32, allow_nd=True, ensure_all_finite=False)
        if reset:
            estimator.n_features_in_ = X.shape[2]
        elif X.shape[2] != estimator.n_features_in_:
            raise ValueError(
                f"X has patches of {X.shape[2]} values, but {type(estimator).__name__} was fitted "
                f"on patches of {estimator.n_features_in_}."
            )
    else:
        X = validate_data(estimator, X, reset=reset, dtype=np.float32)[:, None, :]
    return X, patch_grid(X.shape[1:], n_freq if X.shape[1] > 1 else 1)


def iterate_batches(X: np.ndarray | LazyPatches, batch_size: int) -> Iterator[np.ndarray]:
    """Go through patches batch by batch; whole clips may be NaN, parts of a clip may not."""
    if isinstance(X, LazyPatches):
        yield from X.batches(batch_size)
        return
    for rows in gen_batches(len(X), batch_size):
        batch = X[rows]
        broken = ~np.isfinite(batch).all(axis=(1, 2))
        if broken.any() and not np.isnan(batch[broken]).all():
            first = rows.start + np.flatnonzero(broken)[0]
            raise ValueError(f"The patches of clip {first} contain NaN or infinity.")
        yield batch


class MelPatcher(TransformerMixin, BaseEstimator):
    """Cut the log-mel spectrograms of clips into patches.

    The spectrogram is Kaldi's log-mel filterbank [1]_, as BEATs, AST and AudioMAE take it; it is
    not normalised here, since what follows knows the mean and deviation it was trained with.

    Parameters
    ----------
    sample_rate : int, default=16000
        Rate in Hz at which clips are heard. Clips of other rates are resampled.
    n_mels : int, default=128
        Mel bins, a multiple of `patch_size`. At 16 kHz with 128 bins the fourth bin holds no FFT
        bin and is constant, in Kaldi as here; pre-trained weights expect that.
    frame_length, frame_shift : float, default=0.025 and 0.010
        Window and hop in seconds.
    f_min : float, default=20.0
        Lower edge of the mel filters in Hz.
    f_max : float, default=None
        Upper edge in Hz. None is half the sample rate.
    window : {"povey", "hanning", "hamming", "blackman", "rectangular"}, default="povey"
        Kaldi's windows.
    preemphasis : float, default=0.97
        Coefficient of the first difference taken in each frame.
    scale : float, default=32768.0
        Factor on the samples. 2 ** 15 gives Kaldi's 16-bit range, which BEATs expects.
    patch_size : int, default=16
        Frames and mel bins a patch.
    channel : int or "mean", default=0
        Which channel of a clip with several, or their mean. Averaging the microphones of an array
        cancels what reaches them out of phase, so the first one is taken.
    duration : float, default=10.0
        Seconds of each clip that are heard. A longer clip is cut, so a fault that starts later is
        missed; a shorter one is repeated until it is long enough, which costs the time of a full
        clip and may add a click at each seam. None takes the length of the longest clip in `fit`.
    on_error : {"raise", "nan"}, default="raise"
        What becomes of a clip that cannot be read, is empty or holds NaN or infinity: an error
        that names it, or patches, and so a score, of NaN with one warning for all such clips.
    n_jobs : int, default=None
        Processes that read and compute, each with one torch thread. None is 1 unless in a
        `joblib.parallel_config` context, which also takes the work to Dask or Ray.

    Attributes
    ----------
    duration_ : float
        Seconds of each clip that are heard.
    n_features_in_ : int
        Samples a clip, when `fit` saw a 2-D array.

    See Also
    --------
    patchify : The same patches from spectrograms computed elsewhere.

    References
    ----------
    .. [1] D. Povey et al., "The Kaldi Speech Recognition Toolkit", ASRU 2011;
       equal to ``torchaudio.compliance.kaldi.fbank`` within float32 rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import MelPatcher
    >>> rng = np.random.default_rng(0)
    >>> clips = [rng.normal(size=160000), (rng.normal(size=48000), 48000)]
    >>> MelPatcher().fit_transform(clips).shape
    (2, 496, 256)
    """

    _parameter_constraints: dict = {
        "sample_rate": [Interval(Integral, 1, None, closed="left")],
        "n_mels": [Interval(Integral, 1, None, closed="left")],
        "frame_length": [Interval(Real, 0, None, closed="neither")],
        "frame_shift": [Interval(Real, 0, None, closed="neither")],
        "f_min": [Interval(Real, 0, None, closed="left")],
        "f_max": [Interval(Real, 0, None, closed="neither"), None],
        "window": [StrOptions(set(_WINDOWS))],
        "preemphasis": [Interval(Real, 0, 1, closed="both")],
        "scale": [Interval(Real, 0, None, closed="neither")],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "channel": [Interval(Integral, 0, None, closed="left"), StrOptions({"mean"})],
        "duration": [Interval(Real, 0, None, closed="neither"), None],
        "on_error": [StrOptions({"raise", "nan"})],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        sample_rate=16000,
        *,
        n_mels=128,
        frame_length=0.025,
        frame_shift=0.010,
        f_min=20.0,
        f_max=None,
        window="povey",
        preemphasis=0.97,
        scale=2.0**15,
        patch_size=16,
        channel=0,
        duration=10.0,
        on_error="raise",
        n_jobs=None,
    ):
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.frame_length = frame_length
        self.frame_shift = frame_shift
        self.f_min = f_min
        self.f_max = f_max
        self.window = window
        self.preemphasis = preemphasis
        self.scale = scale
        self.patch_size = patch_size
        self.channel = channel
        self.duration = duration
        self.on_error = on_error
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the settings, and learn the duration if it is None.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            A clip is a path, a 1-D array at `sample_rate` or a pair (array, sample_rate).
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        front_end = self._front_end()
        clips = self._validate_clips(X, reset=True)
        if self.duration is None:
            longest = _longest(clips, self.sample_rate, self.on_error)
            self.duration_ = max(longest, front_end.min_samples / self.sample_rate)
        else:
            self.duration_ = float(self.duration)
        return self

    def transform(self, X):
        """Compute the patches of clips.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            A clip is a path, a 1-D array at `sample_rate` or a pair (array, sample_rate).

        Returns
        -------
        patches : ndarray or LazyPatches of shape (n_clips, n_patches, patch_size ** 2), float32
            In the order of time, as `patchify` gives them. What would exceed scikit-learn's
            `working_memory` is computed on demand.

        Raises
        ------
        ValueError
            If clips cannot be used and `on_error` is "raise"; all of the batch are named.
        """
        check_is_fitted(self)
        patches = LazyPatches(
            self._validate_clips(X, reset=False),
            front_end=self._front_end(),
            channel=self.channel,
            n_samples=round(self.duration_ * self.sample_rate),
            on_error=self.on_error,
            n_jobs=self.n_jobs,
        )
        if patches.nbytes > get_config()["working_memory"] * 2**20:
            return patches
        return np.asarray(patches)

    def _front_end(self) -> FrontEnd:
        names = FrontEnd.__dataclass_fields__
        front_end = FrontEnd(**{name: getattr(self, name) for name in names})
        nyquist = self.sample_rate / 2
        if self.f_min >= (nyquist if self.f_max is None else self.f_max) or (
            self.f_max is not None and self.f_max > nyquist
        ):
            raise ValueError(
                f"f_min={self.f_min} and f_max={self.f_max} must satisfy 0 <= f_min < f_max <= "
                f"{nyquist:g}, half the sample rate (sample_rate={self.sample_rate})."
            )
        if self.n_mels % self.patch_size:
            raise ValueError(
                f"n_mels={self.n_mels} must be a multiple of patch_size={self.patch_size}."
            )
        if front_end.window_samples < 2 or front_end.shift_samples < 1:
            raise ValueError(
                f"frame_length={self.frame_length} and frame_shift={self.frame_shift} seconds must "
                f"cover at least 2 samples and 1 sample at sample_rate={self.sample_rate}."
            )
        shortest = front_end.min_samples / self.sample_rate
        if self.duration is not None and round(self.duration, 9) < round(shortest, 9):
            raise ValueError(
                f"duration={self.duration} is too short: one patch of {self.patch_size} frames "
                f"takes {shortest:g} seconds."
            )
        return front_end

    def _validate_clips(self, X: Any, *, reset: bool) -> Clips:
        clips = as_clip_list(X)
        if clips is not None:
            return clips
        is_pcm = getattr(X, "dtype", None) in (np.dtype(np.int16), np.dtype(np.int32))
        samples = validate_data(
            self,
            X,
            reset=reset,
            dtype="numeric" if is_pcm else np.float32,
            ensure_all_finite=False,  # each clip is checked, and named, when it is read
        )
        if reset and self.on_error == "raise" and not np.isfinite(samples).all():
            bad_clips = np.flatnonzero(~np.isfinite(samples).all(axis=1)).tolist()
            raise ValueError(
                f"{len(bad_clips)} of {len(samples)} clips cannot be used:"
                + _bullets([f"clip {i}: it contains NaN or infinity" for i in bad_clips])
            )
        return pcm_to_float(samples)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _longest(clips: Clips, sample_rate: int, on_error: str) -> float:
    """Return the length in seconds of the longest clip that has one."""
    lengths, errors = [], []
    for i, clip in enumerate(clips):
        try:
            lengths.append(clip_duration(clip, sample_rate=sample_rate))
        except ValueError as error:
            errors.append(f"{clip_name(clip, i)}: {error}")
    if errors and (on_error == "raise" or not lengths):
        raise ValueError(f"{len(errors)} of {len(clips)} clips cannot be used:{_bullets(errors)}")
    return max(lengths)
