"""Patches of log-mel spectrograms: cutting, checking and going through them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from numbers import Number
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import validate_data

from skanopatch.audio import refuse_masked
from skanopatch.spectra.lazy_patches import LazyPatches

NO_USABLE_CLIP = "Every clip is NaN: there is nothing to learn from."

# A row of more values than the 64 x 64 of a patch is taken for samples; half a second has more.
_LARGEST_PATCH = 4096

# The median step of a mel bin from one frame to the next, in natural logarithms of power: 0.66 to
# 0.78 on recordings of five kinds of machine and on simulated ones.
_TYPICAL_STEP = 0.7
_UNUSUAL = 2.0
_CLIPS_TO_MEASURE = 100

# 32 units in the last place of float32: equal clips may differ by as much from batch to batch.
_ROUNDING = 4e-6


class PatchGrid(NamedTuple):
    """How the patches of a clip lie on its spectrogram."""

    n_time: int
    n_freq: int
    height: int  # frames per patch
    width: int  # mel bins per patch

    @property
    def n_frames(self) -> int:
        """Frames of the spectrogram."""
        return self.n_time * self.height

    @property
    def n_mels(self) -> int:
        """Mel bins of the spectrogram."""
        return self.n_freq * self.width


def patch_grid(patches: Any) -> PatchGrid:
    """Return the grid of patches (n_clips, n_time, n_freq, patch_area).

    A `patch_area` that is no square number stands for one frame of `patch_area` bins.
    """
    _, n_time, n_freq, area = patches.shape
    side = math.isqrt(area)
    return PatchGrid(n_time, n_freq, *((side, side) if side * side == area else (1, area)))


def patchify(log_mel: np.ndarray, *, patch_size: int = 16) -> np.ndarray:
    """Cut spectrograms into square patches.

    Parameters
    ----------
    log_mel : array-like of shape (n_clips, n_frames, n_mels)
        Spectrograms in natural logarithms of power: multiply decibels by ``ln(10) / 10``.
    patch_size : int, default=16
        Frames and mel bins per patch. Frames after the last whole patch are left out.

    Returns
    -------
    patches : ndarray of shape (n_clips, n_time, n_freq, patch_size ** 2), float32
        Within a patch, frames come before mel bins.

    Raises
    ------
    ValueError
        If `log_mel` is not 3-D, `n_mels` is no multiple of `patch_size`, or there are fewer
        frames than `patch_size`.

    See Also
    --------
    unpatchify : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import patchify
    >>> patchify(np.zeros((2, 998, 128))).shape
    (2, 62, 8, 256)
    """
    log_mel = np.asarray(log_mel, dtype=np.float32)
    if log_mel.ndim != 3:
        raise ValueError(
            "log_mel must have shape (n_clips, n_frames, n_mels). "
            f"Got an array of shape {log_mel.shape} instead."
        )
    n_clips, n_frames, n_mels = log_mel.shape
    n_time, n_freq = n_frames // patch_size, n_mels // patch_size
    if n_mels % patch_size or not n_time:
        raise ValueError(
            f"log_mel must have a multiple of patch_size={patch_size} mel bins and at least as "
            f"many frames. Got {n_frames} frames and {n_mels} mel bins instead."
        )
    cells = log_mel[:, : n_time * patch_size]
    cells = cells.reshape(n_clips, n_time, patch_size, n_freq, patch_size)
    return cells.swapaxes(2, 3).reshape(n_clips, n_time, n_freq, patch_size**2)


def unpatchify(patches: np.ndarray) -> np.ndarray:
    """Join patches to spectrograms, the inverse of `patchify`.

    Parameters
    ----------
    patches : array-like of shape (n_clips, n_time, n_freq, patch_area)
        A `patch_area` that is no square number stands for one frame of `patch_area` bins.

    Returns
    -------
    log_mel : ndarray of shape (n_clips, n_frames, n_mels)

    Raises
    ------
    ValueError
        If `patches` is not 4-D.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import patchify, unpatchify
    >>> log_mel = np.random.default_rng(0).normal(size=(2, 32, 128)).astype("float32")
    >>> bool((unpatchify(patchify(log_mel)) == log_mel).all())
    True
    """
    patches = np.asarray(patches)
    if patches.ndim != 4:
        raise ValueError(_wrong_shape("patches", patches.shape))
    n_time, n_freq, height, width = grid = patch_grid(patches)
    cells = patches.reshape(-1, n_time, n_freq, height, width)
    return cells.swapaxes(2, 3).reshape(-1, grid.n_frames, grid.n_mels)


def _wrong_shape(name: str, shape: tuple[int, ...]) -> str:
    return (
        f"{name} must have the shape (n_clips, n_time, n_freq, patch_area) of patches that "
        "MelPatcher makes of clips and patchify of spectrograms. Got an array of shape "
        f"{shape} instead."
    )


class _Float32Mixin:
    """For a transformer that returns float32."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class ArrayOutputMixin(_Float32Mixin):
    """For a transformer whose output is no table: `set_output` leaves it an array."""

    def set_output(self, *, transform=None):
        """Do nothing: patches stay arrays, also where a whole pipeline is set to pandas.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Ignored.

        Returns
        -------
        self : object
        """
        return self


