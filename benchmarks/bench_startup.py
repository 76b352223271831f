"""Time what starts: imports, and commands on one clip, beside the import of scikit-learn.

    python benchmarks/bench_startup.py

Prints a table with the seconds of the clock, the seconds of the processor (which a busy machine
changes less) and the peak memory of each, all medians, and the sizes of the model files. The
processes take turns.
"""

import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

SEED, REPEATS = 0, 5
N_CLIPS, SECONDS, RATE = 12, 10, 16000

IMPORTS = ("import numpy", "import sklearn.base", "from skanopatch import MelPatcher")
IMPORTS += ("from skanopatch import KNNDetector", "from skanopatch import AnomalousSoundDetector")
COMMANDS = ("info fan.skano", "score fan.skano 0.wav", "score network.skano 0.wav")

# In a process of its own: the peak memory of a process counts that of the one that started it.
WRITE = """
import numpy as np, soundfile
from skanopatch import AnomalousSoundDetector, make_anopatch_pipeline, save_model

rng = np.random.default_rng({seed})
clips = [f"{{i}}.wav" for i in range({n_clips})]
for clip in clips:
    soundfile.write(clip, 0.1 * rng.normal(size={n_samples}), {rate})
save_model("fan.skano", AnomalousSoundDetector().fit(clips))
save_model("bare.skano", AnomalousSoundDetector(map_detector="drop").fit(clips))
network = make_anopatch_pipeline(anopatchembedder__statistics=False)
save_model("network.skano", network.fit(clips))
"""


def measure(arguments):
    """Run Python with arguments; return seconds of the clock and the processor, and MB."""
    start = perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    print(f"{platform.machine()} {platform.system()}, {REPEATS} repeats")
    own = f"skanopatch {version('skanopatch')}, scikit-learn {version('scikit-learn')}"
    print(f"Python {platform.python_version()}, {own}, seed {SEED}")
    rows = {code: ["-c", code] for code in IMPORTS}
    rows |= {f"skanopatch {line}": ["-m", "skanopatch", *line.split()] for line in COMMANDS}
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            n_samples = SECONDS * RATE
            code = WRITE.format(seed=SEED, n_clips=N_CLIPS, n_samples=n_samples, rate=RATE)
            measure(["-c", code])
            turns = [[measure(row) for row in rows.values()] for _ in range(REPEATS)]
            sizes = {path.name: path.stat().st_size / 1e6 for path in Path().glob("*.skano")}
        finally:
            os.chdir(here)
    print("\n| what | s | s of the processor | MB |\n|---|---|---|---|")
    for name, measured in zip(rows, zip(*turns, strict=True), strict=True):
        clock, processor, memory = (median(values) for values in zip(*measured, strict=True))
        print(f"| {name} | {clock:.2f} | {processor:.2f} | {memory:.0f} |")
    print(
        f"\nFiles, {N_CLIPS} clips of {SECONDS} s: {sizes['bare.skano']:.2f} MB without maps, "
        f"{sizes['fan.skano']:.2f} MB with maps, {sizes['network.skano']:.2f} MB with the network."
    )


if __name__ == "__main__":
    main()
