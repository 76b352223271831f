"""Sounds of simulated machines: a data set for anomalous sound detection without a download."""

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
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

    The set is laid out as those of the DCASE challenge's Task 2: several units (sections) of every
    machine type, normal clips to train on, normal and anomalous clips to test on, and a target
    domain (other speeds, another factory hall) that is rare in training.

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
        Machine types, of the table above. None takes all five.

    n_units : int, default=2
        Units of each machine type. They differ by their constants (teeth, blades, resonances, ...),
        their room and the noise around them.

    n_train : int, default=32
        Normal clips of each unit to train on.

    n_normal : int, default=8
        Normal clips of each unit to test on, half of them of the target domain.

    n_anomalous : int, default=8
        Anomalous clips of each unit to test on, half of them of the target domain. The two faults
        of the machine take turns.

    severity : float, default=1.0
        Amplitude of the faults: 0 is no fault at all, 1 an early fault that the mean spectrum
        hardly shows, 4 an obvious one.

    snr : float, default=6.0
        Power of the healthy machine over that of the factory noise at the microphone, in dB, in
        every clip. ``float("inf")`` switches the noise off.

    target_fraction : float, default=0.1
        Share of the target domain in the clips to train on, at least one clip unless it is 0.

    duration : float, default=10.0
        Length of the clips in seconds, at least 1.

    sample_rate : int, default=16000
        In Hz, at least 8000.

    random_state : int, RandomState instance or None, default=None
        Determines the units and the clips. Pass an int for the same sounds in every call.

    Returns
    -------
    sounds : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes; arrays have one entry a clip.

        clips : ndarray of shape (n_clips, n_samples), dtype float32
            The sounds, in full scale 1.0, with a level that differs by up to 12 dB.
        y : ndarray of shape (n_clips,)
            +1 for normal clips, -1 for anomalous ones.
        machine : ndarray of shape (n_clips,), dtype str
            The machine type.
        section : ndarray of shape (n_clips,)
            The unit, counted from 0 within its machine type.
        domain : ndarray of shape (n_clips,), dtype str
            "source" or "target".
        split : ndarray of shape (n_clips,), dtype str
            "train" or "test".
        fault : ndarray of shape (n_clips,), dtype str
            The fault, "none" for normal clips.
        attributes : DataFrame of shape (n_clips, 2)
            Operating attributes: `speed_cpm`, the mean speed in cycles (turns of the shaft, or
            cycles of a valve or slider) a minute, and `load`, as a share of the rated load.
        units : dict of (str, int) to machine
            By machine and section, the simulated machine with its physical constants.
        sample_rate : int
            That of the clips, in Hz.

    Raises
    ------
    ValueError
        If a machine is unknown or named twice, or a parameter is out of its range.

    Notes
    -----
    Clips do not depend on how many others are asked for, nor on the severity, but for the fault:
    with one `random_state`, sets of two severities are paired clip by clip, at severity 0 the fault
    is absent to the bit, and the difference between the clips of any severity and those of
    severity 0 is the fault's own sound, hence where it is in time and frequency.

    References
    ----------
    R. B. Randall and J. Antoni, "Rolling element bearing diagnostics - A tutorial", Mechanical
    Systems and Signal Processing 25(2), 2011: the rates and impulses of bearing faults.

    R. B. Randall, "A new method of modeling gear faults", Journal of Mechanical Design 104(2),
    1982: what local and distributed faults do to the mesh tone.

    Examples
    --------
    >>> from skanopatch.datasets import make_machine_sounds
    >>> sounds = make_machine_sounds(["fan", "valve"], n_units=1, n_train=4, duration=1.0,
    ...                              n_normal=2, n_anomalous=2, random_state=0)
    >>> sounds.clips.shape
    (16, 16000)
    >>> sounds.y[sounds.machine == "fan"]
    array([ 1,  1,  1,  1,  1,  1, -1, -1])
    >>> sounds.units["fan", 0].n_blades
    9
    """
    machines = _check_machines(machines)
    n_samples = round(duration * sample_rate)
    n_clips = (n_train, n_normal, n_anomalous)
    clips = np.empty((len(machines) * n_units * sum(n_clips), n_samples), dtype=np.float32)
    notes: list[tuple] = []
    units: dict[tuple[str, int], Machine] = {}
    # A child of a seed sequence does not depend on how many siblings it has. So every machine,
    # unit and clip sounds the same, whatever else is asked for.
    entropy = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=4)
    machine_seeds = np.random.SeedSequence(entropy.tolist()).spawn(len(MACHINES))
    seed_of = dict(zip(MACHINES, machine_seeds, strict=True))
    for machine in machines:
        for section, section_seed in enumerate(seed_of[machine].spawn(n_units)):
            unit_seed, *part_seeds = section_seed.spawn(1 + len(n_clips))
            unit = Unit(machine, n_samples, sample_rate, np.random.default_rng(unit_seed))
            units[machine, section] = unit.machine
            plan = _plan(unit.machine.faults, *n_clips, target_fraction)
            seeds = [s for part, n in zip(part_seeds, n_clips, strict=True) for s in part.spawn(n)]
            for (split, y, domain, fault), seed in zip(plan, seeds, strict=True):
                clips[len(notes)], attributes = unit.record(
                    domain, fault, severity, snr, np.random.default_rng(seed)
                )
                notes.append((machine, section, split, y, domain, fault, *attributes.values()))
    table = pd.DataFrame(notes, columns=[*DTYPES, *ATTRIBUTES])
    return Bunch(
        clips=clips,
        **{name: table[name].to_numpy(dtype=dtype) for name, dtype in DTYPES.items()},
        attributes=table[ATTRIBUTES].astype(np.float64),
        units=units,
        sample_rate=sample_rate,
    )


def _check_machines(machines: Sequence[str] | None) -> list[str]:
    """Return the names of the machines, all of them known and none twice."""
    if machines is None:
        return list(MACHINES)
    names = list(machines)
    if not names or not set(names) <= set(MACHINES) or len(set(names)) < len(names):
        raise ValueError(
            "The 'machines' parameter of make_machine_sounds must be None or different names "
            f"among {list(MACHINES)}. Got {names} instead."
        )
    return names


def _domains(n_clips: int, target_fraction: float) -> list[str]:
    """Spread the target domain evenly over the clips, beginning with the first."""
    n_target = np.ceil(np.arange(n_clips + 1) * target_fraction - 1e-9)  # 0.1 * 30 > 3
    return np.where(np.diff(n_target) > 0, "target", "source").tolist()


def _plan(
    faults: Iterable[str], n_train: int, n_normal: int, n_anomalous: int, target_fraction: float
) -> list[tuple[str, int, str, str]]:
    """Split, label, domain and fault of every clip of a unit."""
    # Each fault takes two clips at a time, one of either domain.
    turns = islice(cycle(fault for fault in faults for _ in range(2)), n_anomalous)
    return [
        *(("train", 1, domain, "none") for domain in _domains(n_train, target_fraction)),
        *(("test", 1, domain, "none") for domain in _domains(n_normal, TEST_TARGET_FRACTION)),
        *(
            ("test", -1, domain, fault)
            for domain, fault in zip(
                _domains(n_anomalous, TEST_TARGET_FRACTION), turns, strict=True
            )
        ),
    ]
