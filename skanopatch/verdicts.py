"""What is said about a clip: its score beside the threshold, and why it has none."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from skanopatch.audio import Clip, load_clip
from skanopatch.detectors import GMMDetector, GroupedDetector
from skanopatch.patching import MelPatcher


def judge_clips(
    pipeline: Pipeline,
    clips: Sequence[Clip],
    embeddings: NDArray,
    *,
    groups: Sequence[Hashable] | None = None,
) -> tuple[pd.DataFrame, int]:
    """Score clips in a form to be read, and say what is wrong with those that cannot be used.

    Parameters
    ----------
    pipeline : Pipeline
        A fitted `MelPatcher`, embedder and detector.
    clips : sequence of clips
    embeddings : ndarray of shape (n_clips, n_dims)
        What `embed_readable` made of them.
    groups : sequence of hashables of length n_clips, default=None
        What a `GroupedDetector` scores by. Other detectors know no groups.

    Returns
    -------
    verdicts : DataFrame of shape (n_clips, 3)
        ``score``: the distance over that of the threshold; where the detector knows no distance
        (`GMMDetector`, or several detectors), minus `decision_function`. ``verdict``: "normal",
        "anomaly" or "unreadable". ``reason``: why it is unreadable, or "".
    threshold : int
        What the score of an anomaly exceeds: 1 or 0.
    """
    detector, metadata = pipeline[-1], {}
    if groups is not None and isinstance(detector, GroupedDetector):
        metadata = {"groups": groups}
    decision = detector.decision_function(embeddings, **metadata)
    offset = float(np.max(getattr(detector, "offset_", 0.0)))
    # A likelihood is no distance, though its logarithm may be below 0 at the threshold too.
    is_distance = offset < 0 and not isinstance(detector, GMMDetector)
    threshold = 1 if is_distance else 0
    is_nan = np.isnan(decision)
    verdicts = pd.DataFrame({"score": decision / offset + 1 if threshold else -decision})
    verdicts["verdict"] = np.select([is_nan, decision < 0], ["unreadable", "anomaly"], "normal")
    verdicts["reason"] = [
        _why_unreadable(clip, pipeline[0]) if bad else ""
        for clip, bad in zip(clips, is_nan, strict=True)
    ]
    return verdicts, threshold


def embed_readable(pipeline: Pipeline, clips: Sequence[Clip]) -> NDArray:
    """Return the embeddings of clips, without a word NaN for those that cannot be used."""
    with no_warning_of_unreadable_clips():
        return np.asarray(forgive(pipeline)[:-1].transform(clips))


def forgive(pipeline: Pipeline) -> Pipeline:
    """Return a fitted pipeline that leaves clips NaN which it cannot use."""
    (name, patcher), *others = pipeline.steps
    return Pipeline([(name, copy(patcher).set_params(on_error="nan")), *others])


@contextmanager
def no_warning_of_unreadable_clips() -> Iterator[None]:
    """Be silent about what the verdicts tell, with the reason."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*clips cannot be used", category=UserWarning)
        yield


def _why_unreadable(clip: Clip, patcher: MelPatcher) -> str:
    try:
        load_clip(clip, sample_rate=patcher.sample_rate, channel=patcher.channel)
    except ValueError as error:
        return str(error)
    return "its score is NaN"
