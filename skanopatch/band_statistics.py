"""BandStatistics: what a clip's spectrum does over time, in few numbers."""

from __future__ import annotations

import math
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

from skanopatch.patches import iterate_batches, unpatchify, validate_patches

_BATCH_SIZE = 8  # clips: their powers stay in the cache
_FRAMES_A_BAND = 24  # the deviations of how many bands a clip of so many frames can pin down
_MOST_BANDS = 32
_SLOW = 8  # frames


class BandStatistics(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Describe a clip by its spectrum, its loud moments and how much its bands vary.

    A covariance of few clips (see `MahalanobisDetector`) has room for few numbers, and each noisy
    one costs. `MelStatistics` gives half of its numbers to the deviations of single mel bins,
    which are the noisiest. Here fine resolution goes to what is steady, coarse to what varies:

    * the mean of each log-mel bin over time: the spectrum;
    * half the log of the mean squared power of 32 bands: the loud moments, where knocks and
      rattling show;
    * the deviation over time of the log power of 32, 16, ..., 1 bands (the shorter the clip, the
      fewer: one for 24 frames): unsteadiness;
    * of the mean log-mel bin of each frame: the deviation, the mean step from frame to frame,
      and the deviation of its means over 8 frames.

    Parameters
    ----------
    n_freq : int, default=8
        Frequency bands of the patches: ``n_mels // patch_size`` of the `MelPatcher`.

    Attributes
    ----------
    n_features_in_ : int
        Patch area.

    See Also
    --------
    MelStatistics : Mean and deviation of each bin.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import BandStatistics, patchify
    >>> patches = patchify(np.random.default_rng(0).normal(size=(3, 192, 128)))
    >>> BandStatistics().fit_transform(patches).shape
    (3, 178)
    """

    _parameter_constraints: dict = {"n_freq": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_freq=8):
        self.n_freq = n_freq

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Choose the number of bands by the length of the clips.

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
        n_bands = math.gcd(grid.n_mels, _MOST_BANDS)
        n_varying = min(n_bands, 2 ** int(math.log2(max(1, grid.n_frames / _FRAMES_A_BAND))))
        numbers = [n_bands] + [n_varying >> i for i in range(n_varying.bit_length())]
        self._n_bands = n_bands
        # A column a band: its product with the power of a frame's bins is their mean.
        self._averages = np.concatenate(
            [np.repeat(np.eye(n) * n / grid.n_mels, grid.n_mels // n, axis=0) for n in numbers],
            axis=1,
        ).astype(np.float32)
        self._n_features_out = grid.n_mels + self._averages.shape[1] + 3
        return self

    def transform(self, X):
        """Compute the statistics.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_patches, patch_area) or (n_clips, patch_area)
            Patches in the order of time, of any number.

        Returns
        -------
        statistics : ndarray of shape (n_clips, n_statistics), float32
            In the units of log-mel bins; NaN for clips whose patches are NaN.
        """
        check_is_fitted(self)
        X, grid = validate_patches(self, X, n_freq=self.n_freq, reset=False)
        return np.concatenate(
            [
                _band_statistics(unpatchify(batch, grid.n_freq), self._averages, self._n_bands)
                for batch in iterate_batches(X, _BATCH_SIZE)
            ]
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _band_statistics(log_mel: np.ndarray, averages: np.ndarray, n_bands: int) -> np.ndarray:
    n_clips, n_frames, _ = log_mel.shape
    largest = log_mel.max(axis=(1, 2), keepdims=True)
    power = np.exp(log_mel - largest) @ averages
    log_power = np.log(np.maximum(power, np.finfo(power.dtype).tiny))
    loud, varying = log_power[:, :, :n_bands], log_power[:, :, n_bands:]
    loudest = loud.max(axis=1, keepdims=True)
    mean_square = np.exp(2 * (loud - loudest)).mean(axis=1)
    level = log_mel.mean(axis=2)
    step = np.abs(np.diff(level, axis=1, prepend=level[:, :1])).sum(axis=1) / max(1, n_frames - 1)
    width = min(_SLOW, n_frames)
    slow = level[:, : n_frames // width * width].reshape(n_clips, -1, width).mean(axis=2)
    return np.concatenate(
        [
            log_mel.mean(axis=1),
            np.log(mean_square) / 2 + (loudest + largest)[:, 0],
            varying.std(axis=1),
            np.stack([level.std(axis=1), step, slow.std(axis=1)], axis=1),
        ],
        axis=1,
    )
