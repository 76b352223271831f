"""Does memory grow with the number of clips? Peak memory and time of fit and of scores.

    python benchmarks/bench_memory.py [--clips 2000 20000] [--network]

Clips of 10 s are stretches of one long file of noise whose level and colour drift, written to a
temporary folder. Each number of clips has a process of its own. "After imports" is the memory of a
process that has fitted on 20 clips. With --network, `labels` are given and a network is trained for
one epoch.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import soundfile

RATE, SECONDS, HOP = 16000, 10.0, 0.5


def write_recording(path, n_clips, seed=0):
    """Write noise that is long enough for so many stretches, a minute at a time."""
    rng = np.random.default_rng(seed)
    n_minutes = int(np.ceil((n_clips * HOP + SECONDS) / 60))
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for minute in range(n_minutes):
            noise = rng.normal(size=60 * RATE)
            gain = 0.05 * (1.2 + np.sin(2 * np.pi * minute / 17))
            file.write(gain * (noise + 0.8 * np.roll(noise, 1 + minute % 5)))


def peak_mebibytes():
    """Return the peak memory of this process; `ru_maxrss` holds that of its parent too."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(path, n_clips, network):
    """Fit and score in this process; print peak memory and seconds as JSON."""
    from skanopatch import AnomalousSoundDetector, Segment

    embedder = "drop"
    if network:  # importing it takes 350 MiB
        from skanopatch import AnoPatchEmbedder, FineTuning

        embedder = AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=1), statistics=False)
    clips = [Segment(path, i * HOP, i * HOP + SECONDS) for i in range(n_clips)]
    detector = AnomalousSoundDetector(embedder=embedder, random_state=0)
    result = {"n_clips": n_clips}
    for name, own in (("start", clips[:20]), ("all", clips)):
        metadata = {"labels": [int(10 * c.start / 60) % 3 for c in own]} if network else {}
        start = perf_counter()
        detector.fit(own, **metadata)
        result[f"fit {name}, s"] = perf_counter() - start
        start = perf_counter()
        detector.score_samples(own)
        result[f"score {name}, s"] = perf_counter() - start
        result[f"peak {name}, MiB"] = peak_mebibytes()
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.clips[0], options.network)
        return
    from environment import print_environment

    print_environment(seed=0)
    print(
        f"{'clips':>8} {'fit, s':>9} {'score, s':>9} {'peak, MiB':>10} {'after imports, MiB':>19}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        write_recording(path, max(options.clips))
        for n_clips in options.clips:
            arguments = [
                sys.executable,
                "-W",
                "ignore",
                __file__,
                "--work",
                path,
                "--clips",
                n_clips,
            ]
            arguments += ["--network"] if options.network else []
            done = subprocess.run(list(map(str, arguments)), check=True, capture_output=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{n_clips:8} {row['fit all, s']:9.1f} {row['score all, s']:9.1f} "
                f"{row['peak all, MiB']:10.0f} {row['peak start, MiB']:19.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
