"""Pseudo-anomalies: normal clips changed on purpose, to select models where none is broken yet."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy import fft, signal
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from skanopatch.audio import as_clip_list, clip_name, fit_length, is_pair, read_clip
from skanopatch.audio.labels import label_list

# Just thirds, up and down, as (up, down) of the sampling rate: quick to resample by.
_RATIOS = ((4, 5), (5, 6), (6, 5), (5, 4))

# Octaves below the Nyquist frequency between which the centre of a stopped band lies.
_BAND_CENTRES = (0.5, 6.5)


def _pitch(samples: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Play the clip faster or slower by a third; what is then missing is played backwards."""
    up, down = _RATIOS[rng.randint(len(_RATIOS))]
    played = signal.resample_poly(samples, up, down, axis=0)[: len(samples)]
    missing = len(samples) - len(played)
    return np.pad(played, ((0, missing), (0, 0)), mode="symmetric")


def _stop_band(samples: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Silence about an octave of the clip: a Gaussian notch in log-frequency, without phase."""
    octaves_below_nyquist = -np.log2(np.linspace(1e-6, 1, len(samples) // 2 + 1))
    centre = rng.uniform(*_BAND_CENTRES)
    gain = 1 - np.exp(-0.5 * ((octaves_below_nyquist - centre) / 0.5) ** 2)
    return fft.irfft(fft.rfft(samples, axis=0) * gain[:, np.newaxis], len(samples), axis=0)


_CHANGES = {"pitched": _pitch, "band_stopped": _stop_band}
_KINDS = ("mixed", *_CHANGES)


@validate_params(
    {
        "clips": "no_validation",
        "kinds": ["array-like"],
        "strength": [Interval(Real, 0, 1, closed="right")],
        "other_clips": "no_validation",
        "groups": "no_validation",
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_pseudo_anomalies(
    clips: Any,
    *,
    kinds: Sequence[str] = ("pitched", "band_stopped"),
    strength: float = 0.25,
    other_clips: Any = None,
    groups: Iterable[Hashable] | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make an anomaly from each normal clip, for model selection without recorded faults.

    Parameters
    ----------
    clips : sequence of clips, or array-like of shape (n_clips, n_samples)
        Normal clips. Pseudo-anomalies are held in memory: 640 kB for ten seconds at 16 kHz.
    kinds : sequence of {"mixed", "pitched", "band_stopped"}, default=("pitched", "band_stopped")
        How clips are changed: mixed with another clip, played faster or slower by a third, or
        without a random octave. The kinds take turns, in random order.
    strength : float, default=0.25
        The amplitude at which the changed clip replaces the original, in (0, 1]. Make it smaller if
        many models have a score of 1.
    other_clips : sequence of clips, default=None
        Clips to mix with, such as those of other machines. None mixes `clips` with each other.
    groups : iterable of hashables of length n_clips, default=None
        Clips that must stay in one fold, such as the session of each clip. With None, each clip is
        a group of its own, except for clips that are mixed with each other.
    random_state : int, RandomState instance or None, default=None
        Determines the pseudo-anomalies.

    Returns
    -------
    pseudo : :class:`~sklearn.utils.Bunch`
        With one entry a clip: ``clips``, the list of the clips as they were given and then the
        anomaly of each, of its length, loudness, rate and channels, an array where the clip is one
        and else a pair; ``y``, +1 normal, -1 anomaly; ``groups``, for a group-wise splitter, the
        same for a clip, its anomaly and what that was mixed with; ``source``, the index in `clips`
        that a clip was made of, so that metadata follow: ``domains[pseudo.source]``; and ``kind``,
        "normal", "mixed", "pitched" or "band_stopped".

    Raises
    ------
    ValueError
        If a kind is unknown, a clip cannot be read, or there is nothing to mix a clip with.

    Notes
    -----
    The more pseudo-anomalies are like real ones, the better the selection. In the experiment of the
    user guide it is better than the defaults on simulated machines, and not on recordings.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanopatch import FitOnNormal, KNNDetector, MelPatcher, MelStatistics
    >>> from skanopatch import make_anomaly_scorer, make_pseudo_anomalies
    >>> normal_clips = np.random.default_rng(0).normal(scale=0.1, size=(24, 8000))
    >>> pipe = make_pipeline(MelPatcher(duration=0.5), MelStatistics(), KNNDetector())
    >>> pseudo = make_pseudo_anomalies(normal_clips, random_state=0)
    >>> search = GridSearchCV(
    ...     FitOnNormal(pipe),
    ...     {"estimator__knndetector__metric": ["cosine", "euclidean"]},
    ...     scoring=make_anomaly_scorer("auc"),
    ...     cv=StratifiedGroupKFold(4),
    ... )
    >>> search.fit(pseudo.clips, pseudo.y, groups=pseudo.groups).predict(normal_clips).shape
    (24,)
    """
    kinds = list(kinds)
    unknown = [kind for kind in kinds if kind not in _KINDS]
    if unknown or not kinds:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"kinds must be among {list(_KINDS)}. Got {got} instead.")
    if other_clips is not None and "mixed" not in kinds:
        raise ValueError(
            f"other_clips are what clips are mixed with. Got kinds={kinds}, without 'mixed'."
        )
    normal = _listed(clips)
    n_clips = len(normal)
    rng = check_random_state(random_state)
    if groups is not None:
        numbers: dict[Hashable, int] = {}
        listed = label_list(groups, n_clips, "groups")
        members = np.array([numbers.setdefault(group, len(numbers)) for group in listed])
    elif "mixed" in kinds and other_clips is None:
        members = _pairs(n_clips, rng)
    else:
        members = np.arange(n_clips)

    others = normal if other_clips is None else _listed(other_clips)
    kind = np.resize(kinds, n_clips)[rng.permutation(n_clips)]
    made = []
    for index, name in enumerate(kind):
        samples, rate = _read(normal, index)
        if name == "mixed":
            candidates = np.arange(len(others))
            if other_clips is None:
                candidates = np.setdiff1d(np.flatnonzero(members == members[index]), [index])
            changed = _read_partner(normal, index, others, candidates, rng)
        else:
            changed = _CHANGES[name](samples, rng)
        blend = _as_loud_as(samples, (1 - strength) * samples + strength * changed)
        made.append(_like(normal[index], blend.astype(np.float32), rate))
    return Bunch(
        clips=normal + made,
        y=np.repeat([1, -1], n_clips),
        groups=np.tile(members, 2),
        source=np.tile(np.arange(n_clips), 2),
        kind=np.r_[np.full(n_clips, "normal"), kind],
    )


