"""What is said about a clip: its score beside the threshold, and why it has none."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from skanopatch.audio import load_clip
from skanopatch.patching import MelPatcher


def score_threshold(detector: Any) -> int:
    """Return what scores are to exceed for an anomaly: 1, or 0 where a ratio says nothing."""
    return int(np.max(getattr(detector, "offset_", 0.0)) < 0)


def judge_clips(
    pipeline: Pipeline, clips: Sequence[Any], *, group: Hashable | None = None
) -> pd.DataFrame:
    """Score clips in a form to be read, and say what is wrong with those that cannot be used.

    Parameters
    ----------
    pipeline : Pipeline
        A fitted `MelPatcher`, embedder and detector.
    clips : sequence of clips
    group : hashable, default=None
        The group that a `GroupedDetector` judges all of them by.

    Returns
    -------
    verdicts : DataFrame of shape (n_clips, 3)
        ``score``, higher = more anomalous: that of the clip over that of the threshold where
        `offset_` is below 0, else minus the decision, see `score_threshold`. ``verdict``:
        "normal", "anomaly" or "unreadable". ``reason`` why it is unreadable, or "".
    """
    (name, patcher), *others = pipeline.steps
    forgiving = Pipeline([(name, copy(patcher).set_params(on_error="nan")), *others])
    with warnings.catch_warnings():
        # The verdicts name them.
        warnings.filterwarnings("ignore", message=".*clips cannot be used", category=UserWarning)
        embeddings = forgiving[:-1].transform(clips)
    metadata = {} if group is None else {"groups": [group] * len(clips)}
    detector = pipeline[-1]
    decision = detector.decision_function(embeddings, **metadata)
    score = 1 + decision / np.max(detector.offset_) if score_threshold(detector) else -decision
    verdict = np.select([np.isnan(decision), decision < 0], ["unreadable", "anomaly"], "normal")
    reason = [
        _why_unreadable(clip, patcher) if bad else ""
        for clip, bad in zip(clips, np.isnan(decision), strict=True)
    ]
    return pd.DataFrame({"score": score, "verdict": verdict, "reason": reason})


def _why_unreadable(clip: Any, patcher: MelPatcher) -> str:
    try:
        load_clip(clip, sample_rate=patcher.sample_rate, channel=patcher.channel)
    except ValueError as error:
        return str(error)
    return "its score is NaN"
