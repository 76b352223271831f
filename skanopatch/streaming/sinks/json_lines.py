"""JSONLinesSink: a JSON object a line, ``jsonl:FILE`` or ``jsonl:-``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Self

from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.base import LocalSink
from skanopatch.streaming.sinks.lines import LineFile


class JSONLinesSink(LocalSink):
    """Writes each result as a JSON object on a line of its own.

    Parameters
    ----------
    path : str
        A file, which it goes on with if it is there; "-" is standard output.
    """

    def __init__(self, path: str):
        super().__init__(f"'{path}'")
        self._file = LineFile(path, lambda line: line.startswith(b"{"), "file of JSON objects")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open ``jsonl:FILE``; ``jsonl:-`` is standard output."""
        return cls(url.partition(":")[2])

    def _store(self, results: Sequence[WindowResult]) -> None:
        self._file.append("".join(json.dumps(result.as_dict()) + "\n" for result in results))

    def _release(self) -> None:
        self._file.close()
