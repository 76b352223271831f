"""Units of machines in a factory: their rooms, the noise around them and recordings of them."""

import math

import numpy as np
from scipy import fft

from skanopatch.datasets.acoustics import (
    Array,
    drifting_run,
    equaliser,
    level,
    noise,
    positive_frequencies,
    random_harmonics,
    rms,
)
from skanopatch.datasets.machines import MACHINES

# Operating points of a domain: speeds relative to the unit's rated speed, and shares of the load.
SPEEDS = {"source": (0.9, 1.0, 1.1), "target": (0.85, 1.15)}
LOADS = (0.5, 1.0)

MEAN_LEVEL = -32.0  # dB relative to full scale: leaves headroom for clicks
LEVEL_SPREAD = 6.0  # dB either way, from clip to clip
MICROPHONE_SPREAD = 1.0  # dB an octave, standard deviation from clip to clip


def room_response(n_samples: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Draw the response of a room on the frequencies of a real FFT of `n_samples`.

    It is direct sound and exponentially decaying noise, the statistical model of a diffuse field.
    """
    reverberation_time = rng.uniform(0.15, 0.4)  # RT60 in seconds
    reverberant_level = rng.uniform(-12.0, -4.0)  # dB relative to the direct sound
    colour = equaliser(rng, 4.0)
    seconds = np.arange(int(reverberation_time * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(seconds)) * 10 ** (-60 / 20 * seconds / reverberation_time)
    impulse_response = level(reverberant_level) / math.sqrt(np.dot(tail, tail)) * tail
    impulse_response[0] += 1.0
    surface = colour(positive_frequencies(n_samples, sample_rate))
    return fft.rfft(impulse_response, n_samples) * surface


class Hall:
    """The noise of a factory hall: air, a neighbouring machine and clanks."""

    def __init__(self, rng: np.random.Generator):
        self.slope = rng.uniform(0.35, 0.65)  # of the air's amplitude; pink noise has 0.5
        self.colour = equaliser(rng, 3.0)
        self.neighbour_cpm = rng.uniform(700.0, 1500.0)
        self.neighbour = random_harmonics(12, 0.2, rng)
        self.clanks_per_second = rng.uniform(0.2, 0.6)
        self.clank_resonance = rng.uniform(900.0, 2600.0)

    def noise(self, n_samples: int, sample_rate: int, rng: np.random.Generator) -> Array:
        """Noise of the hall during one clip, RMS 1; shape (n_samples,)."""
        air = noise(n_samples, sample_rate, lambda f: self.colour(f) * f**-self.slope, rng)
        run = drifting_run(self.neighbour_cpm, 1.0, n_samples, sample_rate, rng)
        n_clanks = rng.poisson(self.clanks_per_second * n_samples / sample_rate)
        moments = rng.uniform(run.cycles[0], run.cycles[-1], n_clanks)
        clanks = run.impacts(moments, rng.uniform(0.2, 1.0, n_clanks))
        sound = air + 0.3 * run.repeat(self.neighbour)
        sound += run.ring(clanks, self.clank_resonance, 0.02)
        return sound / rms(sound)


class Unit:
    """One unit of a machine (a key of `MACHINES`) in its room, with a hall for each domain."""

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
        # A stream for each layer: a fault changes neither the healthy sound nor the noise.
        operation, machine_rng, fault_rng, hall_rng = rng.spawn(4)
        speed_cpm = self.machine.rated_cpm * operation.choice(SPEEDS[domain])
        load = operation.choice(LOADS)
        run = drifting_run(speed_cpm, load, self.n_samples, self.sample_rate, operation)
        microphone = equaliser(operation, MICROPHONE_SPREAD)
        gain = level(MEAN_LEVEL + operation.uniform(-LEVEL_SPREAD, LEVEL_SPREAD))

        path = self.room * microphone(positive_frequencies(self.n_samples, self.sample_rate))
        at_machine = self.machine.healthy(run, machine_rng)
        healthy = fft.irfft(path * fft.rfft(at_machine), self.n_samples)
        # Level and SNR refer to the healthy sound, so that neither reveals the fault.
        noise = self.halls[domain].noise(self.n_samples, self.sample_rate, hall_rng)
        clip = healthy + level(-snr) * rms(healthy) * noise
        if fault != "none":
            added = self.machine.fault(fault, run, at_machine, fault_rng)
            clip += severity * fft.irfft(path * fft.rfft(added), self.n_samples)
        return gain / rms(healthy) * clip, {"speed_cpm": speed_cpm, "load": load}
