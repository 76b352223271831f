"""Five machines: how each sounds when it is healthy and what each of its faults adds."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from skanopatch.datasets.acoustics import (
    ANGLES,
    Array,
    Run,
    harmonics,
    level,
    random_harmonics,
    rms,
)


class Machine(ABC):
    """One unit of a machine type, whose physical constants are drawn once.

    Every fault is a method of its name, which returns the sound that the fault adds, at any scale;
    `faults` has its level at severity 1, in dB relative to the healthy sound. With these levels the
    mean and the standard deviation of the log-mel spectrum find a fault with an AUC near 0.75.
    """

    cpm_range: ClassVar[tuple[float, float]]
    faults: ClassVar[dict[str, float]]

    def __init__(self, rng: np.random.Generator):
        self.rated_cpm = rng.uniform(*self.cpm_range)

    @abstractmethod
    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """Sound of the machine without a fault; shape (n_samples,)."""

    def fault(self, name: str, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """Sound that a fault of severity 1 adds to the healthy sound; shape (n_samples,)."""
        sound = getattr(self, name)(run, healthy, rng)
        return sound * level(self.faults[name]) * rms(healthy) / rms(sound)


def _bump(angle: float, width: float) -> Array:
    """Periodic pulse of height 1 at an angle, `width` its standard deviation, both in cycles."""
    # The von Mises density is the Gaussian of the circle.
    concentration = 1 / (2 * math.pi * width) ** 2
    return np.exp(concentration * (np.cos(2 * np.pi * (ANGLES - angle)) - 1))


class Gearbox(Machine):
    """A pair of gears: mesh tone at teeth times shaft rate, its harmonics and sidebands.

    A healthy gear runs a little out of true as well, hence weak sidebands at the shaft rate.
    """

    cpm_range = (1100.0, 1700.0)
    faults = {"tooth_damage": -14.0, "misalignment": -14.5}

    def __init__(self, rng: np.random.Generator):
        super().__init__(rng)
        self.n_teeth = int(rng.integers(19, 38))
        self.shaft_waveform = random_harmonics(4, 0.3, rng)
        self.mesh_waveform = random_harmonics(5, 0.4, rng, order=self.n_teeth)
        self.runout = rng.uniform(0.05, 0.15)
        self.damaged_angle = rng.uniform()
        self.casing_resonance = rng.uniform(1500.0, 3200.0)

    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """Shaft harmonics, the mesh that grows with the load, and the churning oil."""
        modulation = 1 + self.runout * np.cos(2 * np.pi * ANGLES)
        tones = self.shaft_waveform + run.load * modulation * self.mesh_waveform
        return run.repeat(tones) + 0.8 * run.noise(self.casing_resonance, 1.5, rng)

    def tooth_damage(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """One tooth yields and knocks: the mesh changes once a turn and the casing rings."""
        yielding = run.repeat(_bump(self.damaged_angle, 0.7 / self.n_teeth) * self.mesh_waveform)
        passages = run.passages(self.damaged_angle)
        knocks = run.impacts(passages, rng.uniform(0.7, 1.3, len(passages)))
        knocks = run.ring(knocks, self.casing_resonance, 0.002)
        return yielding / rms(yielding) + knocks / rms(knocks)

    def misalignment(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The teeth press harder on one side: once and twice a turn, the mesh is modulated."""
        modulation = harmonics(np.array([1, 2]), np.array([1.0, 0.7]), rng.uniform(0, 2 * np.pi, 2))
        return run.repeat(modulation * self.mesh_waveform)


