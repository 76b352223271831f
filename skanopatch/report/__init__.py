"""One HTML page about scored clips, to be read and listened to with no network."""

from skanopatch.report.page import make_report

__all__ = ["make_report"]
