"""The scores of DCASE Challenge Task 2, 2020 to 2026, with intervals and comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
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
    """What `dcase_scores` returns.

    A column that ends in ``_ci95`` is half the width of the jackknife's 95 % interval of the column
    of the same name: the interval is value +- half width. It is NaN where a section has a single
    normal or anomalous clip to leave out.

    Attributes
    ----------
    year : int
        Of the challenge whose rules were applied.

    official : float
        The official score, from 0 to 1; chance is about 0.5.

    official_ci95 : float
        Half the width of its 95 % interval.

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
        names = [name for name in self.per_machine if not name.endswith("_ci95")]
        cells = {
            name: [
                f"{value:.4f} ± {half:.4f}"
                for value, half in self.per_machine[[name, f"{name}_ci95"]].to_numpy()
            ]
            for name in names
        }
        table = pd.DataFrame(cells, index=self.per_machine.index).to_string()
        return (
            f"{table}\n\nofficial score {self.year}: {self.official:.4f} ± {self.official_ci95:.4f}"
        )


@dataclass(frozen=True)
class DCASEComparison:
    """What `compare_dcase_scores` returns.

    Attributes
    ----------
    difference : float
        Official score of the second system minus that of the first.

    interval : tuple of (float, float)
        The bootstrap's 95 % interval of the difference. Systems differ by more than chance where
        it does not hold 0.

    share_better : float
        Share of the resamples in which the second system is better, ties counting half.

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

    machine : array-like of shape (n_clips,)
        Machine type of each clip.

    section : array-like of shape (n_clips,)
        Section of each clip, in 2020 the id of the machine.

    domain : array-like of shape (n_clips,), default=None
        "source" or "target". There is none in 2020, and what is given is ignored.

    year : int
        2020 to 2026.

    pos_label : hashable, default=-1
        The label of anomalous clips.

    Returns
    -------
    scores : DCASEScores
        With the attributes `official`, `per_machine` and `per_section`, each with 95 % intervals.

    Raises
    ------
    ValueError
        If `y` does not hold `pos_label` and one other label, a score is NaN, arrays differ in
        length, or a section lacks the clips for one of its areas.

    See Also
    --------
    compare_dcase_scores : Whether one system is better than another.

    Notes
    -----
    The challenge of 2020 ranked systems by their average rank over the machines and gave no score;
    `official` is then the mean over the machines of the mean of AUC and pAUC, as papers print it.

    The intervals leave out one clip at a time [1]_. The evaluators of 2022 and later print a number
    with the name "official score ci95" that is the mean of two intervals over the pooled clips of
    all machines, N - 1 times too narrow, since they take the leave-one-out values themselves for
    the pseudo-values of [1]_. The interval given here is that of the official score.

    Intervals and areas do not depend on how scores are scaled in a section, and no score is
    compared across sections.

    References
    ----------
    .. [1] A. Mesaros et al., "Sound event detection in the DCASE 2017 challenge", IEEE/ACM
       Transactions on Audio, Speech, and Language Processing 27(6), 2019, section IV.

    .. [2] T. Nishida et al., "Description and discussion on DCASE 2024 challenge task 2",
       arXiv:2406.07250.

    Examples
    --------
    >>> from skanopatch.metrics import dcase_scores
    >>> scores = dcase_scores(
    ...     [1, 1, 1, 1, -1, -1],
    ...     [0.1, 0.4, 0.2, 0.5, 0.3, 0.8],
    ...     machine=["fan"] * 6,
    ...     section=[0] * 6,
    ...     domain=["source", "source", "target", "target", "source", "target"],
    ...     year=2024,
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
    left_out: list[NDArray] = []
    section_ci95 = np.empty_like(values)
    for place, part in enumerate(sections):
        own = resampled_areas(part, anomaly_score[part.rows], areas, 1.0 - np.eye(len(part.rows)))
        for column, area in enumerate(areas.values()):
            section_ci95[place, column] = _jackknife_ci95(own[area.rows(part), column])
        all_values = np.repeat(values[np.newaxis], len(part.rows), axis=0)
        all_values[:, place] = own
        left_out.append(all_values)

    machine_index = pd.Index(dict.fromkeys(machines), name="machine")
    of_machine = [
        _machine_values(
            np.concatenate(
                [left for left, owner in zip(left_out, machines, strict=True) if owner == name]
            ),
            machines,
            year,
        )[:, place]
        for place, name in enumerate(machine_index)
    ]
    return DCASEScores(
        year=year,
        official=float(_official(values, machines, year)),
        official_ci95=float(_jackknife_ci95(_official(np.concatenate(left_out), machines, year))),
        per_machine=_table(
            _machine_values(values, machines, year),
            np.array([_jackknife_ci95(left) for left in of_machine]),
            [*areas, "official"],
            machine_index,
        ),
        per_section=_table(
            values,
            section_ci95,
            list(areas),
            pd.MultiIndex.from_tuples(
                [(part.machine, part.section) for part in sections], names=["machine", "section"]
            ),
        ),
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
    systems [1]_: what makes a clip hard for both does not widen the interval, and no resample lacks
    a kind of clips.

    Parameters
    ----------
    y : array-like of shape (n_clips,)
        Labels of two kinds.

    first_score, second_score : array-like of shape (n_clips,)
        Anomaly scores of the two systems, higher = more anomalous.

    machine, section, domain : array-like of shape (n_clips,)
        As in `dcase_scores`.

    year : int
        2020 to 2026.

    pos_label : hashable, default=-1
        The label of anomalous clips.

    n_resamples : int, default=2000
        Number of resamples.

    random_state : int, RandomState instance or None, default=None
        Determines the resamples. Pass an int for the same interval in every call.

    Returns
    -------
    comparison : DCASEComparison
        With the attributes `difference`, `interval`, `share_better` and `per_machine`.

    Raises
    ------
    ValueError
        As `dcase_scores` does.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8
       and 13.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.metrics import compare_dcase_scores
    >>> rng = np.random.default_rng(0)
    >>> y = np.tile([1, -1], 100)
    >>> coin, good = rng.normal(size=200), rng.normal(size=200) - 2 * y
    >>> comparison = compare_dcase_scores(
    ...     y, coin, good, machine=["fan"] * 200, section=[0] * 200, year=2020, random_state=0
    ... )
    >>> bool(comparison.interval[0] > 0)
    True
    """
    areas = areas_of(year)
    if not isinstance(n_resamples, Integral) or n_resamples < 1:
        raise ValueError(f"n_resamples must be an int of at least 1. Got {n_resamples!r} instead.")
    is_anomaly, first_score = validate_scores(y, first_score, pos_label)
    is_anomaly, second_score = validate_scores(y, second_score, pos_label)
    sections = split_sections(is_anomaly, machine, section, domain, areas)
    machines = [part.machine for part in sections]

    rng = check_random_state(random_state)
    resampled = np.empty((2, n_resamples, len(sections), len(areas)))
    for place, part in enumerate(sections):
        weights = bootstrap_weights(part, n_resamples, rng)
        for system, scores in enumerate((first_score, second_score)):
            resampled[system, :, place] = resampled_areas(part, scores[part.rows], areas, weights)
    values = np.stack(
        [area_values(sections, scores, areas) for scores in (first_score, second_score)]
    )

    overall = _difference(_official(values, machines, year), _official(resampled, machines, year))
    own = _difference(
        _machine_values(values, machines, year)[..., -1],
        _machine_values(resampled, machines, year)[..., -1],
    )
    difference, low, high, share_better = map(float, overall)
    return DCASEComparison(
        difference=difference,
        interval=(low, high),
        share_better=share_better,
        per_machine=pd.DataFrame(
            np.transpose(own),
            columns=["difference", "low", "high", "share_better"],
            index=pd.Index(dict.fromkeys(machines), name="machine"),
        ),
    )


