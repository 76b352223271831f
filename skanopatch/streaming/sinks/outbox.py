"""OutboxSink, the base class of sinks over a network: a thread delivers, and tries again."""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from threading import Condition, Thread

from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.base import MOST_WAITING, Sink, Waiting

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds


class NotDelivered(Exception):
    """A result was not delivered, and may be later.

    Parameters
    ----------
    reason : str
        For a warning. It holds no password and no token.
    pause : float, default=0.0
        Seconds to wait at least, as the other side asks.
    """

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


class Refused(Exception):
    """The other side will never take a result. The message is for a warning."""


class OutboxSink(Sink):
    """Base class of sinks over a network.

    `write` puts results into an outbox in memory and returns at once. A thread delivers them one
    after the other, in order, until each is confirmed: after 1, 2, 4, ... 60 seconds, less up to
    half of it at random. A result is delivered at least once: twice where a confirmation is lost.
    `write`, `flush` and `close` warn of outages. A subclass has `_deliver`.

    Parameters
    ----------
    name : str
        What warnings call the sink. It holds no password and no token.
    patience : float, default=10.0
        Seconds for which `close` goes on delivering.
    most_waiting : int, default=100_000
        Results in the outbox. When another one comes, the oldest is dropped, and a warning counts.
    first_pause : float, default=1.0
        Seconds before the first try again.
    """

    def __init__(
        self,
        name: str,
        *,
        patience: float = 10.0,
        most_waiting: int = MOST_WAITING,
        first_pause: float = _FIRST_PAUSE,
    ):
        self.patience, self.first_pause = patience, first_pause
        self._waiting = Waiting(name, most_waiting)
        self._changed = Condition()
        self._deadline: float | None = None  # once closing
        self._problem = ""  # of the last try
        self._refusals: list[str] = []
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @abstractmethod
    def _deliver(self, result: WindowResult) -> None:
        """Deliver a result and wait until it is confirmed, or raise NotDelivered or Refused."""

    @property
    def n_lost(self) -> int:  # type: ignore[override]
        """How many results were refused, dropped, or not delivered before the end."""
        return self._waiting.n_lost

    @property
    def n_waiting(self) -> int:
        """How many results are not delivered yet."""
        return len(self._waiting.results)

    def write(self, result: WindowResult) -> None:
        """Put a result into the outbox."""
        with self._changed:
            self._waiting.append(result)
            self._changed.notify_all()
        self.flush()

    def flush(self) -> None:
        """Warn of outages; the thread delivers anyway."""
        with self._changed:
            problem, refusals = self._problem, self._refusals
            self._refusals = []
        for reason in refusals:
            self._waiting.report_refusal(reason)
        if problem:
            self._waiting.report_outage(problem)
        else:
            self._waiting.report_delivery()

    def close(self) -> None:
        """Deliver what is in the outbox for at most `patience` seconds, and end."""
        with self._changed:
            self._deadline = time.monotonic() + self.patience
            self._changed.notify_all()
        self._thread.join(self.patience + 1)
        self.flush()
        with self._changed:
            self._waiting.report_loss()

    def _work(self) -> None:
        pause = self.first_pause
        while (result := self._next()) is not None:
            try:
                self._deliver(result)
            except NotDelivered as problem:
                with self._changed:
                    self._problem = str(problem)
                self._sleep(max(problem.pause, pause * random.uniform(0.5, 1)))
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except Refused as refusal:
                with self._changed:
                    self._refusals.append(str(refusal))
            pause = self.first_pause
            with self._changed:
                self._problem = ""
                if self._waiting.results and self._waiting.results[0] is result:
                    self._waiting.results.popleft()  # else it was dropped meanwhile

    def _hold(self, problem: str) -> None:
        """Tell that a delivery takes long, and raise NotDelivered if time is over."""
        with self._changed:
            self._problem = problem
        if self._is_over():
            raise NotDelivered(problem)

    def _next(self) -> WindowResult | None:
        """Wait for the oldest result; None when all is done, or time is over."""
        with self._changed:
            while not self._waiting.results and self._deadline is None:
                self._changed.wait()
            if not self._waiting.results or self._is_over():
                return None
            return self._waiting.results[0]

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _sleep(self, seconds: float) -> None:
        """Wait; a close ends the wait a second later, for one more try."""
        end = time.monotonic() + seconds
        with self._changed:
            while (left := end - time.monotonic()) > 0 and not self._is_over():
                if self._deadline is not None:
                    end = min(end, time.monotonic() + 1)
                    left = min(left, 1.0, max(0.0, self._deadline - time.monotonic()))
                self._changed.wait(left)
