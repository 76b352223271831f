"""LazyPatches: the patches of many clips, computed when they are needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from multiprocessing import current_process
from typing import Any, Self, TypeAlias

import numpy as np
from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from sklearn.utils import gen_batches
from threadpoolctl import ThreadpoolController

from skanopatch.audio import Clip, clip_name, clip_state, load_clip
from skanopatch.spectra.log_mel import FrontEnd

# Clips that a worker computes in one task: about 60 ms of work, against 1 ms to hand it out.
_CLIPS_PER_TASK = 16

_MOST_THREADS = 4

_NORMAL_RMS = 0.1

# Paths, arrays and pairs in a list, or an array with a clip a row.
Clips: TypeAlias = "list[Clip] | np.ndarray"


class LazyPatches:
    """Patches of many clips, computed when they are asked for.

    `MelPatcher.transform` returns them where an array would be large. They have the `shape`,
    `dtype`, length and slicing of the array that they stand for, and ``numpy.asarray`` makes it.

    Attributes
    ----------
    shape : tuple (n_clips, n_time, n_freq, patch_area)
    dtype : numpy.dtype
        float32.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(
        self,
        clips: Clips,
        *,
        front_end: FrontEnd,
        channel: int | str,
        level: str,
        n_samples: int,
        on_error: str,
        n_jobs: int | None,
    ):
        self.clips = clips
        self.front_end = front_end
        self.channel = channel
        self.level = level
        self.n_samples = n_samples
        self.on_error = on_error
        self.n_jobs = n_jobs

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the array that this stands for."""
        grid = self.front_end.grid_shape(self.n_samples)
        return len(self.clips), *grid, self.front_end.patch_size**2

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

    def take(self, rows: np.ndarray) -> Self:
        """Return the lazy patches of some clips."""
        settings = {name: value for name, value in vars(self).items() if name != "clips"}
        return type(self)([self.clips[row] for row in rows], **settings)

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yield the patches of all clips, `batch_size` at a time; warn at the end of NaN clips.

        Parameters
        ----------
        batch_size : int
            Clips per batch; the last may be smaller.

        Yields
        ------
        patches : ndarray of shape (<= batch_size, n_time, n_freq, patch_area)
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
        """Return all that the patches depend on, for a hash; a file by its size and time."""
        clips = [clip_state(clip) for clip in self.clips]
        return self.front_end, self.channel, self.level, self.n_samples, clips

    def _workers(self) -> tuple[int | None, str | None]:
        """Return the number of workers and their kind, as joblib takes them."""
        if current_process().daemon:  # such as a data loader's, which may have no workers
            return 1, None
        backend, of_context = get_active_backend()
        is_given = self.n_jobs is not None or of_context is not None
        if is_given or backend.nesting_level or effective_n_jobs(None) != 1:
            return self.n_jobs, None
        # NumPy and SciPy work without Python's lock, and threads start at once.
        return min(cpu_count(), _MOST_THREADS), "threads"

    def _compute(self, indices: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Return the patches of some clips, and a sentence for each that cannot be used."""
        n_jobs, prefer = self._workers()
        # Tasks of equal size, so that no worker waits for another.
        n_tasks = max(effective_n_jobs(n_jobs), -(-len(indices) // _CLIPS_PER_TASK))
        if prefer == "threads" and len(indices) <= _CLIPS_PER_TASK:
            n_jobs = n_tasks = 1
        tasks = [task for task in np.array_split(indices, n_tasks) if len(task)]
        # A worker is one thread.
        limit = _blas().limit(limits=1) if len(tasks) > 1 else nullcontext()
        with limit:
            results = Parallel(n_jobs=n_jobs, prefer=prefer)(
                delayed(_clips_to_patches)(
                    [self.clips[i] for i in task],
                    front_end=self.front_end,
                    channel=self.channel,
                    level=self.level,
                    n_samples=self.n_samples,
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


@cache
def _blas() -> ThreadpoolController:
    """Return the libraries of NumPy and SciPy that compute products; to find them takes 10 ms."""
    return ThreadpoolController().select(user_api="blas")


def bullets(sentences: list[str], most: int = 20) -> str:
    """List sentences line by line, and count those beyond the first few."""
    lines = sentences[:most]
    if len(sentences) > most:
        lines.append(f"and {len(sentences) - most} more")
    return "".join(f"\n- {line}" for line in lines)


def _clips_to_patches(
    clips: Sequence[Any], *, front_end: FrontEnd, channel: int | str, level: str, n_samples: int
) -> tuple[np.ndarray, list[str]]:
    """Return the patches of clips, NaN where one cannot be used, and the reasons ('' if none)."""
    n_time, n_freq = front_end.grid_shape(n_samples)
    side = front_end.patch_size
    patches = np.full((len(clips), n_time, n_freq, side * side), np.nan, dtype=np.float32)
    cells = patches.reshape(-1, n_time, n_freq, side, side).swapaxes(2, 3)  # a view, as a grid
    reasons = []
    for clip, clip_cells in zip(clips, cells, strict=True):
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
        if level == "normalized" and samples.any():
            samples = samples * np.float32(_NORMAL_RMS / np.sqrt(np.mean(samples**2)))
        log_mel = front_end.log_mel(samples)[: n_time * side]
        clip_cells[:] = log_mel.reshape(n_time, side, n_freq, side)
        reasons.append("")
    return patches, reasons
