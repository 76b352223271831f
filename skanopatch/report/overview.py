"""The head of the report: how many clips are anomalies, of which machines, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.dates import AutoDateLocator, num2date
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from skanopatch.metrics import auc_score, pauc_score
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.report.times import Times

_LEAST_TOP, _MOST_TOP = 10.0, 100.0  # of the scale of scores
_SCORE_TICKS = (1, 2, 5, 10, 20, 50, 100)
_MOST_NAMED = 3  # clips in the headline
_LEAST_TICKS, _MOST_TICKS = 3, 5  # of a time axis
_DAY = 86400.0  # seconds

# Of dates on an axis that covers more than so many days.
_DATE_FORMS = ((1500, "%Y"), (120, "%b %Y"), (1.5, "%d %b"), (0.01, "%H:%M"), (0, "%H:%M:%S"))

# What of a recording's note is worth a warning, by the words that such notes have.
_NOTES = {
    "Level": ("quieter", "louder"),
    "Sample rate": ("sampled at",),
    "Channels": ("channel(s)",),
    "Bandwidth": ("no sound above", "no sound below"),
    "Silence": ("silent",),
    "Clipping": ("clipped",),
    "Constant part": ("constant part",),
}


class Fact(NamedTuple):
    """A number for the head of the page, with what it rests on."""

    term: str
    value: str
    detail: str = ""
    is_bad: bool = False


class Scale(NamedTuple):
    """From scores to places in per cent: linear around 1, the threshold, and logarithmic beyond."""

    top: float

    @classmethod
    def of_scores(cls, scores: NDArray[np.float64]) -> Scale:
        """Return the scale that reaches the highest score, but not beyond 100."""
        highest = scores[np.isfinite(scores)].max(initial=_LEAST_TOP)
        return cls(float(np.clip(highest, _LEAST_TOP, _MOST_TOP)))

    def place(self, score: float) -> float:
        """Return the place of a score, 0 to 100."""
        ends = np.arcsinh(2 * (np.array([0.0, self.top]) - 1))
        share = (np.arcsinh(2 * (score - 1)) - ends[0]) / (ends[1] - ends[0])
        return round(100 * float(np.clip(share, 0, 1)), 2)

    def ticks(self) -> list[tuple[str, float]]:
        """Return the labels of the axis and their places."""
        return [(f"{tick:g}", self.place(tick)) for tick in _SCORE_TICKS if tick <= self.top]


def interval(count: int, n: int) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) 95 % interval of a share, of `count` in `n`."""
    low, high = binomtest(count, n).proportion_ci(0.95, method="exact")
    return float(low), float(high)


