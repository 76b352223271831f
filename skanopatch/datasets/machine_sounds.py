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

    The set is like those of DCASE Task 2: several units (sections) of every machine type, normal
    clips to train on, both kinds to test on, and a target domain (other speeds, another factory
    hall) that is rare in training.

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
        Units of each machine type, with teeth, blades, resonances, a room and noise of their own.
    n_train : int, default=32
        Normal clips of each unit to train on.
    n_normal, n_anomalous : int, default=8
        Clips of each unit to test on, half of them of the target domain. The two faults of the
        machine take turns.
    severity : float, default=1.0
        Amplitude of the faults: 0 is none, 1 an early fault that the mean spectrum hardly shows,
        4 an obvious one.
    snr : float, default=6.0
        Power of the healthy machine over that of the factory noise, in dB. ``float("inf")``
        switches the noise off.
    target_fraction : float, default=0.1
        Share of the target domain in the clips to train on, rounded up.
    duration : float, default=10.0
        Length of the clips in seconds, at least 1.
    sample_rate : int, default=16000
        In Hz, at least 8000.
    random_state : int, RandomState instance or None, default=None
        Determines the units and the clips. Pass an int for the same sounds in every call.

    Returns
    -------
    sounds : :class:`~sklearn.utils.Bunch`
        With the float32 sounds ``clips``, (n_clips, n_samples), in full scale 1.0, of levels that
        differ by up to 12 dB, and, for each clip, ``y`` (+1 normal, -1 anomalous), ``machine``,
        ``section`` (the unit, from 0), ``domain`` ("source", "target"), ``split`` ("train",
        "test"), ``fault`` ("none" for normal clips) and the DataFrame ``attributes``: `speed_cpm`,
        turns of the shaft or cycles of a valve or slider a minute, and `load`, a share of the rated
        load. ``units`` holds the simulated machines by (machine, section), ``sample_rate`` the rate
        in Hz.

    Raises
    ------
    ValueError
        If a machine is unknown or named twice, or a parameter is out of its range.

    Notes
    -----
    With one `random_state`, a clip does not depend on how many others are asked for, and
    `severity` changes nothing but the fault: clips minus those of ``severity=0`` are the sound of
    the fault alone.

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
