"""MelStatistics: mean and deviation of each mel bin, a baseline for embeddings."""

from __future__ import annotations

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils.validation import check_is_fitted

from skanopatch.spectra.patches import (
    ClipFeaturesMixin,
    iterate_batches,
    patch_grid,
    unpatchify,
    validate_patches,
)

_BATCH_SIZE = 64  # clips


class MelStatistics(
    ClipFeaturesMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Describe a clip by the mean and the standard deviation of each log-mel bin over time.

    Nothing is learnt. With `MahalanobisDetector` as the next step this is the baseline for any
    embedding, and a strong one for machines whose sound is steady.

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

    _parameter_constraints: dict = {}

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the patches; nothing is learnt.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, patch_area) or (n_clips, patch_area)
            Patches, as from `MelPatcher`; 2-D stands for one patch per clip.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        self._n_features_out = 2 * patch_grid(validate_patches(self, X, reset=True)).n_mels
        return self

    def transform(self, X):
        """Compute the statistics.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, patch_area) or (n_clips, patch_area)
            Patches of clips of any length.

        Returns
        -------
        statistics : ndarray of shape (n_clips, 2 * n_mels), float32
            The means of all bins, then their deviations; NaN for clips whose patches are NaN.
        """
        check_is_fitted(self)
        X = validate_patches(self, X, reset=False, n_mels=self._n_features_out // 2)
        spectrograms = map(unpatchify, iterate_batches(X, _BATCH_SIZE))
        return np.concatenate([np.hstack([s.mean(axis=1), s.std(axis=1)]) for s in spectrograms])