def _average(values: NDArray, year: int, axis: int | tuple[int, ...]) -> NDArray[np.float64]:
    if year == 2020:
        return np.mean(values, axis=axis)
    return 1 / np.mean(1 / np.maximum(values, np.finfo(np.float64).eps), axis=axis)


def _official(values: NDArray, machines: list[Hashable], year: int) -> NDArray[np.float64]:
    """Average the areas, shape (..., n_sections, n_areas), into the official score."""
    if year == 2020:  # each machine counts the same, however many ids it has
        return _machine_values(values, machines, year)[..., -1].mean(axis=-1)
    return _average(values, year, axis=(-2, -1))


def _machine_values(values: NDArray, machines: list[Hashable], year: int) -> NDArray[np.float64]:
    """Average the areas over the sections of each machine, and these together.

    The shape (..., n_sections, n_areas) turns into (..., n_machines, n_areas + 1).
    """
    return np.stack(
        [
            np.append(
                _average(own, year, axis=-2),
                _average(own, year, axis=(-2, -1))[..., np.newaxis],
                axis=-1,
            )
            for own in _per_machine(values, machines)
        ],
        axis=-2,
    )


def _per_machine(values: NDArray, machines: list[Hashable]) -> Iterator[NDArray]:
    for name in dict.fromkeys(machines):
        yield values[..., [owner == name for owner in machines], :]


def _jackknife_ci95(left_out: NDArray) -> NDArray[np.float64]:
    """Half the width of the interval of a statistic from its leave-one-out values along axis 0."""
    n_clips = len(left_out)
    deviations = left_out - np.mean(left_out, axis=0)
    spread = np.sqrt((n_clips - 1) / n_clips * np.sum(deviations**2, axis=0))
    return stats.t.ppf((1 + CONFIDENCE) / 2, n_clips - 1) * spread


def _difference(values: NDArray, resampled: NDArray) -> tuple[NDArray, ...]:
    """Compare axis 0's two systems: difference, low and high end, share of better resamples."""
    differences = resampled[1] - resampled[0]
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    share_better = np.mean((differences > 0) + 0.5 * (differences == 0), axis=0)
    return values[1] - values[0], low, high, share_better


def _table(values: NDArray, ci95: NDArray, names: list[str], index: pd.Index) -> pd.DataFrame:
    """Put each column's interval beside it."""
    columns = {
        column: array[:, place]
        for place, name in enumerate(names)
        for column, array in ((name, values), (f"{name}_ci95", ci95))
    }
    return pd.DataFrame(columns, index=index)
