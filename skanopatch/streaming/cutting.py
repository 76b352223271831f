"""Cutting a stream of blocks into windows, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skanopatch.audio import is_pair, pcm_to_float
from skanopatch.audio.samples import valid_rate

_ROUNDING = 1e-6  # samples


@dataclass(frozen=True)
class Gap:
    """Sound that is missing between two blocks of a stream.

    Parameters
    ----------
    seconds : float, default=0.0
        Length of the gap. 0 means that the length is unknown.
    reason : str, default=""
        Why, for the note on the next window.
    """

    seconds: float = 0.0
    reason: str = ""

    def __post_init__(self):
        if not 0 <= self.seconds < np.inf:
            raise ValueError(f"The seconds of a Gap must be at least 0. Got {self.seconds!r}.")

    @property
    def note(self) -> str:
        """The gap in words."""
        length = f"{self.seconds:.3g} s" if self.seconds else "unknown length"
        return f"after a gap of {length}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Window:
    """A stretch of a stream.

    Attributes
    ----------
    samples : ndarray of shape (n_samples,) or (n_samples, n_channels), float32
    rate : int
        In Hz.
    start : float
        Seconds from the start of the stream.
    notes : list of str
        What came before it: gaps, changes of rate or channels.
    is_short : bool
        Whether sound before a gap, or at the end, is too short for a window.
    """

    samples: NDArray[np.float32]
    rate: int
    start: float
    notes: list[str] = field(default_factory=list)
    is_short: bool = False

    @property
    def stop(self) -> float:
        """Seconds from the start of the stream to the end of the window."""
        return self.start + len(self.samples) / self.rate


class WindowCutter:
    """Cuts blocks into windows. It holds two windows and one block at most.

    Parameters
    ----------
    duration, hop : float
        Length of a window, and from the start of one to that of the next, in seconds.
    sample_rate : int
        Of blocks that name none, in Hz.
    start : float, default=0.0
        What the clock of the stream begins with, in seconds.
    """

    def __init__(self, duration: float, hop: float, sample_rate: int, start: float = 0.0):
        if not 0 < hop <= duration:
            raise ValueError(
                f"hop must be above 0 and at most the {duration:g} s of a window, so that nothing "
                f"is missed. Got {hop!r} instead."
            )
        self.duration, self.hop = duration, hop
        self.sample_rate = valid_rate(sample_rate)
        self._n_blocks = 0
        self._notes: list[str] = []
        self._format: tuple[int, int] | None = None  # rate, channels
        self._begin(start)

    def _begin(self, clock: float) -> None:
        """Begin a stretch without gaps, at `clock` seconds."""
        self._clock = clock
        self._held: list[NDArray[np.float32]] = []
        self._first = 0  # sample of the stretch at which the held ones begin
        self._n_samples = 0  # of the stretch so far
        self._n_windows = 0
        self._covered = 0  # samples of the stretch that windows cover

    @property
    def clock(self) -> float:
        """Seconds from the start of the stream to the end of what was added."""
        rate = self._format[0] if self._format else self.sample_rate
        return self._clock + self._n_samples / rate

    def add(self, block: Any) -> Iterator[Window]:
        """Add a block, a pair (block, rate), a `Gap` or None, and yield windows that are full."""
        if block is None or isinstance(block, Gap):
            gap = block or Gap()
            yield from self.end()
            self._begin(self.clock + gap.seconds)
            self._notes.append(gap.note)
            return
        samples, rate = self._read(block)
        if not len(samples):
            return
        yield from self._change_format(rate, samples.shape[1])
        self._held.append(samples)
        self._n_samples += len(samples)
        n_window = self._n_window(rate)
        while (first := self._next_start(rate)) + n_window <= self._n_samples:
            window = self._cut(first, n_window)
            self._n_windows += 1
            yield window
        # The last window of a stretch ends with it, so as much is held.
        self._drop_before(self._n_samples - n_window, n_window)

    def end(self) -> Iterator[Window]:
        """End the stretch: yield a last window that ends with it, or all if that is too short."""
        if self._format is None or self._covered >= self._n_samples:
            return
        n_window = self._n_window(self._format[0])
        is_short = self._n_samples < n_window
        yield self._cut(max(0, self._n_samples - n_window), n_window, is_short=is_short)

    def _change_format(self, rate: int, n_channels: int) -> Iterator[Window]:
        """End the stretch where the rate or the channels change."""
        previous, self._format = self._format or (rate, n_channels), self._format
        if previous != (rate, n_channels):
            yield from self.end()
            self._begin(self.clock)
            if previous[0] != rate:
                self._notes.append(f"the sample rate changed from {previous[0]} to {rate} Hz")
            if previous[1] != n_channels:
                self._notes.append(f"the channels changed from {previous[1]} to {n_channels}")
        self._format = rate, n_channels

    def _n_window(self, rate: int) -> int:
        # Not more than `duration`: the model would take a longer one apart.
        return max(1, int(self.duration * rate + _ROUNDING))

    def _next_start(self, rate: int) -> int:
        return round(self._n_windows * self.hop * rate)

    def _cut(self, first: int, n_samples: int, *, is_short: bool = False) -> Window:
        assert self._format is not None
        if len(self._held) > 1:
            self._held = [np.concatenate(self._held)]
        samples = self._held[0][first - self._first :][:n_samples].copy()
        self._covered = first + len(samples)
        notes, self._notes = self._notes, []
        rate, n_channels = self._format
        samples = samples[:, 0] if n_channels == 1 else samples
        return Window(samples, rate, self._clock + first / rate, notes, is_short)

    def _drop_before(self, first: int, n_window: int) -> None:
        """Forget the samples of the stretch before `first`, in so far as they are whole blocks."""
        while self._held and self._first + len(self._held[0]) <= first:
            self._first += len(self._held.pop(0))
        # Long blocks are cut; copying shorter ones at every call would take longer than scoring.
        if self._held and first - self._first >= n_window:
            self._held[0] = self._held[0][first - self._first :].copy()
            self._first = first

    def _read(self, block: Any) -> tuple[NDArray[np.float32], int]:
        """Return the samples (n_samples, n_channels) of a block, and their rate."""
        name = f"block {self._n_blocks} of the stream"
        self._n_blocks += 1
        rate: Any = self.sample_rate
        samples: Any = block
        if isinstance(block, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"{name} must be an array. Got bytes, whose format is unknown: decode them with "
                "skanopatch.streaming.pcm.decode_pcm."
            )
        if is_pair(block):
            samples, rate = block if np.ndim(block[1]) == 0 else block[::-1]
        samples = np.asarray(samples)
        if samples.ndim == 1:
            samples = samples[:, np.newaxis]
        if samples.dtype.kind not in "iuf" or samples.ndim != 2 or not samples.shape[1]:
            raise ValueError(
                f"{name} must be an array of numbers of shape (n_samples,) or (n_samples, "
                f"n_channels), a pair of such and its rate, a Gap or None. Got "
                f"{type(block).__name__} of dtype {samples.dtype} and shape {samples.shape}."
            )
        try:
            return pcm_to_float(samples), valid_rate(rate)
        except ValueError as error:
            raise ValueError(f"{name} cannot be used: {error}.") from error
