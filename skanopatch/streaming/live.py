"""Live sound: blocks from standard input or a microphone, kept while a window is scored."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain
from threading import Condition, Thread
from typing import Any

from skanopatch.streaming.cutting import Gap
from skanopatch.streaming.pcm import decode_pcm, decode_wav

_CHUNK = 2**16  # bytes
_WAKE = 0.1  # seconds after which a stop is seen
_LATE = 2.0  # seconds without sound that are a gap


class Stop:
    """A request to stop. It holds no lock, so that a signal handler may set it at any moment."""

    def __init__(self):
        self._is_set = False

    def set(self) -> None:
        """Request a stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Return whether a stop was requested."""
        return self._is_set

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until a stop is requested."""
        end = time.monotonic() + seconds
        while not self._is_set and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, _WAKE))


class BlockQueue:
    """Blocks between the thread that reads sound and the one that scores it.

    Iterating yields pairs (block, rate) and gaps, until the sound ends or `stop` is set.

    Parameters
    ----------
    stop : Stop
    most_seconds : float, default=60.0
        How much sound waits at most.
    is_live : bool, default=False
        What happens when more comes. True drops the oldest blocks: the newest are scored first,
        and a `Gap` says how much is missing. So does one where no sound came for 2 s. False makes
        the reader wait.

    Attributes
    ----------
    skipped : float
        Seconds of sound that were dropped.
    """

    def __init__(self, stop: Stop, *, most_seconds: float = 60.0, is_live: bool = False):
        self._stop, self._most_seconds, self.is_live = stop, most_seconds, is_live
        self._items: deque[tuple[Any, float]] = deque()
        self._seconds = 0.0
        self._changed = Condition()
        self._has_ended = False
        self._error: BaseException | None = None
        self._expected: float | None = None  # when the next block is to come
        self._missing = 0.0  # seconds dropped since the last gap that was yielded
        self.skipped = 0.0

    def put(self, samples: Any, rate: int) -> None:
        """Add a block."""
        seconds = len(samples) / rate
        with self._changed:
            if self.is_live:
                now = time.monotonic()
                late = 0.0 if self._expected is None else now - seconds - self._expected
                if late > _LATE:
                    self._items.append((Gap(late, "no sound came"), 0.0))
                self._expected = now
                self._make_room(seconds)
            else:
                self._changed.wait_for(lambda: self._has_room(seconds) or self._stop.is_set())
            self._items.append(((samples, rate), seconds))
            self._seconds += seconds
            self._changed.notify_all()

    def put_gap(self, gap: Gap) -> None:
        """Add a gap."""
        with self._changed:
            self._items.append((gap, 0.0))
            self._changed.notify_all()

    def _has_room(self, seconds: float) -> bool:
        return not self._items or self._seconds + seconds <= self._most_seconds

    def _make_room(self, seconds: float) -> None:
        while self._items and not self._has_room(seconds):
            block, length = self._items.popleft()
            self._seconds -= length
            self.skipped += length
            self._missing += block.seconds if isinstance(block, Gap) else length

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more sound comes, or raise an error where it is scored."""
        with self._changed:
            self._has_ended, self._error = True, error
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        while (item := self._next()) is not None:
            yield item

    def _next(self) -> Any:
        with self._changed:
            while not self._stop.is_set():
                if self._missing:
                    gap = Gap(self._missing, "scoring is too slow")
                    self._missing = 0.0
                    return gap
                if self._items:
                    block, seconds = self._items.popleft()
                    self._seconds -= seconds
                    self._changed.notify_all()
                    return block
                if self._has_ended:
                    if self._error is not None:
                        raise self._error
                    return None
                self._changed.wait(_WAKE)  # a signal sets `stop` without a notice
            self._changed.notify_all()
        return None


def read_descriptor(
    queue: BlockQueue,
    descriptor: int,
    *,
    sample_rate: int | None,
    n_channels: int,
    sample_format: str,
) -> None:
    """Read a WAV file or raw PCM from a file descriptor into a queue, in a thread.

    Parameters
    ----------
    queue : BlockQueue
    descriptor : int
        Such as 0, standard input.
    sample_rate : int or None
        Of raw PCM, in Hz.
    n_channels : int
        Of raw PCM.
    sample_format : str
        Of raw PCM, see `streaming.pcm.FORMATS`.
    """

    def read() -> None:
        try:
            chunks = iter(lambda: os.read(descriptor, _CHUNK), b"")
            first = b""
            while len(first) < 12 and (chunk := next(chunks, b"")):
                first += chunk
            chunks = chain([first], chunks)
            if first[:4] in (b"RIFF", b"RF64") and first[8:12] == b"WAVE":
                rate, blocks = decode_wav(chunks)
            elif sample_rate is None:
                raise ValueError(
                    f"Standard input must be a WAV file, or raw PCM whose --sample-rate is given. "
                    f"It begins with {first[:12]!r}."
                )
            else:
                rate, blocks = sample_rate, decode_pcm(chunks, sample_format, n_channels)
            for block in blocks:
                queue.put(block, rate)
            queue.end()
        except Exception as error:
            queue.end(error)

    Thread(target=read, daemon=True).start()


def open_microphone(
    queue: BlockQueue, device: str | None, *, sample_rate: int, n_channels: int
) -> Any:
    """Open a microphone, whose sound goes into a queue while the context that it returns is open.

    Parameters
    ----------
    queue : BlockQueue
    device : str or None
        Number or name, as ``python -m sounddevice`` lists them. None is the default one.
    sample_rate : int
        In Hz.
    n_channels : int

    Raises
    ------
    ValueError
        If sounddevice is not installed, or the device cannot be opened so.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise ValueError(
            "A microphone needs the package sounddevice, which is not installed: "
            "pip install 'skanopatch[microphone]'."
        ) from error
    except OSError as error:
        raise ValueError(
            f"A microphone needs PortAudio: {error}. On Debian, apt install libportaudio2."
        ) from error

    def take(samples: Any, n_frames: int, moment: Any, status: Any) -> None:
        if status.input_overflow:
            queue.put_gap(Gap(reason="the microphone lost sound"))
        queue.put(samples.copy(), sample_rate)

    number = int(device) if device is not None and device.isdigit() else device
    try:
        return sounddevice.InputStream(
            device=number,
            samplerate=sample_rate,
            channels=n_channels,
            dtype="float32",
            callback=take,
        )
    except (ValueError, sounddevice.PortAudioError) as error:
        raise ValueError(
            f"The microphone {device or 'by default'} cannot be opened at {sample_rate} Hz with "
            f"{n_channels} channel(s): {error}. --sample-rate and --channels set others."
        ) from error
