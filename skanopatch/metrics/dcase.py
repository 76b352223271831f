"""The scores of DCASE Challenge Task 2, 2020 to 2026, with intervals and comparisons."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.utils import check_random_state

from skanopatch.metrics.roc import validate_scores
from skanopatch.metrics.sections import (
    area_values,
    areas_of,
    bootstrap_weights,
    resampled_areas,
    split_sections,
)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class DCASEScores:
    """Official scores of DCASE Task 2 with intervals, from `dcase_scores`.

    A column that ends in ``_ci95`` is half the width of the 95 % jackknife interval of the column
    of the same name. It is NaN where a section has a single normal or anomalous clip to leave out.

    Attributes
    ----------
    year : int
        The year of the challenge whose rules were used.
    official, official_ci95 : float
        The official score, from 0 to 1, where chance is about 0.5.
    per_machine : DataFrame of shape (n_machines, 2 * (n_areas + 1))
        Each area averaged over the sections of a machine, and ``official``, the average of them
        all. Indexed by machine.
    per_section : DataFrame of shape (n_sections, 2 * n_areas)
        ``auc_source``, ``auc_target`` and ``pauc``; in 2021 ``pauc_source`` and ``pauc_target``
        for the latter; in 2020 ``auc`` and ``pauc``. Indexed by machine and section.
    """

    year: int
    official: float
    official_ci95: float
    per_machine: pd.DataFrame
    per_section: pd.DataFrame

    def __str__(self) -> str:
        columns = {
            name: values.map("{:.4f}".format)
            + self.per_machine[f"{name}_ci95"].map(" ± {:.4f}".format)
            for name, values in self.per_machine.items()
            if not name.endswith("_ci95")
        }
        official = f"{self.official:.4f} ± {self.official_ci95:.4f}"
        return f"{pd.DataFrame(columns).to_string()}\n\nofficial score {self.year}: {official}"


@dataclass(frozen=True)
class DCASEComparison:
    """Difference between two systems, from `compare_dcase_scores`.

    Attributes
    ----------
    difference : float
        Official score of the second system minus that of the first.
    interval : tuple of (float, float)
        Its 95 % bootstrap interval. If it does not contain 0, the difference is more than chance.
    share_better : float
        Share of the resamples in which the second system is better. Equal scores count half.
    per_machine : DataFrame of shape (n_machines, 4)
        The same for each machine: ``difference``, ``low``, ``high`` and ``share_better``.
    """

    difference: float
    interval: tuple[float, float]
    share_better: float
    per_machine: pd.DataFrame


def dcase_scores(
    y: Any,
    anomaly_score: Any,
    *,
    machine: Any,
    section: Any,
    domain: Any = None,
    year: int,
    pos_label: Hashable = -1,
) -> DCASEScores:
    """Compute the scores of DCASE Challenge Task 2 by the rules of a year.

    ============  =======================================================  =======================
    year          areas of each section                                    average
    ============  =======================================================  =======================
    2020          AUC, pAUC                                                arithmetic, a machine
    2021          AUC and pAUC of either domain, of that domain's clips    harmonic, over all
    2022 to 2026  AUC of the normal clips of either domain against the     harmonic, over all
                  anomalous ones of both; pAUC of all clips
    ============  =======================================================  =======================

    pAUC is McClish's up to a false-alarm rate of 0.1, as in `pauc_score`. The harmonic mean is one
    flat mean over every area of every section and machine, each at least 2.2e-16.

    Parameters
    ----------
    y : array-like of shape (n_clips,)
        Labels of two kinds: +1 and -1, 0 and 1, booleans or strings.
    anomaly_score : array-like of shape (n_clips,)
        Higher is more anomalous.
    machine, section : array-like of shape (n_clips,)
        Machine type and section of each clip, in 2020 the id of the machine.
    domain : array-like of shape (n_clips,), default=None
        "source" or "target". Ignored in 2020, which has none.
    year : int
        2020 to 2026.
    pos_label : hashable, default=-1
        The label of anomalous clips.

    Returns
    -------
    scores : DCASEScores

    Raises
    ------
    ValueError
        If `y` does not hold `pos_label` and one other label, a score is NaN, arrays differ in
        length, or a section lacks the clips for one of its areas.

    Notes
    -----
    Intervals leave out one clip at a time [1]_. In 2020 systems were ranked by machine, without a
    score; `official` is then the mean over the machines of the mean of AUC and pAUC, as papers
    print it. Scores are compared within a section only.

    References
    ----------
    .. [1] A. Mesaros et al., "Sound event detection in the DCASE 2017 challenge", IEEE/ACM
       Transactions on Audio, Speech, and Language Processing 27(6), 2019, section IV.

    Examples
    --------
    >>> from skanopatch.metrics import dcase_scores
    >>> scores = dcase_scores(
    ...     [1, 1, 1, 1, -1, -1], [0.1, 0.4, 0.2, 0.5, 0.3, 0.8], machine=["fan"] * 6,
    ...     section=[0] * 6, year=2024,
    ...     domain=["source", "source", "target", "target", "source", "target"],
    ... )
    >>> scores.per_section[["auc_source", "auc_target"]]
                     auc_source  auc_target
    machine section
    fan     0              0.75        0.75
    """
    areas = areas_of(year)
    is_anomaly, anomaly_score = validate_scores(y, anomaly_score, pos_label)
    sections = split_sections(is_anomaly, machine, section, domain, areas)
    machines = [part.machine for part in sections]

    values = area_values(sections, anomaly_score, areas)
    left_out: list[NDArray] = []  # for each section: all areas without each of its clips
    section_ci95 = np.empty_like(values)
    for index, part in enumerate(sections):
        own = resampled_areas(part, anomaly_score[part.rows], areas, 1.0 - np.eye(len(part.rows)))
        for column, area in enumerate(areas.values()):
            section_ci95[index, column] = _jackknife_ci95(own[area.rows(part), column])
        left_out.append(np.repeat(values[np.newaxis], len(own), axis=0))
        left_out[-1][:, index] = own

    machine_values, official = _averages(values, machines, year)
    machines_left_out, official_left_out = _averages(np.concatenate(left_out), machines, year)
    machine_of_clip = np.repeat(np.array(machines, dtype=object), list(map(len, left_out)))
    names = pd.Index(dict.fromkeys(machines), name="machine")
    machine_ci95 = [
        _jackknife_ci95(machines_left_out[machine_of_clip == name, index])
        for index, name in enumerate(names)
    ]
    keys = [(part.machine, part.section) for part in sections]
    section_index = pd.MultiIndex.from_tuples(keys, names=["machine", "section"])
    return DCASEScores(
        year=year,
        official=float(official),
        official_ci95=float(_jackknife_ci95(official_left_out)),
        per_machine=_table(machine_values, machine_ci95, [*areas, "official"], names),
        per_section=_table(values, section_ci95, list(areas), section_index),
    )


def compare_dcase_scores(
    y: Any,
    first_score: Any,
    second_score: Any,
    *,
    machine: Any,
    section: Any,
    domain: Any = None,
    year: int,
    pos_label: Hashable = -1,
    n_resamples: int = 2000,
    random_state: int | np.random.RandomState | None = None,
) -> DCASEComparison:
    """Compare the official scores of two systems on the same clips, by a paired bootstrap.

    Clips are drawn with replacement within each section, domain and label, the same for both
    systems (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8): what is hard
    for both does not widen the interval.

    Parameters
    ----------
    y : array-like of shape (n_clips,)
        Labels of two kinds.
    first_score, second_score : array-like of shape (n_clips,)
        Anomaly scores of the two systems, higher = more anomalous.
    machine, section, domain, year, pos_label
        As in `dcase_scores`.
    n_resamples : int, default=2000
        Number of bootstrap samples.
    random_state : int, RandomState instance or None, default=None
        Determines the resamples. Pass an int for the same interval in every call.

    Returns
    -------
    comparison : DCASEComparison

    Raises
    ------
    ValueError
        As `dcase_scores` does.
    """
    areas = areas_of(year)
    if not isinstance(n_resamples, Integral) or n_resamples < 1:
        raise ValueError(f"n_resamples must be an int of at least 1. Got {n_resamples!r} instead.")
    is_anomaly, first_score = validate_scores(y, first_score, pos_label)
    is_anomaly, second_score = validate_scores(y, second_score, pos_label)
    systems = (first_score, second_score)
    sections = split_sections(is_anomaly, machine, section, domain, areas)
    machines = [part.machine for part in sections]
    rng = check_random_state(random_state)
    resampled = np.empty((2, n_resamples, len(sections), len(areas)))
    for index, part in enumerate(sections):
        weights = bootstrap_weights(part, n_resamples, rng)
        for system, scores in enumerate(systems):
            resampled[system, :, index] = resampled_areas(part, scores[part.rows], areas, weights)
    values = np.stack([area_values(sections, scores, areas) for scores in systems])
    samples = np.concatenate([values[:, np.newaxis], resampled], axis=1)
    per_machine, official = _averages(samples, machines, year)
    difference, low, high, share_better = _compare(official).tolist()
    return DCASEComparison(
        difference=difference,
        interval=(low, high),
        share_better=share_better,
        per_machine=pd.DataFrame(
            _compare(per_machine[..., -1]).T,
            columns=["difference", "low", "high", "share_better"],
            index=pd.Index(dict.fromkeys(machines), name="machine"),
        ),
    )


def _average(values: NDArray, year: int, axis: int | tuple[int, ...]) -> NDArray[np.float64]:
    if year == 2020:
        return np.mean(values, axis=axis)
    return 1 / np.mean(1 / np.maximum(values, np.finfo(np.float64).eps), axis=axis)


def _averages(
    values: NDArray, machines: list[Hashable], year: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average the areas, (..., n_sections, n_areas), of each machine and of all.

    The shapes are (..., n_machines, n_areas + 1), the last column being the average of all areas of
    a machine, and (...), the official score.
    """
    parts = []
    for name in dict.fromkeys(machines):
        own = values[..., [owner == name for owner in machines], :]
        together = _average(own, year, axis=(-2, -1))[..., np.newaxis]
        parts.append(np.append(_average(own, year, axis=-2), together, axis=-1))
    per_machine = np.stack(parts, axis=-2)
    if year == 2020:  # each machine counts the same, however many ids it has
        return per_machine, per_machine[..., -1].mean(axis=-1)
    return per_machine, _average(values, year, axis=(-2, -1))


def _jackknife_ci95(left_out: NDArray) -> NDArray[np.float64]:
    """Half the width of the interval of a statistic from its leave-one-out values along axis 0."""
    n_clips = len(left_out)
    deviations = left_out - np.mean(left_out, axis=0)
    spread = np.sqrt((n_clips - 1) / n_clips * np.sum(deviations**2, axis=0))
    return stats.t.ppf((1 + CONFIDENCE) / 2, n_clips - 1) * spread


def _compare(samples: NDArray) -> NDArray[np.float64]:
    """Compare two systems, axis 0: difference, low and high end, share of better resamples.

    The first of axis 1 is the score of the clips, the others are those of the resamples.
    """
    difference, *resampled = samples[1] - samples[0]
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    share_better = np.mean(np.sign(resampled) / 2 + 0.5, axis=0)
    return np.array([difference, low, high, share_better])


def _table(values: NDArray, ci95: Any, names: list[str], index: pd.Index) -> pd.DataFrame:
    """Put each column's interval beside it."""
    columns = [column for name in names for column in (name, f"{name}_ci95")]
    pairs = np.stack([values, ci95], axis=2).reshape(len(values), -1)
    return pd.DataFrame(pairs, columns=columns, index=index)
