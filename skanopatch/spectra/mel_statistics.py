"""MelStatistics: the honest baseline, mean and deviation of each mel band."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skanopatch.spectra.patches import iterate_batches, unpatchify, validate_patches

_BATCH_SIZE = 64  # clips


class MelStatistics(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Describe a clip by the mean and the standard deviation of each log-mel bin over time.

    No network, nothing learnt: with `MahalanobisDetector` behind it, the baseline that any
    embedding has to beat, and on steady machines a strong one.

    Parameters
    ----------
    n_freq : int, default=8
        Frequency bands of the patches: ``n_mels // patch_size`` of the `MelPatcher`.

    Attributes
    ----------
    n_features_in_ : int
        Patch area.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import MelStatistics, patchify
    >>> patches = patchify(np.random.default_rng(0).normal(size=(3, 32, 128)))
    >>> MelStatistics().fit_transform(patches).shape
    (3, 256)
    """

    _parameter_constraints: dict = {"n_freq": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_freq=8):
        self.n_freq = n_freq

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the patches; nothing is learnt.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_patches, patch_area) or (n_clips, patch_area)
            Patches in the order of time; 2-D stands for one patch a clip.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        _, grid = validate_patches(self, X, n_freq=self.n_freq, reset=True)
        self._n_features_out = 2 * grid.n_mels
        return self

    def transform(self, X):
        """Compute the statistics.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_patches, patch_area) or (n_clips, patch_area)
            Patches in the order of time.

        Returns
        -------
        statistics : ndarray of shape (n_clips, 2 * n_mels), float32
            The means of all bins, then their deviations; NaN for clips whose patches are NaN.
        """
        check_is_fitted(self)
        n_mels = self._n_features_out // 2
        X, grid = validate_patches(self, X, n_freq=self.n_freq, reset=False, n_mels=n_mels)
        return np.concatenate(
            [_mean_and_deviation(batch, grid.n_freq) for batch in iterate_batches(X, _BATCH_SIZE)]
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _mean_and_deviation(patches: np.ndarray, n_freq: int) -> np.ndarray:
    log_mel = unpatchify(patches, n_freq)
    return np.concatenate([log_mel.mean(axis=1), log_mel.std(axis=1)], axis=1)
