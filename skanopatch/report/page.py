"""make_report: score clips and write a page about them."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Hashable, Iterable
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
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

import skanopatch
from skanopatch.audio import Clip, as_clip_list, is_path
from skanopatch.detectors.base import label_list
from skanopatch.metrics import auc_score, pauc_score
from skanopatch.report.media import Axes, embed_clips
from skanopatch.verdicts import (
    embed_readable,
    forgive,
    judge_clips,
    no_warning_of_unreadable_clips,
)


def make_report(
    pipeline: Pipeline,
    clips: Any,
    *,
    map_pipeline: Pipeline | None = None,
    y: Iterable | None = None,
    groups: Iterable[Hashable] | None = None,
    normal_clips: Any = None,
    normal_embeddings: Any = None,
    title: str | None = None,
    max_players: int = 500,
    verbose: int = 0,
) -> str:
    """Score clips and write a page that shows and plays them, the most anomalous first.

    Parameters
    ----------
    pipeline : Pipeline
        A fitted `MelPatcher`, embedder and detector.
    clips : sequence of clips, or array-like of shape (n_clips, n_samples)
        A clip is a path, a 1-D array or a pair (array, sample_rate). Those that cannot be used are
        listed with the reason, whatever the patcher's `on_error` says.
    map_pipeline : Pipeline, default=None
        A fitted `MelPatcher`, embedder and detector with `anomaly_map`, such as that of
        `make_map_pipeline`. None is `pipeline`; there are no maps and no worst moments if its
        detector has no `anomaly_map`.
    y : iterable of length n_clips, default=None
        Labels: +1 or "normal" for normal clips; -1 or any other string, such as the name of a
        fault, for anomalous ones; None or an empty string for those that are not known.
    groups : iterable of hashables of length n_clips, default=None
        What each clip is a recording of, such as a machine. A `GroupedDetector` scores by them.
    normal_clips : sequence of clips, or array-like of shape (n_normal, n_samples), default=None
        Clips of the fit. Next to each clip stands the nearest of them, by the Euclidean distance
        of the embeddings after each dimension is standardized on the normal clips.
    normal_embeddings : array-like of shape (n_normal, n_dims), default=None
        What ``pipeline[:-1]`` makes of `normal_clips`. None computes them.
    title : str, default=None
        The heading. None is "Anomaly report".
    max_players : int, default=500
        How many clips, the most anomalous ones, are drawn and can be played. All are ranked.
    verbose : int, default=0
        1 shows a progress bar while clips are drawn.

    Returns
    -------
    html : str
        The page. It refers to no other file and to no network.

    Raises
    ------
    ValueError
        If `y`, `groups` or `normal_embeddings` have another length than their clips, or `y` holds
        a number that is neither +1 nor -1.

    Notes
    -----
    The score that is shown is that of the clip over that of the threshold, where both are minus a
    distance (`offset_` is below 0): above 1 is an anomaly. Of other detectors, and of
    `GroupedDetector`, whose threshold is 0, it is minus `decision_function`: above 0 is an
    anomaly.

    Sounds are MP3 of what the patcher hears: one channel, at its rate and length. One factor makes
    the loudest sample of the page 0.9, so that what was louder still is. Pictures share one scale
    of greys.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanopatch import MahalanobisDetector, MelPatcher, MelStatistics
    >>> from skanopatch.report import make_report
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> pipe = make_pipeline(MelPatcher(duration=1.0), MelStatistics(), MahalanobisDetector())
    >>> pipe = pipe.fit(clips[:10])
    >>> html = make_report(pipe, clips, normal_clips=clips[:10], title="Ventilation, hall 2")
    >>> html[:15], "Ventilation, hall 2" in html
    ('<!DOCTYPE html>', True)
    """
    clips = _list_clips(clips)
    pipeline = forgive(pipeline)
    embeddings = embed_readable(pipeline, clips)
    table, threshold = _rank(pipeline, clips, embeddings, y, groups)

    shown = table.index[table.verdict != "unreadable"][:max_players]
    heard = {f"clip-{i}": clips[i] for i in shown}
    table["normal"] = table["normal_name"] = ""
    if normal_clips is not None and len(shown):
        normal_clips = _list_clips(normal_clips)
        if normal_embeddings is None:
            normal_embeddings = embed_readable(pipeline, normal_clips)
        nearest = _nearest(embeddings[shown], normal_embeddings, len(normal_clips))
        table.loc[shown, "normal"] = [f"normal-{i}" for i in nearest]
        table.loc[shown, "normal_name"] = np.array(_names(normal_clips), dtype=object)[nearest]
        heard |= {f"normal-{i}": normal_clips[i] for i in nearest}

    seen_by = pipeline if map_pipeline is None else forgive(map_pipeline)
    axes = Axes.of_patcher(seen_by[0])
    with no_warning_of_unreadable_clips():
        media = embed_clips(list(heard.values()), seen_by, axes, verbose=verbose)
    return _render(
        title="Anomaly report" if title is None else title,
        summary=_summarise(table, threshold),
        roc=_roc(table),
        clips=[
            {"rank": rank, "id": f"clip-{i}" if f"clip-{i}" in heard else "", **clip}
            for rank, (i, clip) in enumerate(table.to_dict("index").items(), start=1)
        ],
        groups=[] if groups is None else sorted(set(table.group.astype(str))),
        has_labels=y is not None,
        page={"seconds": axes.seconds, "ticks": axes.ticks()},
        media=dict(zip(heard, media, strict=True)),
        pipeline=pipeline,
        version=skanopatch.__version__,
        today=date.today().isoformat(),
    )


def _rank(
    pipeline: Pipeline,
    clips: list[Clip],
    embeddings: np.ndarray,
    y: Iterable | None,
    groups: Iterable | None,
) -> tuple[pd.DataFrame, int]:
    """Return what is known of each clip, the most anomalous first, and the score's threshold."""
    table = pd.DataFrame({"name": _names(clips), "label": _label_names(y, len(clips))})
    table["group"] = "" if groups is None else label_list(groups, len(clips), "groups")
    verdicts, threshold = judge_clips(
        pipeline, clips, embeddings, groups=None if groups is None else table.group
    )
    table = table.join(verdicts)
    # What could not be read comes last.
    return table.sort_values("score", ascending=False, kind="stable"), threshold


