"""Inject faults into held-back normal clips: are they found, and named as what they are?

    python benchmarks/bench_explanations.py [--data FOLDER] [--on NAME] [--n-fit 10 30]

FOLDER is laid out as `bench_recipes.py` says; without it, the recordings are simulated machines. In
each of three seeds, `AnomalousSoundDetector` is fitted on some normal clips (of the propellers,
whole flights), and each of at most `N_TESTED` others gets one fault of each kind at a time:

* tone: 13 dB below the clip's RMS, throughout, 0.3 to 6 kHz;
* band: noise of 0.8 octaves about 0.6 to 4.5 kHz, 6 dB below the clip's RMS, throughout;
* knocks: 3 to 5 bursts of noise of two octaves about 0.7 to 4 kHz that fall by e in 20 ms, the
  first 25 ms of which have an RMS 10 dB above the clip's;
* step: 6 dB up or down from some time on;
* dropout: 0.1 to 0.5 s of zeros;
* clipping: of the 2 % largest samples;
* gain: 12 dB beyond the loudest or the quietest clip of the fit.

"Named" is the share of clips whose first event is of the right kind, with a tone within 25 mel of
the true one, bands that share more than half of their union (in mel; of the true one, what raises
its mel bins by 3 dB counts), steady faults "all the time", three quarters of the knocks within 60
ms and as few false ones, a step within 0.2 s and 2 dB, a dropout within 60 ms, and the gain within
2 dB. "Listed" is the share where any event is. "Quiet" is the share of the same clips without a
fault of which no event is said. AUC compares the scores of
clips with a fault and without. Constants were chosen on simulated machines, but the levels and the
statistics that are compared after a look at the recordings in FOLDER too.
"""

import argparse
import re
import warnings
from pathlib import Path

import numpy as np
from environment import print_environment

from skanopatch import AnomalousSoundDetector, MelPatcher, unpatchify
from skanopatch.audio import load_clip
from skanopatch.datasets import make_machine_sounds
from skanopatch.metrics import auc_score
from skanopatch.recipes.conditions import level_of
from skanopatch.spectra.log_mel import hertz_to_mel

SEEDS, RATE = (0, 1, 2), 16000
N_FIT, N_TESTED = (10, 30), 10
MACHINES = ("bearing", "fan", "gearbox", "slider", "valve")


def rms(samples):
    return np.sqrt(np.mean(samples**2))


