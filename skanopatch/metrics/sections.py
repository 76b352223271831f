"""The sections of a data set, and the areas under the ROC curve that DCASE takes of each."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.utils import gen_batches

YEARS = range(2020, 2027)
MAX_FPR = 0.1

_RESAMPLES_AT_A_TIME = 256


class Area(NamedTuple):
    """An area under the ROC curve: which clips it compares, up to which false-alarm rate."""

    normal_domain: str | None  # None takes both
    anomaly_domain: str | None
    max_fpr: float | None

    def rows(self, section: Section) -> NDArray[np.bool_]:
        """Tell which clips of a section this area compares."""
        normal, anomalous = (
            domain is None or section.domain == domain
            for domain in (self.normal_domain, self.anomaly_domain)
        )
        return np.where(section.is_anomaly, anomalous, normal)


def areas_of(year: int) -> dict[str, Area]:
    """Return the areas of a year by name, or say that there was no such challenge."""
    if year not in YEARS:
        raise ValueError(
            f"year must be one of the challenges, {YEARS[0]} to {YEARS[-1]}. Got {year!r} instead."
        )
    if year == 2020:
        return {"auc": Area(None, None, None), "pauc": Area(None, None, MAX_FPR)}
    if year == 2021:
        return {
            "auc_source": Area("source", "source", None),
            "auc_target": Area("target", "target", None),
            "pauc_source": Area("source", "source", MAX_FPR),
            "pauc_target": Area("target", "target", MAX_FPR),
        }
    return {
        "auc_source": Area("source", None, None),  # the anomalous clips of both domains
        "auc_target": Area("target", None, None),
        "pauc": Area(None, None, MAX_FPR),
    }


class Section(NamedTuple):
    """The clips of one section."""

    machine: Hashable
    section: Hashable
    rows: NDArray[np.intp]  # of the clips, among all
    is_anomaly: NDArray[np.bool_]
    domain: NDArray


def split_sections(
    is_anomaly: NDArray[np.bool_],
    machine: Any,
    section: Any,
    domain: Any,
    areas: dict[str, Area],
) -> list[Section]:
    """Return the clips of each section, in the order of machine and section."""
    needs_domain = any(area.normal_domain for area in areas.values())
    if not needs_domain:
        domain = np.full(len(is_anomaly), "")
    elif domain is None:
        raise ValueError("domain must name the domain of each clip for every year but 2020.")
    columns = {"machine": machine, "section": section, "domain": domain}
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    for name, values in arrays.items():
        if values.shape != is_anomaly.shape:
            raise ValueError(
                f"{name} must have one entry per clip. Got the shape {values.shape} for "
                f"{len(is_anomaly)} clips."
            )
        # Beside strings NaN would become the string "nan".
        missing = pd.isna(np.asarray(columns[name], dtype=object))
        if missing.any():
            raise ValueError(f"{name} must not be missing. Clip {missing.argmax()} has none.")
    unknown = sorted(set(map(str, arrays["domain"])) - {"source", "target"})
    if needs_domain and unknown:
        raise ValueError(f"domain must hold 'source' and 'target'. Got {unknown} as well.")

    groups = pd.DataFrame(arrays).groupby(["machine", "section"]).indices
    sections = [
        Section(name, number, rows, is_anomaly[rows], arrays["domain"][rows])
        for (name, number), rows in sorted(groups.items())
    ]
    for part in sections:
        for name, area in areas.items():
            used = part.is_anomaly[area.rows(part)]
            for kind, domain_of_kind, n_clips in (
                ("normal", area.normal_domain, np.sum(~used)),
                ("anomalous", area.anomaly_domain, np.sum(used)),
            ):
                if n_clips == 0:
                    where = f" of the {domain_of_kind} domain" if domain_of_kind else ""
                    raise ValueError(
                        f"Section {part.section!r} of machine {part.machine!r} has no {kind} clip"
                        f"{where}, so that it has no {name}. Give all its clips, or leave the "
                        "section out."
                    )
    return sections


def area_values(
    sections: list[Section], anomaly_score: NDArray, areas: dict[str, Area]
) -> NDArray[np.float64]:
    """Compute the areas; shape (n_sections, n_areas)."""
    return np.array(
        [
            [
                roc_auc_score(
                    part.is_anomaly[area.rows(part)],
                    anomaly_score[part.rows[area.rows(part)]],
                    max_fpr=area.max_fpr,
                )
                for area in areas.values()
            ]
            for part in sections
        ]
    )


def resampled_areas(
    part: Section, anomaly_score: NDArray, areas: dict[str, Area], weights: NDArray
) -> NDArray[np.float64]:
    """Compute the areas of a section for each row of clip weights; (n_resamples, n_areas)."""
    found = np.empty((len(weights), len(areas)))
    for column, area in enumerate(areas.values()):
        rows = area.rows(part)
        for batch in gen_batches(len(weights), _RESAMPLES_AT_A_TIME):
            found[batch, column] = weighted_roc_area(
                part.is_anomaly[rows], anomaly_score[rows], weights[batch][:, rows], area.max_fpr
            )
    return found


def weighted_roc_area(
    is_anomaly: NDArray[np.bool_],
    anomaly_score: NDArray,
    weights: NDArray,
    max_fpr: float | None,
) -> NDArray[np.float64]:
    """Compute what `roc_auc_score` does, for many weightings of the same clips at once.

    Parameters
    ----------
    is_anomaly : ndarray of shape (n_clips,)
    anomaly_score : ndarray of shape (n_clips,)
    weights : ndarray of shape (n_resamples, n_clips)
        How often each clip counts: 0 leaves it out.
    max_fpr : float or None
        As in `roc_auc_score`.

    Returns
    -------
    areas : ndarray of shape (n_resamples,)
        NaN where all clips of a kind have no weight.
    """
    order = np.argsort(-anomaly_score)
    last_of_ties = np.append(np.flatnonzero(np.diff(anomaly_score[order])), len(order) - 1)
    with np.errstate(invalid="ignore"):
        tpr, fpr = (
            np.pad(counts / counts[:, -1:], [(0, 0), (1, 0)])
            for kind in (is_anomaly, ~is_anomaly)
            for counts in [np.cumsum((weights * kind)[:, order], axis=1)[:, last_of_ties]]
        )
    limit = 1.0 if max_fpr is None else max_fpr
    steps, rises = np.diff(fpr), np.diff(tpr)
    widths = np.diff(np.minimum(fpr, limit))
    # The step across the limit is cut there, on the straight line between its ends.
    cut = np.divide(widths, steps, out=np.zeros_like(widths), where=steps > 0)
    area = np.sum(widths * (tpr[:, :-1] + 0.5 * rises * cut), axis=1)
    if max_fpr is None:
        return area
    lowest = 0.5 * limit**2
    return 0.5 * (1 + (area - lowest) / (limit - lowest))


def bootstrap_weights(
    part: Section, n_resamples: int, rng: np.random.RandomState
) -> NDArray[np.float64]:
    """Draw how often each clip counts, within each domain and label; (n_resamples, n_clips)."""
    weights = np.empty((n_resamples, len(part.rows)))
    strata = pd.DataFrame({"domain": part.domain, "y": part.is_anomaly})
    for rows in strata.groupby(["domain", "y"]).indices.values():
        weights[:, rows] = rng.multinomial(
            len(rows), np.full(len(rows), 1 / len(rows)), n_resamples
        )
    return weights
