"""PatchStatistics: each patch against the rest of its clip and band."""

from __future__ import annotations

from numbers import Real

import numpy as np
from scipy.special import expit, logsumexp
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skanopatch.spectra.patches import (
    ArrayOutputMixin,
    iterate_batches,
    patch_grid,
    validate_patches,
)

_BATCH_SIZE = 8  # clips: their powers stay in the cache

# Levels with which those of frames are compared, in nepers of power above the mean of their band:
# from -13 to 13 dB.
_LEVELS = np.linspace(-3.0, 3.0, 16, dtype=np.float32)


class PatchStatistics(ArrayOutputMixin, TransformerMixin, BaseEstimator):
    """Describe each patch by its spectrum, its peaks and its levels: tokens without a network.

    All numbers are relative to the mean of the patch's band over the clip, so that the gain and the
    frequency response of the microphone have no influence:

    * the mean of each log-mel bin over the patch's frames: the spectrum within the band;
    * the log of the mean power of each bin, less this mean: high if single frames are loud;
    * the shares of frames that are louder than each of 16 levels. Averaged over a clip, they are
      the distribution of the band's level, which knocks, and hisses in pauses, change.

    Parameters
    ----------
    log_unit : float, default=1.0
        The unit of the patches, in nepers of power: 1 for those of `MelPatcher`, which are natural
        logarithms, and ``ln(10) / 10`` for decibels.

    Attributes
    ----------
    n_features_in_ : int
        Patch area.

    See Also
    --------
    BandStatistics : Statistics of whole clips.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import PatchStatistics, patchify
    >>> patches = patchify(np.random.default_rng(0).normal(size=(3, 192, 128)))
    >>> PatchStatistics().fit_transform(patches).shape
    (3, 12, 8, 48)
    """

    _parameter_constraints: dict = {
        "log_unit": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, log_unit=1.0):
        self.log_unit = log_unit

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
        validate_patches(self, X, reset=True)
        return self

    def transform(self, X):
        """Compute the statistics.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, patch_area) or (n_clips, patch_area)
            Patches of clips of any length.

        Returns
        -------
        tokens : ndarray of shape (n_clips, n_time, n_freq, n_statistics), float32
            Spectrum and peaks in nepers of power, and shares; NaN for clips whose patches are NaN.
        """
        check_is_fitted(self)
        X = validate_patches(self, X, reset=False)
        return np.concatenate(
            [
                _describe(batch * np.float32(self.log_unit))
                for batch in iterate_batches(X, _BATCH_SIZE)
            ]
        )


def _describe(patches: np.ndarray) -> np.ndarray:
    grid = patch_grid(patches)
    cells = patches.reshape(*patches.shape[:3], grid.height, grid.width)
    spectra = cells.mean(axis=3)
    peaks = logsumexp(cells, axis=3) - np.log(np.float32(grid.height)) - spectra
    levels = logsumexp(cells, axis=4)
    of_band = levels.mean(axis=(1, 3), keepdims=True)
    step = _LEVELS[1] - _LEVELS[0]
    shares = expit(((levels - of_band)[..., np.newaxis] - _LEVELS) / step).mean(axis=3)
    in_band = spectra - spectra.mean(axis=(1, 3), keepdims=True)
    return np.concatenate([in_band, peaks, shares], axis=3)
