"""Updates: normal clips join a fitted `AnomalousSoundDetector`, or are taken out of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterable
from copy import copy
from datetime import UTC, datetime
from time import time
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from skanopatch.audio import Clip, Segment, file_names
from skanopatch.detectors.metadata import list_metadata, rows_of, select_group
from skanopatch.recipes.conditions import Conditions, warn_of_conditions
from skanopatch.recipes.sound_events import Reference, learn_reference, reference_rows
from skanopatch.recipes.windows import Windows
from skanopatch.spectra.lazy_patches import bullets
from skanopatch.spectra.patches import iterate_batches, take_clips

_SAME = 1e-3  # nepers: the statistics of one recording differ by less, those of two by more
_BATCH_SIZE = 64

Date = datetime | str


class UpdatesMixin:
    """Fit an `AnomalousSoundDetector` anew to the features that it keeps of normal clips."""

    patcher_: Any
    detector_: Any
    map_pipeline_: Any
    statistics_: Any
    conditions_: Conditions
    reference_: Reference
    normal_statistics_: NDArray[np.float32]
    embeddings_: NDArray[np.float32] | None
    metadata_: dict[str, list]
    windows_: NDArray
    clip_names_: list[str]
    updates_: list[dict[str, Any]]
    groups_: list[Hashable]

    def update(
        self,
        X: Any,
        *,
        labels: Iterable | None = None,
        domains: Iterable | None = None,
        sessions: Iterable | None = None,
        groups: Iterable | None = None,
        replace_before: Date | None = None,
    ) -> Self:
        """Add normal clips, and place the threshold again. No network is trained again.

        Scores, p-values and the threshold become those of a `fit` on all clips, unless there is a
        trained network or embedder. Maps and explanations do so too if the files of the earlier
        clips can still be read. Else they use the same clips as before.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            Normal clips, as for `fit`. Those that are already in the model are skipped.
        labels, domains, sessions, groups : iterable of hashables of length n_clips, default=None
            As for `fit`. Give the same ones that `fit` got, and no others.
        replace_before : datetime or str, default=None
            Takes out the clips that were added before this time, such as the time of a repair. A
            str is in the ISO format. A time without a zone is local.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If clips cannot be read, too few clips remain, or metadata is not as in `fit`. The model
            then stays as it was.

        Warns
        -----
        UserWarning
            If clips are already in the model or were recorded in another way than those of `fit`,
            or if maps cannot be made again.
        """
        check_is_fitted(self)
        windows, patches = self._windows_and_patches(X)  # type: ignore[attr-defined]
        given = list_metadata(
            len(windows.first), labels=labels, domains=domains, sessions=sessions, groups=groups
        )
        if set(given) != set(self.metadata_):
            raise ValueError(
                f"update needs the metadata that fit was given: {_listed(self.metadata_)}. Got "
                f"{_listed(given)}."
            )
        statistics = np.concatenate(
            [self.statistics_.transform(batch) for batch in iterate_batches(patches, _BATCH_SIZE)]
        )
        warn_of_conditions(self.conditions_, windows.X, statistics[:, : self.statistics_.n_mels_])
        updated = copy(self)
        date = -np.inf if replace_before is None else unix_time(replace_before)
        updated._keep(np.flatnonzero(self.windows_["added"] >= date))
        is_new = ~updated._has(windows, statistics)
        n_known = len(windows.first) - len(set(windows.clips[is_new].tolist()))
        if n_known:
            warnings.warn(
                f"{n_known} of {len(windows.first)} clips are in the model already, and are passed "
                "over.",
                UserWarning,
                stacklevel=2,
            )
        rows = np.flatnonzero(is_new)
        patches, n_kept = take_clips(patches, rows), len(updated.windows_)
        if len(rows):
            metadata = rows_of(given, windows.clips[rows])
            updated._add(windows.take(rows), patches, statistics[rows], metadata)
        entry = log_entry("update", len(windows.first) - n_known)
        if replace_before is not None:
            entry["replaced_before"] = _iso(date)
        updated.updates_ = [*self.updates_, entry]
        updated._fit_again(n_kept, patches)
        self.__dict__.update(updated.__dict__)
        return self

    def forget(
        self, files: Iterable[str | os.PathLike] = (), *, before: Date | None = None
    ) -> Self:
        """Take normal clips out of the model, and place the threshold again.

        Parameters
        ----------
        files : iterable of str or Path
            The files of the clips, as in `clip_names_`. They need not exist any more.
        before : datetime or str, default=None
            Takes out all clips that were added before this time, as in `update`.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a file is not in the model, or too few clips remain. The model then stays as it
            was.
        """
        check_is_fitted(self)
        names = {os.path.abspath(os.fspath(file)) for file in files}
        unknown = sorted(names - set(self.clip_names_))
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(names)} files are not in the model:{bullets(unknown)}"
            )
        is_kept = np.array([name not in names for name in self.clip_names_])
        if before is not None:
            is_kept &= self.windows_["added"] >= unix_time(before)
        kept = np.flatnonzero(is_kept)
        n_clips = len(np.unique(self.windows_["clip"][~is_kept]))
        if not n_clips:
            return self
        updated = copy(self)
        updated._keep(kept)
        updated.updates_ = [*self.updates_, log_entry("forget", n_clips)]
        updated._fit_again(len(kept), None)
        self.__dict__.update(updated.__dict__)
        return self

    def select_group(self, group: Hashable) -> Self:
        """Return a model of one machine alone, such as to save it in a file of its own.

        Parameters
        ----------
        group : hashable
            The machine: one of `groups_`.

        Returns
        -------
        selected : AnomalousSoundDetector
            A fitted model without the data of the other machines. It needs no ``groups=``. A clip
            of one window gets the same score as from this model with ``groups=``. Scores of longer
            clips, and `notes`, may differ, because they depend on the windows of this machine only.

        Raises
        ------
        ValueError
            If `fit` did not get this group. If `fit` got labels or domains, because the groups then
            share one detector.

        Examples
        --------
        >>> import numpy as np
        >>> from skanopatch import AnomalousSoundDetector, MelPatcher
        >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
        >>> machines = ["fan"] * 6 + ["pump"] * 6
        >>> park = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(clips, groups=machines)
        >>> fan = park.select_group("fan")
        >>> fan.groups_, len(fan.normal_statistics_)
        (['fan'], 6)
        """
        check_is_fitted(self)
        if group not in self.groups_:
            raise ValueError(
                f"group must be one of those of fit: {', '.join(map(repr, self.groups_)) or 'none'}"
                f". Got {group!r}."
            )
        rows = np.flatnonzero([owner == group for owner in self.metadata_["groups"]])
        selected = copy(self)
        selected.detector_ = select_group(self.detector_, group)
        if self.map_pipeline_ is not None:
            selected.map_pipeline_ = select_group(self.map_pipeline_, group)
        selected._keep(rows)
        selected._summarize()
        selected._take_threshold()  # type: ignore[attr-defined]
        return selected

    def _all_metadata(self) -> dict[str, list]:
        """Return the metadata of the normal windows, with the sessions that windows are of."""
        metadata = dict(self.metadata_)
        windows = Windows(None, *(self.windows_[name] for name in ("clip", "start", "stop")))
        if not windows.are_clips:
            metadata.setdefault("sessions", windows.sessions(metadata.get("groups")))
        return metadata

    def _has(self, windows: Windows, statistics: NDArray) -> NDArray[np.bool_]:
        """Return which windows are in the model already: by their files and by their statistics."""
        names = file_names(windows.X, len(windows.clips))
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.clip_names_):
            rows.setdefault(name, []).append(row)
        known = np.zeros(len(names), dtype=bool)
        for i, name in enumerate(names):
            differences = np.abs(self.normal_statistics_[rows.get(name, [])] - statistics[i])
            known[i] = (differences.max(axis=1) < _SAME).any()
        return known

    def _keep(self, rows: NDArray[np.intp]) -> None:
        """Keep some of the normal windows."""
        self.windows_ = self.windows_[rows]
        self.windows_["clip"] = np.unique(self.windows_["clip"], return_inverse=True)[1]
        self.metadata_ = rows_of(self.metadata_, rows)
        self.clip_names_ = [self.clip_names_[row] for row in rows]
        self.normal_statistics_ = self.normal_statistics_[rows]
        if self.embeddings_ is not None:
            self.embeddings_ = self.embeddings_[rows]
        self.conditions_ = copy(self.conditions_)
        self.conditions_.keep(rows)

    def _summarize(self) -> None:
        """Learn anew which groups there are, and what the recordings are like."""
        self.groups_ = list(dict.fromkeys(self.metadata_.get("groups", [])))
        self.conditions_.summarize(self.normal_statistics_[:, : self.statistics_.n_mels_])

    def _add(
        self, windows: Windows, patches: Any, statistics: NDArray, metadata: dict[str, list]
    ) -> None:
        """Add windows to the normal ones."""
        own = training_windows(windows)
        own["clip"] += len(np.unique(self.windows_["clip"]))
        self.windows_ = np.concatenate([self.windows_, own])
        self.metadata_ = {k: [*values, *metadata[k]] for k, values in self.metadata_.items()}
        self.clip_names_ = [*self.clip_names_, *file_names(windows.X, len(windows.clips))]
        self.normal_statistics_ = np.concatenate([self.normal_statistics_, statistics])
        if self.embeddings_ is not None:
            features = self._features()[-1].transform(patches)
            self.embeddings_ = np.concatenate([self.embeddings_, features])
        if self.patcher_ is not None:
            self.conditions_.add(windows.X)

    def _features(self) -> list[Any]:
        """Return the fitted transformer of each member."""
        return [member[0] for member in getattr(self.detector_, "detectors_", [self.detector_])]

    def _fit_again(self, n_kept: int, patches: Any) -> None:
        """Fit the detector anew; learn maps and the reference of explanations too, if possible.

        Parameters
        ----------
        n_kept : int
            The windows that were there before.
        patches : ndarray or LazyPatches or None
            Of those that were added.
        """
        self._check_numbers(self.metadata_.get("groups"))  # type: ignore[attr-defined]
        self._summarize()
        self._fit_detector(self._features())  # type: ignore[attr-defined]
        map_rows = self._map_rows()  # type: ignore[attr-defined]
        of_reference = reference_rows(len(self.windows_))
        rows = np.union1d(map_rows, of_reference)
        earlier, added = rows[rows < n_kept], rows[rows >= n_kept]
        parts = [np.asarray(take_clips(patches, added - n_kept))] if len(added) else []
        if len(earlier):
            again = self._read_again(earlier)
            if again is None:
                warnings.warn(
                    f"Maps and explanations still compare with the clips before this change: some "
                    f"of the {len(earlier)} earlier clips that they need can no longer be read.",
                    UserWarning,
                    stacklevel=3,
                )
                return
            parts.insert(0, again)
        needed = np.concatenate(parts)
        self._fit_maps(needed[np.searchsorted(rows, map_rows)])  # type: ignore[attr-defined]
        self.reference_ = learn_reference(
            needed[np.searchsorted(rows, of_reference)], log_unit=self.statistics_.log_unit
        )

    def _read_again(self, rows: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the patches of normal windows, None if one of them cannot be had unchanged."""
        clips = [self._window_clip(row) for row in rows]
        if self.patcher_ is None or None in clips:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patches = copy(self.patcher_).set_params(on_error="nan").transform(clips)
            patches = np.asarray(patches)
        differences = np.abs(self.statistics_.transform(patches) - self.normal_statistics_[rows])
        return patches if (differences < _SAME).all() else None

    def _window_clip(self, row: int) -> Clip | None:
        """Return a normal window as a clip, None if its file is gone or it had none."""
        name, window = self.clip_names_[row], self.windows_[row]
        if not os.path.isfile(name):
            return None
        if np.isnan(window["file_start"]):
            return name
        return Segment(name, float(window["file_start"]), float(window["file_stop"]))