def known_clips(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of clips that have a label and a score."""
    return table[(table.label != "") & (table.decision != "unreadable")]


def facts_of(table: pd.DataFrame, model: AnomalousSoundDetector) -> list[Fact]:
    """Return the numbers of the head of the page."""
    asked = model.false_alarm_rate
    n_unreadable = int((table.decision == "unreadable").sum())
    n_scored, n_alarms = len(table) - n_unreadable, int((table.decision == "anomaly").sum())
    unreadable = f"{n_unreadable} could not be read" if n_unreadable else "all could be read"
    facts = [Fact("clips", str(len(table)), unreadable)]
    if n_scored:
        facts.append(_share("anomalies", n_alarms, n_scored, "a score above 1"))
    known = known_clips(table)
    normal, odd = known[known.label == "normal"], known[known.label != "normal"]
    if len(normal):
        count = int((normal.decision == "anomaly").sum())
        is_bad = interval(count, len(normal))[0] > asked
        facts.append(
            _share("false alarms", count, len(normal), f"asked: {100 * asked:.3g}%", is_bad)
        )
    else:
        detail = "of normal clips; how many there are is not known without labels"
        facts.append(Fact("false alarms asked", f"{100 * asked:.3g}%", detail))
    if len(odd):
        count = int((odd.decision == "normal").sum())
        is_bad = count > len(odd) / 2
        facts.append(_share("missed anomalies", count, len(odd), "", is_bad))
    return [*facts, _fitted_on(model)]


def _share(term: str, count: int, n: int, remark: str, is_bad: bool = False) -> Fact:
    low, high = interval(count, n)
    detail = "; ".join(filter(None, [f"95% interval {low:.0%} to {high:.0%}", remark]))
    return Fact(term, f"{count} of {n} ({count / n:.0%})", detail, is_bad)


def _fitted_on(model: AnomalousSoundDetector) -> Fact:
    n_windows, n_clips = len(model.windows_), len(set(model.windows_["clip"].tolist()))
    sessions = model.metadata_.get("sessions")
    details = [f"{n_windows} windows"] * (n_windows > n_clips)
    details.append(f"{len(set(sessions))} sessions" if sessions else "sessions not given")
    if len(model.groups_) > 1:
        details.append(f"{len(model.groups_)} machines")
    return Fact("fitted on", f"{n_clips} clips", ", ".join(details))


def headline(table: pd.DataFrame) -> str:
    """Say in a sentence how many clips are anomalies, and of which machine most of them are."""
    scored = table[table.decision != "unreadable"]
    if not len(scored):
        return "No clip could be read."
    odd = scored[scored.decision == "anomaly"]
    if not len(odd):
        highest = scored.score.max()
        return f"No clip is an anomaly: the highest score is {highest:.2f}, and 1 is the threshold."
    verb = "is an anomaly" if len(odd) == 1 else "are anomalies"
    sentence = f"{len(odd)} of {len(scored)} clips {verb}"
    groups = odd.group.astype(str).value_counts()
    if len(set(scored.group.astype(str))) > 1:
        name, count = groups.index[0], int(groups.iloc[0])
        n_own = int((scored.group.astype(str) == name).sum())
        which = f" of {name} ({count} of its {n_own})"
        if len(groups) == 1:
            sentence += f", all{which}"
        elif count > len(odd) / 2:
            sentence += f", {count}{which}"
        else:
            sentence += f", of {len(groups)} machines"
    worst = odd.nlargest(_MOST_NAMED, "score")
    named = [f"{name} ({score:.3g})" for name, score in zip(worst.name, worst.score, strict=True)]
    return f"{sentence}. The most anomalous: {', '.join(named)}."


def warnings_of(
    table: pd.DataFrame, model: AnomalousSoundDetector, n_players: int
) -> list[tuple[str, bool]]:
    """Return sentences on what makes the result unsure, and whether each is bad."""
    return [
        *_of_alarms(table, model.false_alarm_rate),
        *_of_notes(table),
        *_of_fit(model),
        *_of_players(table, n_players),
    ]


def _of_alarms(table: pd.DataFrame, asked: float) -> list[tuple[str, bool]]:
    normal = known_clips(table).query("label == 'normal'")
    count = int((normal.decision == "anomaly").sum())
    if len(normal):
        low, high = interval(count, len(normal))
        if low <= asked:
            return []
        return [
            (
                f"Far too many false alarms: {count} of {len(normal)} clips that are known to be "
                f"normal ({count / len(normal):.0%}), where {100 * asked:.3g}% were asked for. "
                f"Chance does not explain it (95% interval {low:.0%} to {high:.0%}): these "
                "recordings are unlike those that the model was fitted on. Add normal ones of them "
                "to the model.",
                True,
            )
        ]
    scored = table[table.decision != "unreadable"]
    count = int((scored.decision == "anomaly").sum())
    if count > 1 and count > len(scored) / 2:
        return [
            (
                f"{count} of {len(scored)} clips are anomalies ({count / len(scored):.0%}). Unless "
                "most of the machines are broken, these recordings are unlike those that the model "
                "was fitted on: compare microphone, level and operating state.",
                True,
            )
        ]
    return []


def _of_notes(table: pd.DataFrame) -> list[tuple[str, bool]]:
    """Collect the notes on recordings, those of one kind in a sentence."""
    n_scored = int((table.decision != "unreadable").sum())
    sentences = []
    for name, words in _NOTES.items():
        phrases = {
            row.name: phrase
            for row in table.itertuples()
            for phrase in str(row.note).split("; ")
            if any(word in phrase for word in words)
        }
        if phrases:
            clip, phrase = max(phrases.items(), key=lambda item: _first_number(item[1]))
            such_as = "" if len(phrases) == 1 else "such as "
            verb = "is not" if len(phrases) == 1 else "are not"
            sentence = (
                f"{name}: {len(phrases)} of {n_scored} clips {verb} as in fit, {such_as}{clip} "
                f"({phrase}). Scores may come from this."
            )
            sentences.append((sentence, False))
    return sentences


def _first_number(phrase: str) -> float:
    numbers = re.findall(r"\d+(?:\.\d+)?", phrase)
    return float(numbers[0]) if numbers else 0.0


def _of_fit(model: AnomalousSoundDetector) -> list[tuple[str, bool]]:
    """Say what the threshold rests on, where it is little."""
    sessions = model.metadata_.get("sessions")
    n_clips = len(set(model.windows_["clip"].tolist()))
    n_units, units = (len(set(sessions)), "sessions") if sessions else (n_clips, "clips")
    sentences = []
    if n_units < 1 / model.false_alarm_rate:
        sentences.append(
            f"The model was fitted on {n_units} {units}: too few to check a false-alarm rate of "
            f"{model.false_alarm_rate:.3g}, which takes {1 / model.false_alarm_rate:.0f} or more."
        )
    if not sessions:
        sentences.append(
            "Sessions were not given when the model was fitted: the false-alarm rate holds for "
            "recordings like those of fit, and may be higher on another day."
        )
    return [(sentence, False) for sentence in sentences]


def _of_players(table: pd.DataFrame, n_players: int) -> list[tuple[str, bool]]:
    n_scored = int((table.decision != "unreadable").sum())
    if n_players >= n_scored:
        return []
    return [(f"Only the {n_players} most anomalous of {n_scored} clips can be played.", False)]


def machines_of(table: pd.DataFrame, scale: Scale) -> list[dict[str, Any]]:
    """Return the clips of each machine as dots on the scale, the worst machine first."""
    machines = []
    for name, own in table.groupby(table.group.astype(str), sort=True):
        scored = own[own.decision != "unreadable"]
        dots = [(scale.place(s), d) for s, d in zip(scored.score, scored.decision, strict=True)]
        machines.append(
            {
                "name": name,
                "n_clips": len(scored),
                "n_anomalies": int((scored.decision == "anomaly").sum()),
                "worst": float(scored.score.max()) if len(scored) else None,
                "dots": dots,
            }
        )
    return sorted(machines, key=lambda m: (-m["n_anomalies"], -(m["worst"] or 0)))


def timeline_of(table: pd.DataFrame, times: Times, scale: Scale) -> dict[str, Any] | None:
    """Return the scores over time as places in per cent, None where times are not known.

    `table` is in the order of the page, with the column `recorded` in seconds.
    """
    rows = table[(table.decision != "unreadable") & table.recorded.notna()]
    if not times.source or rows.recorded.nunique() < 2:
        return None
    first, last = rows.recorded.min(), rows.recorded.max()

    def across(seconds: float) -> float:
        return round(2 + 96 * (seconds - first) / (last - first), 2)  # dots need a margin

    ends = [datetime.fromtimestamp(seconds, UTC) for seconds in (first, last)]
    locator = AutoDateLocator(UTC, minticks=_LEAST_TICKS, maxticks=_MOST_TICKS)
    dates = [num2date(tick, UTC) for tick in locator.tick_values(*ends)]
    form = next(form for days, form in _DATE_FORMS if last - first > days * _DAY)
    ticks = [(f"{tick:{form}}", across(tick.timestamp())) for tick in dates]
    return {
        "points": [
            {
                "rank": row.rank,
                "x": across(row.recorded),
                "y": round(100 - scale.place(row.score), 2),
                "decision": row.decision,
                "title": f"{row.name}, {row.time}: {row.score:.3g}",
            }
            for row in rows.itertuples()
        ],
        "ticks": [(text, place) for text, place in ticks if 0 <= place <= 100],
        "span": " to ".join(dict.fromkeys(f"{end:%Y-%m-%d}" for end in ends)),
        "source": times.source,
        "n_missing": len(table) - len(rows),
    }


def roc_of(table: pd.DataFrame) -> dict[str, Any] | None:
    """Return the ROC of the clips that have a label and a score, if both kinds are there."""
    known = known_clips(table)
    y = np.where(known.label == "normal", 1, -1)
    if len(set(y)) < 2:
        return None
    false_alarms, hits, _ = roc_curve(y, known.score, pos_label=-1)
    called = known.decision == "anomaly"
    return {
        "points": list(zip(false_alarms.tolist(), hits.tolist(), strict=True)),
        "at_threshold": (float(called[y == 1].mean()), float(called[y == -1].mean())),
        "auc": auc_score(y, known.score),
        "pauc": pauc_score(y, known.score),
    }


def label_names(labels: Sequence[Any]) -> list[str]:
    """Return "normal", the kind of anomaly or, for what is not known, an empty string."""
    names: dict[Any, str] = {1: "normal", -1: "anomaly"}
    known = ["" if pd.isna(label) else label for label in labels]
    for label in known:
        if not isinstance(label, str) and label not in names:
            raise ValueError(
                "y must hold +1 or 'normal' for normal clips, -1 or another string for anomalous "
                f"ones, and None where it is not known. Got {label!r}."
            )
    return [label if isinstance(label, str) else names[label] for label in known]