class ClipFeaturesMixin(_Float32Mixin):
    """For a transformer of patches to one row of features per clip."""

    def fit_transform(self, X, y=None, **fit_params):
        """Fit, and return the features of `X`.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, patch_area)
            As for `fit`.
        y : None
            Ignored.
        **fit_params : dict
            Metadata that `fit` takes.

        Returns
        -------
        features : ndarray of shape (n_clips, n_features)
            As of `transform`.

        Raises
        ------
        ValueError
            If all clips are silent, or all are the same: nothing can be learnt from them.
        """
        features = super().fit_transform(X, y, **fit_params)
        refuse_equal_clips(np.asarray(features), X)
        return features


def refuse_equal_clips(features: NDArray, patches: Any) -> None:
    """Raise if two or more clips are all silent, or all the same."""
    rows = features.reshape(len(features), -1)
    usable = np.flatnonzero(np.isfinite(rows).all(axis=1))
    rows = rows[usable]
    if len(rows) < 2 or (np.ptp(rows, axis=0) > _ROUNDING * np.abs(rows).max(axis=0)).any():
        return
    are_silent = np.ptp(np.asarray(take_clips(patches, usable[:1]))) == 0
    raise ValueError(
        f"All {len(rows)} clips are silent: there is no sound to learn from."
        if are_silent
        else f"All {len(rows)} clips are the same: how normal clips differ cannot be learnt."
    )


def validate_patches(
    estimator: BaseEstimator, X: Any, *, reset: bool, n_mels: int | None = None
) -> np.ndarray | LazyPatches:
    """Check the shape of patches, and return them.

    Parameters
    ----------
    estimator : BaseEstimator
        Its `n_features_in_`, the patch area, is set or compared with.
    X : array-like of shape (n_clips, n_time, n_freq, patch_area) or (n_clips, patch_area)
        2-D stands for one patch per clip.
    reset : bool
        Whether to set `n_features_in_`, or to compare with it.
    n_mels : int or None, default=None
        Mel bins of the clips of `fit`, to compare with.

    Returns
    -------
    patches : ndarray or LazyPatches of shape (n_clips, n_time, n_freq, patch_area)

    Raises
    ------
    ValueError
        If the shape does not fit, or `X` are clips; for 2-D X also if there are NaN or infinities.
    """
    refuse_masked(X)
    if isinstance(X, (list, tuple)) and not isinstance(X, LazyPatches):
        X = _as_array(X)
    name = type(estimator).__name__
    if isinstance(X, LazyPatches) or getattr(X, "ndim", 2) == 4:
        if not isinstance(X, LazyPatches):
            # A clip that could not be read is all NaN; iterate_batches refuses other NaN.
            X = check_array(X, dtype=np.float32, allow_nd=True, ensure_all_finite=False)
        if reset:
            estimator.n_features_in_ = X.shape[3]
        elif X.shape[3] != estimator.n_features_in_:
            raise ValueError(
                f"X has patches of {X.shape[3]} values, but {name} was fitted on patches of "
                f"{estimator.n_features_in_}."
            )
    elif getattr(X, "ndim", 2) == 2:
        _refuse_clips(X, name)
        X = validate_data(estimator, X, reset=reset, dtype=np.float32)[:, None, None, :]
    elif X.ndim == 3:
        raise ValueError(_wrong_shape("X", X.shape))
    else:
        _refuse_clips(X, name)
        X = validate_data(estimator, X, reset=reset, dtype=np.float32)
    grid = patch_grid(X)
    if n_mels not in (None, grid.n_mels):
        raise ValueError(
            f"X has {grid.n_freq} bands of patches, which are {grid.n_mels} mel bins, but {name} "
            f"was fitted on {n_mels} mel bins."
        )
    return X


