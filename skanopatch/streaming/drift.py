"""Slow rises of the distance: a seasonal Mann-Kendall test that allows for autocorrelation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.utils import check_random_state

DAY = 86400.0
_LEAST_PERIODS = 7  # with fewer, slow swings are taken for rises: benchmarks/bench_drift.py
_LEAST_BLOCKS, _BLOCKS_WITHOUT_PERIOD, _MOST_BLOCKS = 12, 48, 240
_BLOCKS_A_PERIOD = (24, 12, 8, 6, 4, 3, 2, 1)
_LEAST_COVERED = 0.25  # of the windows that half of the blocks have at least
_N_SIMULATED = 999
_HIGHEST = 0.99  # correlation of neighbouring blocks
_SIGNIFICANT = 2.0  # standard errors of an autocorrelation


@dataclass(frozen=True)
class Drift:
    """Result of `drift_test`: whether the score rises slowly.

    Attributes
    ----------
    p_value : float
        Probability of such a rise by chance; NaN if there are too few windows.
    is_rising : bool
        Whether the p-value is at most `alpha`.
    slope : float
        Rise of the distance per day, in multiples of the threshold; NaN like the p-value.
    line : ndarray of shape (2, 2)
        Unix time and distance at both ends of the line with this slope.
    blocks : ndarray of shape (n_blocks, 2)
        Unix time of the middle, and median distance, of each block that has windows.
    block : float
        Length of a block in seconds.
    correlation : float
        The correlation of neighbouring blocks that the test used.
    reason : str
        Why there is no p-value, or "".
    """

    p_value: float
    is_rising: bool
    slope: float
    line: NDArray[np.float64]
    blocks: NDArray[np.float64]
    block: float
    correlation: float
    reason: str

    def sentence(self) -> str:
        """Return the result in words."""
        if self.reason:
            return f"Whether the distance rises slowly cannot be said: {self.reason}."
        change = f"{self.slope:+.3g} times the threshold a day, p = {self.p_value:.3f}"
        if self.is_rising:
            return f"The distance rises slowly: {change}."
        return f"No slow rise: {change}."


def drift_test(
    times: ArrayLike,
    distance: ArrayLike,
    *,
    period: float = DAY,
    alpha: float = 0.01,
    random_state: int | np.random.RandomState | None = 0,
) -> Drift:
    """Test whether the distance of windows rises slowly.

    Parameters
    ----------
    times : array-like of shape (n_windows,)
        Unix times in seconds, in any order.
    distance : array-like of shape (n_windows,)
        1 is the threshold, higher is more anomalous. NaN does not count.
    period : float, default=86400
        Seconds of a normal cycle, such as day and night. 0 is no cycle. Seven periods are needed.
    alpha : float, default=0.01
        The share of machines without a rise that may be said to have one.
    random_state : int, RandomState instance or None, default=0
        Seed of the simulated machines without a rise.

    Returns
    -------
    drift : Drift

    Notes
    -----
    The newest whole periods are cut into blocks, at most 24 per period and at most 240 together.
    Each block has the median of its windows, which single events do not change. Blocks from the
    same part of a period are compared in pairs, so that a daily cycle has no effect. Kendall's S
    is the number of pairs that rise minus the number of pairs that fall (the seasonal Mann-Kendall
    test [1]_).

    Blocks depend on each other. So S is compared with that of 999 simulated first-order
    autoregressive sequences with the same gaps, as in [2]_. Their correlation is estimated from the
    autocorrelations r of the blocks without slope and daily cycle. It is the highest
    ``r(k) ** (1 / k)``, from lag 1 to the first lag without significance, at most one period. A
    slow component under noise has a small r(1) and still decays slowly, so r(1) alone would be too
    small.

    References
    ----------
    .. [1] R. M. Hirsch and J. R. Slack, "A nonparametric trend test for seasonal data with serial
       dependence", Water Resources Research 20, 1984.
    .. [2] K. Noguchi, Y. R. Gel and C. R. Duguay, "Bootstrap-based tests for trends in
       hydrological time series, with application to ice phenology data", J. Hydrology 410, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch.streaming.drift import drift_test
    >>> hours = np.arange(24.0 * 7)
    >>> distance = 0.6 + 0.05 * np.random.default_rng(0).normal(size=len(hours))
    >>> drift_test(3600 * hours, distance).is_rising
    False
    >>> drift_test(3600 * hours, distance + 0.001 * hours).is_rising
    True
    """
    times, distance = _valid(times, distance, period)
    if not len(times):
        return _too_little(np.empty((0, 2)), math.nan, "no window has a score")
    edges, n_seasons = _edges(times, period)
    medians = _block_medians(times, distance, edges)
    middles, block = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    known = np.isfinite(medians)
    blocks = np.column_stack([middles, medians])[known]
    hours = (times[-1] - times[0]) / 3600
    if period and len(medians) < _LEAST_PERIODS * n_seasons:
        needed = f"{_LEAST_PERIODS} periods of {period / 3600:g} h are needed"
        return _too_little(blocks, block, f"{needed}, and there are {hours:.3g} h")
    slopes = _slopes(medians.reshape(-1, n_seasons))
    if known.sum() < _LEAST_BLOCKS or not len(slopes):
        reason = f"{_LEAST_BLOCKS} blocks of {block / 3600:.3g} h are needed, {known.sum()} have"
        return _too_little(blocks, block, f"{reason} enough windows")
    slope = float(np.median(slopes))  # a block
    detrended = medians - slope * np.arange(len(medians))
    correlation = _persistence(_without_cycle(detrended, n_seasons), n_seasons)
    p_value = _p_value(medians, n_seasons, correlation, random_state)
    level = float(np.nanmedian(detrended))
    ends = np.array([0, len(medians) - 1])
    return Drift(
        p_value=p_value,
        is_rising=p_value <= alpha,
        slope=slope * DAY / block,
        line=np.column_stack([middles[ends], level + slope * ends]),
        blocks=blocks,
        block=block,
        correlation=correlation,
        reason="",
    )


def _valid(times: ArrayLike, distance: ArrayLike, period: float) -> tuple[NDArray, NDArray]:
    """Return the windows that have a score, in the order of their times."""
    times, distance = np.asarray(times, np.float64), np.asarray(distance, np.float64)
    if times.ndim != 1 or times.shape != distance.shape:
        raise ValueError(
            "times and distance must have one entry a window. "
            f"Got the shapes {times.shape} and {distance.shape}."
        )
    if not 0 <= period < math.inf:
        raise ValueError(f"period must be at least 0 seconds. Got {period!r} instead.")
    order = np.argsort(times, kind="stable")
    order = order[np.isfinite(times[order]) & np.isfinite(distance[order])]
    return times[order], distance[order]


def _too_little(blocks: NDArray, block: float, reason: str) -> Drift:
    return Drift(
        p_value=math.nan,
        is_rising=False,
        slope=math.nan,
        line=np.empty((0, 2)),
        blocks=blocks,
        block=block,
        correlation=math.nan,
        reason=reason,
    )


def _edges(times: NDArray, period: float) -> tuple[NDArray[np.float64], int]:
    """Return the edges of blocks, which end with the newest window, and how many are a period."""
    steps = np.diff(times)
    hop = float(np.median(steps)) if len(steps) else 1.0
    stop = times[-1] + max(hop, 1e-3)
    span = stop - times[0]
    if not period:
        return np.linspace(stop - span, stop, _BLOCKS_WITHOUT_PERIOD + 1), 1
    n_periods = max(1, math.floor(span / period * (1 + 1e-9)))
    # A block has at least two windows of an hour that has any.
    suited = [n for n in _BLOCKS_A_PERIOD if n * n_periods <= _MOST_BLOCKS and period / n >= hop]
    n_seasons = suited[0] if suited else 1
    length = period / n_seasons * max(1, math.ceil(n_periods / _MOST_BLOCKS))
    n_blocks = max(1, math.floor(span / length * (1 + 1e-9))) // n_seasons * n_seasons
    n_blocks = n_blocks or n_seasons
    return stop - length * np.arange(n_blocks, -1, -1), n_seasons


def _block_medians(times: NDArray, distance: NDArray, edges: NDArray) -> NDArray[np.float64]:
    """Return the median of each block, NaN where it has far fewer windows than others."""
    place = np.searchsorted(edges, times, side="right") - 1
    groups = [distance[slice(*np.searchsorted(place, [i, i + 1]))] for i in range(len(edges) - 1)]
    sizes = np.array([len(group) for group in groups])
    usual = np.median(sizes[sizes > 0]) if sizes.any() else 1
    least = max(1, _LEAST_COVERED * usual)
    return np.array([np.median(g) if len(g) >= least else np.nan for g in groups])


def _slopes(seasons: NDArray) -> NDArray[np.float64]:
    """Return the slopes a block of all pairs in (n_periods, n_seasons)."""
    n_periods, n_seasons = seasons.shape
    slopes = [
        ((seasons[lag:] - seasons[:-lag]) / (lag * n_seasons)).ravel()
        for lag in range(1, n_periods)
    ]
    together = np.concatenate(slopes)
    return together[np.isfinite(together)]


def _kendall(seasons: NDArray) -> NDArray[np.float64]:
    """Return Kendall's S of (..., n_periods, n_seasons)."""
    total = np.zeros(seasons.shape[:-2])
    for lag in range(1, seasons.shape[-2]):  # comparisons with NaN are false
        later, earlier = seasons[..., lag:, :], seasons[..., :-lag, :]
        total += np.count_nonzero(later > earlier, axis=(-2, -1))
        total -= np.count_nonzero(later < earlier, axis=(-2, -1))
    return total


