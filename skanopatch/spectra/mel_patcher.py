"""MelPatcher: clips -> log-mel spectrograms -> patches."""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skanopatch.audio import (
    as_clip_list,
    clip_duration,
    clip_name,
    masked_to_nan,
    pcm_to_float,
)
from skanopatch.spectra.lazy_patches import Clips, LazyPatches, bullets
from skanopatch.spectra.log_mel import WINDOWS, FrontEnd
from skanopatch.spectra.patches import ArrayOutputMixin

# Patches of 260 clips of 10 s. More are computed when they are needed, so that memory does not grow
# with the number of clips: a pass over them costs as much as reading them again.
_MOST_MEBIBYTES = 128


class MelPatcher(ArrayOutputMixin, TransformerMixin, BaseEstimator):
    """Read clips, compute their log-mel spectrograms and cut these into patches.

    The spectrogram is Kaldi's log-mel filterbank [1]_, as BEATs, AST and AudioMAE need it. It is
    not normalised here, because each backbone normalises it by the mean and deviation that it was
    trained with.

    Parameters
    ----------
    sample_rate : int, default=16000
        Rate in Hz of the spectrogram. Clips of other rates are resampled.
    n_mels : int, default=128
        Number of mel bins, a multiple of `patch_size`. At 16 kHz with 128 bins, no bin of the FFT
        falls into the fourth mel bin, so it is constant. This is the same in Kaldi, and
        pre-trained weights expect it.
    frame_length, frame_shift : float, default=0.025 and 0.010
        Length of a frame, and time from one frame to the next, in seconds.
    f_min : float, default=20.0
        Lower edge of the mel filters in Hz.
    f_max : float, default=None
        Upper edge of the mel filters in Hz. None is half the sample rate.
    window : {"povey", "hanning", "hamming", "blackman", "rectangular"}, default="povey"
        The window function of a frame, as Kaldi names it.
    preemphasis : float, default=0.97
        Coefficient of the first difference that is taken in each frame.
    scale : float, default=32768.0
        Factor on the samples. 2 ** 15 gives Kaldi's 16-bit range, which BEATs expects.
    patch_size : int, default=16
        Number of frames, and of mel bins, of a patch.
    filterbank : {"kaldi", "decibels"}, default="kaldi"
        "kaldi" is the natural logarithm of the power in Kaldi's filters. "decibels" is what CED and
        Dasheng need: torchaudio's mel spectrogram of centred frames in dB, at most 120 dB below its
        loudest bin. It needs ``preemphasis=0``.
    channel : int or "mean", default=0
        The channel of a clip that is used, counted from 0, or the mean of all channels. The mean of
        several microphones weakens sound that reaches them out of phase.
    level : {"as is", "normalized"}, default="as is"
        Whether the gain of a clip counts. "normalized" scales each clip to an RMS of 0.1 (-20 dB).
        Then another gain changes nothing, but a machine that has become louder is not noticed.
    duration : float, default=10.0
        Seconds of each clip that are used. Of a longer clip only the beginning is used, with a
        warning; `AnomalousSoundDetector` and `split_recording` cut long clips into windows. A
        shorter clip is repeated until it is long enough. This takes the time of a full clip and may
        add a click where the clip starts again. None takes the length of the longest clip of `fit`.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a clip cannot be read, is empty or holds NaN or infinity. "raise" raises an
        error that names it. "nan" gives it patches of NaN, and so the score NaN, with one warning
        for all such clips.
    n_jobs : int, default=None
        Number of processes that read and compute. None takes that of a `joblib.parallel_config`
        context, which also brings the work to Dask or Ray. Without such a context, more than 16
        clips are computed by threads: one per core, but at most 4, and only 1 inside a worker of
        joblib, such as those of ``GridSearchCV(n_jobs=2)``.

    Attributes
    ----------
    duration_ : float
        Seconds of each clip that are used.
    n_features_in_ : int
        Number of samples of a clip, if `fit` got a 2-D array.

    See Also
    --------
    patchify : The same patches from spectrograms computed elsewhere.

    References
    ----------
    .. [1] D. Povey et al., "The Kaldi Speech Recognition Toolkit", ASRU 2011;
       equal to ``torchaudio.compliance.kaldi.fbank`` within float32 rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import MelPatcher
    >>> rng = np.random.default_rng(0)
    >>> clips = [rng.normal(size=160000), (rng.normal(size=48000), 48000)]
    >>> MelPatcher().fit_transform(clips).shape
    (2, 62, 8, 256)
    """

    _parameter_constraints: dict = {
        "sample_rate": [Interval(Integral, 1, None, closed="left")],
        "n_mels": [Interval(Integral, 1, None, closed="left")],
        "frame_length": [Interval(Real, 0, None, closed="neither")],
        "frame_shift": [Interval(Real, 0, None, closed="neither")],
        "f_min": [Interval(Real, 0, None, closed="left")],
        "f_max": [Interval(Real, 0, None, closed="neither"), None],
        "window": [StrOptions(set(WINDOWS))],
        "preemphasis": [Interval(Real, 0, 1, closed="both")],
        "scale": [Interval(Real, 0, None, closed="neither")],
        "patch_size": [Interval(Integral, 1, None, closed="left")],
        "filterbank": [StrOptions({"kaldi", "decibels"})],
        "channel": [Interval(Integral, 0, None, closed="left"), StrOptions({"mean"})],
        "level": [StrOptions({"as is", "normalized"})],
        "duration": [Interval(Real, 0, None, closed="neither"), None],
        "on_error": [StrOptions({"raise", "nan"})],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        sample_rate=16000,
        *,
        n_mels=128,
        frame_length=0.025,
        frame_shift=0.010,
        f_min=20.0,
        f_max=None,
        window="povey",
        preemphasis=0.97,
        scale=2.0**15,
        patch_size=16,
        filterbank="kaldi",
        channel=0,
        level="as is",
        duration=10.0,
        on_error="raise",
        n_jobs=None,
    ):
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.frame_length = frame_length
        self.frame_shift = frame_shift
        self.f_min = f_min
        self.f_max = f_max
        self.window = window
        self.preemphasis = preemphasis
        self.scale = scale
        self.patch_size = patch_size
        self.filterbank = filterbank
        self.channel = channel
        self.level = level
        self.duration = duration
        self.on_error = on_error
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the settings, and learn the duration if it is None.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            A clip is a path, a `Segment` of a file, a 1-D array at `sample_rate`, or a pair
            (array, sample_rate).
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If settings contradict each other; the message names them. With ``on_error="raise"``,
            if a 2-D array holds NaN or infinity, or ``duration=None`` needs a length that cannot be
            read.
        """
        front_end = self._front_end()
        clips = self._validate_clips(X, reset=True)
        if self.duration is None:
            longest = _longest(clips, self.sample_rate, self.on_error)
            self.duration_ = max(longest, front_end.min_samples / self.sample_rate)
        else:
            self.duration_ = float(self.duration)
        return self

    def transform(self, X):
        """Compute the patches of clips.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            A clip is a path, a `Segment` of a file, a 1-D array at `sample_rate`, or a pair
            (array, sample_rate).

        Returns
        -------
        patches : ndarray or LazyPatches of shape (n_clips, n_time, n_freq, patch_size ** 2)
            Float32, as from `patchify`: natural logarithms of power, or dB with
            ``filterbank="decibels"``. Patches of more than 128 MiB, or more than scikit-learn's
            `working_memory` if that is less, are computed when they are needed (`LazyPatches`).

        Raises
        ------
        ValueError
            If clips cannot be used and `on_error` is "raise". The message names all of them that
            are in one batch.

        Warns
        -----
        UserWarning
            If clips are longer than `duration_`.
        """
        check_is_fitted(self)
        clips = self._validate_clips(X, reset=False)
        self._warn_of_cut_clips(clips)
        patches = LazyPatches(
            clips,
            front_end=self._front_end(),
            channel=self.channel,
            level=self.level,
            n_samples=round(self.duration_ * self.sample_rate),
            on_error=self.on_error,
            n_jobs=self.n_jobs,
        )
        most = min(_MOST_MEBIBYTES, get_config()["working_memory"])
        is_large = patches.nbytes > most * 2**20
        return patches if is_large else np.asarray(patches)

    @property
    def front_end(self) -> FrontEnd:
        """The mel settings of the patches, as displays of spectrograms take them."""
        return self._front_end()

    def _front_end(self) -> FrontEnd:
        names = FrontEnd.__dataclass_fields__
        front_end = FrontEnd(**{name: getattr(self, name) for name in names})
        nyquist = self.sample_rate / 2
        if self.f_min >= (nyquist if self.f_max is None else self.f_max) or (
            self.f_max is not None and self.f_max > nyquist
        ):
            raise ValueError(
                f"f_min={self.f_min} and f_max={self.f_max} must satisfy 0 <= f_min < f_max <= "
                f"{nyquist:g}, half the sample rate (sample_rate={self.sample_rate})."
            )
        if self.filterbank == "decibels" and self.preemphasis != 0:
            raise ValueError(
                "preemphasis must be 0 with filterbank='decibels', which has none. "
                f"Got {self.preemphasis} instead."
            )
        if self.n_mels % self.patch_size:
            raise ValueError(
                f"n_mels={self.n_mels} must be a multiple of patch_size={self.patch_size}."
            )
        if front_end.window_samples < 2 or front_end.shift_samples < 1:
            raise ValueError(
                f"frame_length={self.frame_length} and frame_shift={self.frame_shift} seconds must "
                f"cover at least 2 samples and 1 sample at sample_rate={self.sample_rate}."
            )
        shortest = front_end.min_samples / self.sample_rate
        if self.duration is not None and round(self.duration, 9) < round(shortest, 9):
            raise ValueError(
                f"duration={self.duration} is too short: one patch of {self.patch_size} frames "
                f"takes {shortest:g} seconds."
            )
        return front_end

    def _warn_of_cut_clips(self, clips: Clips) -> None:
        """Say which clips are used in part only."""
        patch = self.patch_size * self.frame_shift
        cut = [
            f"{clip_name(clips[i], i)}: {self.duration_:g} of {length:g} s"
            for i, length in enumerate(_lengths(clips, self.sample_rate)[0])
            if length > self.duration_ + patch
        ]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(clips)} clips are longer than the {self.duration_:g} s of "
                f"which patches are made, and the rest of them is not used:{bullets(cut, most=5)}\n"
                "AnomalousSoundDetector and split_recording take long recordings apart; "
                "duration=None takes the longest clip of fit as a whole.",
                UserWarning,
                stacklevel=3,
            )

    def _validate_clips(self, X: Any, *, reset: bool) -> Clips:
        clips = as_clip_list(X)
        if clips is not None:
            return clips
        X = masked_to_nan(X)
        is_pcm = getattr(getattr(X, "dtype", None), "kind", "f") in "iu"
        samples = validate_data(
            self,
            X,
            reset=reset,
            dtype="numeric" if is_pcm else np.float32,
            ensure_all_finite=False,  # each clip is checked, and named, when it is read
        )
        if reset and self.on_error == "raise" and not np.isfinite(samples).all():
            bad_clips = np.flatnonzero(~np.isfinite(samples).all(axis=1)).tolist()
            raise ValueError(
                f"{len(bad_clips)} of {len(samples)} clips cannot be used:"
                + bullets([f"clip {i}: it contains NaN or infinity" for i in bad_clips])
            )
        return pcm_to_float(samples)


def _lengths(clips: Clips, sample_rate: int) -> tuple[list[float], list[str]]:
    """Return the lengths of clips in seconds, NaN where there is none, and why there is none."""
    lengths, errors = [], []
    for i, clip in enumerate(clips):
        try:
            lengths.append(clip_duration(clip, sample_rate=sample_rate))
        except ValueError as error:
            lengths.append(math.nan)
            errors.append(f"{clip_name(clip, i)}: {error}")
    return lengths, errors


def _longest(clips: Clips, sample_rate: int, on_error: str) -> float:
    """Return the length in seconds of the longest clip that has one."""
    lengths, errors = _lengths(clips, sample_rate)
    if len(errors) == len(clips) or (errors and on_error == "raise"):
        raise ValueError(f"{len(errors)} of {len(clips)} clips cannot be used:{bullets(errors)}")
    return float(np.nanmax(lengths))
