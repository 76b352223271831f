"""Units of machines in a factory: their rooms, the noise around them and recordings of them."""

import math
from collections.abc import Callable

import numpy as np
from scipy import fft

from skanopatch.datasets.acoustics import (
    Array,
    drifting_run,
    equaliser,
    harmonics,
    impacts,
    level,
    noise,
    positive_frequencies,
    repeat,
    ring,
    rms,
)
from skanopatch.datasets.machines import MACHINES

# Operating points of a domain: speeds relative to the unit's rated speed, and shares of the load.
SPEEDS = {"source": (0.9, 1.0, 1.1), "target": (0.85, 1.15)}
LOADS = (0.5, 1.0)

MEAN_LEVEL = -32.0  # dB relative to full scale: leaves headroom for clicks
LEVEL_SPREAD = 6.0  # dB either way, from clip to clip
MICROPHONE_SPREAD = 1.0  # dB an octave, standard deviation from clip to clip


def room_response(
    n_samples: int, sample_rate: int, rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.complexfloating]]:
    """Draw a room: the frequency response of the way from a machine to the microphone.

    Direct sound, coloured by the machine's surface, and exponentially decaying noise, the
    statistical model of a diffuse field. On the grid of a real FFT of `n_samples`.
    """
    reverberation_time = rng.uniform(0.15, 0.4)  # RT60 in seconds
    reverberant_level = rng.uniform(-12.0, -4.0)  # dB relative to the direct sound
    colour = equaliser(rng, 4.0)
    seconds = np.arange(int(reverberation_time * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(seconds)) * 10 ** (-60 / 20 * seconds / reverberation_time)
    impulse_response = level(reverberant_level) / math.sqrt(np.dot(tail, tail)) * tail
    impulse_response[0] += 1.0
    return fft.rfft(impulse_response, n_samples) * colour(
        positive_frequencies(n_samples, sample_rate)
    )


class Hall:
    """The noise of a factory hall: air, a neighbouring machine and clanks.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the hall.
    """

    def __init__(self, rng: np.random.Generator):
        self.slope = rng.uniform(0.35, 0.65)  # of the air's amplitude; pink noise has 0.5
        self.colour: Callable[[Array], Array] = equaliser(rng, 3.0)
        self.neighbour_cpm = rng.uniform(700.0, 1500.0)
        orders = np.arange(1.0, 13.0)
        self.neighbour = harmonics(
            orders, rng.uniform(0.2, 1.0, 12) / orders, rng.uniform(0, 2 * np.pi, 12)
        )
        self.clanks_per_second = rng.uniform(0.2, 0.6)
        self.clank_resonance = rng.uniform(900.0, 2600.0)

    def noise(self, n_samples: int, sample_rate: int, rng: np.random.Generator) -> Array:
        """Noise of the hall during one clip, RMS 1; shape (n_samples,)."""
        air = noise(n_samples, sample_rate, lambda f: self.colour(f) * f**-self.slope, rng)
        run = drifting_run(self.neighbour_cpm, 1.0, n_samples, sample_rate, rng)
        n_clanks = rng.poisson(self.clanks_per_second * n_samples / sample_rate)
        moments = rng.uniform(run.cycles[0], run.cycles[-1], n_clanks)
        clanks = impacts(run, moments, rng.uniform(0.2, 1.0, n_clanks))
        sound = air + 0.3 * repeat(self.neighbour, run)
        sound += ring(clanks, self.clank_resonance, 0.02, sample_rate)
        return sound / rms(sound)


class Unit:
    """One unit of a machine in its room; either domain has a hall, hence a noise, of its own.

    Parameters
    ----------
    machine : str
        A key of `MACHINES`.

    n_samples, sample_rate : int
        Length of the recordings in samples, and their rate in Hz.

    rng : numpy.random.Generator
        Draws the unit.
    """

    def __init__(self, machine: str, n_samples: int, sample_rate: int, rng: np.random.Generator):
        self.n_samples, self.sample_rate = n_samples, sample_rate
        machine_rng, room_rng, *hall_rngs = rng.spawn(2 + len(SPEEDS))
        self.machine = MACHINES[machine](machine_rng)
        self.room = room_response(n_samples, sample_rate, room_rng)
        self.halls = {d: Hall(hall_rng) for d, hall_rng in zip(SPEEDS, hall_rngs, strict=True)}

    def record(
        self, domain: str, fault: str, severity: float, snr: float, rng: np.random.Generator
    ) -> tuple[Array, dict[str, float]]:
        """Record one clip, shape (n_samples,), and note the operating attributes."""
        # A stream for each layer: a fault leaves the healthy sound and the noise as they were.
        operation, machine_rng, fault_rng, hall_rng = rng.spawn(4)
        speed_cpm = self.machine.rated_cpm * operation.choice(SPEEDS[domain])
        load = operation.choice(LOADS)
        run = drifting_run(speed_cpm, load, self.n_samples, self.sample_rate, operation)
        microphone = equaliser(operation, MICROPHONE_SPREAD)
        gain = level(MEAN_LEVEL + operation.uniform(-LEVEL_SPREAD, LEVEL_SPREAD))

        path = self.room * microphone(positive_frequencies(self.n_samples, self.sample_rate))
        at_machine = self.machine.healthy(run, machine_rng)
        healthy = fft.irfft(path * fft.rfft(at_machine), self.n_samples)
        # Level and SNR refer to the healthy sound, so that neither tells of the fault.
        noise = (
            level(-snr)
            * rms(healthy)
            * self.halls[domain].noise(self.n_samples, self.sample_rate, hall_rng)
        )
        clip = healthy + noise
        if fault != "none":
            added = self.machine.fault(fault, run, at_machine, fault_rng)
            clip += severity * fft.irfft(path * fft.rfft(added), self.n_samples)
        return gain / rms(healthy) * clip, {"speed_cpm": speed_cpm, "load": load}
