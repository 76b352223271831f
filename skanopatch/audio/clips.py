"""What a clip is: a path, a segment of a file, an array, or an array with its rate."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Number
from os import PathLike, fspath
from typing import Any, TypeAlias, TypeGuard

import numpy as np


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording, as a clip. Only this part of the file is read.

    Parameters
    ----------
    path : str or Path
    start, stop : float
        Seconds from the beginning of the file.

    Examples
    --------
    >>> from skanopatch import Segment
    >>> Segment("shift.wav", 3600.0, 3610.0)
    Segment(path='shift.wav', start=3600.0, stop=3610.0)
    """

    path: str
    start: float
    stop: float

    def __post_init__(self):
        # Plain types, so that equal segments have equal hashes and pickles.
        object.__setattr__(self, "path", str(fspath(self.path)))
        object.__setattr__(self, "start", float(self.start))
        object.__setattr__(self, "stop", float(self.stop))
        if not 0 <= self.start < self.stop < math.inf:
            raise ValueError(
                "A Segment must have 0 <= start < stop, in seconds. "
                f"Got start={self.start:g} and stop={self.stop:g} instead."
            )


# Columns a row from which on a 2-D array can only be (channels, samples).
_SAMPLES_PER_CHANNEL = 8

Clip: TypeAlias = "str | PathLike[str] | Segment | np.ndarray | tuple[np.ndarray, int]"


def is_path(clip: Any) -> TypeGuard[str | PathLike[str]]:
    """Return whether a clip is a path (str or os.PathLike)."""
    return isinstance(clip, (str, PathLike))


def is_pair(clip: Any) -> TypeGuard[tuple[np.ndarray, int]]:
    """Return whether a clip is a pair (array, sample_rate), or (sample_rate, array) as SciPy's."""
    return (
        isinstance(clip, (tuple, list))
        and len(clip) == 2
        and any(map(_is_number, clip))
        and max(map(_n_dimensions, clip)) > 0
    )


def _is_number(entry: Any) -> bool:
    return isinstance(entry, (Number, np.number)) or getattr(entry, "ndim", None) == 0


def _n_dimensions(entry: Any) -> int:
    try:
        return np.ndim(entry)
    except ValueError:  # a list of unlike things
        return 0


def file_of(clip: Any) -> str | None:
    """Return the path of the file that a clip lies in, None for a clip in memory."""
    if is_path(clip):
        return fspath(clip)
    return clip.path if isinstance(clip, Segment) else None


def printable_path(path: str | PathLike[str]) -> str:
    r"""Return a path as text that every output takes: bytes that are no UTF-8 become ``\xfc``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def clip_name(clip: Any, index: int) -> str:
    """Name a clip in a message: its index in X, and where its file is if it has one."""
    path = file_of(clip)
    if path is None:
        return f"clip {index}"
    seconds = f", {clip.start:g} to {clip.stop:g} s" if isinstance(clip, Segment) else ""
    return f"clip {index} ('{printable_path(path)}'{seconds})"


def file_names(X: Any, n_clips: int) -> list[str]:
    """Return the absolute path of each clip, of a link and not its target; "" without a file."""
    clips = None if getattr(X, "ndim", 1) > 2 else as_clip_list(X)
    files = [""] * n_clips if clips is None else [file_of(clip) or "" for clip in clips]
    return [file and os.path.abspath(file) for file in files]


def file_state(path: str | PathLike[str]) -> tuple[int, int] | None:
    """Return size and time of a file, which change when its content does; None if it is absent."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def clip_state(clip: Any) -> Any:
    """Return what a clip's samples depend on, to be hashed: a file by its size and time."""
    path = file_of(clip)
    if path is None:
        return clip
    return (path, file_state(path)) if is_path(clip) else (clip, file_state(path))


