"""Sinks: where the results of a stream go. One file each."""

from skanopatch.streaming.sinks.base import Sink
from skanopatch.streaming.sinks.opening import open_sink

__all__ = ["Sink", "open_sink"]
