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
DOMAINS = ("source", "target")
MAX_FPR = 0.1

_RESAMPLES_AT_A_TIME = 256


class Area(NamedTuple):
    """An area under the ROC curve: which clips it compares, up to which false-alarm rate."""

    normal_domain: str | None = None  # None takes both
    anomaly_domain: str | None = None
    max_fpr: float | None = None

    def rows(self, section: Section) -> NDArray[np.bool_]:
        """Return which clips of a section this area compares."""
        normal, anomalous = (
            domain is None or section.domain == domain
            for domain in (self.normal_domain, self.anomaly_domain)
        )
        return np.where(section.is_anomaly, anomalous, normal)


def check_year(year: int) -> None:
    """Raise if there was no challenge in a year."""
    if year not in YEARS:
        raise ValueError(
            f"year must be one of the challenges, {YEARS[0]} to {YEARS[-1]}. Got {year!r} instead."
        )


def areas_of(year: int) -> dict[str, Area]:
    """Return the areas of a year by name."""
    check_year(year)
    pauc = Area(max_fpr=MAX_FPR)
    if year == 2020:
        return {"auc": Area(), "pauc": pauc}
    if year == 2021:
        kinds = {"auc": None, "pauc": MAX_FPR}
        return {f"{kind}_{d}": Area(d, d, limit) for kind, limit in kinds.items() for d in DOMAINS}
    return {f"auc_{domain}": Area(normal_domain=domain) for domain in DOMAINS} | {"pauc": pauc}


class Section(NamedTuple):
    """The clips of one section."""

    machine: Hashable
    section: Hashable
    rows: NDArray[np.intp]  # of the clips, among all
    is_anomaly: NDArray[np.bool_]
    domain: NDArray


def split_sections(
    is_anomaly: NDArray[np.bool_], machine: Any, section: Any, domain: Any, areas: dict[str, Area]
) -> list[Section]:
    """Return the clips of each section, in the order of machine and section."""
    needs_domain = any(area.normal_domain for area in areas.values())
    if not needs_domain:
        domain = np.full(len(is_anomaly), "")
    elif domain is None:
        raise ValueError("domain must name the domain of each clip for every year but 2020.")
    arrays = {}
    for name, values in {"machine": machine, "section": section, "domain": domain}.items():
        arrays[name] = np.asarray(values)
        if arrays[name].shape != is_anomaly.shape:
            raise ValueError(
                f"{name} must have one entry per clip. Got the shape {arrays[name].shape} for "
                f"{len(is_anomaly)} clips."
            )
        # As objects: beside strings NaN would become the string "nan".
        missing = pd.isna(np.asarray(values, dtype=object))
        if missing.any():
            raise ValueError(f"{name} must not be missing. Clip {missing.argmax()} has none.")
    unknown = sorted(set(map(str, arrays["domain"])) - set(DOMAINS))
    if needs_domain and unknown:
        raise ValueError(f"domain must hold 'source' and 'target'. Got {unknown} as well.")

    groups: dict[tuple, list[int]] = {}
    for row, group in enumerate(
        zip(arrays["machine"].tolist(), arrays["section"].tolist(), strict=True)
    ):
        groups.setdefault(group, []).append(row)
    sections = [
        Section(name, number, np.array(rows), is_anomaly[rows], arrays["domain"][rows])
        for (name, number), rows in sorted(groups.items())
    ]
    for part in sections:
        for name, area in areas.items():
            compared = part.is_anomaly[area.rows(part)]
            for kind, of_domain, is_missing in (
                ("normal", area.normal_domain, compared.all()),
                ("anomalous", area.anomaly_domain, not compared.any()),
            ):
                if is_missing:
                    where = f" of the {of_domain} domain" if of_domain else ""
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
    values = np.empty((len(sections), len(areas)))
    for index, part in enumerate(sections):
        for column, area in enumerate(areas.values()):
            rows = area.rows(part)
            values[index, column] = roc_auc_score(
                part.is_anomaly[rows], anomaly_score[part.rows[rows]], max_fpr=area.max_fpr
            )
    return values


def resampled_areas(
    part: Section, anomaly_score: NDArray, areas: dict[str, Area], weights: NDArray
) -> NDArray[np.float64]:
    """Compute the areas of a section for each row of clip weights; (n_resamples, n_areas)."""
    values = np.empty((len(weights), len(areas)))
    for column, area in enumerate(areas.values()):
        rows = area.rows(part)
        for batch in gen_batches(len(weights), _RESAMPLES_AT_A_TIME):
            values[batch, column] = weighted_roc_area(
                part.is_anomaly[rows], anomaly_score[rows], weights[batch][:, rows], area.max_fpr
            )
    return values


def weighted_roc_area(
    is_anomaly: NDArray[np.bool_], anomaly_score: NDArray, weights: NDArray, max_fpr: float | None
) -> NDArray[np.float64]:
    """Compute `roc_auc_score` for each row of weights, how often each clip counts.

    The shape of `weights` is (n_resamples, n_clips), that of the result (n_resamples,). It is NaN
    where all clips of a kind have no weight.
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
        shares = np.full(len(rows), 1 / len(rows))
        weights[:, rows] = rng.multinomial(len(rows), shares, n_resamples)
    return weights
