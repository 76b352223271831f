"""What `AnomalousSoundDetector` decides: its parts, its domains, and whether a network joins."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from skanopatch.audio.labels import are_separable, encode_labels
from skanopatch.detectors import GroupedDetector, KNNDetector, MahalanobisDetector
from skanopatch.detectors.folds import split_folds
from skanopatch.spectra.patches import take_clips

_LEAST_TO_TRAIN = 64  # clips: a network learns fewer by heart
_HELD_OUT_FOLDS = 10  # of which one is held out of a network's training


def may_join(embedder: Any) -> bool:
    """Return whether an embedder is a network that joins the statistics."""
    from skanopatch.backbones import joins_statistics
    from skanopatch.embedding.embedder import AnoPatchEmbedder

    return (
        isinstance(embedder, AnoPatchEmbedder)
        and embedder.statistics
        and embedder.output == "clip"
        and joins_statistics(embedder.backbone)
    )


def with_scale(end: BaseEstimator) -> BaseEstimator:
    """Let a detector that takes features as they are divide them by their spread."""
    end = clone(end)
    inner = end.detector if isinstance(end, GroupedDetector) else end
    if isinstance(inner, KNNDetector):
        inner.set_params(standardize=True)
    return end


def domains_of(metadata: dict[str, list]) -> list[Hashable] | None:
    """Return the domains, or the labels where these can serve as such."""
    if "domains" in metadata or "labels" not in metadata:
        return metadata.get("domains")
    classes, target = encode_labels(metadata["labels"], len(metadata["labels"]))
    labels = [classes[index] for index in target]
    groups = metadata.get("groups", [None] * len(labels))
    pairs = list(zip(groups, labels, strict=True))
    sizes = Counter(pairs)
    # A threshold needs a label of its group in two sessions, of which one can be left out.
    sessions = metadata.get("sessions", range(len(labels)))
    n_sessions = Counter(pair for pair, _ in set(zip(pairs, sessions, strict=True)))
    shown = {group for (group, _), number in n_sessions.items() if number > 1}
    if min(sizes.values()) < 2:
        reason = (
            f"labels have {len(classes)} values for {len(target)} clips, and one has "
            f"{min(sizes.values())} clip(s){' in a group' if 'groups' in metadata else ''}: clips "
            "of one label hardly show how they vary"
        )
        remedy = "labels that more clips share, such as the unit"
    elif shown != set(groups):
        reason = (
            f"Each of {len(classes)} labels is in one session only"
            f"{', in a group at least' if 'groups' in metadata else ''}: clips of one label do not "
            "show how they vary from session to session"
        )
        remedy = "clips of more sessions, or leave out sessions"
    else:
        return labels
    warnings.warn(
        f"{reason}, so that the statistics are modelled without labels. Give {remedy}.",
        UserWarning,
        stacklevel=5,
    )
    return None


def train_network(
    embedder: Any, patches: Any, statistics: NDArray, metadata: dict[str, list]
) -> tuple[Any, dict[str, float] | None]:
    """Train a network on labels, if it is likely to learn what holds for other clips.

    Parameters
    ----------
    embedder : AnoPatchEmbedder
        It is fitted.
    patches : ndarray or LazyPatches of shape (n_clips, n_time, n_freq, patch_area)
    statistics : ndarray of shape (n_clips, n_statistics)
        NaN for clips that cannot be read.
    metadata : dict
        With "labels", and maybe "sessions", of which whole ones are held out of the training.

    Returns
    -------
    network : AnoPatchEmbedder or None
        None where none was trained, or where it separates the classes of clips that it was not
        trained on no better than the statistics do.
    separation : dict or None
        Of the "network" and the "statistics", where one was trained, see `_separation`.
    """
    labels, settings = metadata["labels"], embedder.fine_tuning
    rows = np.flatnonzero(np.isfinite(statistics).all(axis=1))
    _, target = encode_labels(labels, len(labels))
    is_frozen = settings is not None and settings.tuning == "frozen"
    if (
        is_frozen
        or len(rows) < _LEAST_TO_TRAIN
        or not are_separable(target[rows], statistics[rows])
    ):
        return None, None
    sessions = metadata.get("sessions")
    folds = split_folds(
        len(rows),
        domains=target[rows].tolist(),
        sessions=None if sessions is None else [sessions[row] for row in rows],
        n_folds=_HELD_OUT_FOLDS,
    )
    kept, held_out = (rows[part] for part in next(iter(folds)))
    if not set(target[held_out]) <= set(target[kept]):
        return None, None
    embedder.fit(take_clips(patches, kept), labels=[labels[row] for row in kept])
    # A class of one clip does not show how its clips vary.
    counted = np.flatnonzero(np.bincount(target[kept]) >= 2)
    kept, held_out = (part[np.isin(target[part], counted)] for part in (kept, held_out))
    if not len(held_out):
        return None, None
    features = {
        "statistics": [statistics[part] for part in (kept, held_out)],
        "network": [embedder.transform(take_clips(patches, part)) for part in (kept, held_out)],
    }
    separation = {
        name: _separation(seen, new, target[kept], target[held_out])
        for name, (seen, new) in features.items()
    }
    joins = separation["network"] > separation["statistics"]
    return (embedder if joins else None), separation


def _separation(seen: NDArray, new: NDArray, target: NDArray, new_target: NDArray) -> float:
    """Return how many deviations new clips lie nearer to their own class than to others.

    Parameters
    ----------
    seen : ndarray of shape (n_seen, n_features)
    new : ndarray of shape (n_new, n_features)
    target, new_target : ndarray of int
        The classes of the clips.
    """
    detector = MahalanobisDetector().fit(seen, domains=target.tolist())
    classes = detector.domains_
    logs = np.stack(
        [np.log(-detector.score_samples(new, domains=[c] * len(new))) for c in classes], axis=1
    )
    is_own = new_target[:, np.newaxis] == np.array(classes)
    own, other = logs[is_own], np.where(is_own, np.inf, logs).min(axis=1)
    return float((other.mean() - own.mean()) / max(own.std(), 1e-6))


def some_of_each(groups: list[Hashable], n_most: int) -> NDArray[np.intp]:
    """Return at most so many rows, but three of each group at least, in ascending order."""
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    n_each = max(3, n_most // len(rows))
    # Not every n-th clip: those may all be of one session or operating state.
    rng = np.random.default_rng(0)
    return np.sort(np.concatenate([rng.permutation(own)[:n_each] for own in rows.values()]))
