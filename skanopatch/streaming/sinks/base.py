"""Sink, the base class of all sinks, and LocalSink, that of files and databases."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Self

from skanopatch.streaming.results import WindowResult

MOST_WAITING = 100_000  # results that a sink keeps in memory while they cannot be delivered
_BATCH = 1000  # results that are written without a call of flush


class Sink(ABC):
    """Base class of places that results of windows are sent to.

    A subclass has `from_url` and `write`; `flush` and `close` do nothing here. `write` and `flush`
    never raise because of an outage that may pass.

    Attributes
    ----------
    n_lost : int
        Results that were taken and will never be delivered.
    """

    n_lost: int = 0

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Self:
        """Open the sink that a URL names, such as ``csv:scores.csv``."""

    @abstractmethod
    def write(self, result: WindowResult) -> None:
        """Take a result."""

    def flush(self) -> None:  # noqa: B027
        """Deliver what was written, as far as that is possible without waiting."""

    def close(self) -> None:  # noqa: B027
        """Deliver what was written, and end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Waiting:
    """Results that wait for delivery, in memory, at most `most` of them.

    Parameters
    ----------
    name : str
        What warnings call the sink. It holds no password.
    most : int, default=100_000
        When another one comes, the oldest is dropped.
    """

    def __init__(self, name: str, most: int = MOST_WAITING):
        self.name, self.most = name, most
        self.results: deque[WindowResult] = deque()
        self.n_dropped = 0
        self.n_lost = 0  # dropped, refused, or there at the end
        self._is_out = False

    def append(self, result: WindowResult) -> None:
        """Add a result; drop the oldest one if there are too many."""
        self.results.append(result)
        if len(self.results) > self.most:
            self.results.popleft()
            self.n_dropped += 1
            self.n_lost += 1
            if self.n_dropped in (1, 10, 100) or self.n_dropped % 1000 == 0:
                warnings.warn(
                    f"{self.name}: more than {self.most} results wait. The oldest were dropped, "
                    f"{self.n_dropped} so far.",
                    stacklevel=4,
                )

    def report_outage(self, reason: str) -> None:
        """Warn once that results cannot be delivered."""
        if not self._is_out:
            self._is_out = True
            warnings.warn(
                f"{self.name}: {reason}. Results are kept in memory, at most {self.most}, until "
                "they can be delivered.",
                stacklevel=4,
            )

    def report_delivery(self) -> None:
        """Warn once that an outage has passed."""
        if self._is_out:
            self._is_out = False
            lost = f" {self.n_dropped} results were lost." if self.n_dropped else ""
            warnings.warn(f"{self.name}: results are delivered again.{lost}", stacklevel=4)

    def report_refusal(self, reason: str) -> None:
        """Warn of a result that will not be delivered."""
        self.n_lost += 1
        warnings.warn(f"{self.name}: {reason}. It is not sent again.", stacklevel=4)

    def report_loss(self) -> None:
        """Warn of the results that are lost when a sink closes."""
        if self.results:
            self.n_lost += len(self.results)
            warnings.warn(
                f"{self.name}: {len(self.results)} results could not be delivered and are lost.",
                stacklevel=4,
            )
            self.results.clear()


class LocalSink(Sink):
    """Base class of sinks on this machine: results are stored when `flush` is called.

    Results that cannot be stored, such as on a full disk, wait in memory for the next `flush`. A
    subclass has `_store` and `_release`.

    Parameters
    ----------
    name : str
        What warnings call the sink.
    """

    _passing: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, name: str):
        self._waiting = Waiting(name)

    @property
    def n_lost(self) -> int:  # type: ignore[override]
        """How many results will never be stored."""
        return self._waiting.n_lost

    @abstractmethod
    def _store(self, results: Sequence[WindowResult]) -> None:
        """Store all results, or none and raise."""

    @abstractmethod
    def _release(self) -> None:
        """Close the file."""

    def write(self, result: WindowResult) -> None:
        """Take a result."""
        self._waiting.append(result)
        if len(self._waiting.results) % _BATCH == 0:
            self.flush()

    def flush(self) -> None:
        """Store what was written."""
        if not self._waiting.results:
            return
        try:
            self._store(self._waiting.results)
        except BrokenPipeError:  # the reader of standard output has enough
            raise
        except self._passing as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._waiting.report_outage(f"results cannot be written ({reason})")
            return
        self._waiting.results.clear()
        self._waiting.report_delivery()

    def close(self) -> None:
        """Store what was written, and close the file."""
        try:
            self.flush()
            self._waiting.report_loss()
        finally:
            self._release()