def _as_array(X: Any) -> np.ndarray:
    """Return a list as an array; clips of different lengths as one of objects."""
    try:
        return np.asarray(X)
    except ValueError:
        array = np.empty(len(X), dtype=object)
        array[:] = list(X)
        return array


def _refuse_clips(X: Any, name: str) -> None:
    """Refuse what `MelPatcher` takes: paths, pairs and rows of samples."""
    array = np.asarray(X)
    values = array.ravel()[:1] if array.dtype.kind == "O" and array.ndim else ()
    # A dict and None are refused by scikit-learn.
    if array.dtype.kind in "US" or any(not isinstance(v, (Number, dict, NoneType)) for v in values):
        raise ValueError(f"{name} takes patches, and X are clips. Put MelPatcher() first.")
    if array.ndim == 2 and array.shape[1] > _LARGEST_PATCH:
        raise ValueError(
            f"{name} takes patches, and X has rows of {array.shape[1]} values, more than the "
            f"{_LARGEST_PATCH} of the largest patch: these seem to be samples. Put MelPatcher() "
            "first."
        )


def given_patches(X: Any) -> Any:
    """Check the shape of patches that no patcher of ours made, and return them."""
    patches = X if isinstance(X, LazyPatches) else np.asarray(X)
    if patches.ndim != 4 or math.isqrt(patches.shape[3]) ** 2 != patches.shape[3]:
        raise ValueError(
            "With patcher='passthrough' X must be patches of shape (n_clips, n_time, n_freq, "
            f"patch_size ** 2). Got an array of shape {patches.shape} instead; patchify makes "
            "patches of spectrograms, and patcher=None takes clips."
        )
    return patches


def warn_of_another_unit(X: np.ndarray | LazyPatches) -> None:
    """Warn if patches seem to be no natural logarithms of power, such as decibels.

    Noise changes the power of a mel bin from frame to frame by about the same factor in every
    recording, so the median step shows the unit.
    """
    steps = np.abs(np.diff(unpatchify(X[:: -(-len(X) // _CLIPS_TO_MEASURE)]), axis=1))
    moving = steps[steps > 0]  # neither NaN nor digital silence
    step = float(np.median(moving)) if len(moving) else _TYPICAL_STEP
    if not 1 / _UNUSUAL <= step / _TYPICAL_STEP <= _UNUSUAL:
        warnings.warn(
            f"The mel bins of X step by {step:.2g} from frame to frame (median), and natural "
            f"logarithms of power by about {_TYPICAL_STEP}: they may have another unit. Multiply "
            "decibels by 0.2303, and do not standardize.",
            UserWarning,
            stacklevel=4,
        )


def take_clips(X: np.ndarray | LazyPatches, rows: np.ndarray) -> np.ndarray | LazyPatches:
    """Return the patches of some clips; lazy ones stay lazy."""
    return X.take(rows) if isinstance(X, LazyPatches) else X[rows]


def iterate_batches(X: np.ndarray | LazyPatches, batch_size: int) -> Iterator[np.ndarray]:
    """Yield patches batch by batch; raise if a clip is NaN in part."""
    if isinstance(X, LazyPatches):
        yield from X.batches(batch_size)
        return
    for rows in gen_batches(len(X), batch_size):
        batch = X[rows]
        broken = np.flatnonzero(~np.isfinite(batch).all(axis=(1, 2, 3)))
        in_part = broken[~np.isnan(batch[broken]).all(axis=(1, 2, 3))]
        if len(in_part):
            first = rows.start + in_part[0]
            raise ValueError(f"The patches of clip {first} contain NaN or infinity.")
        yield batch


def survey_patches(
    X: np.ndarray | LazyPatches, batch_size: int
) -> tuple[NDArray[np.intp], tuple[float, float]]:
    """Return the indices of clips that are not NaN, and the mean and deviation of their values."""
    usable = []
    count, mean, squares = 0, 0.0, 0.0
    for batch in iterate_batches(X, batch_size):
        is_usable = np.isfinite(batch[:, 0, 0, 0])
        usable.append(is_usable)
        values = batch[is_usable]
        if values.size == 0:
            continue
        # Batches are merged after Chan et al. 1983; sums of squares would lose digits.
        shift = float(values.mean(dtype=np.float64)) - mean
        squares += float(values.var(dtype=np.float64)) * values.size
        squares += shift**2 * count * values.size / (count + values.size)
        mean += shift * values.size / (count + values.size)
        count += values.size
    if count == 0:
        raise ValueError(NO_USABLE_CLIP)
    std = math.sqrt(squares / count)
    return np.flatnonzero(np.concatenate(usable)), (mean, std or 1.0)