def as_clip_list(X: Any) -> list[Clip] | None:
    """Return the clips of X as a list, or None when X is a table of numbers.

    Parameters
    ----------
    X : list, tuple, 1-D object or string array, Series, or table with one column of paths
        Paths, segments, 1-D arrays and pairs (array, sample_rate), in any mixture. Pairs
        (sample_rate, array), as ``scipy.io.wavfile.read`` gives them, are turned round, and so are
        arrays (channels, samples), as torchaudio gives them.

    Returns
    -------
    clips : list of clips or None
        None for what scikit-learn validates itself: a 2-D array or the like, one clip a row.

    Raises
    ------
    TypeError
        If X is a single clip, an iterator, a set, a mapping, or a table with more columns.
    ValueError
        If X is empty.
    """
    _refuse_other_than_sequences(X)
    if _is_table_of_clips(X):
        X = np.asarray(X, dtype=object)[:, 0]
    if getattr(X, "ndim", None) == 1 and getattr(X.dtype, "kind", "O") not in "biufc":
        clips = list(X)  # object arrays, arrays of strings, pandas Series
    elif isinstance(X, (list, tuple)) and not _is_table(X):
        clips = list(X)
    else:
        return None
    if not clips:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 clip is required.")
    return [split_pair(clip) if is_pair(clip) else clip for clip in clips]


def split_pair(pair: Any) -> tuple[Any, int]:
    """Return array and sample rate of a pair in either order, the array with channels last."""
    first, second = pair
    samples, rate = (second, first) if np.ndim(first) == 0 else (first, second)
    shape = np.shape(samples)
    if len(shape) == 2 and shape[1] >= _SAMPLES_PER_CHANNEL * shape[0] > 0:
        samples = samples.T if hasattr(samples, "T") else np.transpose(samples)
    return samples, rate


def _refuse_other_than_sequences(X: Any) -> None:
    found = advice = ""
    if is_path(X):
        found = f"the single path '{printable_path(X)}'"
        advice = "put it into a list, or list a folder with sorted(Path(folder).glob('*.wav'))"
    elif isinstance(X, Segment) or is_pair(X):
        found = "a single Segment" if isinstance(X, Segment) else "a single pair of array and rate"
        advice = "put it into a list"
    elif isinstance(X, Mapping) and not hasattr(X, "shape"):  # which some sparse arrays are
        found, advice = f"a {type(X).__name__}", "pass the list of clips in it"
    elif isinstance(X, (Iterator, Set)):
        found = f"a {type(X).__name__}"
        advice = "clips are read more than once and have an order: pass list(X), or sorted(X)"
    elif _is_table_of_clips(X) and X.shape[1] > 1:
        columns = f" with the columns {list(X.columns)}" if hasattr(X, "columns") else ""
        found = f"a table of shape {X.shape}{columns}"
        advice = "pass the one column with the clips"
    elif getattr(X, "ndim", None) == 1 and getattr(X.dtype, "kind", "O") in "biufc":
        raise ValueError(
            f"X must be a sequence of clips. Got one array of {len(X)} numbers instead. Reshape "
            "your data with X[np.newaxis], or put the clip into a list."
        )
    if found:
        raise TypeError(f"X must be a sequence of clips. Got {found} instead; {advice}.")


def _is_table_of_clips(X: Any) -> bool:
    """Return whether X is 2-D, such as a DataFrame, with a clip in its first row."""
    is_numeric = getattr(getattr(X, "dtype", None), "kind", "O") in "biufc"
    if getattr(X, "ndim", 2) != 2 or not hasattr(X, "shape") or is_numeric or not len(X):
        return False
    cells = np.asarray(X[:1], dtype=object)[0]
    return any(file_of(cell) is not None or np.ndim(cell) > 0 for cell in cells)


def _is_table(X: Sequence[Any]) -> bool:
    """Tell lists of numbers, or of lists of numbers, from lists of clips."""
    return len(X) > 0 and all(
        (np.isscalar(row) and not isinstance(row, str))
        or (isinstance(row, (list, tuple)) and not is_pair(row))
        for row in X
    )
