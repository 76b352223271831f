"""CSVSink: a table with a row for each window, ``csv:FILE`` or ``csv:-``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Self

from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.base import LocalSink
from skanopatch.streaming.sinks.lines import LineFile

_COLUMNS = [*(field.name for field in fields(WindowResult)), "time_utc"]


class CSVSink(LocalSink):
    """Writes each result as a row; NaN is an empty cell.

    Parameters
    ----------
    path : str
        A file, which it goes on with if it is there; "-" is standard output.
    """

    def __init__(self, path: str):
        super().__init__(f"'{path}'")
        header = _row(_COLUMNS)
        kind = f"table with the columns {', '.join(_COLUMNS)}"
        self._file = LineFile(path, lambda line: line == header.encode(), kind)
        self._header = header if self._file.is_empty else ""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open ``csv:FILE``; ``csv:-`` is standard output."""
        return cls(url.partition(":")[2])

    def _store(self, results: Sequence[WindowResult]) -> None:
        rows = [_row(map(result.as_dict().get, _COLUMNS)) for result in results]
        self._file.append(self._header + "".join(rows))
        self._header = ""

    def _release(self) -> None:
        self._file.close()


def _row(cells) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
