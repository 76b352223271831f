"""make_report: score clips and write a page about them."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Hashable, Iterable, Sequence
from datetime import date
from hashlib import sha256
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_curve
from sklearn.preprocessing import StandardScaler

import skanopatch
from skanopatch.audio import Clip, Segment, as_clip_list, file_of, is_path, printable_path
from skanopatch.audio.labels import label_list
from skanopatch.inspection.anomaly_map import MAP_TOP
from skanopatch.inspection.decisions import (
    clips_from,
    decision_table,
    split_model,
    unwrap,
    windows_of,
)
from skanopatch.metrics import auc_score, pauc_score
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.report.media import Axes, View, embed_clips, view_clips

# Nepers: statistics of two recordings differ by more, those of one are the same but for rounding.
_SAME = 1e-3


def make_report(
    model: AnomalousSoundDetector,
    clips: Any,
    *,
    y: Iterable | None = None,
    groups: Iterable[Hashable] | None = None,
    title: str | None = None,
    max_players: int = 500,
    verbose: int = 0,
) -> str:
    """Score clips and write a page that shows and plays them, the most anomalous first.

    Next to each clip stands the nearest normal clip of the model's `fit`, which can be played if
    its file is still there.

    Parameters
    ----------
    model : AnomalousSoundDetector
        Fitted on clips. There are no maps and no worst moments if it has ``map_detector="drop"``.
    clips : sequence of clips, or array-like of shape (n_clips, n_samples)
        A clip is a path, a segment, a 1-D array or a pair (array, sample_rate). Those that cannot
        be used are listed with the reason, whatever the patcher's `on_error` says.
    y : iterable of length n_clips, default=None
        Labels: +1 or "normal" for normal clips; -1 or any other string, such as the name of a
        fault, for anomalous ones; None or an empty string for those that are not known.
    groups : iterable of hashables of length n_clips, default=None
        What each clip is a recording of, such as a machine. A model that was fitted with groups
        scores by them.
    title : str, default=None
        The heading. None is "Anomaly report".
    max_players : int, default=500
        How many clips, the most anomalous ones, are drawn and can be played. All are ranked.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    html : str
        The page. It refers to no other file and to no network.

    Raises
    ------
    ValueError
        If the model is none of clips, `y` or `groups` have another length than the clips, or `y`
        holds a number that is neither +1 nor -1.

    Notes
    -----
    The score of a clip is its distance over that of the threshold: above 1 is an anomaly.

    The nearest normal clip is found by the Euclidean distance of `normal_statistics_` after each is
    standardized on the normal clips. It is another recording, also for a clip of the fit.

    Sounds are MP3 of what the patcher uses: one channel, at its rate and length. One factor makes
    the loudest sample of the page 0.9, so that what was louder still is. Pictures share one scale
    of greys.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnomalousSoundDetector, MelPatcher
    >>> from skanopatch.report import make_report
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> model = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(clips[:10])
    >>> html = make_report(model, clips, title="Ventilation, hall 2")
    >>> html[:15], "Ventilation, hall 2" in html
    ('<!DOCTYPE html>', True)
    """
    model = unwrap(model)
    if not isinstance(model, AnomalousSoundDetector):
        raise ValueError(f"model must be an AnomalousSoundDetector. Got {model!r} instead.")
    patcher, _ = split_model(model)
    listed = as_clip_list(clips)
    clips = list(np.asarray(clips)) if listed is None else listed
    group_of = None if groups is None else label_list(groups, len(clips), "groups")
    table = pd.DataFrame({"name": _names(clips), "label": _label_names(y, len(clips))})
    table["group"] = "" if group_of is None else group_of
    machines = group_of if model.groups_ else None
    decisions = decision_table(model, clips, groups=machines, verbose=verbose)
    # What could not be read comes last.
    table = table.join(decisions).sort_values("score", ascending=False, kind="stable")
    table["remark"] = [_remark(row) for row in table.itertuples()]

    shown = table.index[table.decision != "unreadable"][:max_players]
    drawn = clips_from(model, [clips[i] for i in shown], table.start[shown].to_numpy())
    views = view_clips(model, drawn, None if machines is None else [machines[i] for i in shown])
    names = _names(model.clip_names_)
    nearest = _nearest(drawn, views, model)
    table["normal"] = table["normal_name"] = ""
    table.loc[shown, "normal"] = [f"normal-{i}" for i in nearest]
    table.loc[shown, "normal_name"] = [names[i] for i in nearest]
    normal = [i for i in dict.fromkeys(nearest) if model.clip_names_[i]]
    normal_clips = [_normal_window(i, model) for i in normal]

    axes = Axes.of_patcher(patcher)
    views += view_clips(model, normal_clips)
    media = embed_clips([*drawn, *normal_clips], views, patcher, axes, verbose=verbose)
    ids = [*(f"clip-{i}" for i in shown), *(f"normal-{i}" for i in normal)]
    media_of: dict[str, dict] = {f"normal-{i}": {} for i in nearest}
    media_of |= zip(ids, media, strict=True)
    for i in shown:
        media_of[f"clip-{i}"]["start"] = float(table.start[i])
    return _render(
        title="Anomaly report" if title is None else title,
        summary=_summarise(table),
        roc=_roc(table),
        clips=[
            {"rank": rank, "id": f"clip-{i}" if i in shown else "", **clip}
            for rank, (i, clip) in enumerate(table.to_dict("index").items(), start=1)
        ],
        groups=[] if groups is None else sorted(set(table.group.astype(str))),
        has_labels=y is not None,
        page={"seconds": axes.seconds, "ticks": axes.ticks(), "mapTop": MAP_TOP},
        media=media_of,
        model=model,
        version=skanopatch.__version__,
        today=date.today().isoformat(),
    )


def _names(clips: Sequence[Clip]) -> list[str]:
    """Name files by what differs in their paths, and other clips, also "", by their index."""
    paths = [os.path.abspath(path) if (path := file_of(clip)) else "" for clip in clips]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths if path] or ["/"])
    names = []
    for i, (clip, path) in enumerate(zip(clips, paths, strict=True)):
        name = printable_path(os.path.relpath(path, folder)) if path else f"clip {i}"
        seconds = f", {clip.start:g} to {clip.stop:g} s" if isinstance(clip, Segment) else ""
        names.append(name + seconds)
    return names


def _remark(row: Any) -> str:
    """Return why a clip is unreadable, or which part of it is scored and how it was recorded."""
    is_cut = row.n_windows > 1
    part = (
        f"worst of {row.n_windows} windows: {row.start:.5g} to {row.stop:.5g} s" if is_cut else ""
    )
    return "; ".join(filter(None, [row.reason, part, row.note]))


def _normal_window(row: int, model: Any) -> Clip:
    """Return a window of `fit`: its file, or the stretch of it where several are of one file."""
    path = model.clip_names_[row]
    rows = [i for i, name in enumerate(model.clip_names_) if name == path]
    windows = windows_of(model, [path]).X
    return windows[rows.index(row)] if len(windows) == len(rows) else path


def _label_names(y: Iterable | None, n_clips: int) -> list[str]:
    """Return "normal", the kind of anomaly or, for what is not known, an empty string."""
    if y is None:
        return [""] * n_clips
    names: dict[Any, str] = {1: "normal", -1: "anomaly"}
    labels = [
        "" if pd.isna(label) else label for label in label_list(y, n_clips, "y", allow_nan=True)
    ]
    for label in labels:
        if not isinstance(label, str) and label not in names:
            raise ValueError(
                "y must hold +1 or 'normal' for normal clips, -1 or another string for anomalous "
                f"ones, and None where it is not known. Got {label!r}."
            )
    return [label if isinstance(label, str) else names[label] for label in labels]


def _nearest(clips: list[Clip], views: list[View], model: AnomalousSoundDetector) -> list[int]:
    """Return which normal clip is nearest to each clip, but for the clip itself."""
    if not views:
        return []
    statistics = np.stack([view.statistics for view in views])
    usable = np.flatnonzero(np.isfinite(model.normal_statistics_).all(axis=1))
    normal = model.normal_statistics_[usable]
    scaler = StandardScaler().fit(normal)
    distances = cdist(scaler.transform(statistics), scaler.transform(normal))
    is_same = cdist(statistics, normal, "chebyshev") < _SAME
    paths = [os.path.abspath(os.fspath(clip)) if is_path(clip) else None for clip in clips]
    is_same |= np.equal.outer(np.array(paths, object), np.array(model.clip_names_, object)[usable])
    return usable[np.where(is_same, np.inf, distances).argmin(axis=1)].tolist()


def _with_label_and_score(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table.label != "") & (table.decision != "unreadable")]


def _summarise(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return terms and what they are, for the head of the page."""
    counts = table.decision.value_counts()
    numbers = [len(table), counts.get("anomaly", 0), counts.get("unreadable", 0)]
    summary = list(zip(["clips", "anomalies", "unreadable"], map(str, numbers), strict=True))
    summary.append(("threshold", "a score above 1"))
    known = _with_label_and_score(table)
    for name, clips, wrong in [
        ("false alarms", known[known.label == "normal"], "anomaly"),
        ("missed anomalies", known[known.label != "normal"], "normal"),
    ]:
        if len(clips):
            n_wrong = int((clips.decision == wrong).sum())
            summary.append((name, f"{n_wrong} of {len(clips)} ({n_wrong / len(clips):.0%})"))
    return summary


def _roc(table: pd.DataFrame) -> dict[str, Any] | None:
    """Return the ROC of the clips that have a label and a score, if both kinds are there."""
    known = _with_label_and_score(table)
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


def _render(**content: Any) -> str:
    folder = files(__package__)
    style, script = (
        Markup((folder / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js")
    )
    options: dict[str, Any] = {
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, **options)
    return environment.get_template("report.html.jinja").render(
        style=style, script=script, hash_of=_hash_of, **content
    )


def _hash_of(text: str) -> str:
    """Return what a Content-Security-Policy lets an inline style or script through by."""
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode("ascii")
