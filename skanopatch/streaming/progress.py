"""Progress: how far each source was scored, so that a restart goes on from there."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

from skanopatch.files import atomic_write
from skanopatch.streaming.alarms import Alarm
from skanopatch.streaming.history import History
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.lines import LineFile


class Progress:
    """How far each source was scored, in memory and in a file of JSON lines.

    A line is written after the results of a window have reached the sinks. A process that is
    killed between the two scores that window twice, and loses none. On a full disk lines wait for
    the next one, with a warning; what still waits when the process ends is scored again.

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
        self._run = 0  # windows in a row that would change the alarm
        self._file: LineFile | None = None
        self._unwritten: set[str] = set()  # sources whose line waits for space on the disk
        self._is_full = False
        if path is not None:
            path = Path(path)
            self._read(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as compact:
                for source, stop in self._stops.items():
                    compact.write(self._line(source, stop).encode())
            self._file = LineFile(str(path), lambda line: line.startswith(b"{"), "state of watch")
        self.n_sources = len(self._stops)

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                self._stops[str(entry["source"])] = float(entry["stop"])
                self.in_alarm = bool(entry["in_alarm"])
                self._run = int(entry.get("run", 0))
            except (KeyError, TypeError, ValueError) as error:
                if number == len(lines):
                    return  # the process was killed while it wrote this line
                raise ValueError(
                    f"Line {number} of '{path}' is no state of skanopatch watch: {line[:80]!r}. "
                    "Name another file, or remove it to begin anew."
                ) from error

    def _line(self, source: str, stop: float) -> str:
        entry = {"source": source, "stop": stop, "in_alarm": self.in_alarm, "run": self._run}
        return json.dumps(entry) + "\n"

    def last_stop(self, source: str) -> float | None:
        """Return the seconds of a source up to which it was scored, None if it was not."""
        if source in self._stops:
            return self._stops[source]
        return None if self._history is None else self._history.last_stop(source)

    def resume(self, alarm: Alarm) -> None:
        """Bring an alarm to where that of the last run was, within a row of windows too."""
        alarm.in_alarm, most = self.in_alarm, alarm.persistence - 1
        alarm.run = min(self._run, most)
        for distance in [] if self._history is None else self._history.last_distances(most):
            alarm.update(distance)

    def record(self, result: WindowResult, run: int = 0) -> None:
        """Keep that a window was scored, and how many in a row would then change the alarm."""
        self.in_alarm, self._run = result.in_alarm, run
        self._stops[result.source] = max(result.stop, self._stops.get(result.source, 0.0))
        self._unwritten.add(result.source)
        self._write()

    def _write(self) -> None:
        """Write a line for each source that has none of its newest state, or warn once."""
        if self._file is None or not self._unwritten:
            return
        lines = [self._line(source, self._stops[source]) for source in sorted(self._unwritten)]
        try:
            self._file.append("".join(lines))
        except OSError as error:
            if not self._is_full:
                warnings.warn(
                    f"'{self._file.path}' cannot be written ({error.strerror}). Unless it can be "
                    "before the end, the next start scores again what was scored since.",
                    stacklevel=3,
                )
            self._is_full = True
            return
        self._unwritten.clear()
        self._is_full = False

    def close(self) -> None:
        """Write what waits, and close the file and the history."""
        self._write()
        for opened in (self._file, self._history):
            if opened is not None:
                opened.close()
