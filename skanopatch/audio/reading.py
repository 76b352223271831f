"""Reading clips: files by seeking, at the rate, channel and length wanted."""

from __future__ import annotations

import math
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soundfile

from skanopatch.audio.clips import (
    Clip,
    Segment,
    file_of,
    file_state,
    is_pair,
    printable_path,
)
from skanopatch.audio.resampling import input_range, resample
from skanopatch.audio.samples import (
    Samples,
    check_samples,
    fit_length,
    pick_channel,
    samples_of,
    valid_rate,
)

_Source: TypeAlias = "soundfile.SoundFile | Samples"

# Samples read at once, all channels together: 2 MB.
_BLOCK = 2**19

# Where libsndfile's log names the bytes that a header promises and those that there are.
_PROMISE = re.compile(
    r"^\s*(?:data|SSND|BODY|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)

# The lengths in headers of programs that write to a pipe and do not know it.
_UNKNOWN_LENGTHS = range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000)

# Compressed speech has 10 samples a byte, and silence in FLAC a few hundred.
_MOST_FRAMES_A_BYTE = 50

# Lower rates hold a bin or two of the spectrum wanted, and a wrong one asks for any memory.
_LOWEST_RATE_SHARE = 0.01


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
    clip : str, Path, Segment, array of shape (n_samples,) or (array, sample_rate)
        A file is read by soundfile (wav, flac, ogg, mp3; every PCM width). A bare array is taken
        to be at `sample_rate`. The array of a pair may be 2-D, channels last; one with at least 8
        times as many columns as rows is (channels, samples), as torchaudio and librosa give it.
        Samples lie in [-1, 1]; uint8, int8, int16 and int32 are PCM and are divided by their full
        scale.
    sample_rate : int, default=16000
        The rate wanted, in Hz. Other rates are resampled, flat up to 98 % of half the lower rate.
    channel : int or "mean", default="mean"
        Which channel of several to take, from 0, or their mean. A mono clip has channel 0 only.
    duration : float, default=None
        Seconds wanted. Of a longer clip the beginning is taken, and no more is read. A shorter one
        is repeated from its start, so its seams may sound like clicks. None keeps the length.

    Returns
    -------
    samples : ndarray of shape (n_samples,), float32
        Those of a segment are those of the same stretch of the whole file, within -90 dB where it
        is resampled.

    Raises
    ------
    ValueError
        If the clip cannot be read, is empty or shorter than its header promises, holds NaN or
        infinity, or lacks the channel. The message says what is wrong; callers put the name of
        the clip before it.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.audio import load_clip
    >>> load_clip((np.ones((8000, 2)), 8000), sample_rate=16000, duration=2.0).shape
    (32000,)
    """
    n_wanted = None if duration is None else round(duration * sample_rate)
    first, last = 0, n_wanted
    if isinstance(clip, Segment):
        first = round(clip.start * sample_rate)
        n_samples = round((clip.stop - clip.start) * sample_rate)
        last = first + (n_samples if n_wanted is None else min(n_samples, n_wanted))
    with _open(clip, sample_rate) as source:
        samples = _read_mono(source, channel, sample_rate, first, last)
    return samples if n_wanted is None else fit_length(samples, n_wanted)


def read_clip(clip: Clip | BinaryIO) -> tuple[np.ndarray, int | None]:
    """Read one clip as it is.

    Parameters
    ----------
    clip : clip as for `load_clip`, or a binary file such as ``io.BytesIO`` of a wav file

    Returns
    -------
    samples : ndarray of shape (n_samples, n_channels), float32
    sample_rate : int or None
        In Hz; None for a bare array.

    Raises
    ------
    ValueError
        As `load_clip`.
    """
    with _open(clip, 1) as source:
        rate = source.samplerate
        begin, end = 0, None
        if isinstance(clip, Segment):
            begin, end = round(clip.start * rate), round(clip.stop * rate)
        samples = _join(list(_read_blocks(source, begin, end)))
    check_samples(samples)
    return samples, rate if _has_rate(clip) else None


def clip_duration(clip: Clip, *, sample_rate: int) -> float:
    """Return the length of a clip in seconds; of a file only the header is read.

    `sample_rate` is that of a bare array, in Hz. A file that cannot be opened or that is shorter
    than its header promises is a ValueError.
    """
    with _open(clip, sample_rate) as source:
        if isinstance(clip, Segment):
            return clip.stop - clip.start
        return source.frames / source.samplerate


def clip_format(clip: Clip) -> tuple[int, int] | None:
    """Return sample rate and channels of a clip; None for a bare array or an unreadable clip."""
    try:
        with _open(clip, 1) as source:
            return (source.samplerate, source.channels) if _has_rate(clip) else None
    except ValueError:
        return None


def split_recording(
    path: str | PathLike[str], duration: float, hop: float | None = None
) -> list[Segment]:
    """Cut a recording into windows. Each is a clip that is read when it is used.

    Parameters
    ----------
    path : str or Path
        A file; only its header is read.
    duration : float
        Seconds per window.
    hop : float, default=None
        Seconds from one window to the next, at most `duration`. None is `duration`.

    Returns
    -------
    segments : list of Segment
        They cover the whole file. The last one ends with the file, so it may overlap the one before
        it more than the others do. A file that is shorter than `duration` is one segment.

    Raises
    ------
    ValueError
        If `duration` or `hop` is out of range, or the file cannot be read or is empty.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import soundfile
    >>> from skanopatch import split_recording
    >>> path = tempfile.mkdtemp() + "/shift.wav"
    >>> soundfile.write(path, np.zeros(8000 * 25), 8000)
    >>> [(window.start, window.stop) for window in split_recording(path, 10.0)]
    [(0.0, 10.0), (10.0, 20.0), (15.0, 25.0)]
    """
    hop = duration if hop is None else hop
    if not 0 < hop <= duration < math.inf:
        raise ValueError(
            "duration and hop must be seconds with 0 < hop <= duration, so that nothing is "
            f"missed. Got duration={duration} and hop={hop} instead."
        )
    try:
        length = clip_duration(path, sample_rate=1)
        if not length:
            raise ValueError("it has no samples")
    except ValueError as error:
        raise ValueError(f"'{printable_path(path)}' cannot be split: {error}.") from error
    last = max(0.0, length - duration)
    starts = [i * hop for i in range(math.ceil(round(last / hop, 6)))]
    file = os.fspath(path)
    return [Segment(file, start, min(start + duration, length)) for start in [*starts, last]]


def files_in_writing(
    paths: Iterable[str | PathLike[str]], seconds: float = 1.0
) -> list[str | PathLike[str]]:
    """Return those of some files that are still being written: their size or time changes.

    If one changed less than `seconds` ago, the function waits so long, once for all.
    """
    states = {path: file_state(path) for path in paths}
    now = time.time_ns()
    recent = {p: s for p, s in states.items() if s is not None and now - s[1] < seconds * 1e9}
    if recent:
        time.sleep(seconds)
    return [path for path, state in recent.items() if file_state(path) != state]


def _is_in_memory(clip: Any) -> bool:
    return file_of(clip) is None and not hasattr(clip, "read")


def _has_rate(clip: Any) -> bool:
    return is_pair(clip) or not _is_in_memory(clip)


@contextmanager
def _open(clip: Any, sample_rate: int) -> Iterator[_Source]:
    """Open a clip. Whatever fails while it is open becomes a ValueError."""
    path = file_of(clip)
    try:
        if _is_in_memory(clip):
            yield samples_of(clip, sample_rate)
            return
        if path is not None:
            _check_access(path)
        # Bytes, since soundfile takes no text for names that are no UTF-8.
        name = path if path is None or os.name == "nt" else os.fsencode(path)
        with soundfile.SoundFile(name or clip) as file:
            valid_rate(file.samplerate)
            _check_promise(file, math.inf if path is None else os.path.getsize(path))
            if isinstance(clip, Segment) and round(clip.stop * file.samplerate) > file.frames:
                length = file.frames / file.samplerate
                raise ValueError(f"its file ends at {length:g} s, before stop={clip.stop:g} s")
            yield file
    except ValueError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError("there is no such file") from error
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror or error})") from error
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(". ")
        raise ValueError(f"libsndfile cannot read it ({reason})") from error
    except Exception as error:
        raise ValueError(f"it cannot be read ({type(error).__name__}: {error})") from error


def _check_access(path: str) -> None:
    """Refuse what is no file, or one that the system does not open, with the system's reason."""
    if os.path.islink(path) and not os.path.exists(path):
        raise ValueError(f"it is a link to '{os.readlink(path)}', which is missing")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")
    if path.lower().endswith(".raw"):
        raise ValueError(
            "a .raw file says neither its rate nor its type: read it with numpy.fromfile, and "
            "pass (array, sample_rate)"
        )
    open(path, "rb").close()
    if not os.path.getsize(path):
        raise ValueError("it is empty (0 bytes)")


