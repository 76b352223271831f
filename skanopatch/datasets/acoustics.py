"""What machine sounds are made of: cycles, harmonics, impacts, resonances and noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

Array = NDArray[np.floating]
Spectrum = Callable[[Array], Array]  # amplitude over frequency in Hz

# Points of a waveform over one cycle: 25 a period at order 650, the highest that machines use here.
N_ANGLES = 16384
ANGLES = np.arange(N_ANGLES) / N_ANGLES

# Standard deviation of the speed at full load from second to second, relative to the speed.
SPEED_DRIFT = 0.004

# Share of the Nyquist frequency that orders may use; the rest is room for the speed's drift.
TONAL_BANDWIDTH = 0.95


@dataclass(frozen=True)
class Run:
    """How a machine runs during one clip, and the sounds that follow its angle."""

    cycles: Array  # done at every sample, (n_samples,): turns of a shaft, strokes of a slider
    load: float  # share of the rated load
    sample_rate: int  # in Hz

    def passages(self, phase: float) -> Array:
        """Cycle counts at which the machine passes a phase (0 to 1) of its cycle."""
        first, last = math.ceil(self.cycles[0] - phase), math.floor(self.cycles[-1] - phase)
        return phase + np.arange(first, last + 1, dtype=np.float64)

    def repeat(self, waveform: Array) -> Array:
        """Play the waveform of one cycle, shape (N_ANGLES,), at the angle of every sample.

        Orders that would reach the Nyquist frequency are left out, so that none is aliased.
        """
        cycles_done = self.cycles[-1] - self.cycles[0]
        rate = cycles_done * self.sample_rate / (len(self.cycles) - 1)  # in Hz
        spectrum = fft.rfft(waveform)
        spectrum[math.ceil(TONAL_BANDWIDTH * self.sample_rate / 2 / rate) :] = 0
        limited = fft.irfft(spectrum, N_ANGLES)
        position = (self.cycles % 1.0) * N_ANGLES
        index = position.astype(np.intp)
        here, step = limited[index], np.diff(limited, append=limited[0])[index]
        return here + (position - index) * step

    def impacts(self, cycles: Array, forces: Array) -> Array:
        """Impulses of the given forces at cycle counts; those outside the clip are dropped.

        An impulse between two samples is shared by them, which keeps its time.
        """
        n_samples = len(self.cycles)
        inside = (cycles >= self.cycles[0]) & (cycles < self.cycles[-1])
        times = np.interp(cycles[inside], self.cycles, np.arange(n_samples))
        before = times.astype(np.intp)
        share = times - before
        train = np.zeros(n_samples + 1)
        np.add.at(train, before, forces[inside] * (1 - share))
        np.add.at(train, before + 1, forces[inside] * share)
        return train[:n_samples]

    def ring(self, excitation: Array, frequency: float, decay: float) -> Array:
        """Ring a mode: it answers an impulse by exp(-t / decay) * sin(2 * pi * frequency * t)."""
        radius = math.exp(-1 / (decay * self.sample_rate))
        angle = 2 * math.pi * frequency / self.sample_rate
        denominator = [1.0, -2 * radius * math.cos(angle), radius**2]
        return signal.lfilter([0.0, radius * math.sin(angle)], denominator, excitation)

    def noise(self, centre: float, octaves: float, rng: np.random.Generator) -> Array:
        """Noise of RMS 1 whose spectrum is Gaussian in octaves around `centre` in Hz."""

        def hump(frequencies: Array) -> Array:
            return np.exp(-0.5 * (np.log2(frequencies / centre) / octaves) ** 2)

        return noise(len(self.cycles), self.sample_rate, hump, rng)


def drifting_run(
    speed_cpm: float, load: float, n_samples: int, sample_rate: int, rng: np.random.Generator
) -> Run:
    """Run at `speed_cpm` cycles a minute, about which the load lets the speed drift."""
    seconds = np.arange(n_samples) / sample_rate
    knots = np.arange(math.ceil(seconds[-1]) + 1)
    deviation = np.interp(seconds, knots, rng.standard_normal(len(knots)))
    speed = speed_cpm / 60 * (1 + SPEED_DRIFT * load * deviation)
    return Run(rng.uniform() + np.cumsum(speed) / sample_rate, load, sample_rate)


def rms(sound: Array) -> float:
    """Root mean square of a sound."""
    return math.sqrt(np.dot(sound, sound) / len(sound))


def level(decibels: float) -> float:
    """Amplitude ratio of a level difference in dB."""
    return 10 ** (decibels / 20)


def harmonics(orders: Array, amplitudes: Array, phases: Array) -> Array:
    """Sum of cosines over one cycle, by their orders (periods a cycle); shape (N_ANGLES,)."""
    angles = 2 * np.pi * np.outer(orders, ANGLES) + np.asarray(phases)[:, np.newaxis]
    return np.asarray(amplitudes) @ np.cos(angles)


def random_harmonics(n: int, weakest: float, rng: np.random.Generator, order: int = 1) -> Array:
    """Draw `n` harmonics of an order, with amplitudes from `weakest` to 1 over their number."""
    numbers = np.arange(1.0, n + 1)
    amplitudes = rng.uniform(weakest, 1.0, n) / numbers
    return harmonics(order * numbers, amplitudes, rng.uniform(0, 2 * np.pi, n))


def noise(n_samples: int, sample_rate: int, colour: Spectrum, rng: np.random.Generator) -> Array:
    """Gaussian noise of RMS 1 whose amplitude spectrum is `colour`."""
    frequencies = positive_frequencies(n_samples, sample_rate)
    parts = rng.standard_normal((2, len(frequencies)))
    spectrum = colour(frequencies) * (parts[0] + 1j * parts[1])
    spectrum[0] = 0
    sound = fft.irfft(spectrum, n_samples)
    return sound / rms(sound)


def positive_frequencies(n_samples: int, sample_rate: int) -> Array:
    """Frequencies of a real FFT in Hz, the first raised from 0 so that it has a logarithm."""
    frequencies = fft.rfftfreq(n_samples, 1 / sample_rate)
    frequencies[0] = frequencies[1]
    return frequencies


def equaliser(rng: np.random.Generator, spread: float) -> Spectrum:
    """Draw one random gain an octave, with a standard deviation of `spread` in dB."""
    octaves = np.arange(4, 17)  # 16 Hz to 65 kHz
    gains = rng.normal(scale=spread, size=len(octaves))
    return lambda frequencies: 10 ** (np.interp(np.log2(frequencies), octaves, gains) / 20)
