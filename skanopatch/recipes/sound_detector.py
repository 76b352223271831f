"""AnomalousSoundDetector: the whole recipe, from clips to decisions, as one estimator."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skanopatch.audio import file_names
from skanopatch.audio.labels import warn_of_anomalies
from skanopatch.detectors import (
    GroupedDetector,
    JoinedDetector,
    MahalanobisDetector,
    SubbandKNNDetector,
)
from skanopatch.detectors.base import THRESHOLD_CONSTRAINTS, rows_by_label
from skanopatch.detectors.gain_tolerance import GainTolerantDetector
from skanopatch.detectors.grouped import with_threshold
from skanopatch.detectors.metadata import (
    RoutedGroupsMixin,
    fit_with,
    last_step,
    list_metadata,
    rows_of,
)
from skanopatch.detectors.thresholds import ThresholdMixin
from skanopatch.recipes.clip_scores import ClipScoresMixin
from skanopatch.recipes.conditions import Conditions
from skanopatch.recipes.network import (
    domains_of,
    may_join,
    some_of_each,
    train_network,
    with_scale,
)
from skanopatch.recipes.sound_events import learn_reference
from skanopatch.recipes.updates import UpdatesMixin, log_entry, training_windows
from skanopatch.recipes.windows import Windows
from skanopatch.spectra.band_statistics import BandStatistics
from skanopatch.spectra.mel_patcher import MelPatcher
from skanopatch.spectra.patch_statistics import PatchStatistics
from skanopatch.spectra.patches import take_clips, warn_of_another_unit

_MOST_FOR_MAPS = 100  # windows: more make maps little better and take longer


class AnomalousSoundDetector(  # type: ignore[misc]  # scores take groups, not any metadata
    RoutedGroupsMixin, ClipScoresMixin, UpdatesMixin, ThresholdMixin, BaseEstimator
):
    """Learn how normal recordings sound, and find recordings that sound wrong.

    A detector scores the statistics of a clip's spectrum. With `labels`, a network is fine-tuned to
    separate the labels. It joins the statistics if it separates new clips better than they do. A
    second detector maps where in time and frequency a clip is anomalous. Clips that are longer
    than the patcher's `duration` are cut into windows, and the worst window decides.

    Parameters
    ----------
    patcher : MelPatcher, "passthrough" or None, default=None
        Computes patches from clips. None is ``MelPatcher()`` with the mel settings of the
        embedder's backbone. With "passthrough", `X` holds patches already, see `patchify`.
    embedder : transformer, "drop" or None, default=None
        The network. None is ``AnoPatchEmbedder()``. A small ViT of this package may join the
        statistics. Any other embedder replaces them. With "drop" there are only statistics.
    detector : outlier detector or None, default=None
        Scores statistics and embeddings. None is ``MahalanobisDetector()``. It gets the
        `false_alarm_rate` and `threshold` below. A `KNNDetector` also standardizes statistics.
    map_detector : detector with `anomaly_map`, "drop" or None, default=None
        Computes maps. None is ``SubbandKNNDetector()``. With "drop" there are no maps.
    hop : float or None, default=None
        Seconds from the start of one window to the start of the next. None is the length of a
        window, without overlap. The last window ends with the clip.
    gain_tolerance : float, default=1.5
        Standard deviation in dB by which the gain may differ between recordings, at least. Such
        differences are not anomalies. It applies to the statistics. 0 switches it off.
    false_alarm_rate : float, default=0.1
        The share of new normal clips that may be called anomalies, in (0, 0.5].
    threshold : {"lognormal", "quantile", "gamma"}, default="lognormal"
        How `offset_` is placed among the training scores, see
        `skanopatch.detectors.thresholds.place_threshold`.
    random_state : int, RandomState instance or None, default=None
        Seed of the network's training.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    patcher_ : MelPatcher or None
        Fitted; None with "passthrough".
    detector_ : Pipeline or JoinedDetector
        Computes scores from patches.
    map_pipeline_ : Pipeline or None
        Computes maps from patches.
    members_ : list of str
        What scores a clip: "statistics", "network" or "embedder".
    separation_ : dict or None
        If a network was trained: by how many deviations held-out clips are nearer to their own
        class than to others, for the "network" and for the "statistics".
    clip_names_ : list of str
        The file of each normal window; "" for arrays.
    windows_ : structured ndarray of shape (n_windows,)
        The normal windows: the number of its "clip"; "start" and "stop" in the clip, "file_start"
        and "file_stop" in the file, in seconds, NaN if unknown or if it is the whole; "added", the
        Unix time at which it was added to the model.
    metadata_ : dict
        The labels, domains, sessions and groups of the normal windows, if given.
    updates_ : list of dict
        The changes of the model: "action", "time" and "n_clips" of each.
    normal_statistics_ : ndarray of shape (n_windows, n_statistics), float32
        The `BandStatistics` of the normal windows.
    embeddings_ : ndarray of shape (n_windows, n_dims) or None
        The embeddings of the normal windows, if there is a network or an embedder.
    statistics_ : BandStatistics
        The fitted step that computes the statistics.
    groups_ : list of hashables
        The groups of `fit`, in the order of first appearance.
    offset_ : float
        The score below which a clip is an anomaly. Scores are minus distances: the distance of a
        clip over that of the threshold is ``score / offset_``.
    conditions_ : Conditions
        Rates, levels and spectra of the recordings of `fit`, for `notes`.
    reference_ : dict of ndarray
        Spectra and moments of the normal windows, for `explain`.
    training_scores_ : ndarray of shape (n_windows,)
        The score of each training window when it is left out; NaN for one that could not be read.
    session_weights_ : ndarray of shape (n_windows,)
        The weight of each training window: 1, or with sessions 1 over the windows of its session.
    n_features_in_ : int
        Samples per clip, if `fit` got a 2-D array; patch area with "passthrough".

    Notes
    -----
    **Network.** It is trained if there are labels and at least 64 clips, and if a linear classifier
    of the statistics predicts the labels of new clips. Other labels would only be memorized. A
    tenth of the clips is held out of the training. The network joins if it separates the held-out
    clips better than the statistics do.

    **Labels and groups.** Without `domains`, labels are used as domains if each has 2 clips. With
    labels or domains, the groups share a covariance (`GroupedDetector` with ``pooled=True``). Else
    each group has a detector of its own.

    **Windows.** Without `sessions`, the windows of one clip are one session. If a group has only
    one clip, it is divided into ten sessions. A clip with more windows has a worse worst window.
    So the score of the worst of n windows is multiplied by a ratio of two thresholds: that of one
    window at the false-alarm rate r, and that at ``1 - (1 - r) ** (1 / n)``. With this, the rate of
    clips is r for independent windows, and lower for similar ones.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnomalousSoundDetector, MelPatcher
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> detector = AnomalousSoundDetector(MelPatcher(duration=1.0)).fit(clips)
    >>> detector.predict([clips[0], 9 * clips[1]])
    array([ 1, -1])
    >>> detector.anomaly_map(clips[:2]).shape
    (2, 6, 8)
    """

    _parameter_constraints: dict = {
        "patcher": [HasMethods(["fit", "transform"]), StrOptions({"passthrough"}), None],
        "embedder": [HasMethods(["fit", "transform"]), StrOptions({"drop"}), None],
        "detector": [HasMethods(["fit", "score_samples"]), None],
        "map_detector": [HasMethods(["fit", "anomaly_map"]), StrOptions({"drop"}), None],
        "hop": [Interval(Real, 0, None, closed="neither"), None],
        "gain_tolerance": [Interval(Real, 0, None, closed="left")],
        **THRESHOLD_CONSTRAINTS,
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        patcher=None,
        *,
        embedder=None,
        detector=None,
        map_detector=None,
        hop=None,
        gain_tolerance=1.5,
        false_alarm_rate=0.1,
        threshold="lognormal",
        random_state=None,
        verbose=0,
    ):
        self.patcher = patcher
        self.embedder = embedder
        self.detector = detector
        self.map_detector = map_detector
        self.hop = hop
        self.gain_tolerance = gain_tolerance
        self.false_alarm_rate = false_alarm_rate
        self.threshold = threshold
        self.random_state = random_state
        self.verbose = verbose

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also those of parts that are None, which become their defaults.

        Parameters
        ----------
        **params : dict
            Such as ``detector__shrinkage=0.1`` or ``embedder__fine_tuning__max_epochs=5``.

        Returns
        -------
        self : object
        """
        for part in {name.partition("__")[0] for name in params if "__" in name}:
            if (
                part in self.get_params(deep=False)
                and params.get(part, getattr(self, part)) is None
            ):
                params[part] = self._default(part, params.get("embedder", self.embedder))
        return super().set_params(**params)

    def _part(self, name: str) -> Any:
        """Return a new estimator for a part: a clone of the parameter, or the default."""
        given = getattr(self, name)
        return self._default(name, self.embedder) if given is None else clone(given)

    def _default(self, name: str, embedder: Any) -> Any:
        """Return what a part is that is None."""
        if name == "patcher" and hasattr(embedder, "backbone"):
            from skanopatch.backbones import make_patcher  # not above: they take longer to import
            from skanopatch.embedding.embedder import AnoPatchEmbedder

            if isinstance(embedder, AnoPatchEmbedder):
                return make_patcher(embedder.backbone)
        if name == "embedder":
            from skanopatch.embedding.embedder import AnoPatchEmbedder

            return AnoPatchEmbedder()
        defaults = {
            "patcher": MelPatcher,
            "detector": MahalanobisDetector,
            "map_detector": SubbandKNNDetector,
        }
        return defaults[name]() if name in defaults else None

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        labels: Iterable | None = None,
        domains: Iterable | None = None,
        sessions: Iterable | None = None,
        groups: Iterable | None = None,
    ) -> Self:
        """Learn from normal clips, and place the threshold.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            Normal clips, of any length. A clip is a path, a `Segment` of a file, a 1-D array at
            the patcher's `sample_rate` or a pair (array, sample_rate). With "passthrough", patches
            (n_clips, n_time, n_freq, patch_area).
        y : None
            Ignored; drop anomalous clips with `FitOnNormal`.
        labels : iterable of hashables of length n_clips, default=None
            What sounds different, such as the unit or the operating state. A network is fine-tuned
            to separate it.
        domains : iterable of hashables of length n_clips, default=None
            The kind of normal, such as source and target. That of a new clip is unknown.
        sessions : iterable of hashables of length n_clips, default=None
            The recording, shift or day of each clip. Whole sessions are left out together to place
            the threshold.
        groups : iterable of hashables of length n_clips, default=None
            The machine of each clip, if that of a new clip is known too.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If clips cannot be read, are too few, all silent or all equal, or metadata has another
            length than `X`.

        Warns
        -----
        UserWarning
            If labels cannot serve as domains, clips of one session are much nearer to each other
            than to those of others, or what files hold above half the patcher's rate is not used.
        """
        warn_of_anomalies(y)
        self.patcher_ = None if isinstance(self.patcher, str) else self._part("patcher").fit(X)
        windows, patches = self._windows_and_patches(X)
        if self.patcher_ is None:
            warn_of_another_unit(patches)
        n_clips = len(windows.first)
        metadata = list_metadata(
            n_clips, labels=labels, domains=domains, sessions=sessions, groups=groups
        )
        self.metadata_ = rows_of(metadata, windows.clips)
        self.windows_ = training_windows(windows)
        metadata = self._all_metadata()
        self._check_numbers(metadata.get("groups"))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.clip_names_ = file_names(windows.X, len(windows.clips))
        self.updates_ = [log_entry("fit", n_clips)]
        # Without labels the default embedder is never used: torch need not be imported.
        has_none = isinstance(self.embedder, str) or (self.embedder is None and labels is None)
        embedder = None if has_none else self._embedder(seed)
        self.separation_: dict[str, float] | None = None
        statistics = BandStatistics(self._log_unit())
        statistics.set_output(transform="default")
        self.normal_statistics_ = statistics.fit_transform(patches)
        self.statistics_ = statistics
        self._learn_conditions(windows)
        self.reference_ = learn_reference(patches, log_unit=statistics.log_unit)
        self.groups_ = list(dict.fromkeys(metadata.get("groups", [])))
        self.members_, self.embeddings_ = ["statistics"], None
        features: list[Any] = [statistics]
        if embedder is not None and not may_join(embedder):
            alone = Pipeline([("features", embedder)])  # it hands on what `fit` takes
            self.members_, features = ["embedder"], [fit_with(alone, patches, metadata)[0]]
        elif embedder is not None and "labels" in metadata:
            network, self.separation_ = train_network(
                embedder, patches, self.normal_statistics_, metadata
            )
            if network is not None:
                self.members_.append("network")
                features.append(FrozenEstimator(network))
        if self.members_ != ["statistics"]:
            self.embeddings_ = features[-1].transform(patches)
        self._fit_detector(features)
        self._fit_maps(take_clips(patches, self._map_rows()))
        return self

    def _check_numbers(self, groups: list[Hashable] | None) -> None:
        """Refuse too few clips before any work is done."""
        least = 3 if self.map_detector is None else 2
        for group, rows in rows_by_label(groups, len(self.windows_)).items():
            if len(rows) < least:
                of_groups = "" if groups is None else " of each group"
                place = "X" if groups is None else f"Group {group!r}"
                raise ValueError(
                    f"AnomalousSoundDetector needs at least {least} normal clips{of_groups}, since "
                    "each is left out once to place the threshold"
                    + (" (2 with map_detector='drop')" if least == 3 else "")
                    + f". {place} has {len(rows)} sample(s)."
                )

    def _learn_conditions(self, windows: Windows) -> None:
        """Learn what the recordings are like."""
        front_end = getattr(self.patcher_, "front_end", None)
        self.conditions_ = Conditions(
            [] if self.patcher_ is None else list(windows.X),
            self.normal_statistics_[:, : self.statistics_.n_mels_],
            edges=np.empty(0) if front_end is None else front_end.bin_edges(),
            sample_rate=0 if front_end is None else front_end.sample_rate,
        )

    def _embedder(self, seed: int) -> Any:
        from skanopatch.backbones import check_front_end

        embedder = self._part("embedder")
        params = embedder.get_params()
        if self.patcher_ is not None and "backbone" in params:
            check_front_end(embedder.backbone, self.patcher_.front_end)
        if "random_state" in params and embedder.random_state is None:
            embedder.set_params(random_state=seed)
        if self.embedder is None:
            embedder.set_params(verbose=self.verbose)
        # Arrays, also where scikit-learn is set to pandas; a frozen embedder is the caller's own.
        if hasattr(embedder, "set_output") and not isinstance(embedder, FrozenEstimator):
            embedder.set_output(transform="default")
        return embedder

    def _make_end(self, metadata: dict[str, list]) -> BaseEstimator:
        """Return what scores statistics or embeddings, of each group where there are groups."""
        detector = with_threshold(
            self._part("detector"),
            false_alarm_rate=self.false_alarm_rate,
            threshold=self.threshold,
        )
        if "groups" not in metadata or isinstance(last_step(detector), GroupedDetector):
            return detector
        return GroupedDetector(detector, pooled="auto")

    def _fit_detector(self, features: list[Any]) -> None:
        """Fit the detector to the features of the normal clips, and place the threshold.

        Parameters
        ----------
        features : list of fitted transformers
            From patches to the features of each member.
        """
        metadata = self._all_metadata()
        domains = domains_of(metadata)
        if domains is not None:
            metadata["domains"] = domains
        end = self._make_end(metadata)
        tolerant = GainTolerantDetector(
            with_scale(end),
            n_mels=self.statistics_.n_mels_,
            n_level=self.statistics_.n_level_,
            gain_tolerance=self.gain_tolerance,
        )
        members, rows = [], list[Any]()
        for name, step in zip(self.members_, features, strict=True):
            is_statistics = name == "statistics"
            members.append((name, _member(step, tolerant if is_statistics else end)))
            rows.append(self.normal_statistics_ if is_statistics else self.embeddings_)
        if len(members) == 1:
            (_, member), *_ = members
            self.detector_ = _member(member[0], fit_with(member[1], rows[0], metadata))
        else:
            self.detector_ = JoinedDetector(
                members, false_alarm_rate=self.false_alarm_rate, threshold=self.threshold
            ).fit_ends(rows, metadata)
        self._take_threshold()

    def _log_unit(self) -> float:
        front_end = getattr(self.patcher_, "front_end", None)
        return 1.0 if front_end is None else front_end.log_unit

    def _fit_maps(self, patches: Any) -> None:
        """Learn maps from the patches of the rows that `_map_rows` names."""
        self.map_pipeline_ = None
        if isinstance(self.map_detector, str):
            return
        detector = self._part("map_detector").set_params(
            false_alarm_rate=self.false_alarm_rate, threshold=self.threshold
        )
        metadata = rows_of(self._all_metadata(), self._map_rows())
        metadata.pop("domains", None)
        if "groups" in metadata:
            detector = GroupedDetector(detector)
        tokens = PatchStatistics(self._log_unit())
        self.map_pipeline_ = Pipeline([("patchstatistics", tokens), ("detector", detector)])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Clips of one session")  # said before
            warnings.filterwarnings("ignore", message="sessions are all the same")
            warnings.filterwarnings("ignore", message=r"\d+ sessions are few")
            fit_with(self.map_pipeline_, patches, metadata)

    def _map_rows(self) -> NDArray[np.intp]:
        """Return the windows that maps are learnt from."""
        rows = np.flatnonzero(np.isfinite(self.normal_statistics_).all(axis=1))
        groups = self.metadata_.get("groups", [None] * len(self.windows_))
        return rows[some_of_each([groups[row] for row in rows], _MOST_FOR_MAPS)]

    def _take_threshold(self) -> None:
        end = last_step(self.detector_)
        self.offset_ = end.offset_
        self.training_scores_ = end.training_scores_
        self.session_weights_ = end.session_weights_

    def set_false_alarm_rate(self, rate: float) -> Self:
        """Move the threshold of scores and maps to another false-alarm rate, without a new fit.

        Parameters
        ----------
        rate : float
            The share of new normal clips that may be called anomalies, in (0, 0.5].

        Returns
        -------
        self : object
        """
        check_is_fitted(self)
        clone(self).set_params(false_alarm_rate=rate)._validate_params()
        self.set_params(false_alarm_rate=rate)
        last_step(self.detector_).set_false_alarm_rate(rate)
        if self.map_pipeline_ is not None:
            last_step(self.map_pipeline_).set_false_alarm_rate(rate)
        self._take_threshold()
        return self

    @property
    def n_features_in_(self) -> int:
        """Samples a clip, when `fit` saw a 2-D array; patch area with "passthrough"."""
        if self.patcher_ is not None:
            return self.patcher_.n_features_in_
        return self.detector_.n_features_in_


def _member(features: Any, end: BaseEstimator) -> Pipeline:
    return Pipeline([("features", features), ("detector", end)])
