"""PrometheusSink: the newest result and counters for a Prometheus server to fetch."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks.base import Sink

_LOOPBACK = "127.0.0.1"
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_GAUGES = {
    "distance": "Distance of the newest window over that of the threshold: above 1 is anomalous.",
    "p_value": "Share of normal clips that are as anomalous as the newest window.",
    "in_alarm": "Whether the alarm is on.",
    "last_window_timestamp_seconds": "Unix time at which the newest window ends.",
}
_COUNTERS = {
    "windows_total": "Windows with a result.",
    "anomalous_windows_total": "Windows beyond the threshold.",
    "unscored_windows_total": "Windows that could not be scored.",
    "alarms_total": "Alarms that began.",
}


class PrometheusSink(Sink):
    """Serves ``http://HOST:PORT/metrics`` in the text format of Prometheus.

    Parameters
    ----------
    port : int
        0 takes one that is free, see the attribute `port`.
    host : str, default="127.0.0.1"
        The address to listen on. There is no password: with any other address all who reach this
        machine can read the numbers.

    Attributes
    ----------
    port : int
        On which it listens.

    Notes
    -----
    There is no label of the source: one watch is one machine, which Prometheus names in its label
    ``instance``. Gauges are there from the first window on.
    """

    def __init__(self, port: int, host: str = _LOOPBACK):
        self._lock = Lock()
        self._gauges: dict[str, float] = {}
        self._counters = dict.fromkeys(_COUNTERS, 0)
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(self))
        except OSError as error:
            raise ValueError(
                f"prometheus:{host}:{port} cannot be listened on ({error.strerror}). "
                "Choose another port."
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        Thread(target=self._server.serve_forever, name="prometheus", daemon=True).start()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open ``prometheus:PORT`` or ``prometheus:HOST:PORT``."""
        host, _, port = url.partition(":")[2].rpartition(":")
        if not (port.isdecimal() and int(port) < 1 << 16):
            raise ValueError(
                "The URL of Prometheus must be prometheus:PORT or prometheus:HOST:PORT. "
                f"Got {url!r} instead."
            )
        return cls(int(port), host.strip("[]") or _LOOPBACK)

    def write(self, result: WindowResult) -> None:
        """Count a result, and serve its score from now on."""
        with self._lock:
            self._gauges = {
                "distance": result.distance,
                "p_value": result.p_value,
                "in_alarm": float(result.in_alarm),
                "last_window_timestamp_seconds": result.time + result.stop - result.start,
            }
            self._counters["windows_total"] += 1
            self._counters["anomalous_windows_total"] += result.distance > 1
            self._counters["unscored_windows_total"] += result.score != result.score
            self._counters["alarms_total"] += result.alarm == "on"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def exposition(self) -> str:
        """Return what is served."""
        with self._lock:
            gauges, counters = self._gauges, dict(self._counters)
        lines = _family("gauge", _GAUGES, gauges), _family("counter", _COUNTERS, counters)
        return "".join(f"{line}\n" for family in lines for line in family)


def _family(kind: str, helps: dict[str, str], values: Any) -> Iterator[str]:
    """Yield the lines of metrics."""
    for name, value in values.items():
        yield f"# HELP skanopatch_{name} {helps[name]}"
        yield f"# TYPE skanopatch_{name} {kind}"
        yield f"skanopatch_{name} {'NaN' if value != value else repr(value)}"


def _handler(sink: PrometheusSink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a client that sends nothing

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/metrics", "/"):
                self.send_error(404)
                return
            body = sink.exposition().encode()
            self.send_response(200)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # not to standard error
            pass

    return Handler
