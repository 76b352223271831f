"""Resampling between any two rates, in blocks, by FFT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtr

# The pass band ends at 98 % of half the lower rate and the stop band begins at 100 %. A normal
# distribution between them, from -100 dB to -100 dB, keeps the filter short.
_PASS_BAND = 0.98
_CUT_OFF, _ROUNDNESS = 0.99, 0.01 / 4.26

# Samples at the lower rate after which the filter has decayed by 100 dB: 32 ms at 16 kHz.
_REACH = 512

# Input samples of an FFT, at least: memory does not grow with the length of a clip.
_BLOCK = 2**17

# Rates whose ratio has larger terms are approximated to 5 parts in a million or better. The
# clocks of sound cards differ by 20 to 100.
_LARGEST_TERM = 200_000


def input_range(
    rate: int, new_rate: int, first: int, last: int | None
) -> tuple[int, int | None, int]:
    """Return the input samples (begin, end) that output samples `first` to `last` depend on.

    Third comes how many of the samples that `resample` makes of them lie before `first`. None as
    `last` or end is the end of the clip.
    """
    up, down = _ratio(rate, new_rate)
    reach = _reach(up, down)
    period = max(0, first // up - reach)
    end = None if last is None else (-(-last // up) + reach) * down
    return period * down, end, first - period * up


def resample(blocks: Iterable[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resample a clip that comes in blocks of samples.

    The filter is linear in phase. It is flat up to 98 % of half the lower rate and suppresses what
    lies above 100 % by 100 dB, so that mel bins near the top keep their level, as they do not
    with the usual filters (flat up to 87 to 91 %). A clip is continued beyond its ends by its
    mirror image: a constant stays one.

    Parameters
    ----------
    blocks : iterable of ndarray of shape (n_samples,), float32
    rate, new_rate : int
        In Hz.

    Yields
    ------
    samples : ndarray of shape (n_samples,), float32
        ``ceil(n_samples * new_rate / rate)`` samples in all.
    """
    up, down = _ratio(rate, new_rate)
    reach = _reach(up, down)
    n_periods = next_fast_len(max(1, _BLOCK // down) + 2 * reach)
    n_read = n_made = 0
    held = np.empty(0, dtype=np.float32)
    for block in chain(blocks, (None,)):
        if block is not None:
            n_read += len(block)
            held = np.concatenate((held, block))
            if len(held) < n_periods * down:
                continue
        elif not n_read:
            return
        mirrored = (0 if n_made else reach * down, reach * down if block is None else 0)
        held = np.pad(held, mirrored, "symmetric")
        n_wanted = -(-n_read * up // down)
        while n_made < n_wanted and (block is None or len(held) >= n_periods * down):
            made = _convert(held[: n_periods * down], up, down)[reach * up : -reach * up]
            yield made[: n_wanted - n_made]
            n_made += len(made)
            held = held[(n_periods - 2 * reach) * down :]


def _ratio(rate: int, new_rate: int) -> tuple[int, int]:
    """Return a period of the two rates in samples of the output and of the input."""
    ratio = Fraction(new_rate, rate).limit_denominator(_LARGEST_TERM)
    return ratio.numerator, ratio.denominator


def _reach(up: int, down: int) -> int:
    """Return the periods that the filter reaches to either side."""
    return -(-_REACH * max(up, down) // (up * down))


def _convert(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    """Resample a block at once, as if it were repeated without end."""
    n_periods = -(-len(samples) // down)
    if len(samples) < _BLOCK:
        n_periods = next_fast_len(n_periods)
    n_in, n_out = n_periods * down, n_periods * up
    spectrum = rfft(samples, n_in)[: min(n_in, n_out) // 2 + 1]
    top = min(n_in, n_out) / 2
    first = int(_PASS_BAND * top)
    distance = _CUT_OFF - np.arange(first, len(spectrum)) / top
    spectrum[first:] *= ndtr(distance / _ROUNDNESS)
    return irfft(spectrum, n_out) * np.float32(n_out / n_in)