def training_windows(windows: Windows) -> NDArray:
    """Return what a model keeps of normal windows beside their features, see `windows_`."""
    listed = [windows.X[row] for row in range(len(windows.clips))]
    nothing = (np.nan, np.nan)
    stretches = [(c.start, c.stop) if isinstance(c, Segment) else nothing for c in listed]
    starts, stops = np.array(stretches, dtype=float).reshape(-1, 2).T
    now = np.full(len(listed), time())
    table = windows.table(file_start=starts, file_stop=stops, added=now)
    table["clip"] = np.unique(table["clip"], return_inverse=True)[1]
    return table


def log_entry(action: str, n_clips: int) -> dict[str, Any]:
    """Return a line of `updates_`: what was done, when, and with how many clips."""
    return {"action": action, "time": _iso(time()), "n_clips": n_clips}


def unix_time(date: Date) -> float:
    """Return a time as Unix time in seconds. A str is in the ISO format."""
    try:
        moment = datetime.fromisoformat(date) if isinstance(date, str) else date
    except ValueError:
        raise ValueError(
            "A time must be in the ISO format, such as 2026-11-28 or 2026-11-28T14:30. Got "
            f"{date!r}."
        ) from None
    return moment.timestamp()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _listed(metadata: dict[str, list]) -> str:
    return ", ".join(metadata) or "none"
