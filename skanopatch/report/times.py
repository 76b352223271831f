"""When clips were recorded: by the dates in their names, or by those of their files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skanopatch.audio import Clip, Segment, file_of

# 2026-11-28T14-30-05, 20261128_143005, 2026.11.28 14:30, 2026-11-28.
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)"
    r"(?:[T _.-]{0,3}(\d\d)[-_.:h]?(\d\d)(?:[-_.:m]?(\d\d))?)?(?!\d)"
)


class Times(NamedTuple):
    """When clips were recorded.

    `seconds` is an array of shape (n_clips,), since 1970 by a clock of the place, NaN where it is
    not known; `source` is "names", "files", or "" where there are none.
    """

    seconds: NDArray[np.float64]
    source: str

    def texts(self) -> list[str]:
        """Return the times as text, "" where they are not known."""
        return ["" if np.isnan(s) else _format(s) for s in self.seconds.tolist()]


def recording_times(
    clips: Sequence[Clip], lengths: NDArray[np.float64], *, n_machines: int = 1
) -> Times:
    """Find out when clips were recorded.

    Dates in names count if more than half of the clips have one. Else the times at which files were
    last changed do, if the files cannot have been copied: recordings take time to make, so those of
    one machine span at least as much time as they last.

    Parameters
    ----------
    clips : sequence of clips
    lengths : ndarray of shape (n_clips,)
        In seconds; NaN where not known.
    n_machines : int, default=1
        That were recorded at the same time.
    """
    offsets = np.array([clip.start if isinstance(clip, Segment) else 0.0 for clip in clips])
    paths = [file_of(clip) for clip in clips]
    by_name = np.array([np.nan if path is None else _from_name(path) for path in paths])
    if np.isfinite(by_name).sum() > len(clips) / 2 and len(np.unique(by_name)) > 1:
        return Times(by_name + offsets, "names")
    by_file = np.array([np.nan if path is None else _from_file(path) for path in paths])
    known = by_file[np.isfinite(by_file)]
    total = np.nansum(lengths[np.isfinite(by_file)]) / n_machines
    if len(np.unique(known)) > 1 and len(known) > len(clips) / 2 and np.ptp(known) >= total:
        return Times(by_file + offsets, "files")
    return Times(np.full(len(clips), np.nan), "")


def _from_name(path: str) -> float:
    """Return the time that a file's name has, or that of a folder above it; NaN without one."""
    latest = datetime.now() + timedelta(days=1)  # numbers that look like later dates are none
    for part in reversed(Path(path).parts):
        for match in _DATE.finditer(part):
            year, _, *rest = match.groups()
            try:
                time = datetime(*(int(n) for n in [year, *rest] if n is not None))  # type: ignore[arg-type]
            except ValueError:
                continue
            if time <= latest:
                return time.replace(tzinfo=UTC).timestamp()
    return np.nan


def _from_file(path: str) -> float:
    """Return the time at which a file was last changed, by the clock of the place."""
    try:
        changed = os.stat(path).st_mtime
    except OSError:
        return np.nan
    return datetime.fromtimestamp(changed).replace(tzinfo=UTC).timestamp()


def _format(seconds: float) -> str:
    time = datetime.fromtimestamp(seconds, UTC)
    if time.hour == time.minute == time.second == 0:
        return f"{time:%Y-%m-%d}"
    return f"{time:%Y-%m-%d %H:%M}" + (f":{time:%S}" if time.second else "")
