"""Folds: which clips are left out of a fit together, and how much a clip counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_FOLDS = 20  # more folds take longer and hardly change the false-alarm rate

_MUCH_NEARER = 0.7  # distance within a session, over that to other sessions
_FEW_SESSIONS = 5

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The clips that are kept, and those that are left out."""


def plan_folds(
    X: NDArray | None, domains: Sequence, sessions: Sequence | None, n_folds: int
) -> tuple[list[Fold], NDArray[np.float64]]:
    """Return the folds and the weights of the clips `X`; warn where sessions say little."""
    if sessions is not None:
        warn_of_sessions(X, sessions)
        if len(set(sessions)) < 2:
            sessions = None
    folds = split_folds(len(domains), domains=domains, sessions=sessions, n_folds=n_folds)
    return list(folds), session_weights(sessions, len(domains))


def split_folds(
    n_clips: int, *, domains: Iterable | None, sessions: Iterable | None, n_folds: int
) -> Iterator[Fold]:
    """Leave out clips in turn: whole sessions where these are given, and some of each domain.

    There are fewer folds than `n_folds` if there are fewer clips or sessions.
    """
    units = list(range(n_clips)) if sessions is None else list(sessions)
    domains = [None] * n_clips if domains is None else list(domains)
    # Units in the order of their domains: neighbours are left out in different folds.
    first_domain: dict[Hashable, Hashable] = {}
    for unit, domain in zip(units, domains, strict=True):
        first_domain.setdefault(unit, domain)
    rank_of_domain = {domain: i for i, domain in enumerate(dict.fromkeys(first_domain.values()))}
    ranked = sorted(first_domain, key=lambda unit: rank_of_domain[first_domain[unit]])
    fold_of_unit = {unit: rank % n_folds for rank, unit in enumerate(ranked)}
    fold_of = np.array([fold_of_unit[unit] for unit in units])
    for fold in np.unique(fold_of):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def cross_fit(
    folds: Iterable[Fold], domains: Sequence[Hashable], evaluate: Callable[..., Sequence[NDArray]]
) -> list[NDArray[np.float64]]:
    """Return what `evaluate(kept, left_out)` gives for each clip while it is left out.

    `evaluate` returns arrays with an entry for each clip of `left_out`. A clip is NaN if it is in
    no fold, or if its whole domain is left out with it.

    Raises
    ------
    ValueError
        If all clips are NaN.
    """
    collected: list[NDArray[np.float64]] = []
    for kept, left_out in folds:
        seen = {domains[row] for row in kept}
        unseen = [domains[row] not in seen for row in left_out]
        parts = evaluate(kept, left_out)
        if not collected:
            collected = [np.full((len(domains), *part.shape[1:]), np.nan) for part in parts]
        for whole, part in zip(collected, parts, strict=True):
            whole[left_out] = part
            whole[left_out[unseen]] = np.nan
    if np.isnan(collected[0]).all():
        raise ValueError(
            "sessions must leave clips of each domain to learn from. Each domain of "
            f"{list(dict.fromkeys(domains))!r} has one session only."
        )
    return collected


def session_weights(sessions: Sequence[Hashable] | None, n_clips: int) -> NDArray[np.float64]:
    """Return the weight of each clip: the clips of one session count as one clip together."""
    if sessions is None:
        return np.ones(n_clips)
    index = _index_of(sessions)
    return 1 / np.bincount(index)[index]


def _index_of(labels: Sequence[Hashable]) -> NDArray[np.intp]:
    indices: dict[Hashable, int] = {}
    return np.array([indices.setdefault(label, len(indices)) for label in labels], dtype=np.intp)


def warn_of_sessions(X: NDArray | None, sessions: Sequence[Hashable]) -> None:
    """Warn of few sessions, and of clips that are much nearer to those of their own session.

    `X` is an array of shape (n_clips, ...), whose rows with NaN are not compared, or None.
    """
    index = _index_of(sessions)
    n_sessions = index.max() + 1
    if n_sessions < 2:
        _warn(
            f"sessions are all the same for {len(index)} clips: how new sessions differ cannot be "
            "learnt, and single clips are left out to place the threshold. Its false-alarm rate "
            "holds for this session only."
        )
        return
    if n_sessions < _FEW_SESSIONS:
        _warn(
            f"{n_sessions} sessions are few to place a threshold by: how new sessions differ is "
            "hardly known, and faults may be missed. The least p-value is "
            f"{1 / (n_sessions + 1):.2g}. Give {_FEW_SESSIONS} sessions or more."
        )
    if X is None:
        return
    from sklearn.preprocessing import StandardScaler

    rows = X.reshape(len(X), -1).astype(np.float64)
    is_whole = ~np.isnan(rows).any(axis=1)
    if not is_whole.any():
        return
    near, far = _session_distances(StandardScaler().fit_transform(rows[is_whole]), index[is_whole])
    if near < _MUCH_NEARER * far:
        _warn(
            f"Clips of one session are much nearer to each other (median distance {near:.2g}) than "
            f"to clips of other sessions ({far:.2g}). Whole sessions are left out to place the "
            f"threshold, so it rests on {n_sessions} sessions, not on {len(index)} clips. Give "
            "more sessions if new ones raise false alarms."
        )


def _session_distances(rows: NDArray, sessions: NDArray[np.intp]) -> tuple[float, float]:
    """Return the median distances to the nearest clip of the same session, and of another one."""
    from sklearn.neighbors import NearestNeighbors  # slow to import

    inside, outside = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for session in np.unique(sessions):
        own = sessions == session
        if own.sum() > 1:
            inside[own] = NearestNeighbors(n_neighbors=1).fit(rows[own]).kneighbors()[0][:, 0]
        if not own.all():
            others = NearestNeighbors(n_neighbors=1).fit(rows[~own])
            outside[own] = others.kneighbors(rows[own])[0][:, 0]
    both = ~np.isnan(inside + outside)
    if not both.any():
        return np.nan, np.nan
    return float(np.median(inside[both])), float(np.median(outside[both]))


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=6)  # points to the caller of `fit`
