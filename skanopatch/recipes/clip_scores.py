"""What a fitted `AnomalousSoundDetector` says of clips: scores, windows, notes and maps."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skanopatch.detectors.metadata import at_the_end, call_with_groups, list_metadata
from skanopatch.detectors.thresholds import conformal_p_values, place_threshold
from skanopatch.recipes.conditions import Conditions, mean_spectra, warn_of_conditions
from skanopatch.recipes.explanation import Explanation, explain_clips, score_maps
from skanopatch.recipes.windows import Windows, cut_windows, whole_clips
from skanopatch.spectra.lazy_patches import LazyPatches
from skanopatch.spectra.patches import given_patches, iterate_batches, take_clips

_BATCH_SIZE = 64  # windows whose tokens or lazy patches are held at a time


class ClipScoresMixin:
    """Scores of clips from those of their windows, by what `AnomalousSoundDetector.fit` learnt."""

    hop: float | None
    false_alarm_rate: float
    threshold: str
    patcher_: Any
    detector_: Any
    map_pipeline_: Any
    conditions_: Conditions
    groups_: list[Hashable]
    members_: list[str]
    offset_: float
    training_scores_: NDArray[np.float64]
    session_weights_: NDArray[np.float64]

    def score_samples(self, X: Any, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return how normal each clip is: minus the distance of its worst window.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            As for `fit`.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if `fit` got groups. None takes the machine for which the
            clip is most normal.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal; NaN for clips that cannot be read, if the patcher has
            ``on_error="nan"``.

        Warns
        -----
        UserWarning
            If clips were recorded in another way than those of `fit`, see `notes`.
        """
        windows, scores = self._score_windows(X, groups, "score_samples")
        return self._of_clips(windows, scores)

    def score_windows(self, X: Any, *, groups: Iterable | None = None) -> NDArray:
        """Return the score of each window of each clip.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            As for `fit`.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if `fit` got groups.

        Returns
        -------
        windows : structured ndarray of shape (n_windows,)
            The fields are "clip", the index in `X`; "start" and "stop" in seconds; and "score",
            which is an anomaly below `offset_`. `pandas.DataFrame` makes a table of it.
        """
        windows, scores = self._score_windows(X, groups, "score_samples")
        return windows.table(score=scores)

    def p_values(self, X: Any, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return p-values: the share of normal clips that are at least as anomalous.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            As for `fit`.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if `fit` got groups.

        Returns
        -------
        p_values : ndarray of shape (n_clips,)
            Float64 in (0, 1], conformal; NaN for clips that cannot be read. For a clip with several
            windows, the score takes their number into account.
        """
        windows, scores, p_values = self._score_windows(X, groups, "score_samples", "p_values")
        return self._p_values_of_clips(windows, scores, p_values)

    def notes(self, X: Any, *, groups: Iterable | None = None) -> list[str]:
        """Return how the recording of each clip differs from those of `fit`.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            As for `fit`.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if `fit` got groups.

        Returns
        -------
        notes : list of str
            Such as "sampled at 8 kHz, fitted at 16 kHz; 12 dB quieter than any normal clip", for
            the worst window; "" if there is no difference. It compares rate, channels, level,
            bandwidth, clipping and constant parts.
        """
        return self.examine(X, groups=groups).notes

    def examine(self, X: Any, *, groups: Iterable | None = None) -> Bunch:
        """Return scores, p-values, worst windows and notes; spectrograms are computed once.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            As for `fit`.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if `fit` got groups.

        Returns
        -------
        clips : Bunch
            Arrays of shape (n_clips,): `scores`; `p_values`; `starts` and `stops` of the worst
            window and `lengths` of the clip, in seconds; and `n_windows`, the number of windows.
            Also `notes`, the list that the method of this name returns.
        """
        windows, spectra, (scores, p_values) = self._measure(
            X, groups, ("score_samples", "p_values")
        )
        worst = windows.worst(scores)
        return Bunch(
            scores=self._of_clips(windows, scores),
            p_values=self._p_values_of_clips(windows, scores, p_values),
            starts=windows.starts[worst],
            stops=windows.stops[worst],
            lengths=windows.stops[windows.last],
            n_windows=windows.numbers,
            notes=[
                "; ".join(self.conditions_.notes(windows.X[row], spectra[row], samples=True))
                for row in worst
            ],
        )

    def explain(self, X: Any, *, groups: Iterable | None = None) -> list[Explanation]:
        """Explain each score in words, and by parts that add up to it.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            As for `fit`. For a clip with several windows, the worst one is explained.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if `fit` got groups.

        Returns
        -------
        explanations : list of Explanation
            One per clip. ``print(explanation)`` prints the words, `ExplanationDisplay` draws it.
        """
        return explain_clips(self, X, groups=groups)

    def anomaly_map(self, X: Any, *, groups: Iterable | None = None) -> NDArray[np.float64]:
        """Return where in time and frequency clips are anomalous.

        A cell has the larger of two values. One is from `map_pipeline_`, which compares the moment
        with normal moments. The other is the cell's share of the clip's score, which a steady fault
        raises. So a clip that is an anomaly has a cell above 1.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            As for `fit`. For a clip with several windows, the worst one is mapped.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if `fit` got groups.

        Returns
        -------
        maps : ndarray of shape (n_clips, n_time, n_freq)
            Float64, higher = more anomalous, 1 is the threshold; NaN for clips that cannot be read.

        Raises
        ------
        AttributeError
            If `fit` left out maps, ``map_detector="drop"``.
        """
        check_is_fitted(self)
        if self.map_pipeline_ is None:
            raise AttributeError(
                "anomaly_map needs maps, and map_detector='drop' left them out of fit. Fit with "
                "map_detector=None."
            )
        windows, scores = self._score_windows(X, groups, "score_samples")
        _, patches = self._windows_and_patches(X)
        listed = self._list_groups(len(windows.first), groups)
        if not windows.are_clips:
            patches = take_clips(patches, windows.worst(scores))
        (maps,) = self._call(self.map_pipeline_, ("anomaly_map",), patches, listed, _BATCH_SIZE)
        if self.members_[0] == "statistics" and self.offset_ < 0:
            of_clips = self._of_clips(windows, scores)
            maps = np.maximum(maps, score_maps(self, patches, of_clips, listed, maps))
        return maps

    def _score_windows(self, X: Any, groups: Iterable | None, *methods: str) -> tuple[Any, ...]:
        """Return windows, and what methods of the detector return of them; warn of conditions."""
        windows, spectra, values = self._measure(X, groups, methods)
        warn_of_conditions(self.conditions_, windows.X, spectra)
        return windows, *values

    def _measure(
        self, X: Any, groups: Iterable | None, methods: tuple[str, ...]
    ) -> tuple[Windows, NDArray, list[NDArray]]:
        """Return windows, their mean spectra, and what methods of the detector return of them."""
        check_is_fitted(self)
        windows, patches = self._windows_and_patches(X)
        listed = self._list_groups(len(windows.first), groups)
        own = None if listed is None else [listed[clip] for clip in windows.clips]
        spectra: list[NDArray] = []
        batch_size = _BATCH_SIZE if isinstance(patches, LazyPatches) else len(patches)
        values = self._call(self.detector_, methods, patches, own, batch_size, spectra)
        return windows, np.concatenate(spectra), values

    def _call(
        self,
        estimator: Any,
        methods: tuple[str, ...],
        patches: Any,
        groups: list[Hashable] | None,
        batch_size: int,
        spectra: list[NDArray] | None = None,
    ) -> list[NDArray]:
        """Return what methods of a pipeline return of patches, and collect their mean spectra."""
        results, start = [], 0
        for batch in iterate_batches(patches, batch_size):
            own = None if groups is None else groups[start : start + len(batch)]
            end, features = at_the_end(estimator, batch)
            results.append([call_with_groups(end, method, features, own) for method in methods])
            if spectra is not None:
                spectra.append(mean_spectra(batch))
            start += len(batch)
        return [np.concatenate(values) for values in zip(*results, strict=True)]

    def _p_values_of_clips(
        self, windows: Windows, scores: NDArray, p_values: NDArray
    ) -> NDArray[np.float64]:
        """Return the p-values of clips by the scores and p-values of their windows."""
        of_several = conformal_p_values(
            self._of_clips(windows, scores), self.training_scores_, self.session_weights_
        )
        return np.where(windows.numbers == 1, windows.least(p_values), of_several)

    def _of_clips(self, windows: Windows, scores: NDArray) -> NDArray[np.float64]:
        """Return the scores of clips: of their worst windows, relative to the worst of as many."""
        distances, weights = -self.training_scores_, self.session_weights_
        n, rate = windows.numbers, self.false_alarm_rate
        rates = np.where(n == 1, rate, 1 - (1 - rate) ** (1 / n))
        thresholds = {
            rate: place_threshold(distances, rate, self.threshold, weights)
            for rate in {self.false_alarm_rate, *rates}
        }
        threshold = thresholds[self.false_alarm_rate]
        ratios = [max(1.0, thresholds[rate] / threshold) if threshold else 1.0 for rate in rates]
        return windows.least(scores) / np.array(ratios)

    def _list_groups(self, n_clips: int, groups: Iterable | None) -> list[Hashable] | None:
        listed = list_metadata(n_clips, groups=groups).get("groups")
        if listed and not self.groups_:
            raise ValueError(
                f"groups were not given in fit, so that {listed[0]!r} is not known. Leave them "
                "out, or fit with groups."
            )
        return listed

    def _windows_and_patches(self, X: Any) -> tuple[Windows, Any]:
        """Return the windows of clips, and the patches of each window."""
        if self.patcher_ is None:
            patches = given_patches(X)
            return whole_clips(patches), patches
        duration = getattr(self.patcher_, "duration_", None)
        if duration is None:  # of another kind than MelPatcher
            return whole_clips(X), self.patcher_.transform(X)
        windows = cut_windows(
            X, duration=duration, hop=self.hop, sample_rate=self.patcher_.sample_rate
        )
        # What is not cut keeps its feature names.
        return windows, self.patcher_.transform(X if windows.are_clips else windows.X)
