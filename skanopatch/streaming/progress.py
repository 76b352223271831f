"""Progress: how far each source was scored, so that a restart goes on from there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from skanopatch.files import atomic_write
from skanopatch.streaming.history import History
from skanopatch.streaming.results import WindowResult


class Progress:
    """How far each source was scored, in memory and in a file of JSON lines.

    A line is written after the results of a window have reached the sinks. A process that is
    killed between the two scores that window twice, and loses none.

    Parameters
    ----------
    path : Path, default=None
        The file, which `Progress` reads and goes on with. None keeps it in memory alone.
    history : History, default=None
        What also knows how far sources were scored. `close` closes it.

    Attributes
    ----------
    in_alarm : bool
        Whether the alarm was on at the end.
    n_sources : int
        How many sources the file knew at first.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, history: History | None = None
    ):
        self._history = history
        self._stops: dict[str, float] = {}
        self.in_alarm = history is not None and history.in_alarm
        self._file = None
        if path is not None:
            path = Path(path)
            self._read(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as compact:
                for source, stop in self._stops.items():
                    compact.write(self._line(source, stop))
            self._file = path.open("ab", buffering=0)
        self.n_sources = len(self._stops)

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                self._stops[str(entry["source"])] = float(entry["stop"])
                self.in_alarm = bool(entry["in_alarm"])
            except (KeyError, TypeError, ValueError) as error:
                if number == len(lines):
                    return  # the process was killed while it wrote this line
                raise ValueError(
                    f"Line {number} of '{path}' is no state of skanopatch watch: {line[:80]!r}. "
                    "Name another file, or remove it to begin anew."
                ) from error

    def _line(self, source: str, stop: float) -> bytes:
        entry = {"source": source, "stop": stop, "in_alarm": self.in_alarm}
        return json.dumps(entry).encode() + b"\n"

    def last_stop(self, source: str) -> float | None:
        """Return the seconds of a source up to which it was scored, None if it was not."""
        if source in self._stops:
            return self._stops[source]
        return None if self._history is None else self._history.last_stop(source)

    def record(self, result: WindowResult) -> None:
        """Keep that a window was scored."""
        self.in_alarm = result.in_alarm
        self._stops[result.source] = max(result.stop, self._stops.get(result.source, 0.0))
        if self._file is not None:
            self._file.write(self._line(result.source, self._stops[result.source]))

    def close(self) -> None:
        """Close the file and the history."""
        for opened in (self._file, self._history):
            if opened is not None:
                opened.close()
