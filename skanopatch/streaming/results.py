"""What is said of one window of a stream."""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

LATE = "scored late: it does not count for the alarm"  # a note


@dataclass(frozen=True)
class WindowResult:
    """The score of one window of a stream, with alarm and note.

    Attributes
    ----------
    source : str
        The machine, file or stream.
    time : float
        Unix time of the window's start, in seconds (UTC).
    start, stop : float
        Start and end of the window, in seconds from the start of the source.
    score : float
        As from `score_samples`: higher = more normal; NaN if the window could not be scored.
    distance : float
        The score divided by that of the threshold: above 1 is an anomaly.
    p_value : float
        The share of normal clips that are as anomalous; NaN for a model without p-values.
    alarm : str
        "on" if an alarm begins with this window, "off" if it ends, else "".
    in_alarm : bool
        Whether the alarm is on after this window.
    note : str
        Differences from the recordings of `fit`, gaps, rate changes or silence; "" if none.
    """

    source: str
    time: float
    start: float
    stop: float
    score: float
    distance: float
    p_value: float
    alarm: str
    in_alarm: bool
    note: str

    def as_dict(self) -> dict:
        """Return the fields for JSON: NaN and infinity as None, and the time in ISO 8601 too."""
        fields = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        utc = datetime.fromtimestamp(self.time, UTC)
        return fields | {"time_utc": utc.isoformat(timespec="milliseconds")}
