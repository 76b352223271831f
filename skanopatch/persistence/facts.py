"""What is known of a fitted model, for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from skanopatch.audio import printable_path
from skanopatch.inspection.decisions import decider, known_groups, split_model
from skanopatch.persistence.encoding import RUNTIME_PARAMS, runtime_defaults


def facts_of(model: Any) -> dict[str, Any]:
    """Return the facts that ``skanopatch info`` lists; None is what a model does not have."""
    end = decider(model)
    try:
        patcher = split_model(model)[0]
    except ValueError:  # it does not go from clips to decisions
        patcher = None
    scores, offset = getattr(end, "training_scores_", None), getattr(end, "offset_", None)
    n_windows = None if scores is None else int(np.isfinite(scores).sum())
    return {
        "estimator": _parameters_in_words(model),
        "normal clips": len(clips_of(model)) or n_windows,
        "windows": n_windows,
        "machines": known_groups(model),
        "duration": getattr(patcher, "duration_", None),
        "sample rate": getattr(patcher, "sample_rate", None),
        "channel": getattr(patcher, "channel", None),
        "members": getattr(end, "members_", None),
        "separation": getattr(end, "separation_", None),
        "threshold distance": None if offset is None else -float(offset),
        "false-alarm rate": getattr(end, "false_alarm_rate", None),
        "changes": [_change_in_words(entry) for entry in getattr(end, "updates_", [])],
        "maps": getattr(end, "map_pipeline_", None) is not None or hasattr(end, "level_"),
    }


def clips_of(model: Any) -> list[str]:
    """Return the files that a model was fitted on, without those that could not be used."""
    detector = decider(model)
    names = getattr(detector, "clip_names_", [])
    used = np.isfinite(detector.training_scores_) if names else []
    files = dict.fromkeys(name for name, is_used in zip(names, used, strict=True) if is_used)
    return [printable_path(file) for file in files if file]


def _parameters_in_words(model: BaseEstimator) -> str:
    """Return the repr of a model as it comes back from a file."""
    params = model.get_params()
    defaults = {}
    for name in params:
        owner, _, own = name.rpartition("__")
        if own in RUNTIME_PARAMS:
            defaults[name] = runtime_defaults(params[owner] if owner else model)[own]
    return " ".join(repr(clone(model).set_params(**defaults)).split())


def _change_in_words(entry: dict[str, Any]) -> str:
    """Return what changed a model: "update with 5 clips at 2026-11-28T14:30:00+00:00"."""
    replaced = entry.get("replaced_before")
    of_earlier = f", without those from before {replaced}" if replaced else ""
    return f"{entry['action']} with {entry['n_clips']} clips at {entry['time']}{of_earlier}"
