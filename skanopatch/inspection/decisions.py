"""Decisions on clips as tables: scores relative to the threshold, and why a clip has none.

The scale for people is the distance of a clip over that of the threshold, ``score_samples(X) /
offset_``: higher is more anomalous, and above 1 is an anomaly.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

from skanopatch.audio import Clip, load_clip
from skanopatch.detectors import GroupedDetector
from skanopatch.detectors.metadata import at_the_end, call_with_groups, last_step
from skanopatch.model_selection.fit_on_normal import FitOnNormal
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.recipes.windows import Windows, cut_windows
from skanopatch.spectra.mel_patcher import MelPatcher

_BATCH_SIZE = 32  # clips whose patches are in memory at a time
_TABLES_LIST_THEM: dict[str, Any] = {"message": ".*clips cannot be used", "category": UserWarning}


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
    table : DataFrame with a row for each clip
        ``score``: as `relative_scores` gives it, above 1 is an anomaly. ``decision``: "normal",
        "anomaly" or "unreadable". ``reason``: why it is unreadable, or "". ``p_value``, if asked
        for. Of an `AnomalousSoundDetector` also ``start`` and ``stop`` of the worst window and the
        ``length`` of the clip in seconds, ``n_windows``, and the ``note`` on its recording.
    """
    patcher, detector = split_model(model)
    offset = float(last_step(detector).offset_)
    recipe = copy(unwrap(model))
    recipe.patcher_ = patcher
    tables: list[pd.DataFrame] = []
    bar = tqdm(total=len(clips), desc="Scoring", disable=not verbose, leave=False)
    with bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", **_TABLES_LIST_THEM)
        for rows in gen_batches(len(clips), _BATCH_SIZE):
            own = None if groups is None else list(groups[rows])
            if isinstance(recipe, AnomalousSoundDetector):
                columns = recipe.examine(clips[rows], groups=own)
            else:
                patches = read_patches(patcher, clips[rows])
                methods = ["score_samples", "p_values"][: 1 + p_values]
                values = [call_with_groups(detector, name, patches, own) for name in methods]
                columns = dict(zip(["scores", "p_values"], values, strict=False))
            tables.append(pd.DataFrame(columns))
            bar.update(len(tables[-1]))
    table = pd.concat(tables, ignore_index=True)
    table = table.rename(
        columns={name: name.removesuffix("s") for name in table if name != "n_windows"}
    )
    if not p_values:
        table = table.drop(columns="p_value", errors="ignore")
    is_nan = table.score.isna()
    decisions = np.select([is_nan, table.score < offset], ["unreadable", "anomaly"], "normal")
    table["score"] = relative_scores(table.score.to_numpy(), offset)
    table.insert(1, "decision", decisions)
    reasons = [_why_unreadable(clips[i], patcher) if is_nan[i] else "" for i in table.index]
    table.insert(2, "reason", reasons)
    return table


def relative_scores(scores: NDArray, offset: float) -> NDArray[np.float64]:
    """Return scores for people: 1 is the threshold, and higher is more anomalous.

    Parameters
    ----------
    scores : ndarray of shape (n_clips,)
        As `score_samples` gives them: minus distances, or likelihoods.
    offset : float
        The attribute `offset_` of the detector.

    Returns
    -------
    relative : ndarray of shape (n_clips,)
        ``scores / offset``, the distance over that of the threshold, where `offset` is negative;
        else ``1 + (offset - scores) / offset``.
    """
    if offset < 0:
        return scores / offset
    # A detector of likelihoods; or an offset of 0, since all normal clips were the same.
    with np.errstate(over="ignore"):
        return 1 + (offset - scores) / max(offset, np.finfo(np.float64).tiny)


