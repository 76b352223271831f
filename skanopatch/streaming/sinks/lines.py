"""LineFile: a file of lines that only grows, or standard output."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import BinaryIO

STANDARD_OUTPUT = "-"


class LineFile:
    """A file of whole lines, also after a process was killed or the disk was full.

    Parameters
    ----------
    path : str
        It goes on after what is there. "-" is standard output.
    is_ours : callable
        Takes the first line of a file that is there, and returns whether more may be added.
    kind : str
        What such a file is called.

    Raises
    ------
    ValueError
        If a file is there that is of another kind.
    """

    def __init__(self, path: str, is_ours: Callable[[bytes], bool], kind: str):
        self.path = path
        self._is_stdout = path == STANDARD_OUTPUT
        self._file: BinaryIO = sys.stdout.buffer if self._is_stdout else open(path, "ab+", 0)  # noqa: SIM115
        self.is_empty = self._is_stdout or self._size() == 0
        if self.is_empty:
            return
        self._file.seek(0)
        first = self._file.readline()
        if not is_ours(first):
            self._file.close()
            raise ValueError(f"'{path}' is no {kind}: its first line is {first[:80]!r}.")
        self._cut_last_line()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _cut_last_line(self) -> None:
        """Remove a last line that has no end: a process was killed while it wrote it."""
        size, n_bytes = self._size(), 0
        while n_bytes < size:  # from the end
            n_bytes = min(size, n_bytes + (1 << 16))
            self._file.seek(size - n_bytes)
            tail = self._file.read(n_bytes)
            if b"\n" in tail:
                break
        rest = len(tail) - tail.rfind(b"\n") - 1
        if rest:
            self._file.truncate(size - rest)
            self.is_empty = rest == size
            warnings.warn(
                f"'{self.path}' ended within a line, whose {rest} bytes were removed.",
                stacklevel=4,
            )

    def append(self, text: str) -> None:
        """Write whole lines, or none and raise."""
        data = text.encode("utf-8", "backslashreplace")
        if self._is_stdout:
            self._file.write(data)
            self._file.flush()
            return
        size = self._size()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if not self._is_stdout:
            self._file.close()
