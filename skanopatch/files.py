"""Files that appear under their name when they are whole."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_ABANDONED = 3600.0  # seconds without a change


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an exception.

    Until then it is written beside `path`, under a hidden name; an exception, KeyboardInterrupt
    included, removes it and leaves what was at `path` as it was. A process that is killed leaves
    the hidden file ``.NAME.PID.part``. The next write of the same file removes it, if no process
    here has that number and the file has not changed for an hour: until then a process on another
    machine may be at work on it.

    Parameters
    ----------
    path : str or Path
        The target of a symbolic link is replaced, not the link. What is no regular file, such as
        a pipe or ``/dev/null``, is written to directly.

    Yields
    ------
    file : binary file

    Raises
    ------
    OSError
        If the folder is not there, or not to be written to.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    _remove_abandoned(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):  # no space left, or no such folder
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left when they wrote a file."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        number = partial.name.removeprefix(f".{path.name}.").removesuffix(".part")
        try:
            is_old = time.time() - partial.stat().st_mtime > _ABANDONED
            if number.isdecimal() and is_old and not _is_running(int(number)):
                partial.unlink()
        except OSError:  # another process removed it, or only others may
            continue


def _is_running(number: int) -> bool:
    import psutil

    return psutil.pid_exists(number)
