"""History: what a SQLite sink has written, for readers and for a restart.

The schema, version 1. Times are Unix times in seconds, UTC:

``windows``
    A row for each window that was scored: ``id``, ``source`` (the machine, file or stream),
    ``time`` (at which the window starts), ``start`` and ``stop`` (seconds from the start of the
    source), ``score`` (as of `score_samples`), ``distance`` (1 is the threshold, higher is more
    anomalous), ``p_value``, ``in_alarm`` (0 or 1). What is unknown is NULL. (source, start) is
    unique.
``alarms``
    A row for each window with which an alarm begins or ends: ``window`` (its id), ``change`` ("on"
    or "off").
``notes``
    A row for each window whose recording is not as in `fit`: ``window`` (its id), ``note``.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Self

import pandas as pd

from skanopatch.streaming.results import LATE

_SCHEMA = """
CREATE TABLE windows (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    time REAL NOT NULL,
    start REAL NOT NULL,
    stop REAL NOT NULL,
    score REAL,
    distance REAL,
    p_value REAL,
    in_alarm INTEGER NOT NULL,
    UNIQUE (source, start)
);
CREATE INDEX windows_by_time ON windows (time);
CREATE TABLE alarms (
    window INTEGER PRIMARY KEY REFERENCES windows (id) ON DELETE CASCADE,
    change TEXT NOT NULL CHECK (change IN ('on', 'off'))
);
CREATE TABLE notes (
    window INTEGER PRIMARY KEY REFERENCES windows (id) ON DELETE CASCADE,
    note TEXT NOT NULL
);
"""
_VERSION = 1
_APPLICATION = 0x736B616E  # "skan", where `file` and other programs look
_PATIENCE = 5.0  # seconds to wait for the lock of another program

_WINDOWS = """
SELECT source, time, start, stop, score, distance, p_value, in_alarm,
       coalesce(change, '') AS alarm, coalesce(note, '') AS note
FROM windows LEFT JOIN alarms ON alarms.window = id LEFT JOIN notes ON notes.window = id
WHERE time >= :since AND time < :until
    AND (:source IS NULL OR source = :source OR source GLOB :source)
ORDER BY time, id
"""

_SINCE_CHANGE = """
SELECT distance FROM windows LEFT JOIN notes ON notes.window = id
WHERE id > (SELECT coalesce(max(window), 0) FROM alarms)
  AND distance IS NOT NULL AND instr(coalesce(note, ''), ?) = 0
ORDER BY id DESC LIMIT ?
"""


class History:
    """Read the database of ``skanopatch watch --to sqlite:FILE``, also during the watch.

    Parameters
    ----------
    path : str or Path
        As of ``sqlite:FILE``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such database.

    Examples
    --------
    >>> import os, tempfile
    >>> from skanopatch.streaming.history import History
    >>> from skanopatch.streaming.results import WindowResult
    >>> from skanopatch.streaming.sinks import open_sink
    >>> path = os.path.join(tempfile.mkdtemp(), "history.db")
    >>> with open_sink(f"sqlite:{path}") as sink:
    ...     sink.write(WindowResult("fan 3", 0.0, 0.0, 10.0, -0.7, 0.7, 0.4, "", False, ""))
    >>> with History(path) as history:
    ...     history.last_stop("fan 3"), history.is_scored("fan 4")
    (10.0, False)
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"There is no history '{self.path}'.")
        self._connection = _connect(self.path, "rw")
        self._connection.execute("PRAGMA query_only = ON")
        if not _is_ours(self._connection, self.path):
            self._connection.close()
            raise _wrong_file(self.path)

    def last_stop(self, source: str) -> float | None:
        """Return the seconds of a source up to which it was scored, None if it was not."""
        return self._one("SELECT max(stop) FROM windows WHERE source = ?", source)

    def is_scored(self, source: str) -> bool:
        """Return whether a window of a source was scored."""
        return self.last_stop(source) is not None

    @property
    def in_alarm(self) -> bool:
        """Whether the alarm was on after the window that was written last."""
        return bool(self._one("SELECT in_alarm FROM windows ORDER BY id DESC LIMIT 1"))

    def last_distances(self, number: int) -> list[float]:
        """Return the distances since the alarm changed, the newest `number` of those that count.

        Parameters
        ----------
        number : int
            At most so many.

        Returns
        -------
        distances : list of float
            In the order in which they were written, without those of windows that have no score or
            were scored late.
        """
        rows = self._connection.execute(_SINCE_CHANGE, (LATE, number)).fetchall()
        return [distance for (distance,) in reversed(rows)]

    def sources(self) -> list[str]:
        """Return the names of all sources, in the order of their first windows."""
        rows = self._connection.execute(
            "SELECT source FROM windows GROUP BY source ORDER BY min(id)"
        )
        return [source for (source,) in rows]

    def windows(
        self,
        *,
        source: str | None = None,
        since: float = float("-inf"),
        until: float = float("inf"),
    ) -> pd.DataFrame:
        """Return the results of windows, in the order of their times.

        Parameters
        ----------
        source : str, default=None
            A name, or a pattern such as ``/recordings/fan-3/*``. None is all.
        since, until : float
            Unix times: windows that start at `since` or later, and before `until`.

        Returns
        -------
        windows : DataFrame
            With the columns of `WindowResult`; NaN for what is unknown.
        """
        given: dict[str, Any] = {"source": source, "since": since, "until": until}
        table = pd.read_sql_query(_WINDOWS, self._connection, params=given)
        numbers = ["time", "start", "stop", "score", "distance", "p_value"]
        return table.astype(dict.fromkeys(numbers, float) | {"in_alarm": bool})

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _one(self, query: str, *values: Any) -> Any:
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_for_writing(path: str) -> sqlite3.Connection:
    """Open a database for a sink, and make its tables if it is new.

    It is in WAL mode, so that readers never wait for the writer, and each transaction is on the
    disk when it ends.
    """
    connection = _connect(path, "rwc")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")  # another process may make the tables
        if _is_new(connection):
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        is_ours = _is_ours(connection, path)
        connection.commit()
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, or no space
            raise OSError(0, str(error), path) from error
        raise _wrong_file(path) from error
    if not is_ours:
        connection.close()
        raise _wrong_file(path)
    return connection


def _connect(path: str, mode: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            f"{Path(path).absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.OperationalError as error:
        raise OSError(0, str(error), path) from error


def _is_new(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _is_ours(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether a database has our tables, or raise if a newer version made it."""
    try:
        ((application,), (version,)) = (
            connection.execute(f"PRAGMA {name}").fetchone()
            for name in ("application_id", "user_version")
        )
    except sqlite3.OperationalError as error:  # locked, or not to be read
        raise OSError(0, str(error), path) from error
    except sqlite3.DatabaseError:
        return False
    if application == _APPLICATION and version != _VERSION:
        raise ValueError(
            f"'{path}' is a history of version {version}, and this skanopatch reads version "
            f"{_VERSION}. Use the skanopatch that wrote it, or a newer one."
        )
    return application == _APPLICATION


def _wrong_file(path: str) -> ValueError:
    return ValueError(f"'{path}' is no history, which skanopatch watch --to sqlite:FILE writes.")
