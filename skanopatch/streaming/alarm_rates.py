"""How often normal sound raises an alarm, and the threshold that keeps it from doing so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

_HIGHEST_RATE = 0.5  # of false alarms, as of detectors
_LOWEST_RATE = 1e-9
_N_RATES = 60  # between them
_HIGHEST = 0.99  # correlation
_N_CORRELATIONS = 12  # up to the one given
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_REACH = 6.0  # deviations beyond a threshold, to which densities are integrated
_LEAST_PAIRS = 30  # of neighbouring windows, for a correlation
_ROUNDING = 1e-6  # seconds
_CONFIDENCE = 1.645  # deviations: one-sided 95 %


def alarms_per_hour(
    false_alarm_rate: float, hop: float, persistence: int, correlation: float | None = None
) -> float:
    """Return the highest mean number of alarms per hour of normal sound.

    Parameters
    ----------
    false_alarm_rate : float
        The share of normal windows that are beyond the threshold, p.
    hop : float
        Seconds from the start of one window to that of the next.
    persistence : int
        Windows in a row that raise an alarm, n.
    correlation : float, default=None
        The highest correlation of the distances of neighbouring windows, as estimated by
        `neighbour_correlation`. None if it is unknown.

    Returns
    -------
    alarms_per_hour : float

    Notes
    -----
    With ``w = 3600 / hop`` windows an hour, any stationary sequence of windows raises at most
    ``w p / n`` alarms: each takes n windows beyond the threshold, and no window serves two alarms.
    That holds whatever the dependence.

    With a correlation r the distances are assumed to be a monotonic function of a Gaussian Markov
    sequence (AR(1)) X. Runs of n windows or more beyond the threshold h then begin
    ``w P(X0 <= h < X1, ..., Xn)`` times an hour; for n = 1 these are its upcrossings [1]_.
    Independent windows have ``w (1 - p) p ** n``. The rate first grows with r and then falls, so
    the highest for any correlation from 0 to r is returned. Hysteresis joins alarms and makes
    none.

    References
    ----------
    .. [1] M. R. Leadbetter, G. Lindgren and H. Rootzen, "Extremes and Related Properties of Random
       Sequences and Processes", Springer 1983, chapter 7.

    Examples
    --------
    >>> from skanopatch.streaming.alarm_rates import alarms_per_hour
    >>> round(alarms_per_hour(0.1, hop=10.0, persistence=3), 2)  # whatever the dependence
    12.0
    >>> round(alarms_per_hour(0.1, hop=10.0, persistence=3, correlation=0.0), 2)
    0.32
    """
    bound = false_alarm_rate / persistence
    if correlation is not None:
        grid = np.linspace(0, min(max(correlation, 0.0), _HIGHEST), _N_CORRELATIONS)
        bound = min(bound, max(_runs(false_alarm_rate, r, persistence) for r in np.unique(grid)))
    return 3600 / hop * bound


def _runs(rate: float, correlation: float, n: int) -> float:
    """Return P(X0 <= h < X1, ..., Xn) of a Gaussian Markov sequence, with P(h < X) = rate."""
    h, deviation = -ndtri(rate), math.sqrt(1 - correlation**2)
    x = h + _REACH / 2 * (_NODES + 1)
    weights = _REACH / 2 * _WEIGHTS
    begins = weights * _density(x) * ndtr((h - correlation * x) / deviation)
    goes_on = weights * _density((x - correlation * x[:, np.newaxis]) / deviation) / deviation
    for _ in range(n - 1):
        begins = begins @ goes_on
    return float(begins.sum())


def _density(x: NDArray) -> NDArray[np.float64]:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def false_alarm_rate_for(
    n_alarms: float, hop: float, persistence: int, correlation: float | None = None
) -> float:
    """Return the false-alarm rate of windows that gives at most `n_alarms` alarms per hour.

    It is the inverse of `alarms_per_hour`, which explains the other parameters. It is at most 0.5.
    """
    if not 0 < n_alarms < math.inf:
        raise ValueError(f"The alarms an hour must be above 0. Got {n_alarms!r} instead.")

    def excess(log_rate: float) -> float:
        return alarms_per_hour(math.exp(log_rate), hop, persistence, correlation) - n_alarms

    # Rates may fall again towards 0.5: the first crossing counts, all lower rates raise fewer.
    grid = np.linspace(math.log(_LOWEST_RATE), math.log(_HIGHEST_RATE), _N_RATES)
    above = next((i for i, log_rate in enumerate(grid) if excess(log_rate) > 0), None)
    if above is None:
        return _HIGHEST_RATE
    if above == 0:
        raise ValueError(
            f"{n_alarms:g} alarms an hour are too few for windows every {hop:g} s: ask for more, "
            "or for a longer persistence."
        )
    return math.exp(brentq(excess, grid[above - 1], grid[above]))


def neighbour_correlation(model: Any, hop: float) -> float | None:
    """Return an upper limit of the correlation of neighbouring windows of `fit`.

    Parameters
    ----------
    model : AnomalousSoundDetector
        Fitted. For other models the result is None.
    hop : float
        Seconds from the start of one window to that of the next.

    Returns
    -------
    correlation : float or None
        Of the normal scores (van der Waerden) of the left-out distances of neighbouring windows:
        the upper end of a one-sided 95 % interval, in [0, 1). Its width is that of an
        autocorrelation (Bartlett's formula) on Fisher's scale. None where fewer than
        30 windows of `fit` have a neighbour in their recording that starts at most `hop` later.
    """
    table = getattr(model, "windows_", None)
    if table is None:
        return None
    pairs = _neighbours(table, -np.asarray(model.training_scores_), hop)
    if len(pairs) < _LEAST_PAIRS:
        return None
    normal = ndtri(rankdata(pairs.ravel()) / (pairs.size + 1)).reshape(pairs.shape)
    observed = float(np.corrcoef(normal.T)[0, 1])
    observed += (1 + 3 * observed) / len(pairs)  # its bias (Kendall 1954)
    observed = min(max(observed, -_HIGHEST), _HIGHEST)
    deviation = 1 / math.sqrt(len(pairs) * (1 - observed**2))
    return max(0.0, math.tanh(math.atanh(observed) + _CONFIDENCE * deviation))


def _neighbours(table: NDArray, distances: NDArray, hop: float) -> NDArray[np.float64]:
    """Return the distances (n_pairs, 2) of windows that follow each other in a clip."""
    follow = (np.diff(table["clip"]) == 0) & (np.diff(table["start"]) <= hop + _ROUNDING)
    follow &= np.isfinite(distances[:-1] + distances[1:])
    return np.column_stack([distances[:-1][follow], distances[1:][follow]])