class Fan(Machine):
    """A fan: pulses of the passing blades, none quite like the next, and flow noise."""

    cpm_range = (1000.0, 1800.0)
    faults = {"imbalance": -13.0, "chipped_blade": -13.0}

    def __init__(self, rng: np.random.Generator):
        super().__init__(rng)
        self.n_blades = int(rng.integers(5, 10))
        self.blade_width = rng.uniform(0.08, 0.14) / self.n_blades
        self.blade_strengths = rng.normal(1.0, 0.08, self.n_blades)
        self.flow_peak = rng.uniform(400.0, 1200.0)
        self.chipped = int(rng.integers(self.n_blades))

    def _blade(self, number: int) -> Array:
        return _bump(number / self.n_blades, self.blade_width)

    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """Blade pass, and flow noise that grows with the load."""
        blades = sum(s * self._blade(b) for b, s in enumerate(self.blade_strengths))
        flow = run.noise(self.flow_peak, 1.5, rng)
        blade_pass = run.repeat(blades - np.mean(blades))
        return blade_pass / rms(blade_pass) + run.load * flow

    def imbalance(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The centrifugal force shakes the housing and moves the blades' gap, once a turn."""
        turn = run.repeat(np.cos(2 * np.pi * (ANGLES - rng.uniform())))
        return healthy * turn + rms(healthy) * turn

    def chipped_blade(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """One blade gives a weaker pulse and leaves a turbulent wake, once a turn."""
        pulse = self._blade(self.chipped)
        gap = run.repeat(np.mean(pulse) - pulse)
        wake = run.noise(2500.0, 0.6, rng)
        wake *= run.repeat(_bump((self.chipped + 0.2) / self.n_blades, 0.02))
        return gap / rms(gap) + wake / rms(wake)


class Valve(Machine):
    """A valve that opens and closes in a rhythm: a click each, and flow while it is open."""

    cpm_range = (150.0, 230.0)
    faults = {"leak": -29.5, "chatter": -13.0}

    def __init__(self, rng: np.random.Generator):
        super().__init__(rng)
        self.open_share = rng.uniform(0.35, 0.55)
        self.seat_resonances = rng.uniform((700.0, 1800.0), (1300.0, 3200.0))
        self.flow_peak = rng.uniform(900.0, 2000.0)
        self.leak_peak = rng.uniform(2200.0, 3400.0)
        self.bounce = rng.uniform(0.04, 0.07)  # of a cycle, from the click to its first echo

    def _clicks(self, run: Run, cycles: Array, forces: Array) -> Array:
        hits = run.impacts(cycles, forces)
        low, high = self.seat_resonances
        return run.ring(hits, low, 0.006) + run.ring(hits, high, 0.003)

    def _opening(self, run: Run) -> Array:
        """How far the valve is open, 0 to 1, at every sample."""
        centre = self.open_share / 2
        distance = np.abs((run.cycles - centre + 0.5) % 1.0 - 0.5)
        return np.clip((centre - distance) / 0.02 + 0.5, 0.0, 1.0)

    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """A click at either end of the opening, and flow noise in between."""
        cycles = np.concatenate([run.passages(0.0), run.passages(self.open_share)])
        cycles += rng.normal(scale=0.004, size=len(cycles))
        clicks = self._clicks(run, cycles, rng.uniform(0.8, 1.2, len(cycles)))
        flow = run.noise(self.flow_peak, 0.8, rng)
        return clicks / rms(clicks) + run.load * (0.1 + self._opening(run)) * flow

    def leak(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """Gas hisses through the seat while the valve is closed."""
        return (1 - self._opening(run)) * run.noise(self.leak_peak, 0.3, rng)

    def chatter(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The disc bounces off its seat: after it closes, more clicks at irregular times."""
        closings = run.passages(self.open_share)
        delays = self.bounce * rng.uniform(0.6, 1.4, (3, len(closings))).cumsum(axis=0)
        forces = 0.6 ** np.arange(3)[:, np.newaxis] * rng.uniform(0.4, 1.0, delays.shape)
        return self._clicks(run, (closings + delays).ravel(), forces.ravel())


class Slider(Machine):
    """A linear slide that moves forth and back: friction, recirculating balls, end thumps."""

    cpm_range = (150.0, 220.0)
    faults = {"stick_slip": -28.5, "rail_defect": -20.0}

    def __init__(self, rng: np.random.Generator):
        super().__init__(rng)
        self.balls_per_stroke = int(rng.integers(50, 110))
        self.thump_resonance = rng.uniform(150.0, 400.0)
        self.friction_peak = rng.uniform(600.0, 1800.0)
        self.squeal_frequency = rng.uniform(900.0, 1700.0)
        self.rail_resonance = rng.uniform(1600.0, 3200.0)
        self.defect_phase = rng.uniform(0.1, 0.4)

    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """Friction noise and the pitch of the balls follow the speed; each end gives a thump."""
        speed = np.abs(np.sin(2 * np.pi * run.cycles))
        friction = run.noise(self.friction_peak, 1.0, rng)
        half, rest = np.divmod(run.cycles, 0.5)
        strokes = half + (1 - np.cos(2 * np.pi * rest)) / 2  # the way done: the integral of speed
        balls = speed * np.cos(2 * np.pi * self.balls_per_stroke * strokes)
        reversals = np.concatenate([run.passages(0.0), run.passages(0.5)])
        thumps = run.impacts(reversals, rng.uniform(0.8, 1.2, len(reversals)))
        thumps = run.ring(thumps, self.thump_resonance, 0.015)
        return 0.7 * balls + (0.3 + run.load) * speed * friction + thumps / rms(thumps)

    def stick_slip(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """Near the ends, where it is slow, the carriage sticks and slips: a squeal of two tones."""
        half_cycles = np.floor(2 * run.cycles).astype(np.intp)
        half_cycles -= half_cycles[0]
        strengths = rng.uniform(0.2, 1.0, half_cycles[-1] + 1)[half_cycles]
        slowness = np.exp(-((np.sin(2 * np.pi * run.cycles) / 0.3) ** 2))
        pitch = self.squeal_frequency * rng.uniform(0.97, 1.03)
        phase = 2 * np.pi * pitch * np.arange(len(run.cycles)) / run.sample_rate
        return strengths * slowness * (np.sin(phase) + 0.5 * np.sin(2 * phase))

    def rail_defect(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """A pit in the rail knocks at one place, on the way forth and on the way back."""
        there, back = run.passages(self.defect_phase), run.passages(1 - self.defect_phase)
        cycles = np.concatenate([there, back])
        knocks = run.impacts(cycles, rng.uniform(0.6, 1.4, len(cycles)))
        return run.ring(knocks, self.rail_resonance, 0.003)


class Bearing(Machine):
    """A ball bearing on a shaft. A pit in a race gives an impulse whenever a ball rolls over it.

    With n balls of diameter d on a pitch diameter D at a contact angle phi, the rates are
    ``BPFO = n / 2 * (1 - d / D * cos(phi))`` and ``BPFI = n / 2 * (1 + d / D * cos(phi))`` times
    that of the shaft. The balls slip: intervals vary, and the errors of the times add up (Randall
    & Antoni, see `make_machine_sounds`).
    """

    cpm_range = (1400.0, 2400.0)
    faults = {"outer_race": -17.0, "inner_race": -17.0}
    slip = 0.01  # standard deviation of an interval, relative to it

    def __init__(self, rng: np.random.Generator):
        super().__init__(rng)
        self.n_balls = int(rng.integers(7, 13))
        self.diameter_ratio = rng.uniform(0.17, 0.27)
        self.contact_angle = math.radians(rng.uniform(0.0, 15.0))
        self.resonance = rng.uniform(1800.0, 3400.0)
        self.shaft_waveform = random_harmonics(6, 0.3, rng)

    @property
    def bpfo(self) -> float:
        """Ball pass frequency of the outer race, in shaft orders."""
        return self.n_balls / 2 * (1 - self.diameter_ratio * math.cos(self.contact_angle))

    @property
    def bpfi(self) -> float:
        """Ball pass frequency of the inner race, in shaft orders."""
        return self.n_balls / 2 * (1 + self.diameter_ratio * math.cos(self.contact_angle))

    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """Harmonics of the shaft, and rolling noise that grows with the load."""
        rolling = run.noise(self.resonance, 1.2, rng)
        return run.repeat(self.shaft_waveform) + (0.4 + 0.6 * run.load) * rolling

    def _impulses(self, run: Run, order: float, rng: np.random.Generator, *, turns: bool) -> Array:
        """Impulses of a pit in a race, at intervals that slip."""
        n_passes = math.ceil((run.cycles[-1] - run.cycles[0]) * order * 1.1) + 2
        intervals = rng.normal(1.0, self.slip, n_passes) / order
        passes = run.cycles[0] - rng.uniform() / order + np.cumsum(intervals)
        forces = rng.uniform(0.8, 1.2, n_passes)
        if turns:
            # Stribeck's load distribution over the angle from the load's direction, with a load
            # factor of 1/2 (zero clearance) and the exponent 3/2 of point contact.
            forces *= np.clip(np.cos(2 * np.pi * passes), 0.0, None) ** 1.5
        return run.ring(run.impacts(passes, forces), self.resonance, 0.0015)

    def outer_race(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The outer race stands still, its pit in the load zone: impulses alike."""
        return self._impulses(run, self.bpfo, rng, turns=False)

    def inner_race(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The pit turns with the shaft, in and out of the load zone: modulated once a turn."""
        return self._impulses(run, self.bpfi, rng, turns=True)


MACHINES: dict[str, type[Machine]] = {
    "bearing": Bearing,
    "fan": Fan,
    "gearbox": Gearbox,
    "slider": Slider,
    "valve": Valve,
}