def _without_cycle(detrended: NDArray, n_seasons: int) -> NDArray[np.float64]:
    """Subtract from each block the median of its part of the period."""
    seasons = detrended.reshape(-1, n_seasons)
    usual = [np.median(s[np.isfinite(s)]) if np.isfinite(s).any() else np.nan for s in seasons.T]
    return (seasons - usual).ravel()


def _persistence(residuals: NDArray, n_seasons: int) -> float:
    """Return the correlation of neighbouring blocks that explains all lags up to a period."""
    known = np.isfinite(residuals)
    scores = np.zeros(len(residuals))
    n_blocks = int(known.sum())
    scores[known] = ndtri(rankdata(residuals[known]) / (n_blocks + 1))
    variance = np.mean(scores[known] ** 2)
    longest = max(1, min(n_seasons, len(residuals) // 4))
    highest = 0.0
    for lag in range(1, longest + 1):
        pairs = known[lag:] & known[:-lag]
        r = float((scores[lag:] * scores[:-lag])[pairs].sum() / n_blocks / variance)
        r += (1 + 4 * max(r, 0.0)) / n_blocks  # its bias (Kendall 1954), after a line is removed
        if r <= (0.0 if lag == 1 else _SIGNIFICANT / math.sqrt(n_blocks)):
            break
        highest = max(highest, r ** (1 / lag))
    return min(highest, _HIGHEST)


def _p_value(
    medians: NDArray,
    n_seasons: int,
    correlation: float,
    random_state: int | np.random.RandomState | None,
) -> float:
    """Return how often autoregressive sequences have as large a Kendall's S as the blocks."""
    noise = check_random_state(random_state).normal(size=(_N_SIMULATED, len(medians)))
    noise[:, 0] /= math.sqrt(1 - correlation**2)  # stationary from the start
    simulated = lfilter([1.0], [1.0, -correlation], noise, axis=1)
    simulated[:, np.isnan(medians)] = np.nan
    expected = _kendall(simulated.reshape(_N_SIMULATED, -1, n_seasons))
    observed = _kendall(medians.reshape(-1, n_seasons))
    return float(1 + np.sum(expected >= observed)) / (_N_SIMULATED + 1)
