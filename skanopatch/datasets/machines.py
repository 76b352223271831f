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
    hump,
    impacts,
    level,
    noise,
    repeat,
    ring,
    rms,
)


class Machine(ABC):
    """One unit of a machine type. The unit's constants are drawn once, by `rng`.

    Every fault is a method of its name, which returns the sound that the fault adds, at any scale;
    `faults` says how strong it is at severity 1, in dB relative to the healthy sound. These levels
    are set so that the mean and the standard deviation of the log-mel spectrum find a fault of
    severity 1 with an AUC near 0.75: what lasts is set lower than what comes and goes.
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

    A healthy gear, too, runs a little out of true, which gives weak sidebands at a distance of the
    shaft rate.
    """

    cpm_range = (1100.0, 1700.0)
    faults = {"tooth_damage": -14.0, "misalignment": -14.5}

    def __init__(self, rng: np.random.Generator):
        super().__init__(rng)
        self.n_teeth = int(rng.integers(19, 38))
        shaft_orders = np.arange(1.0, 5.0)
        self.shaft_waveform = harmonics(
            shaft_orders, rng.uniform(0.3, 1.0, 4) / shaft_orders, rng.uniform(0, 2 * np.pi, 4)
        )
        mesh_orders = np.arange(1.0, 6.0)
        self.mesh_waveform = harmonics(
            self.n_teeth * mesh_orders,
            rng.uniform(0.4, 1.0, 5) / mesh_orders,
            rng.uniform(0, 2 * np.pi, 5),
        )
        self.runout = rng.uniform(0.05, 0.15)
        self.damaged_angle = rng.uniform()
        self.casing_resonance = rng.uniform(1500.0, 3200.0)

    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """Shaft harmonics, the mesh that grows with the load, and the churning oil."""
        modulation = 1 + self.runout * np.cos(2 * np.pi * ANGLES)
        tones = self.shaft_waveform + run.load * modulation * self.mesh_waveform
        colour = hump(self.casing_resonance, 1.5)
        churning = noise(len(run.cycles), run.sample_rate, colour, rng)
        return repeat(tones, run) + 0.8 * churning

    def tooth_damage(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """One tooth yields and knocks: the mesh changes once a turn and the casing rings."""
        yielding = repeat(_bump(self.damaged_angle, 0.7 / self.n_teeth) * self.mesh_waveform, run)
        passages = run.passages(self.damaged_angle)
        knocks = impacts(run, passages, rng.uniform(0.7, 1.3, len(passages)))
        knocks = ring(knocks, self.casing_resonance, 0.002, run.sample_rate)
        return yielding / rms(yielding) + knocks / rms(knocks)

    def misalignment(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The teeth press harder on one side: once and twice a turn, the mesh is modulated."""
        modulation = harmonics(
            np.array([1.0, 2.0]), np.array([1.0, 0.7]), rng.uniform(0, 2 * np.pi, 2)
        )
        return repeat(modulation * self.mesh_waveform, run)


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
        flow = noise(len(run.cycles), run.sample_rate, hump(self.flow_peak, 1.5), rng)
        blade_pass = repeat(blades - np.mean(blades), run)
        return blade_pass / rms(blade_pass) + run.load * flow

    def imbalance(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The centrifugal force shakes the housing and moves the blades' gap, once a turn."""
        turn = repeat(np.cos(2 * np.pi * (ANGLES - rng.uniform())), run)
        return healthy * turn + rms(healthy) * turn

    def chipped_blade(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """One blade gives a weaker pulse and leaves a turbulent wake, once a turn."""
        pulse = self._blade(self.chipped)
        gap = repeat(np.mean(pulse) - pulse, run)
        wake = noise(len(run.cycles), run.sample_rate, hump(2500.0, 0.6), rng)
        wake *= repeat(_bump((self.chipped + 0.2) / self.n_blades, 0.02), run)
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
        hits = impacts(run, cycles, forces)
        low, high = self.seat_resonances
        return ring(hits, low, 0.006, run.sample_rate) + ring(hits, high, 0.003, run.sample_rate)

    def _opening(self, run: Run) -> Array:
        """How far the valve is open, 0 to 1, at every sample."""
        centre = self.open_share / 2
        distance = np.abs((run.cycles - centre + 0.5) % 1.0 - 0.5)
        return np.clip((centre - distance) / 0.02 + 0.5, 0.0, 1.0)

    def healthy(self, run: Run, rng: np.random.Generator) -> Array:
        """A click at either end of the opening, and flow noise in between."""
        cycles = np.concatenate([run.passages(0.0), run.passages(self.open_share)])
        clicks = self._clicks(
            run,
            cycles + rng.normal(scale=0.004, size=len(cycles)),
            rng.uniform(0.8, 1.2, len(cycles)),
        )
        flow = noise(len(run.cycles), run.sample_rate, hump(self.flow_peak, 0.8), rng)
        return clicks / rms(clicks) + run.load * (0.1 + self._opening(run)) * flow

    def leak(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """Gas hisses through the seat while the valve is closed."""
        hiss = noise(len(run.cycles), run.sample_rate, hump(self.leak_peak, 0.3), rng)
        return (1 - self._opening(run)) * hiss

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
        friction = noise(len(run.cycles), run.sample_rate, hump(self.friction_peak, 1.0), rng)
        half, rest = np.divmod(run.cycles, 0.5)
        strokes = half + (1 - np.cos(2 * np.pi * rest)) / 2  # the way done: the integral of speed
        balls = speed * np.cos(2 * np.pi * self.balls_per_stroke * strokes)
        reversals = np.concatenate([run.passages(0.0), run.passages(0.5)])
        thumps = impacts(run, reversals, rng.uniform(0.8, 1.2, len(reversals)))
        thumps = ring(thumps, self.thump_resonance, 0.015, run.sample_rate)
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
        cycles = np.concatenate(
            [run.passages(self.defect_phase), run.passages(1 - self.defect_phase)]
        )
        knocks = impacts(run, cycles, rng.uniform(0.6, 1.4, len(cycles)))
        return ring(knocks, self.rail_resonance, 0.003, run.sample_rate)


class Bearing(Machine):
    """A ball bearing on a shaft. A pit in a race gives an impulse whenever a ball rolls over it.

    With n balls of diameter d on a pitch diameter D at a contact angle phi, the rates are
    ``BPFO = n / 2 * (1 - d / D * cos(phi))`` and ``BPFI = n / 2 * (1 + d / D * cos(phi))`` times
    that of the shaft. The balls slip, so it is the intervals that vary: the error of the times adds
    up, and the impulses are not quite periodic (Randall & Antoni, "Rolling element bearing
    diagnostics - A tutorial", Mechanical Systems and Signal Processing 25, 2011).
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
        orders = np.arange(1.0, 7.0)
        self.shaft_waveform = harmonics(
            orders, rng.uniform(0.3, 1.0, 6) / orders, rng.uniform(0, 2 * np.pi, 6)
        )

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
        shaft = repeat(self.shaft_waveform, run)
        rolling = noise(len(run.cycles), run.sample_rate, hump(self.resonance, 1.2), rng)
        return shaft + (0.4 + 0.6 * run.load) * rolling

    def _ball_passes(self, run: Run, order: float, rng: np.random.Generator) -> Array:
        """Cycle counts of the impulses of a race, their intervals jittered by slip."""
        n_passes = math.ceil((run.cycles[-1] - run.cycles[0]) * order * 1.1) + 2
        intervals = rng.normal(1.0, self.slip, n_passes) / order
        return run.cycles[0] - rng.uniform() / order + np.cumsum(intervals)

    def outer_race(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The outer race stands still, its pit in the load zone: impulses alike."""
        passes = self._ball_passes(run, self.bpfo, rng)
        train = impacts(run, passes, rng.uniform(0.8, 1.2, len(passes)))
        return ring(train, self.resonance, 0.0015, run.sample_rate)

    def inner_race(self, run: Run, healthy: Array, rng: np.random.Generator) -> Array:
        """The pit turns with the shaft, in and out of the load zone: modulated once a turn."""
        passes = self._ball_passes(run, self.bpfi, rng)
        # Stribeck's load distribution over the angle from the load's direction, with a load
        # factor of 1/2 (zero clearance) and the exponent 3/2 of point contact.
        load_zone = np.clip(np.cos(2 * np.pi * passes), 0.0, None) ** 1.5
        train = impacts(run, passes, load_zone * rng.uniform(0.8, 1.2, len(passes)))
        return ring(train, self.resonance, 0.0015, run.sample_rate)


MACHINES: dict[str, type[Machine]] = {
    "bearing": Bearing,
    "fan": Fan,
    "gearbox": Gearbox,
    "slider": Slider,
    "valve": Valve,
}
