"""What a cluster and many machines cost: Dask and Ray beside one process, and fits of groups.

    python benchmarks/bench_cluster.py [--machines 50 200 1000] [--only scores | machines | groups]

scores: 1,000 clips of 10 s in files, fitted on 100 others. One process with one thread; Dask with
two processes of one thread, and Ray with two, where they are installed. "through tasks" hands
`score_samples` of 50 paths to a worker, as examples/cluster_dask.py does; "through patches" calls
`score_samples` of all clips once, whose patches are computed by the workers and come back. All
take turns. Started clusters are not in the times. The bytes are those of pickles.

machines: ``AnomalousSoundDetector(map_detector="drop").fit(clips, groups=...)`` of 100 clips a
machine, which are stretches of 1 s of one long file. They are read and their spectrograms computed;
clips of 10 s take longer by the difference that "scores" tells. Then all machines are written to
one file by `save_models`, and one is read from it. One process for each number of machines.

groups: fits of the detectors of 100 machines on statistics, one after the other and by
`joblib` on two processes and two threads, in turns.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from bench_memory import peak_mebibytes
from bench_peers import RATE, SECONDS, write_folder
from joblib import Parallel, delayed, parallel_config

SEED, REPEATS = 0, 3
N_FITTED, N_SCORED, CLIPS_A_TASK = 100, 1000, 50
CLIPS_A_MACHINE, STRETCH, HOP = 100, 1.0, 0.05  # seconds
N_GROUPS, N_STATISTICS = 100, 186


def score(model, paths):
    """Score some clips in one worker, as the examples do."""
    with parallel_config(backend="sequential"):
        return model.score_samples(paths)


@contextmanager
def dask_of_two():
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster):
        yield


@contextmanager
def ray_of_two():
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    yield
    ray.shutdown()


def compare_backends():
    """Print seconds and equality of scores by each backend."""
    from environment import time_in_turns

    from skanopatch import AnomalousSoundDetector

    clusters = {"dask": ("distributed", dask_of_two), "ray": ("ray", ray_of_two)}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_folder(Path(folder), N_FITTED + N_SCORED, np.random.default_rng(SEED))
        fitted, new = paths[:N_FITTED], paths[N_FITTED:]
        tasks = [new[i : i + CLIPS_A_TASK] for i in range(0, len(new), CLIPS_A_TASK)]
        model = AnomalousSoundDetector(map_detector="drop").fit(fitted)
        expected = score(model, new)
        patches = model.patcher_.transform(new[:1])
        print(
            f"a clip: {SECONDS * RATE * 2:,} bytes of 16-bit audio, {patches.nbytes:,} of patches, "
            f"{len(pickle.dumps(tasks[0])) // len(tasks[0])} of its path; "
            f"the model: {len(pickle.dumps(model)):,}"
        )
        print("\n| backend | 1,000 clips, s | over one process | equal scores |\n|:--|--:|--:|:--|")
        for name, (package, start) in clusters.items():
            if find_spec(package) is None:
                continue
            scores = {}

            def one_process(scores=scores):
                scores["one process"] = score(model, new)

            def through_tasks(name=name, scores=scores):
                scattered = {"scatter": [model]} if name == "dask" else {}
                with parallel_config(backend=name, **scattered):
                    parts = Parallel()(delayed(score)(model, task) for task in tasks)
                scores["through tasks"] = np.concatenate(parts)

            def through_patches(name=name, scores=scores):
                with parallel_config(backend=name):
                    scores["through patches"] = model.score_samples(new)

            with start():
                through_tasks()  # imports in the workers
                seconds = time_in_turns([one_process, through_tasks, through_patches], REPEATS)
            labels = ["one process", "through tasks", "through patches"]
            for label, taken in zip(labels, seconds, strict=True):
                row = label if label == "one process" else f"{name}, {label}"
                is_equal = np.array_equal(scores[label], expected)
                print(
                    f"| {row} | {taken:.2f} | {taken / seconds[0]:.2f} | {is_equal} |", flush=True
                )


def fit_machines(path, n_machines):
    """Fit and score in this process; print seconds and memory as JSON."""
    from skanopatch import AnomalousSoundDetector, MelPatcher, Segment, load_model, save_models

    n_clips = n_machines * CLIPS_A_MACHINE
    clips = [Segment(path, i * HOP, i * HOP + STRETCH) for i in range(n_clips)]
    groups = np.repeat([f"machine {i}" for i in range(n_machines)], CLIPS_A_MACHINE).tolist()
    model = AnomalousSoundDetector(MelPatcher(duration=STRETCH), map_detector="drop")
    model.fit(clips[:20])  # imports
    result = {"machines": n_machines}
    result["fit"] = seconds_of(lambda: model.fit(clips, groups=groups))
    result["score"] = seconds_of(lambda: model.score_samples(clips[:1000], groups=groups[:1000]))
    result["peak"] = peak_mebibytes()
    file = Path(path).with_suffix(".skano")
    parts = ((name, model.select_group(name)) for name in model.groups_)
    result["save"] = seconds_of(lambda: save_models(file, parts))
    result["load"] = seconds_of(lambda: load_model(file, model.groups_[-1]))
    result["file"] = file.stat().st_size / 1e6
    result["statistics"] = seconds_of(
        lambda: model.statistics_.transform(model.patcher_.transform(clips[:2000]))
    )
    print(json.dumps(result))


def seconds_of(function):
    """Return the seconds of the clock and of the processor, all threads, that a call takes."""
    clock, processor = perf_counter(), process_time()
    function()
    return perf_counter() - clock, process_time() - processor


def time_machines(numbers):
    """Print the seconds of fits of so many machines."""
    import soundfile

    print(
        "\nSeconds of the clock, and of the processor in brackets:\n\n| machines | fit, min |",
        end="",
    )
    print(
        " a machine, s | statistics of 100 clips, s | 1,000 clips scored, s | all saved, s"
        " | one loaded, s | file, MB | peak, MiB |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.wav"
        rng = np.random.default_rng(SEED)
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for _ in range(int(np.ceil((max(numbers) * CLIPS_A_MACHINE * HOP + STRETCH) / 60))):
                file.write(0.1 * rng.normal(size=60 * RATE))
        for n_machines in numbers:
            process = subprocess.run(
                [sys.executable, __file__, "--work", str(path), "--machines", str(n_machines)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            row = json.loads(process.stdout.splitlines()[-1])
            cells = [
                "{:.3f} ({:.3f})".format(*(seconds / divisor for seconds in row[name]))
                for name, divisor in (
                    ("fit", 60),
                    ("fit", n_machines),
                    ("statistics", 20),
                    ("score", 1),
                    ("save", 1),
                    ("load", 1),
                )
            ]
            print(
                f"| {n_machines} | {' | '.join(cells)} | {row['file']:.0f} | {row['peak']:.0f} |",
                flush=True,
            )


def fit_group(X):
    """Fit what `AnomalousSoundDetector` fits for a group."""
    from skanopatch import MahalanobisDetector

    return MahalanobisDetector().fit(X)


def compare_group_fits():
    """Print the seconds of fits of groups, one after the other and in parallel."""
    from environment import time_in_turns

    rng = np.random.default_rng(SEED)
    parts = [rng.normal(size=(CLIPS_A_MACHINE, N_STATISTICS)) for _ in range(N_GROUPS)]

    def fit(**settings):
        return lambda: Parallel(**settings)(delayed(fit_group)(part) for part in parts)

    one, processes, threads = fit(n_jobs=1), fit(n_jobs=2), fit(n_jobs=2, prefer="threads")
    processes()  # starts the workers
    seconds = time_in_turns([one, processes, threads], REPEATS)
    print(
        f"\n{N_GROUPS} groups: {seconds[0]:.2f} s; two processes {seconds[1] / seconds[0]:.2f} "
        f"of it, two threads {seconds[2] / seconds[0]:.2f}; load of the machine "
        f"{os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--only", choices=("scores", "machines", "groups"))
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        fit_machines(arguments.work, arguments.machines[0])
        return
    from environment import print_environment  # torch

    print_environment(SEED)
    steps = {
        "scores": compare_backends,
        "groups": compare_group_fits,
        "machines": lambda: time_machines(arguments.machines),
    }
    for name, step in steps.items():
        if arguments.only in (None, name):
            step()


if __name__ == "__main__":
    main()
