"""What every detector shares: validation, the leave-one-out threshold, and the outlier contract."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from hashlib import blake2b
from itertools import compress
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skanopatch.feature_notes import SeenClips, notes_of

FLOATS = [np.float64, np.float32]

_ROUNDING = 1e-13  # of the mean of many equal numbers, over the number

Members = dict[Hashable, NDArray[np.intp]]
"""The rows of each domain or group."""


class BaseDetector(OutlierMixin, BaseEstimator, ABC):
    """Base class of the detectors: a subclass writes `_fit` and `_score`, and no more.

    Parameters
    ----------
    contamination : float, default=0.1
        The false-alarm rate wanted on fresh normal clips, in (0, 0.5].

    threshold : {"quantile", "gamma"}, default="quantile"
        How `offset_` is placed among the leave-one-out training scores.
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "threshold": [StrOptions({"quantile", "gamma"})],
    }

    n_features_in_: int

    def __init__(self, *, contamination: float = 0.1, threshold: str = "quantile"):
        self.contamination = contamination
        self.threshold = threshold

    @abstractmethod
    def _fit(self, X: NDArray, members: Members, as_new: NDArray) -> NDArray[np.float64]:
        """Learn from `X` and return the leave-one-out score of each row.

        `members` maps each domain to its rows, in the order of first appearance; it holds the
        one key None if no domains were given. `as_new` are the rows as they would be had what
        embeds them not been fitted on them: a row is left out as the one, and scored as the other.
        """

    @abstractmethod
    def _score(self, X: NDArray) -> NDArray[np.float64]:
        """Return the normality of each row of a finite `X`."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None, *, domains: Iterable | None = None) -> Self:
        """Learn what normal clips are like, and where to put the threshold.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per normal clip. Float32 and float64 are kept as they are. A row of
            nothing but NaN stands for a clip that could not be read and is left out.

        y : Ignored
            Not used, present for API consistency. Every row of `X` is taken to be normal; wrap
            the pipeline in `FitOnNormal` to leave out the rows that `y` calls anomalous.

        domains : iterable of hashables of length n_clips, default=None
            The acoustic domain of each clip, such as "source" and "target". Each domain is
            modelled on its own, and a clip is as normal as its best domain finds it, since the
            domain of a test clip is unknown. None puts all clips in one domain, or, in a
            `MahalanobisDetector` or `GMMDetector`, each in the class that it sounds like, where
            `X` knows of classes.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If `X` holds infinities, or NaN beside numbers, if `domains` has another length than
            `X`, or if a domain has too few clips for the detector.

        Warns
        -----
        UserWarning
            If there are too few clips for a quantile at `contamination`.
        """
        embeddings, readable = self._validate_embeddings(X, reset=True)
        notes = notes_of(X)
        seen = None if notes is None else notes.seen
        if domains is not None:
            domains = list(compress(label_list(domains, len(readable), "domains"), readable))
        elif seen is not None:
            domains = self._domains_of(embeddings, seen)
        members = rows_by_label(domains, len(embeddings), "domains")
        as_new = embeddings if seen is None else seen.as_new(embeddings)
        scores = self._fit(embeddings, members, as_new)
        # Twins may score differently (they can sit in two domains). They share the score of the
        # first, so that score_samples(X) is training_scores_ to the bit.
        self._row_digests, first, twin = np.unique(
            _row_digests(embeddings), return_index=True, return_inverse=True
        )
        self._row_of_digest = first
        self._row_scores = scores[first]
        self.training_scores_ = np.full(len(readable), np.nan)
        self.training_scores_[readable] = self._row_scores[twin]
        self.offset_ = self._place_offset()
        return self

    def _validate_embeddings(
        self, X: ArrayLike, *, reset: bool
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return the rows that are not NaN throughout, and which these are."""
        rows = self._validate_rows(X, reset=reset)
        readable = ~np.isnan(rows).reshape(len(rows), -1).all(axis=1)
        embeddings = rows[readable]
        if reset or readable.any():
            embeddings = check_array(
                embeddings,
                dtype=FLOATS,
                allow_nd=True,
                ensure_min_samples=2 if reset else 1,
                estimator=self,
                input_name="X",
            )
        return embeddings, readable

    def _validate_rows(self, X: ArrayLike, *, reset: bool) -> NDArray:
        """Return `X` as an array with a clip a row, whatever its values."""
        return validate_data(
            self,
            X,
            dtype=FLOATS,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
            reset=reset,
        )

    def _domains_of(self, X: NDArray, seen: SeenClips) -> NDArray[np.intp] | None:
        """Return the domain of each row where none were given: None is one for all."""
        return None

    def _place_offset(self) -> float:
        scores = self.training_scores_[~np.isnan(self.training_scores_)]
        n_clips = len(scores)
        if self.threshold == "quantile" and self.contamination * (n_clips + 1) < 1:
            warnings.warn(
                f"{n_clips} clips cannot place a quantile at contamination="
                f"{self.contamination}: the false-alarm rate will be about "
                f"{1 / (n_clips + 1):.2g}. Give {int(np.ceil(1 / self.contamination)) - 1} clips "
                "or more, or threshold='gamma', which extrapolates.",
                UserWarning,
                stacklevel=4,  # past _fit_context, to the caller of fit
            )
        return self._quantile(scores)

    def _quantile(self, scores: NDArray[np.float64]) -> float:
        """Return what fresh normal scores fall below with probability `contamination`."""
        if self.threshold == "gamma":
            return -_gamma_quantile(-scores, 1 - self.contamination)
        # A fresh normal score is equally likely to fall in each of the n + 1 gaps between n
        # scores, so that the k-th smallest has k / (n + 1) below it: Weibull's plotting position.
        return float(np.quantile(scores, self.contamination, method="weibull"))

    def _check_domain_sizes(self, members: Members, minimum: int, settings: str = "") -> None:
        """Raise if a domain has fewer than `minimum` clips, naming it and the settings."""
        for domain, rows in members.items():
            if len(rows) < minimum:
                where = "X" if len(members) == 1 else f"Domain {domain!r}"
                raise ValueError(
                    f"{type(self).__name__}{settings} needs at least {minimum} clips"
                    f"{' in each domain' if len(members) > 1 else ''}, since each is left out "
                    f"once to set the threshold. {where} has {len(rows)}."
                )

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return how normal each clip is.

        A row that is bit-identical to a training row gets that row's leave-one-out score, so
        that the scores of the training set are as honest as those of new clips.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip. A row of nothing but NaN stands for a clip that could not be
            read and scores NaN.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal.

        Raises
        ------
        ValueError
            If a row holds an infinity, or NaN beside numbers.
        """
        check_is_fitted(self)
        embeddings, readable = self._validate_embeddings(X, reset=False)
        scores = np.full(len(readable), np.nan)
        if readable.any():
            known, place = self._recognize(embeddings)
            scores[readable] = np.where(known, self._row_scores[place], self._score(embeddings))
        return scores

    def _recognize(self, X: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Return which rows are bit-identical to a training row, and the place of its digest."""
        digests = _row_digests(X)
        place = np.searchsorted(self._row_digests, digests) % len(self._row_digests)
        return self._row_digests[place] == digests, place

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return `score_samples(X) - offset_`: negative for anomalies.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        Returns
        -------
        decision : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int_]:
        """Tell normal clips (+1) from anomalies (-1).

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        Returns
        -------
        labels : ndarray of shape (n_clips,)
            +1 where `decision_function` is at least 0; -1 below, and for a row of NaN.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def anomaly_score(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return `-score_samples(X)`: higher = more anomalous, as challenge files want it.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            One embedding per clip.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, NaN for a row of NaN.
        """
        return -self.score_samples(X)


