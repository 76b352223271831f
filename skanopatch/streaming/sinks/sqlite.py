"""SQLiteSink: a database of windows, alarms and notes, ``sqlite:FILE``."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Self

from skanopatch.streaming.history import open_for_writing
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.base import LocalSink

_WINDOW = """
INSERT INTO windows (source, time, start, stop, score, distance, p_value, in_alarm)
VALUES (:source, :time, :start, :stop, :score, :distance, :p_value, :in_alarm)
ON CONFLICT (source, start) DO UPDATE SET
    time = excluded.time, stop = excluded.stop, score = excluded.score,
    distance = excluded.distance, p_value = excluded.p_value, in_alarm = excluded.in_alarm
RETURNING id
"""


class SQLiteSink(LocalSink):
    """Writes results into a database, whose schema is that of `streaming.history`.

    Results of one `flush` are one transaction, which is on the disk when `flush` returns: a process
    that is killed leaves whole transactions. A window that is scored again replaces the earlier
    result. While other programs hold a lock for more than 5 seconds, results wait in memory.

    Parameters
    ----------
    path : str
        A database, which it goes on with if it is there.
    """

    _passing = (sqlite3.OperationalError,)

    def __init__(self, path: str):
        super().__init__(f"'{path}'")
        self._connection = open_for_writing(path)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open ``sqlite:FILE``."""
        return cls(url.partition(":")[2])

    def _store(self, results: Sequence[WindowResult]) -> None:
        with self._connection as connection:  # a transaction
            connection.execute("BEGIN IMMEDIATE")
            for result in results:
                fields = result.as_dict()
                (number,) = connection.execute(_WINDOW, fields).fetchone()
                connection.execute("DELETE FROM alarms WHERE window = ?", (number,))
                connection.execute("DELETE FROM notes WHERE window = ?", (number,))
                if result.alarm:
                    connection.execute("INSERT INTO alarms VALUES (?, ?)", (number, result.alarm))
                if result.note:
                    connection.execute("INSERT INTO notes VALUES (?, ?)", (number, result.note))

    def _release(self) -> None:
        self._connection.close()
