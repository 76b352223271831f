"""From files to scores beside PyOD's audio encoder and audio-anomaly: seconds and AUC.

    python benchmarks/bench_peers.py [FOLDER] [--pyod PYTHON] [--audio-anomaly PYTHON]

PYTHON is an interpreter that has ``pyod==3.6.7 librosa``, or ``audio-anomaly==0.1.0`` (and NumPy,
scikit-learn). Each tool runs in a process of its own, with its defaults and on the same files:

* skanopatch: ``AnomalousSoundDetector(map_detector="drop")``, without labels and without groups.
* PyOD: its audio encoder, features standardized, five of its detectors; it reads paths itself.
* audio-anomaly: a `Monitor` whose reference is all normal recordings, one after the other, and
  `detect` without a reference. It reports events and scores of frames; a clip is scored by the
  highest score of its frames (its `max_score`) and by their mean.

Seconds: a folder of 1,000 clips of 10 s at 16 kHz, noise with a tone, written on the fly. A tool is
fitted on 100 others and scores the 1,000, files being read by it; PyOD takes kNN, since its
detectors take little beside its encoder. "start-up" is what the process takes before it is fitted.
Seconds of the processor, which others on the machine change less, are of all threads. Tools take
turns.

AUC: the recordings of `bench_recipes.py` in FOLDER, where they are, with its five folds over normal
clips. A seed sets folds and noise. A tool counts with the best of its detectors, chosen by the mean
AUC of all seeds on the same recordings, which favours those that have several.

Results are appended to --results (JSON lines) and not computed again, so that an interrupted run
goes on. The figure, seconds of the processor on one axis and AUC on the other, is written to
--figure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np

SEEDS, REPEATS = (0, 1, 2), 3
RATE, SECONDS, N_FITTED, N_SCORED = 16000, 10, 100, 1000
RMS = 0.05  # of the clips that noise is added to
TOOLS = ("skanopatch", "PyOD", "audio-anomaly")


def score_by_skanopatch(folds):
    """Yield name -> anomaly scores of the test files of each fold (train, test)."""
    from skanopatch import AnomalousSoundDetector

    yield {}
    for train, test in folds:
        detector = AnomalousSoundDetector(map_detector="drop").fit(train)
        yield {}
        yield {"AnomalousSoundDetector": detector.anomaly_score(test)}


def score_by_pyod(folds, only=None):
    """Yield the same of detectors of PyOD on the features of its encoder."""
    from pyod.models.ecod import ECOD
    from pyod.models.gmm import GMM
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF
    from pyod.utils.encoders.audio import AudioFeatureEncoder
    from sklearn.preprocessing import StandardScaler

    yield {}
    detectors = {"KNN": KNN, "LOF": LOF, "GMM": GMM, "ECOD": ECOD, "IForest": IForest}
    encoded = {}

    def encode(paths):
        new = [path for path in paths if path not in encoded]
        if new:
            features = AudioFeatureEncoder().encode(new, show_progress=False)
            encoded.update(zip(new, features, strict=True))
        return np.array([encoded[path] for path in paths])

    for train, test in folds:
        X = encode(train)
        scaler = StandardScaler().fit(X)
        fitted = {
            name: make(**({"random_state": 0} if name in ("GMM", "IForest") else {}))
            for name, make in detectors.items()
            if only in (None, name)
        }
        for detector in fitted.values():
            detector.fit(scaler.transform(X))
        yield {}
        X = scaler.transform(encode(test))
        yield {name: detector.decision_function(X) for name, detector in fitted.items()}


def score_by_audio_anomaly(folds, only=None):
    """Yield the same of frames of audio-anomaly."""
    import soundfile
    from audio_anomaly import Monitor, detect

    yield {}
    alone = {}  # what is judged without a reference does not depend on the fold

    def numbers(report):
        return report.max_score, float(np.mean(report.scores))

    for train, test in folds:
        clips = [soundfile.read(path) for path in train]
        monitor = Monitor((np.concatenate([samples for samples, _ in clips]), clips[0][1]))
        yield {}
        scores = {}
        if only in (None, "reference"):
            found = np.array([numbers(monitor.check(path)) for path in test])
            scores |= {"reference, highest": found[:, 0], "reference, mean": found[:, 1]}
        if only in (None, "alone"):
            alone |= {path: numbers(detect(path)) for path in test if path not in alone}
            found = np.array([alone[path] for path in test])
            scores |= {"alone, highest": found[:, 0], "alone, mean": found[:, 1]}
        yield scores


def work(tool, only):
    """Read folds from standard input; print scores, and the seconds of each stage, as JSON."""
    start = perf_counter()
    at_start = process_time()
    steps = {
        "skanopatch": score_by_skanopatch,
        "PyOD": score_by_pyod,
        "audio-anomaly": score_by_audio_anomaly,
    }
    folds = json.load(sys.stdin)
    options = {} if only is None else {"only": only}
    stages, processor, scores = [], [], []
    for i, result in enumerate(steps[tool](folds, **options)):
        stages.append(perf_counter() - start)
        processor.append(process_time() - at_start)
        if i and i % 2 == 0:  # import; fit, scores; fit, scores
            scores.append({name: list(map(float, values)) for name, values in result.items()})
    print(json.dumps({"stages": stages, "processor": processor, "scores": scores}))


def run_tool(python, tool, folds, only=None):
    """Run a tool in a process of its own; return its result with the seconds of the process."""
    command = [python, __file__, "--work", tool, *(["--only", only] if only else [])]
    start = perf_counter()
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as printed:
        json.dump(folds, given)
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=printed, stderr=subprocess.DEVNULL, text=True
        )
        _, status, usage = os.wait4(process.pid, 0)
        clock = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{tool} ended with {process.returncode}: {' '.join(command)}")
        printed.seek(0)
        result = json.loads(printed.read().splitlines()[-1])
    result["clock"], result["all of the processor"] = clock, usage.ru_utime + usage.ru_stime
    return result


def write_folder(folder, n_clips, rng):
    """Write noise with a tone of random height to files, and return their paths."""
    import soundfile

    time = np.arange(SECONDS * RATE) / RATE
    paths = []
    for i in range(n_clips):
        tone = np.sin(2 * np.pi * rng.uniform(100, 2000) * time)
        path = folder / f"{i:05d}.wav"
        soundfile.write(path, 0.05 * (rng.normal(size=len(time)) + tone), RATE, subtype="PCM_16")
        paths.append(str(path))
    return paths


def time_tools(pythons, results):
    """Time every tool on one folder, in turns."""
    todo = [
        (repeat, tool)
        for repeat in range(REPEATS)
        for tool in pythons
        if not any(r.get("repeat") == repeat and r["tool"] == tool for r in results)
    ]
    if not todo:
        return
    quick = {"PyOD": "KNN", "audio-anomaly": "reference"}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_folder(Path(folder), N_FITTED + N_SCORED, np.random.default_rng(0))
        folds = [(paths[:N_FITTED], paths[N_FITTED:])]
        for repeat, tool in todo:
            result = run_tool(pythons[tool], tool, folds, quick.get(tool))
            imported, fitted, scored = result["stages"]
            _, processor_fitted, processor_scored = result["processor"]
            yield {
                "tool": tool,
                "repeat": repeat,
                "start-up": result["clock"] - scored + imported,
                "fit": fitted - imported,
                "score": scored - fitted,
                "score, processor": processor_scored - processor_fitted,
                "all, processor": result["all of the processor"],
            }


def measure_tools(folder, pythons, results):
    """Score the recordings in the folder with every tool."""
    import soundfile
    from bench_recipes import N_FOLDS, make_sets
    from sklearn.model_selection import GroupKFold

    from skanopatch.metrics import auc_score

    sets = make_sets(folder)
    sets = {name: load for name, load in sets.items() if " " not in name or "dB" in name}
    done = {(r["recordings"], r["tool"], r["seed"]) for r in results if "seed" in r}
    for name, seed in ((name, seed) for name in sets for seed in SEEDS):
        todo = [tool for tool in pythons if (name, tool, seed) not in done]
        if not todo:
            continue
        recordings = sets[name](seed=seed)
        with tempfile.TemporaryDirectory() as written:
            paths = list(map(str, recordings.clips))
            if isinstance(recordings.clips[0], np.ndarray):  # in memory, with noise
                paths = [str(Path(written) / f"{i:05d}.wav") for i in range(len(recordings.clips))]
                for path, clip in zip(paths, recordings.clips, strict=True):
                    samples = RMS / np.sqrt(np.mean(clip**2)) * clip
                    soundfile.write(path, samples, RATE, subtype="PCM_16")
            normal = np.flatnonzero(recordings.is_normal)
            anomalous = np.flatnonzero(~recordings.is_normal)
            folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
            rows = [
                (normal[train], np.concatenate([normal[test], anomalous]))
                for train, test in folds.split(normal, groups=recordings.groups[normal])
            ]
            files = [([paths[i] for i in train], [paths[i] for i in test]) for train, test in rows]
            for tool in todo:
                scores = run_tool(pythons[tool], tool, files)["scores"]
                aucs = defaultdict(list)
                for (_, test), of_fold in zip(rows, scores, strict=True):
                    y = np.where(recordings.is_normal[test], 1, -1)
                    for detector, values in of_fold.items():
                        aucs[detector].append(auc_score(y, np.array(values)))
                means = {detector: float(np.mean(values)) for detector, values in aucs.items()}
                yield {"recordings": name, "tool": tool, "seed": seed, "auc": means}


def best_aucs(results):
    """Return recordings -> tool -> (detector, mean and deviation over seeds) of the best one."""
    rows = defaultdict(lambda: defaultdict(list))
    for result in results:
        if "seed" in result:
            for detector, auc in result["auc"].items():
                rows[result["recordings"], result["tool"]][detector].append(auc)
    best = defaultdict(dict)
    for (name, tool), detectors in rows.items():
        detector = max(detectors, key=lambda one: np.mean(detectors[one]))
        values = detectors[detector]
        spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
        best[name][tool] = detector, float(np.mean(values)), float(spread)
    return best


def median_times(results):
    """Return tool -> stage -> median seconds."""
    stages = ("start-up", "fit", "score", "score, processor", "all, processor")
    times = {}
    for tool in TOOLS:
        own = [result for result in results if result["tool"] == tool and "repeat" in result]
        if own:
            times[tool] = {stage: median(row[stage] for row in own) for stage in stages}
    return times


def print_tables(results):
    times, best = median_times(results), best_aucs(results)
    if times:
        print("\n| tool | start-up, s | fit, s | 1,000 clips, s | of the processor, s |", end="")
        print(" all, of the processor, s | 1,000 clips over skanopatch: s, of the processor |")
        print("|:--|--:|--:|--:|--:|--:|--:|")
        for tool, own in times.items():
            cells = " | ".join(f"{own[stage]:.2f}" for stage in own)
            stages = ("score", "score, processor")
            ratios = ", ".join(f"{own[s] / times['skanopatch'][s]:.1f}" for s in stages)
            print(f"| {tool} | {cells} | {ratios} |")
    if best:
        print("\n| recordings | tool | its best detector | AUC |\n|:--|:--|:--|--:|")
        for name, tools in best.items():
            for tool, (detector, mean, spread) in tools.items():
                print(f"| {name} | {tool} | {detector} | {mean:.3f} ± {spread:.3f} |")


def draw(results, path):
    """Draw AUC over the seconds of 1,000 clips, a panel for each of the recordings."""
    import matplotlib.pyplot as plt

    times, best = median_times(results), best_aucs(results)
    colours = dict(zip(TOOLS, ("#0072b2", "#d55e00", "#555555"), strict=True))
    markers = dict(zip(TOOLS, "os^", strict=True))
    figure, axes = plt.subplots(
        1, len(best), sharex=True, sharey=True, figsize=(2.6 * len(best), 3.2), squeeze=False
    )
    seconds = [own["score, processor"] for own in times.values()]
    for axis, (name, tools) in zip(axes[0], best.items(), strict=True):
        for tool, (_, mean, spread) in tools.items():
            if tool not in times:
                continue
            style = {"color": colours[tool], "marker": markers[tool], "markersize": 8}
            axis.errorbar(
                times[tool]["score, processor"], mean, yerr=spread, label=tool, ls="", **style
            )
        axis.axhline(0.5, color="0.7", linewidth=1, zorder=0)
        axis.set_xscale("log")
        axis.set_xlim(min(seconds) / 2, max(seconds) * 2)
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("AUC (chance: 0.5)")
    figure.supxlabel("seconds of the processor: 1,000 clips of 10 s read and scored", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pyod", metavar="PYTHON")
    parser.add_argument("--audio-anomaly", metavar="PYTHON")
    parser.add_argument("--results", type=Path, default=Path("bench_peers.jsonl"))
    parser.add_argument("--figure", type=Path, default=Path("peers.png"))
    parser.add_argument("--work", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.only)
        return
    from environment import print_environment

    print_environment(SEEDS)
    given = (sys.executable, arguments.pyod, arguments.audio_anomaly)
    pythons = {tool: python for tool, python in zip(TOOLS, given, strict=True) if python}
    results = []
    if arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    steps = [time_tools(pythons, results)]
    if arguments.folder is not None:
        steps.insert(0, measure_tools(arguments.folder, pythons, list(results)))
    for step in steps:
        for row in step:
            with arguments.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            results.append(row)
            print(*row.values(), flush=True)
    print_tables(results)
    if median_times(results) and best_aucs(results):
        draw(results, arguments.figure)


if __name__ == "__main__":
    main()