def _list_clips(X: Any) -> list[Clip]:
    clips = as_clip_list(X)
    return list(np.asarray(X)) if clips is None else clips


def _names(clips: list[Clip]) -> list[str]:
    """Name files by what differs in their paths, and other clips by their index."""
    paths = [os.fspath(clip) for clip in clips if is_path(clip)]
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths] or ["/"])
    return [
        os.path.relpath(clip, folder) if is_path(clip) else f"clip {i}"
        for i, clip in enumerate(clips)
    ]


def _label_names(y: Iterable | None, n_clips: int) -> list[str]:
    """Return "normal", the kind of anomaly or, for what is not known, an empty string."""
    if y is None:
        return [""] * n_clips
    names: dict[Any, str] = {1: "normal", -1: "anomaly"}
    labels = ["" if pd.isna(label) else label for label in label_list(y, n_clips, "y")]
    for label in labels:
        if not isinstance(label, str) and label not in names:
            raise ValueError(
                "y must hold +1 or 'normal' for normal clips, -1 or another string for anomalous "
                f"ones, and None where it is not known. Got {label!r}."
            )
    return [label if isinstance(label, str) else names[label] for label in labels]


def _nearest(embeddings: np.ndarray, normal_embeddings: Any, n_normal: int) -> np.ndarray:
    """Return which normal clip is nearest to each clip, but for the clip itself."""
    normal_embeddings = np.asarray(normal_embeddings)
    if len(normal_embeddings) != n_normal:
        raise ValueError(
            "normal_embeddings must have one row per clip of normal_clips. "
            f"Got {len(normal_embeddings)} for {n_normal}."
        )
    usable = np.flatnonzero(np.isfinite(normal_embeddings).all(axis=1))
    scaler = StandardScaler().fit(normal_embeddings[usable])
    distances = cdist(scaler.transform(embeddings), scaler.transform(normal_embeddings[usable]))
    return usable[np.where(distances > 0, distances, np.inf).argmin(axis=1)]


def _summarise(table: pd.DataFrame, threshold: int) -> list[tuple[str, str]]:
    """Return terms and what they are, for the head of the page."""
    counts = table.verdict.value_counts()
    summary = [
        ("clips", str(len(table))),
        ("anomalies", str(counts.get("anomaly", 0))),
        ("unreadable", str(counts.get("unreadable", 0))),
        ("threshold", f"a score above {threshold}"),
    ]
    known = table[(table.label != "") & (table.verdict != "unreadable")]
    for name, clips, verdict in [
        ("false alarms", known[known.label == "normal"], "anomaly"),
        ("missed anomalies", known[known.label != "normal"], "normal"),
    ]:
        if len(clips):
            n_wrong = int((clips.verdict == verdict).sum())
            summary.append((name, f"{n_wrong} of {len(clips)} ({n_wrong / len(clips):.0%})"))
    return summary


def _roc(table: pd.DataFrame) -> dict[str, Any] | None:
    """Return the ROC of the clips that have a label and a score, if both kinds are there."""
    known = table[(table.label != "") & (table.verdict != "unreadable")]
    y = np.where(known.label == "normal", 1, -1)
    if len(set(y)) < 2:
        return None
    false_alarms, hits, _ = roc_curve(y, known.score, pos_label=-1)
    called = known.verdict == "anomaly"
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
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        style=style, script=script, hash_of=_hash_of, **content
    )


def _hash_of(text: str) -> str:
    """Return what a Content-Security-Policy lets an inline style or script through by."""
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode("ascii")
