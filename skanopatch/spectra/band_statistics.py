"""BandStatistics: the spectrum of a clip and how it varies over time, in few numbers."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skanopatch.spectra.patches import (
    ClipFeaturesMixin,
    iterate_batches,
    patch_grid,
    unpatchify,
    validate_patches,
)

_BATCH_SIZE = 8  # clips: their powers stay in the cache
_LOUD, _FLUCTUATING, _SWELLING = 32, 16, 4  # bands
_SLOW = 8  # frames


class BandStatistics(
    ClipFeaturesMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Describe a clip by its spectrum, its loud moments and how much its bands vary.

    From few clips, the covariance of few numbers can be estimated (see `MahalanobisDetector`), and
    each noisy number does harm. Half of the numbers of `MelStatistics` are deviations of single mel
    bins, which are the noisiest. Here the steady spectrum has a fine resolution, and what varies
    has a coarse one:

    * the mean of each log-mel bin over time: the spectrum;
    * half the log of the mean squared power of 32 bands: the loud moments, where knocks and
      rattling show;
    * the deviations of the bins over time, averaged over 16 bands: tones fluctuate less than
      noise;
    * the deviations over time of the log power of 4, 2 and 1 bands: swelling and beating;
    * of the mean log-mel bin of each frame: the deviation, the mean step from frame to frame,
      and the deviation of its means over 8 frames.

    Parameters
    ----------
    log_unit : float, default=1.0
        The unit of the patches, in nepers of power: 1 for those of `MelPatcher`, which are natural
        logarithms, and ``ln(10) / 10`` for decibels.

    Attributes
    ----------
    n_mels_ : int
        Number of mel bins. The first `n_mels_` statistics are the spectrum.
    n_level_ : int
        A gain shifts the first `n_level_` statistics; the others stay.
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
    (3, 186)
    """

    _parameter_constraints: dict = {
        "log_unit": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, log_unit=1.0):
        self.log_unit = log_unit

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Lay out the bands for the mel bins of the patches.

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
        n_mels = patch_grid(validate_patches(self, X, reset=True)).n_mels
        self._loud = _band_means(n_mels, _LOUD)
        self._fluctuating = _band_means(n_mels, _FLUCTUATING)
        self._swelling = np.hstack([_band_means(n_mels, n) for n in (_SWELLING, _SWELLING // 2, 1)])
        n_bands = sum(bands.shape[1] for bands in (self._loud, self._fluctuating, self._swelling))
        self.n_mels_ = n_mels
        self.n_level_ = n_mels + self._loud.shape[1]
        self._n_features_out = n_mels + n_bands + 3
        return self

    def transform(self, X):
        """Compute the statistics.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, patch_area) or (n_clips, patch_area)
            Patches of clips of any length.

        Returns
        -------
        statistics : ndarray of shape (n_clips, n_statistics), float32
            In nepers; NaN for clips whose patches are NaN.
        """
        check_is_fitted(self)
        X = validate_patches(self, X, reset=False, n_mels=len(self._loud))
        return np.concatenate(
            [
                self._describe(unpatchify(batch) * np.float32(self.log_unit))
                for batch in iterate_batches(X, _BATCH_SIZE)
            ]
        )

    def _describe(self, log_mel: np.ndarray) -> np.ndarray:
        n_clips, n_frames, _ = log_mel.shape
        largest = log_mel.max(axis=(1, 2), keepdims=True)
        power = np.exp(log_mel - largest)
        loud = _log_power(power, self._loud)
        loudest = loud.max(axis=1, keepdims=True)
        mean_square = np.exp(2 * (loud - loudest)).mean(axis=1)
        level = log_mel.mean(axis=2)
        steps = np.abs(np.diff(level, axis=1, prepend=level[:, :1])).sum(axis=1)
        width = min(_SLOW, n_frames)
        slow = level[:, : n_frames // width * width].reshape(n_clips, -1, width).mean(axis=2)
        return np.hstack(
            [
                log_mel.mean(axis=1),
                np.log(mean_square) / 2 + (loudest + largest)[:, 0],
                # A product for each clip: the rounding of one for all depends on their number.
                (log_mel.std(axis=1)[:, np.newaxis] @ self._fluctuating)[:, 0],
                _log_power(power, self._swelling).std(axis=1),
                np.column_stack(
                    [level.std(axis=1), steps / max(1, n_frames - 1), slow.std(axis=1)]
                ),
            ]
        )


def _band_means(n_mels: int, n_bands: int) -> np.ndarray:
    """Return a matrix that averages the bins of at most `n_bands` bands of equal width."""
    n_bands = math.gcd(n_mels, n_bands)
    bands = np.repeat(np.eye(n_bands), n_mels // n_bands, axis=0)
    return (bands * n_bands / n_mels).astype(np.float32)


def _log_power(power: np.ndarray, bands: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(power @ bands, np.finfo(power.dtype).tiny))