def anomaly_scores(
    estimator: Any, X: Any, params: Mapping[str, Any] | None = None
) -> tuple[NDArray[np.float64], float]:
    """Return the scores of clips to be drawn, higher = more anomalous, and the threshold.

    They are `relative_scores`, with the threshold at 1, where `offset_` of the detector is
    negative. Else they are minus the `decision_function`, with the threshold at 0: likelihoods
    have no ratio.
    """
    # A pipeline routes metadata to decision_function, and not to score_samples.
    decision = np.asarray(estimator.decision_function(X, **(params or {})), dtype=np.float64)
    offset = getattr(decider(estimator), "offset_", 0.0)
    return (relative_scores(decision + offset, offset), 1.0) if offset < 0 else (-decision, 0.0)


def split_model(model: Any) -> tuple[MelPatcher, Any]:
    """Return the patcher of a model, and an estimator that takes its patches.

    The patcher is a copy that leaves clips NaN which it cannot use. A model that does not go from
    clips to decisions raises a ValueError.
    """
    patcher, detector = patcher_of(model), unwrap(model)
    if isinstance(detector, Pipeline):
        rest = detector[1:]
        detector = rest if len(rest) > 1 else rest[0]
    else:
        detector = copy(detector)
        detector.patcher_ = None
    if not hasattr(last_step(detector), "offset_"):
        raise _wrong_model(model)
    return copy(patcher).set_params(on_error="nan"), detector


def patcher_of(model: Any) -> MelPatcher:
    """Return the patcher of a model, or raise if the model does not take clips."""
    inner = unwrap(model)
    patcher = inner[0] if isinstance(inner, Pipeline) else getattr(inner, "patcher_", None)
    if not isinstance(patcher, MelPatcher):
        raise _wrong_model(model)
    return patcher


def _wrong_model(model: Any) -> ValueError:
    return ValueError(
        "The model must be an AnomalousSoundDetector of clips, or a pipeline from a MelPatcher "
        f"to a detector. Got {model!r} instead."
    )


def windows_of(model: AnomalousSoundDetector, clips: Sequence[Clip]) -> Windows:
    """Return the windows that a model takes clips apart into."""
    rate, duration = model.patcher_.sample_rate, model.patcher_.duration_
    return cut_windows(clips, duration=duration, hop=model.hop, sample_rate=rate)


def clips_from(
    model: AnomalousSoundDetector, clips: Sequence[Clip], starts: NDArray[np.float64]
) -> list[Clip]:
    """Return the window of each clip that begins at `starts`, in seconds."""
    if not len(clips):
        return []
    windows = windows_of(model, clips)
    rows = np.flatnonzero(windows.starts == np.repeat(starts, windows.numbers))
    return [windows.X[row] for row in rows]


def detector_input(model: Any, X: Any) -> Any:
    """Return what the detector of a model gets of clips: one embedding per clip.

    Of an `AnomalousSoundDetector` that is what its last member gets: the network, if it joined.
    """
    model = unwrap(model)
    if isinstance(model, AnomalousSoundDetector):
        X = X if model.patcher_ is None else model.patcher_.transform(X)
        model = getattr(model.detector_, "detectors_", [model.detector_])[-1]
    return at_the_end(model, X)[1]


def decider(model: Any) -> Any:
    """Return the estimator that has the threshold: the last step of a pipeline, or the model."""
    return last_step(unwrap(model))


def known_groups(model: Any) -> list[Hashable]:
    """Return the groups that a model was fitted with."""
    detector = decider(model)
    if isinstance(detector, GroupedDetector):
        return [group for group in detector.detectors_ if group is not None]
    return list(getattr(detector, "groups_", []))


def unwrap(model: Any) -> Any:
    """Return the fitted estimator of a search or a `FitOnNormal`; other estimators themselves."""
    model = getattr(model, "best_estimator_", model)
    return model.estimator_ if isinstance(model, FitOnNormal) else model


def read_patches(patcher: MelPatcher, clips: Sequence[Clip]) -> NDArray[np.float32]:
    """Return the patches of clips, NaN without a warning for those that cannot be used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", **_TABLES_LIST_THEM)
        return np.asarray(patcher.transform(list(clips)))


def _why_unreadable(clip: Clip, patcher: MelPatcher) -> str:
    try:
        load_clip(clip, sample_rate=patcher.sample_rate, channel=patcher.channel)
    except ValueError as error:
        return str(error)
    return "its score is NaN"