def spreads_of(residuals: NDArray, X: NDArray) -> NDArray[np.float64]:
    """Return the deviation of each feature: 0 where its residuals are but the rounding of `X`."""
    spread = np.sqrt(np.mean(np.square(residuals, dtype=np.float64), axis=0))
    return np.where(spread > _ROUNDING * np.abs(X).max(axis=0), spread, 0)


def label_list(labels: Iterable, n_clips: int, name: str) -> list[Hashable]:
    """Return `labels` as a list, after checking that there is one a clip."""
    # Python scalars rather than NumPy's: they print as what the user typed.
    listed = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if len(listed) != n_clips:
        raise ValueError(f"{name} must have one entry per clip. Got {len(listed)} for {n_clips}.")
    return listed


def rows_by_label(labels: Iterable | None, n_clips: int, name: str) -> Members:
    """Map each label to its rows, in the order of first appearance; None is one label for all."""
    if labels is None:
        return {None: np.arange(n_clips)}
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(label_list(labels, n_clips, name)):
        rows.setdefault(label, []).append(row)
    return {label: np.array(members) for label, members in rows.items()}


def _row_digests(X: NDArray) -> NDArray[np.uint64]:
    """Hash each row to 64 bits; equal numbers hash equal, whether float32 or float64.

    A million queries against 100,000 training rows collide once in 10^8 runs.
    """
    # Adding 0.0 turns -0.0, which equals 0.0 but has other bits, into 0.0.
    digests = (
        blake2b(np.add(row, 0.0, dtype=np.float64).data, digest_size=8).digest() for row in X
    )
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _gamma_quantile(scores: NDArray[np.float64], level: float) -> float:
    """Return the quantile of the gamma distribution with the mean, spread and skewness of `scores`.

    Its location is free (Pearson's type III) rather than 0, so that scores may be negative, as
    log-likelihoods are, and shifting all scores shifts the quantile alike. At skewness 0 it is
    the normal distribution, below 0 a mirrored gamma.
    """
    spread = scores.std(ddof=1)
    if spread <= 1e-12 * np.abs(scores).max():  # constant but for rounding: flag none of them
        return float(scores.max())
    skewness = stats.skew(scores)
    return float(stats.pearson3.ppf(level, skewness, loc=scores.mean(), scale=spread))
