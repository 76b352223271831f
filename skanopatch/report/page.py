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
from sklearn.preprocessing import StandardScaler

import skanopatch
from skanopatch.audio import Clip, Segment, as_clip_list, file_of, is_path, printable_path
from skanopatch.audio.labels import label_list
from skanopatch.inspection.decisions import clips_from, decision_table, split_model, unwrap
from skanopatch.inspection.style import MAP_TOP
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.recipes.sound_events import DECIBELS
from skanopatch.report.media import View, embed_clips, explain_clips, spectra_of, view_clips
from skanopatch.report.moments import Axes
from skanopatch.report.overview import (
    Scale,
    facts_of,
    headline,
    label_names,
    machines_of,
    roc_of,
    timeline_of,
    warnings_of,
)
from skanopatch.report.times import recording_times

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
    """Score clips and write a page that explains, shows and plays them, the most anomalous first.

    The page begins with a summary: how many clips are anomalies and of which machines, the rate of
    false alarms with its interval where there are labels, and what makes scores unsure. Below each
    clip stands the nearest normal clip of the model's `fit`, which can be played if its file is
    still there. Clips can be marked as fine or broken, and the marks saved as a table.

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
        Number of clips that can be opened and played, the most anomalous ones. All are ranked.
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
    The score of a clip is its distance over that of the threshold: above 1 is an anomaly. What is
    said of it is from `AnomalousSoundDetector.explain`.

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
    labels = [None] * len(clips) if y is None else label_list(y, len(clips), "y", allow_nan=True)
    table = pd.DataFrame({"name": _names(clips), "label": label_names(labels)})
    table["group"] = "" if group_of is None else group_of
    machines = group_of if model.groups_ else None
    table = table.join(decision_table(model, clips, groups=machines, verbose=verbose))
    times = recording_times(
        clips, table.length.to_numpy(), n_machines=len(set(table.group.astype(str)))
    )
    table["recorded"], table["time"] = times.seconds, times.texts()
    # What could not be read comes last.
    table = table.sort_values("score", ascending=False, kind="stable")
    table["rank"] = np.arange(1, len(table) + 1)
    table["remark"] = [_remark(row) for row in table.itertuples()]

    shown = table.index[table.decision != "unreadable"][:max_players]
    groups_shown = None if machines is None else [machines[i] for i in shown]
    drawn = clips_from(model, [clips[i] for i in shown], table.start[shown].to_numpy())
    views = view_clips(model, drawn, groups_shown)
    names = _names(model.clip_names_)
    nearest = _nearest(drawn, views, model)
    table["normal"] = table["normal_name"] = ""
    table.loc[shown, "normal"] = [f"normal-{i}" for i in nearest]
    table.loc[shown, "normal_name"] = [names[i] for i in nearest]
    normal = [i for i in dict.fromkeys(nearest) if model.clip_names_[i]]
    normal_clips = [_normal_window(model, i) for i in normal]

    axes = Axes.of_patcher(patcher)
    views += view_clips(model, normal_clips)
    media = embed_clips([*drawn, *normal_clips], views, patcher, axes, verbose=verbose)
    explanations = explain_clips(model, [clips[i] for i in shown], groups_shown, verbose=verbose)
    n_mels = model.statistics_.n_mels_
    normal_spectra = DECIBELS * model.normal_statistics_[normal, :n_mels]
    spectra, of_clips = spectra_of(explanations, normal_spectra, axes)
    for own, of_clip in zip(media, of_clips, strict=True):
        own |= of_clip if own else {}
    for own, start in zip(media, table.start[shown], strict=False):
        own["start"] = float(start)
    ids = [*(f"clip-{i}" for i in shown), *(f"normal-{i}" for i in normal)]
    media_of: dict[str, dict] = {f"normal-{i}": {} for i in nearest}
    media_of |= zip(ids, media, strict=True)
    scale = Scale.of_scores(table.score.to_numpy())
    return _render(
        title="Anomaly report" if title is None else title,
        headline=headline(table),
        facts=facts_of(table, model),
        warnings=warnings_of(table, model, len(shown)),
        machines=[] if groups is None else machines_of(table, scale),
        timeline=timeline_of(table, times, scale),
        roc=roc_of(table),
        scale=scale,
        clips=[
            {"id": f"clip-{i}" if i in shown else "", "bar": scale.place(clip["score"]), **clip}
            for i, clip in table.to_dict("index").items()
        ],
        has_labels=y is not None,
        page={
            "seconds": axes.seconds,
            "ticks": axes.ticks(),
            "mapTop": MAP_TOP,
            "spectra": spectra,
        },
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


def _normal_window(model: AnomalousSoundDetector, row: int) -> Clip:
    """Return a window of `fit`: its file, or the stretch of it that was used."""
    window = model.windows_[row]
    start, stop = float(window["file_start"]), float(window["file_stop"])
    path = model.clip_names_[row]
    return path if np.isnan(start) else Segment(path, start, stop)


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


def _render(**content: Any) -> str:
    folder = files(__package__)
    style, player, table = (
        Markup((folder / name).read_text(encoding="utf-8"))
        for name in ("report.css", "player.js", "report.js")
    )
    script = player + table
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