def _check_promise(file: soundfile.SoundFile, n_bytes: float) -> None:
    """Refuse a file that is shorter than its header promises, by libsndfile's log or its size."""
    match = _PROMISE.search(file.extra_info)
    promised, present = map(int, match.groups()) if match else (0, 0)
    if present and not any(promised in lengths for lengths in _UNKNOWN_LENGTHS):
        _check_length(file, round(file.frames * promised / present), file.frames)
    if file.frames > _MOST_FRAMES_A_BYTE * n_bytes:  # silence, or a header that makes it up
        with suppress(soundfile.LibsndfileError):
            file.seek(file.frames - 1)
            if len(file.read(1)):
                file.seek(0)
                return
        _check_length(file, file.frames, 0)


def _check_length(
    file: soundfile.SoundFile, n_promised: int, n_present: int, tolerated: float = 0.01
) -> None:
    """Refuse a file that lacks more seconds than are tolerated; a spectrum is 0.01 s apart."""
    promised, present = n_promised / file.samplerate, n_present / file.samplerate
    if promised - present > tolerated:
        raise ValueError(
            f"its header promises {promised:.2f} s, of which {present:.2f} s can be read: it is "
            "cut off, damaged or still being written"
        )


def _read_blocks(source: _Source, begin: int, end: int | None) -> Iterator[np.ndarray]:
    """Yield the samples from `begin` to `end`, (n_samples, n_channels), a block at a time."""
    if isinstance(source, Samples):
        yield source.array[begin:end]
        return
    end = source.frames if end is None else min(end, source.frames)
    if begin:
        source.seek(begin)
    while begin < end:
        n_block = min(end - begin, max(1, _BLOCK // source.channels))
        try:
            block = source.read(n_block, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            _check_length(source, source.frames, max(begin, source.tell()))
            raise
        if not len(block):
            _check_length(source, end, begin, tolerated=0.1)  # an MP3 may lack a frame or two
            return
        begin += len(block)
        yield block


def _read_mono(
    source: _Source, channel: int | str, new_rate: int, first: int, last: int | None
) -> np.ndarray:
    """Return samples `first` to `last` of one channel at a new rate."""
    rate = source.samplerate
    if rate < new_rate * _LOWEST_RATE_SHARE:
        raise ValueError(f"its sample rate of {rate} Hz is less than 1 % of the {new_rate} wanted")
    is_same = rate == new_rate
    begin, end, n_before = (first, last, 0) if is_same else input_range(rate, new_rate, first, last)
    blocks = (pick_channel(block, channel) for block in _read_blocks(source, begin, end))
    samples = _join(list(blocks if is_same else resample(blocks, rate, new_rate)))
    check_samples(samples)
    return samples[n_before : None if last is None else n_before + last - first]


def _join(blocks: list[np.ndarray]) -> np.ndarray:
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)
