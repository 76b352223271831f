"""Windows: long recordings taken apart, and what holds for the whole of each."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skanopatch.audio import Clip, Segment, as_clip_list, clip_duration, is_pair, is_path

_BLOCKS = 10  # stretches of the only recording of a group, which serve as its sessions


@dataclass
class Windows:
    """The windows of clips, each a clip of its own.

    Attributes
    ----------
    X : list of clips or ndarray of shape (n_windows, n_samples)
        The windows, those of one clip side by side and in the order of time.
    clips : ndarray of shape (n_windows,), int
        The index of the clip that each is cut from.
    starts, stops : ndarray of shape (n_windows,)
        In seconds from the beginning of the clip; NaN for clips that cannot be read.
    """

    X: Any
    clips: NDArray[np.intp]
    starts: NDArray[np.float64]
    stops: NDArray[np.float64]

    @property
    def last(self) -> NDArray[np.intp]:
        """The row of the last window of each clip."""
        return np.cumsum(self.numbers) - 1

    @property
    def first(self) -> NDArray[np.intp]:
        """The row of the first window of each clip."""
        return np.flatnonzero(np.diff(self.clips, prepend=-1))

    @property
    def numbers(self) -> NDArray[np.intp]:
        """How many windows each clip has."""
        return np.bincount(self.clips)

    @property
    def are_clips(self) -> bool:
        """Whether every clip is one window."""
        return len(self.first) == len(self.clips)

    def take(self, rows: NDArray[np.intp]) -> Windows:
        """Return some of the windows; the clips that have one are numbered anew."""
        X = self.X[rows] if isinstance(self.X, np.ndarray) else [self.X[row] for row in rows]
        clips = np.unique(self.clips[rows], return_inverse=True)[1]
        return Windows(X, clips, self.starts[rows], self.stops[rows])

    def least(self, values: NDArray) -> NDArray:
        """Return the least value of the windows of each clip; NaN where one is NaN."""
        return np.minimum.reduceat(values, self.first) if len(values) else values

    def worst(self, scores: NDArray) -> NDArray[np.intp]:
        """Return the row of the window of each clip that has the least score."""
        least = np.repeat(self.least(scores), self.numbers)
        rows = np.flatnonzero((scores == least) | np.isnan(least))
        _, first = np.unique(self.clips[rows], return_index=True)
        return rows[first]

    def table(self, **columns: NDArray) -> NDArray:
        """Return the windows and columns of values as a structured array."""
        values = {"clip": self.clips, "start": self.starts, "stop": self.stops, **columns}
        table = np.empty(len(self.clips), [(name, column.dtype) for name, column in values.items()])
        for name, column in values.items():
            table[name] = column
        return table

    def sessions(self, groups: list | None) -> list:
        """Return a session for each window: its clip, or a tenth of the only clip of a group."""
        groups = groups or [None] * len(self.clips)
        files: dict[Any, set[int]] = {}
        for group, clip in zip(groups, self.clips.tolist(), strict=True):
            files.setdefault(group, set()).add(clip)
        within = np.arange(len(self.clips)) - self.first[self.clips]
        blocks = within * _BLOCKS // self.numbers[self.clips]
        return [
            (clip, int(block)) if len(files[group]) == 1 else (clip, 0)
            for group, clip, block in zip(groups, self.clips.tolist(), blocks, strict=True)
        ]


def whole_clips(X: Any) -> Windows:
    """Return clips as one window each."""
    unknown = np.full(len(X), np.nan)
    return Windows(X, np.arange(len(X)), unknown, unknown)


def cut_windows(X: Any, *, duration: float, hop: float | None, sample_rate: int) -> Windows:
    """Take clips that are longer than `duration` seconds apart, and leave the others as they are.

    Parameters
    ----------
    X : sequence of clips or ndarray of shape (n_clips, n_samples)
    duration, hop : float
        Length of a window, and from one to the next, in seconds. A `hop` of None is `duration`.
    sample_rate : int
        Rate in Hz of clips that are bare arrays.

    Returns
    -------
    windows : Windows
        The last window of a clip ends with it.
    """
    hop = duration if hop is None else hop
    if hop > duration:
        raise ValueError(
            f"hop must be at most the {duration:g} s of a window, so that nothing is missed. Got "
            f"{hop:g} instead."
        )
    listed = as_clip_list(X)
    clips: Any = np.asarray(X) if listed is None else listed
    if listed is None and clips.ndim != 2:
        return whole_clips(np.empty(0))  # the patcher will say why
    windows: list[Clip] = []
    owners: list[int] = []
    starts: list[float] = []
    stops: list[float] = []
    for i, clip in enumerate(clips):
        try:
            length = clip_duration(clip, sample_rate=sample_rate)
        except ValueError:  # reading it will say why
            length = np.nan
        cuts = _starts(length, duration, hop) if length > duration else [0.0]
        for start in cuts:
            stop = float(np.minimum(start + duration, length))  # NaN stays NaN
            windows.append(clip if len(cuts) == 1 else _cut(clip, start, stop, sample_rate))
            owners.append(i)
            starts.append(start)
            stops.append(stop)
    is_cut = len(windows) > len(clips)
    return Windows(
        windows if is_cut else clips, np.array(owners), np.array(starts), np.array(stops)
    )


def _starts(length: float, duration: float, hop: float) -> list[float]:
    """Return where windows start: at multiples of `hop`, the last one so that it ends with all."""
    n_more = math.ceil(round((length - duration) / hop, 6))
    return [min(i * hop, length - duration) for i in range(n_more + 1)]


def _cut(clip: Any, start: float, stop: float, sample_rate: int) -> Clip:
    """Return a stretch of a clip."""
    if is_path(clip):
        return Segment(os.fspath(clip), start, stop)
    if isinstance(clip, Segment):
        return Segment(clip.path, clip.start + start, clip.start + stop)
    samples, rate = clip if is_pair(clip) else (clip, sample_rate)
    part = np.asarray(samples)[round(start * rate) : round(stop * rate)]
    return (part, rate) if is_pair(clip) else part
