"""Patches: how they lie on a spectrogram, and how many of them are held without their array."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing import current_process
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import validate_data

from skanopatch.audio.clips import Clip, clip_name, file_state, is_path, load_clip
from skanopatch.spectra.log_mel import FrontEnd

# Clips a worker computes in one task: about 60 ms of work, against 1 ms to hand it out.
_CLIPS_PER_TASK = 16

# The median step of a mel bin from one frame to the next, in nepers of power: 0.66 to 0.78 on
# recordings of five kinds of machine and on simulated ones, whatever their gain and colour.
_TYPICAL_STEP = 0.7
_CLIPS_TO_MEASURE = 100
_DECIBEL = math.log(10) / 10  # nepers of power
_SNAP = 1.6

NO_USABLE_CLIP = "Every clip is NaN: there is nothing to learn from."

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
    _, n_frames, n_mels = log_mel.shape
    if n_mels % patch_size or n_frames < patch_size:
        raise ValueError(
            f"log_mel must have a multiple of patch_size={patch_size} mel bins and at least as "
            f"many frames. Got {n_frames} frames and {n_mels} mel bins instead."
        )
    return cut_into_patches(log_mel, patch_size, patch_size)


def cut_into_patches(log_mel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut spectrograms into patches of `height` frames and `width` bins, without any check."""
    n_clips, n_frames, n_mels = log_mel.shape
    n_time, n_freq = n_frames // height, n_mels // width
    cells = log_mel[:, : n_time * height].reshape(n_clips, n_time, height, n_freq, width)
    return cells.transpose(0, 1, 3, 2, 4).reshape(n_clips, n_time * n_freq, height * width)


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


class ArrayOutputMixin:
    """For a transformer whose output is no table: `set_output` leaves it an array."""

    def set_output(self, *, transform=None):
        """Do nothing: patches stay arrays, also where a whole pipeline is set to pandas.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Ignored.

        Returns
        -------
        self : object
        """
        return self


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
                f"are NaN and predict calls them anomalies (-1):{bullets(bad_clips)}",
                UserWarning,
                stacklevel=2,
            )

    def identity(self) -> tuple[Any, ...]:
        """Return what the patches depend on, to be hashed: files by their size and time."""
        clips = [(os.fspath(c), file_state(c)) if is_path(c) else c for c in self.clips]
        return self.front_end, self.channel, self.n_samples, clips

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
                f"{len(errors)} of {len(indices)} clips cannot be used:{bullets(errors)}\n"
                "Leave them out, or set on_error='nan': they are then not fitted on and score NaN."
            )
        if not results:
            return np.empty((0, *self.shape[1:]), dtype=self.dtype), errors
        return np.concatenate([patches for patches, _ in results]), errors


def bullets(sentences: list[str], most: int = 20) -> str:
    """List sentences one a line, and count those beyond the first few."""
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
    estimator: BaseEstimator, X: Any, *, n_freq: int, reset: bool, n_mels: int | None = None
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
    n_mels : int or None, default=None
        Mel bins of the patches side by side that there have to be.

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
    grid = patch_grid(X.shape[1:], n_freq if X.shape[1] > 1 else 1)
    if n_mels not in (None, grid.n_mels):
        raise ValueError(
            f"X has {grid.n_freq} bands of patches, which are {grid.n_mels} mel bins, but "
            f"{type(estimator).__name__} was fitted on {n_mels} mel bins. One patch a clip is one "
            f"band, more are n_freq={n_freq} bands."
        )
    return X, grid


def measure_log_unit(X: np.ndarray | LazyPatches, grid: PatchGrid) -> float:
    """Return how many nepers (natural logarithms of power) a unit of the patches is.

    In the noise that is in every recording, bins step from frame to frame by the same factor of
    power. Their median step in units of the patches so measures the unit.

    Parameters
    ----------
    X : ndarray or LazyPatches of shape (n_clips, n_patches, patch_area)
        At most 100 clips, evenly spread, are looked at.
    grid : PatchGrid
        How the patches lie.

    Returns
    -------
    log_unit : float
        Exactly 1 (natural logarithms) or ln(10) / 10 (decibels) where the measured unit is within
        a factor of 1.6 of either, else the measured unit. 1 where nothing moves.
    """
    sample = X[:: -(-len(X) // _CLIPS_TO_MEASURE)]
    steps = np.abs(np.diff(unpatchify(sample, grid.n_freq), axis=1))
    moving = steps[steps > 0]  # neither NaN nor digital silence
    if not len(moving):
        return 1.0
    measured = _TYPICAL_STEP / float(np.median(moving))
    for unit in (1.0, _DECIBEL):
        if max(measured / unit, unit / measured) <= _SNAP:
            return unit
    return measured


def given_patches(X: Any) -> Any:
    """Return patches that were made elsewhere, after a look at their shape."""
    patches = X if isinstance(X, LazyPatches) else np.asarray(X)
    if patches.ndim != 3 or math.isqrt(patches.shape[2]) ** 2 != patches.shape[2]:
        raise ValueError(
            "With patcher='passthrough' X must be patches of shape (n_clips, n_patches, "
            f"patch_size ** 2). Got an array of shape {patches.shape} instead; patchify makes "
            "patches of spectrograms, and patcher=None takes clips."
        )
    return patches


def take_clips(X: np.ndarray | LazyPatches, rows: np.ndarray) -> np.ndarray | LazyPatches:
    """Return the patches of some clips, lazy ones as lazy ones."""
    if not isinstance(X, LazyPatches):
        return X[rows]
    return LazyPatches(
        [X.clips[row] for row in rows],
        front_end=X.front_end,
        channel=X.channel,
        n_samples=X.n_samples,
        on_error=X.on_error,
        n_jobs=X.n_jobs,
    )


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


def survey_patches(
    X: np.ndarray | LazyPatches, batch_size: int
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the indices of clips that are not NaN, and mean and deviation of their patches."""
    usable = []
    count, mean, squares = 0, 0.0, 0.0
    for batch in iterate_batches(X, batch_size):
        is_usable = np.isfinite(batch[:, 0, 0])
        usable.append(is_usable)
        values = batch[is_usable]
        if values.size == 0:
            continue
        # Chan et al. 1983: merging batches loses no digits, as sums of squares would.
        shift = float(values.mean(dtype=np.float64)) - mean
        squares += float(values.var(dtype=np.float64)) * values.size
        squares += shift**2 * count * values.size / (count + values.size)
        mean += shift * values.size / (count + values.size)
        count += values.size
    if count == 0:
        raise ValueError(NO_USABLE_CLIP)
    std = math.sqrt(squares / count)
    return np.flatnonzero(np.concatenate(usable)), (mean, std or 1.0)
