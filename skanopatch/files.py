"""Files that appear under their name when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an exception.

    Until then it is written beside `path`, under a hidden name; an exception, KeyboardInterrupt
    included, removes it and leaves what was at `path` as it was.

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