def band_noise(n_samples, low, high, rng):
    spectrum = rng.normal(size=(2, n_samples // 2 + 1)).T @ [1, 1j]
    frequencies = np.fft.rfftfreq(n_samples, 1 / RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    noise = np.fft.irfft(spectrum, n_samples)
    return noise / rms(noise)


def log_uniform(low, high, rng):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def add_tone(clip, rng, levels):
    frequency, time = log_uniform(300, 6000, rng), np.arange(len(clip)) / RATE
    tone = np.sqrt(2) * np.sin(2 * np.pi * (frequency * time + rng.uniform()))
    return clip + rms(clip) * 10 ** (-13 / 20) * tone, {"low": frequency}


def add_band(clip, rng, levels):
    middle = log_uniform(600, 4500, rng)
    low, high = middle * 2**-0.4, middle * 2**0.4
    noise = band_noise(len(clip), low, high, rng)
    return clip + rms(clip) * 10 ** (-6 / 20) * noise, {"low": low, "high": high}


def add_knocks(clip, rng, levels):
    length, times = len(clip) / RATE, []
    n_knocks = rng.integers(3, 6)
    while len(times) < n_knocks:
        time = rng.uniform(0.2, length - 0.3)
        if all(abs(time - other) > 0.3 for other in times):
            times.append(time)
    middle = log_uniform(700, 4000, rng)
    low, high = middle / 2, min(middle * 2, 7600)
    clip, size = clip.copy(), round(0.15 * RATE)
    level = rms(clip) * 10 ** (10 / 20)
    for time in times:
        knock = band_noise(size, low, high, rng) * np.exp(-np.arange(size) / RATE / 0.02)
        start = round(time * RATE)
        clip[start : start + size] += level * knock / rms(knock[: round(0.025 * RATE)])
    return clip, {"low": low, "high": high, "times": sorted(times)}


def add_step(clip, rng, levels):
    start, decibels = round(rng.uniform(0.25, 0.75) * len(clip)), 6 * rng.choice([-1, 1])
    clip = clip.copy()
    clip[start:] *= 10 ** (decibels / 20)
    return clip, {"times": [start / RATE], "decibels": decibels}


def add_dropout(clip, rng, levels):
    length = rng.uniform(0.1, 0.5)
    start = rng.uniform(0.1, len(clip) / RATE - length - 0.1)
    clip = clip.copy()
    clip[round(start * RATE) : round((start + length) * RATE)] = 0
    return clip, {"times": [start, start + length]}


def add_clipping(clip, rng, levels):
    limit = np.quantile(np.abs(clip), 0.98)
    return np.clip(clip, -limit, limit), {}


def add_gain(clip, rng, levels):
    is_louder = rng.random() < 0.5
    target = max(levels) + 12 if is_louder else min(levels) - 12
    return clip * 10 ** ((target - level_of(spectrum_of(clip))) / 20), {"is_louder": is_louder}


FAULTS = {
    "tone": add_tone,
    "band": add_band,
    "knocks": add_knocks,
    "step": add_step,
    "dropout": add_dropout,
    "clipping": add_clipping,
    "gain": add_gain,
}
KINDS = {"band": "louder band", "knocks": "knock"}


def spectrogram_of(clip):
    """Return the log-mel spectrogram (n_frames, n_mels), in natural logarithms of power."""
    patcher = MelPatcher(duration=len(clip) / RATE)
    return unpatchify(np.asarray(patcher.fit_transform([clip.astype(np.float32)])))[0]


def spectrum_of(clip):
    return spectrogram_of(clip).mean(axis=0)


def with_visible_band(clip, faulty, truth):
    """Narrow a fault's band to what raises its mel bins by 3 dB, where anything does."""
    if "high" not in truth:
        return truth
    rise = 10 / np.log(10) * (spectrogram_of(faulty) - spectrogram_of(clip))
    frames = [round(100 * time) + step for time in truth.get("times", ()) for step in (0, 1)]
    rise = (rise[frames] if frames else rise).mean(axis=0)
    edges = MelPatcher().front_end.bin_edges()
    is_inside = (edges[1:] > truth["low"]) & (edges[:-1] < truth["high"])
    bins = np.flatnonzero(is_inside & (rise > 3))
    if not len(bins):
        return truth
    return {**truth, "low": edges[bins[0]], "high": edges[bins[-1] + 1]}


def is_right(kind, event, truth):
    """Return whether an event is the fault that was injected."""
    if event.kind != KINDS.get(kind, kind):
        return False
    times = [start for start, _ in event.times]
    if kind == "tone":
        return not times and abs(np.subtract(*hertz_to_mel([event.low, truth["low"]]))) < 25
    if kind in ("band", "knocks"):
        low, high, true_low, true_high = hertz_to_mel(
            [event.low, event.high, truth["low"], truth["high"]]
        )
        shared = min(high, true_high) - max(low, true_low)
        if shared <= 0.5 * (max(high, true_high) - min(low, true_low)):
            return False
    if kind == "band":
        return not times
    if kind == "knocks":
        is_near = np.abs(np.subtract.outer(times, truth["times"])) < 0.06
        return is_near.any(axis=0).mean() >= 0.75 and is_near.any(axis=1).mean() >= 0.75
    if kind == "step":
        is_near = abs(times[0] - truth["times"][0]) < 0.2
        return is_near and abs(event.decibels - truth["decibels"]) < 2
    if kind == "dropout":
        return len(times) == 1 and np.abs(np.subtract(event.times[0], truth["times"])).max() < 0.06
    return True


def judge(kind, explanation, truth):
    """Return whether the fault is named first, and whether it is named at all."""
    if kind == "gain":
        word = "louder" if truth["is_louder"] else "quieter"
        gains = [re.match(rf"(\d+) dB {word}", note) for note in explanation.notes]
        is_named = any(found and abs(int(found[1]) - 12) <= 2 for found in gains)
        return is_named, is_named
    named = [is_right(kind, event, truth) for event in explanation.events]
    return bool(named and named[0]), any(named)


def read(paths):
    return [load_clip(path) for path in paths]


def load_recordings(folder):
    """Return name -> (normal clips, the flight or number of each)."""
    if folder is None:
        recordings = {}
        for machine in MACHINES:
            sounds = make_machine_sounds(
                [machine], n_units=1, n_train=0, n_normal=50, n_anomalous=0, random_state=100
            )
            recordings[f"simulated {machine}"] = list(sounds.clips), np.arange(50)
        return recordings
    patterns = {
        "fan": ("mimii/fan/id_00/normal", "*.wav"),
        "valve": ("dcase2023t2/dev_data/raw/valve/test", "*_normal_*.wav"),
        "propellers": ("propellers/normal", "*.flac"),
    }
    paths = {name: sorted((folder / where).glob(p)) for name, (where, p) in patterns.items()}
    flights = [re.sub(r"_part_\d+", "", path.stem) for path in paths["propellers"]]
    units = {"propellers": np.unique(flights, return_inverse=True)[1]} if flights else {}
    return {
        name: (read(found), units.get(name, np.arange(len(found))))
        for name, found in paths.items()
        if found
    }


def measure(clips, units, n_fit, seed):
    """Return the results of one seed, and how far the parts are from adding up to the scores."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(units.max() + 1)
    ranked = [row for unit in order for row in np.flatnonzero(units == unit)]
    fitted = ranked[:n_fit]
    tested = [row for row in ranked[n_fit:] if units[row] not in units[fitted]][:N_TESTED]
    detector = AnomalousSoundDetector(
        MelPatcher(duration=len(clips[0]) / RATE), map_detector="drop", embedder="drop"
    ).fit([clips[row] for row in fitted])
    levels = [float(level_of(spectrum_of(clips[row]))) for row in fitted]
    normal = detector.explain([clips[row] for row in tested])
    results = {"quiet": [(not e.events, not e.events) for e in normal]}
    scores, errors = {}, []
    for kind, add in FAULTS.items():
        pairs = [add(clips[row].astype(np.float64), rng, levels) for row in tested]
        found = detector.explain([clip.astype(np.float32) for clip, _ in pairs])
        truths = [
            with_visible_band(clips[row], *pair) for row, pair in zip(tested, pairs, strict=True)
        ]
        results[kind] = [judge(kind, e, truth) for e, truth in zip(found, truths, strict=True)]
        y = np.repeat([1, -1], len(tested))
        scores[kind] = auc_score(y, [-e.score for e in normal + found])
        errors += [abs(e.typical + sum(p.distance for p in e.parts) + e.score) for e in found]
    return results, scores, max(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--on", help="a name of recordings")
    parser.add_argument("--n-fit", type=int, nargs="+", default=N_FIT)
    arguments = parser.parse_args()
    print_environment(SEEDS)
    warnings.filterwarnings("ignore", message=".* clips were recorded in another way")
    print("| recordings | fitted on | tested | quiet |", " | ".join(FAULTS), "|")
    print("|---" * (4 + len(FAULTS)) + "|")
    largest = 0.0
    for name, (clips, units) in load_recordings(arguments.data).items():
        if arguments.on not in (None, name):
            continue
        for n_fit in arguments.n_fit:
            if n_fit > 0.75 * len(clips):
                continue
            seeds = [measure(clips, units, n_fit, seed) for seed in SEEDS]
            largest = max(largest, *(error for *_, error in seeds))
            named = {
                kind: np.concatenate([results[kind] for results, _, _ in seeds])
                for kind in seeds[0][0]
            }
            cells = [f"{named['quiet'][:, 0].mean():.2f}"]
            for kind in FAULTS:
                first, any_ = named[kind].mean(axis=0)
                auc = np.mean([aucs[kind] for _, aucs, _ in seeds])
                cells.append(f"{first:.2f} ({any_:.2f}), {auc:.2f}")
            print(
                f"| {name} | {n_fit} | {len(named['quiet'])} |", " | ".join(cells), "|", flush=True
            )
    print(f"Named first (listed), AUC. Parts add up to scores within {largest:.1e}.")


if __name__ == "__main__":
    main()
