"""Sounds of simulated machines: a data set for anomalous sound detection without a download."""

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from skanopatch.datasets.factory import Unit
from skanopatch.datasets.machines import MACHINES, Machine

TEST_TARGET_FRACTION = 0.5  # as in DCASE's test sets

DTYPES = {"machine": str, "section": int, "split": str, "y": int, "domain": str, "fault": str}
ATTRIBUTES = ["speed_cpm", "load"]


@validate_params(
    {
        "machines": ["array-like", None],
        "n_units": [Interval(Integral, 1, None, closed="left")],
        "n_train": [Interval(Integral, 0, None, closed="left")],
        "n_normal": [Interval(Integral, 0, None, closed="left")],
        "n_anomalous": [Interval(Integral, 0, None, closed="left")],
        "severity": [Interval(Real, 0, None, closed="left")],
        "snr": [Interval(Real, None, None, closed="right")],
        "target_fraction": [Interval(Real, 0, 1, closed="both")],
        "duration": [Interval(Real, 1, None, closed="left")],
        "sample_rate": [Interval(Integral, 8000, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_machine_sounds(
    machines: Sequence[str] | None = None,
    *,
    n_units: int = 2,
    n_train: int = 32,
    n_normal: int = 8,
    n_anomalous: int = 8,
    severity: float = 1.0,
    snr: float = 6.0,
    target_fraction: float = 0.1,
    duration: float = 10.0,
    sample_rate: int = 16000,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Simulate recordings of machines in a factory, some of which have a fault.

    The set has the form of those of DCASE Task 2: several units (sections) of each machine type,
    normal clips for training, and normal and anomalous clips for tests. The target domain (other
    speeds, another factory hall) is rare in training.

    There are five machine types. Take the fan or the gearbox to begin with, and the valve for short
    sounds:

    ============  ==============================================  ==================================
    machine       healthy sound                                   faults
    ============  ==============================================  ==================================
    ``bearing``   shaft harmonics, rolling noise                  ``outer_race``, ``inner_race``
    ``fan``       blade pass, flow noise                          ``imbalance``, ``chipped_blade``
    ``gearbox``   shaft harmonics, gear mesh with sidebands       ``tooth_damage``, ``misalignment``
    ``slider``    friction, recirculating balls, end thumps       ``stick_slip``, ``rail_defect``
    ``valve``     clicks in a rhythm, flow while open             ``leak``, ``chatter``
    ============  ==============================================  ==================================

    Parameters
    ----------
    machines : array-like of str, default=None
        Machine types. None takes all five.
    n_units : int, default=2
        Number of units of each machine type. Each has teeth, blades, resonances, a room and noise
        of its own.
    n_train : int, default=32
        Number of normal clips of each unit for training.
    n_normal, n_anomalous : int, default=8
        Number of normal and of anomalous clips of each unit for tests. Half of them are of the
        target domain. The two faults of the machine take turns.
    severity : float, default=1.0
        Amplitude of the faults. 0 is none, 1 is an early fault that the mean spectrum hardly shows,
        and 4 is an obvious one.
    snr : float, default=6.0
        Signal-to-noise ratio in dB: power of the healthy machine over that of the factory noise.
        ``float("inf")`` switches the noise off.
    target_fraction : float, default=0.1
        Share of the target domain in the training clips. The number is rounded up.
    duration : float, default=10.0
        Length of the clips in seconds, at least 1.
    sample_rate : int, default=16000
        Sample rate in Hz, at least 8000.
    random_state : int, RandomState instance or None, default=None
        Determines the units and the clips. An int gives the same sounds in each call.

    Returns
    -------
    sounds : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        clips : ndarray of shape (n_clips, n_samples), float32
            The sounds. Full scale is 1.0. Levels differ from clip to clip by up to 12 dB.
        y : ndarray of shape (n_clips,), int
            +1 normal, -1 anomalous.
        machine : ndarray of shape (n_clips,), str
            The machine type.
        section : ndarray of shape (n_clips,), int
            The unit, counted from 0.
        domain : ndarray of shape (n_clips,), str
            "source" or "target".
        split : ndarray of shape (n_clips,), str
            "train" or "test".
        fault : ndarray of shape (n_clips,), str
            The fault; "none" for normal clips.
        attributes : DataFrame of n_clips rows
            ``speed_cpm``, the turns of the shaft, or cycles of a valve or slider, per minute; and
            ``load``, a share of the rated load.
        units : dict
            The simulated machines by (machine, section).
        sample_rate : int
            The sample rate in Hz.

    Raises
    ------
    ValueError
        If a machine does not exist or is named twice, or a parameter is out of its range.

    Notes
    -----
    With the same `random_state`, a clip does not depend on the number of other clips. `severity`
    changes nothing except the fault. So the difference between a clip and the same clip with
    ``severity=0`` is the sound of the fault alone.

    References
    ----------
    R. B. Randall and J. Antoni, "Rolling element bearing diagnostics - A tutorial", Mechanical
    Systems and Signal Processing 25(2), 2011.

    R. B. Randall, "A new method of modeling gear faults", J. Mechanical Design 104(2), 1982.

    Examples
    --------
    >>> from skanopatch.datasets import make_machine_sounds
    >>> sounds = make_machine_sounds(["fan", "valve"], n_units=1, n_train=4, duration=1.0,
    ...                              n_normal=2, n_anomalous=2, random_state=0)
    >>> sounds.clips.shape
    (16, 16000)
    >>> sounds.y[sounds.machine == "fan"]
    array([ 1,  1,  1,  1,  1,  1, -1, -1])
    """
    names = list(MACHINES if machines is None else machines)
    if not names or not set(names) <= set(MACHINES) or len(set(names)) < len(names):
        raise ValueError(
            "The 'machines' parameter of make_machine_sounds must be None or different names "
            f"among {list(MACHINES)}. Got {names} instead."
        )
    n_samples = round(duration * sample_rate)
    parts = (  # split, label, number of clips, and the share of the target domain
        ("train", 1, n_train, target_fraction),
        ("test", 1, n_normal, TEST_TARGET_FRACTION),
        ("test", -1, n_anomalous, TEST_TARGET_FRACTION),
    )
    n_clips = len(names) * n_units * (n_train + n_normal + n_anomalous)
    clips = np.empty((n_clips, n_samples), dtype=np.float32)
    rows: list[tuple] = []
    units: dict[tuple[str, int], Machine] = {}
    # A child of a seed sequence does not depend on how many siblings it has. So every machine,
    # unit and clip sounds the same, whatever else is asked for.
    entropy = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=4)
    machine_seeds = np.random.SeedSequence(entropy.tolist()).spawn(len(MACHINES))
    seed_of = dict(zip(MACHINES, machine_seeds, strict=True))
    for machine in names:
        for section, section_seed in enumerate(seed_of[machine].spawn(n_units)):
            unit_seed, *part_seeds = section_seed.spawn(1 + len(parts))
            unit = Unit(machine, n_samples, sample_rate, np.random.default_rng(unit_seed))
            units[machine, section] = unit.machine
            faults = list(unit.machine.faults)
            for (split, y, n, fraction), part_seed in zip(parts, part_seeds, strict=True):
                n_target = np.ceil(np.arange(n + 1) * fraction - 1e-9)  # 0.1 * 30 > 3
                for number, seed in enumerate(part_seed.spawn(n)):
                    domain = "target" if n_target[number] < n_target[number + 1] else "source"
                    # Each fault takes two clips at a time, one of either domain.
                    fault = "none" if y == 1 else faults[number // 2 % len(faults)]
                    clips[len(rows)], attributes = unit.record(
                        domain, fault, severity, snr, np.random.default_rng(seed)
                    )
                    rows.append((machine, section, split, y, domain, fault, *attributes.values()))
    table = pd.DataFrame(rows, columns=[*DTYPES, *ATTRIBUTES])
    return Bunch(
        clips=clips,
        **{name: table[name].to_numpy(dtype=dtype) for name, dtype in DTYPES.items()},
        attributes=table[ATTRIBUTES].astype(np.float64),
        units=units,
        sample_rate=sample_rate,
    )
