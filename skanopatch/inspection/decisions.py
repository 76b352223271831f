"""Decisions on clips as tables: scores relative to the threshold, and why a clip has none."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

from skanopatch.audio.clips import Clip, load_clip
from skanopatch.detectors import GroupedDetector
from skanopatch.detectors.metadata import call_with_groups, last_step
from skanopatch.model_selection.fit_on_normal import FitOnNormal
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.mel_patcher import MelPatcher

_BATCH_SIZE = 32  # clips whose patches are in memory at a time


def decision_table(
    model: Any,
    clips: Sequence[Clip],
    *,
    groups: Sequence[Hashable] | None = None,
    p_values: bool = False,
    verbose: int = 0,
) -> pd.DataFrame:
    """Score clips and decide on them.

    Parameters
    ----------
    model : estimator
        Fitted on clips: an `AnomalousSoundDetector`, or a pipeline from a `MelPatcher` to a
        detector, or a `FitOnNormal` of such.
    clips : sequence of clips
    groups : sequence of hashables of length n_clips, default=None
        The machine of each clip, for models that were fitted with groups.
    p_values : bool, default=False
        Whether to compute p-values.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    table : DataFrame of shape (n_clips, 3 or 4)
        ``score``: the distance over that of the threshold, above 1 is an anomaly. ``decision``:
        "normal", "anomaly" or "unreadable". ``reason``: why it is unreadable, or "".
        ``p_value``, if asked for.
    """
    patcher, detector = split_model(model)
    offset = float(last_step(detector).offset_)
    tables = []
    with tqdm(total=len(clips), desc="Scoring", disable=not verbose, leave=False) as bar:
        for rows in gen_batches(len(clips), _BATCH_SIZE):
            own = None if groups is None else list(groups[rows])
            patches = read_patches(patcher, clips[rows])
            scores = call_with_groups(detector, "score_samples", patches, own)
            is_nan = np.isnan(scores)
            decisions = np.select([is_nan, scores < offset], ["unreadable", "anomaly"], "normal")
            reasons = [
                _why_unreadable(clip, patcher) if bad else ""
                for clip, bad in zip(clips[rows], is_nan, strict=True)
            ]
            table = pd.DataFrame({"score": relative_scores(scores, offset), "decision": decisions})
            table["reason"] = reasons
            if p_values:
                table["p_value"] = call_with_groups(detector, "p_values", patches, own)
            tables.append(table)
            bar.update(len(decisions))
    return pd.concat(tables, ignore_index=True)


def relative_scores(scores: NDArray, offset: float) -> NDArray[np.float64]:
    """Return distances over that of the threshold, of scores that are minus distances."""
    if offset < 0:
        return scores / offset
    # Normal clips that were all the same, or a detector whose scores are no distances.
    with np.errstate(over="ignore"):
        return 1 + (offset - scores) / max(offset, np.finfo(np.float64).tiny)


def split_model(model: Any) -> tuple[MelPatcher, Any]:
    """Return the patcher of a model, and an estimator that takes its patches.

    The patcher is a copy that leaves clips NaN which it cannot use.

    Raises
    ------
    ValueError
        If the model does not go from clips to decisions.
    """
    patcher, detector = None, _without_wrapper(model)
    if isinstance(detector, Pipeline):
        patcher, rest = detector[0], detector[1:]
        detector = rest if len(rest) > 1 else rest[0]
    elif isinstance(detector, AnomalousSoundDetector):
        patcher = detector.patcher_
        detector = copy(detector)
        detector.patcher_ = None
    if not (isinstance(patcher, MelPatcher) and hasattr(last_step(detector), "offset_")):
        raise ValueError(
            "The model must be an AnomalousSoundDetector of clips, or a pipeline from a MelPatcher "
            f"to a detector. Got {model!r} instead."
        )
    return copy(patcher).set_params(on_error="nan"), detector


def decider(model: Any) -> Any:
    """Return the estimator that has the threshold: the last step of a pipeline, or the model."""
    return last_step(_without_wrapper(model))


def known_groups(model: Any) -> list[Hashable]:
    """Return the groups that a model was fitted with."""
    detector = decider(model)
    if isinstance(detector, GroupedDetector):
        return [group for group in detector.detectors_ if group is not None]
    return list(getattr(detector, "groups_", []))


def _without_wrapper(model: Any) -> Any:
    return model.estimator_ if isinstance(model, FitOnNormal) else model


def read_patches(patcher: MelPatcher, clips: Sequence[Clip]) -> NDArray[np.float32]:
    """Return the patches of clips, NaN without a warning for those that cannot be used."""
    with warnings.catch_warnings():
        # Tables list them, with the reason.
        warnings.filterwarnings("ignore", message=".*clips cannot be used", category=UserWarning)
        return np.asarray(patcher.transform(list(clips)))


def _why_unreadable(clip: Clip, patcher: MelPatcher) -> str:
    try:
        load_clip(clip, sample_rate=patcher.sample_rate, channel=patcher.channel)
    except ValueError as error:
        return str(error)
    return "its score is NaN"
