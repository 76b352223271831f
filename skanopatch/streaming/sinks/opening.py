"""open_sink: the sink that a URL names."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from skanopatch.streaming.sinks.base import Sink
from skanopatch.streaming.sinks.secrets import masked

ENTRY_POINTS = "skanopatch.sinks"

# The entry points of this package, for when it is not installed.
_BUILT_IN = {
    "jsonl": "json_lines:JSONLinesSink",
    "csv": "csv_table:CSVSink",
    "sqlite": "sqlite:SQLiteSink",
    "mqtt": "mqtt:MQTTSink",
    "mqtts": "mqtt:MQTTSink",
    "http": "webhook:WebhookSink",
    "https": "webhook:WebhookSink",
    "prometheus": "prometheus:PrometheusSink",
}


def open_sink(url: str) -> Sink:
    """Open the sink that a URL names.

    Parameters
    ----------
    url : str
        ``jsonl:FILE``, ``csv:FILE`` (``-`` is standard output), ``sqlite:FILE``,
        ``mqtt://USER@HOST:PORT/TOPIC``, ``https://...``, ``prometheus:PORT``, or a scheme of an
        entry point in the group ``skanopatch.sinks``: a subclass of `Sink`.

    Returns
    -------
    sink : Sink

    Raises
    ------
    ValueError
        If no sink has this scheme, or the rest of the URL is not what it takes. Messages do not
        hold passwords and tokens.

    Examples
    --------
    >>> from skanopatch.streaming.sinks import open_sink
    >>> open_sink("scores.csv")
    Traceback (most recent call last):
    ...
    ValueError: The URL of a sink must begin with one of csv:, http:, ... Got 'scores.csv' instead.
    """
    scheme, colon, rest = url.partition(":")
    plugins = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if not (colon and rest and scheme in {*_BUILT_IN, *plugins}):
        known = ", ".join(f"{name}:" for name in sorted({*_BUILT_IN, *plugins}))
        raise ValueError(
            f"The URL of a sink must begin with one of {known} and go on after it. "
            f"Got {masked(url)!r} instead."
        )
    if scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        kind = getattr(import_module(f"skanopatch.streaming.sinks.{module}"), name)
    else:
        kind = plugins[scheme].load()
    return kind.from_url(url)