def _listed(clips: Any) -> list[Any]:
    listed = as_clip_list(clips)
    return list(np.asarray(clips)) if listed is None else listed


def _pairs(n_clips: int, rng: np.random.RandomState) -> np.ndarray:
    """Number pairs of clips at random; an odd one makes three."""
    numbers = np.minimum(np.arange(n_clips) // 2, max(n_clips // 2 - 1, 0))
    return numbers[rng.permutation(n_clips)]


def _read(clips: list[Any], index: int) -> tuple[np.ndarray, int | None]:
    try:
        return read_clip(clips[index])
    except ValueError as error:
        raise ValueError(f"{clip_name(clips[index], index)}: {error}.") from error


def _read_partner(
    clips: list[Any],
    index: int,
    others: list[Any],
    candidates: np.ndarray,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Read one of the candidates among `others`, as long and as loud as the clip at `index`."""
    if not len(candidates):
        raise ValueError(
            f"There is no other clip in the group of {clip_name(clips[index], index)} to mix it "
            "with. Give other_clips or larger groups, or leave 'mixed' out of kinds."
        )
    chosen = rng.choice(candidates)
    samples, rate = _read(clips, index)
    partner, its_rate = _read(others, chosen)
    if (partner.shape[1], its_rate) != (samples.shape[1], rate):
        raise ValueError(
            "Clips to be mixed must have one sample rate and one number of channels. "
            f"{clip_name(clips[index], index)} has {rate} Hz and {samples.shape[1]}, "
            f"{clip_name(others[chosen], chosen)} has {its_rate} Hz and {partner.shape[1]}."
        )
    fitted = [fit_length(channel, len(samples)) for channel in partner.T]
    return _as_loud_as(samples, np.stack(fitted, axis=1))


def _as_loud_as(samples: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Scale `other` to the RMS of `samples`, so that level does not tell them apart."""
    power = np.mean(np.square(other, dtype=np.float64))
    wanted = np.mean(np.square(samples, dtype=np.float64))
    return other * np.sqrt(wanted / power) if power > 0 else other


def _like(clip: Any, samples: np.ndarray, rate: int | None) -> Any:
    """Return samples in the form of a clip: bare for an array, else with the rate."""
    if rate is None:
        return samples[:, 0]
    is_mono = is_pair(clip) and np.ndim(clip[0]) == 1
    return (samples[:, 0] if is_mono else samples), rate
