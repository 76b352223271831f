"""The scripts of examples/ for clusters score as one process does, with Dask and with Ray."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from skanopatch import AnomalousSoundDetector

EXAMPLES = Path(__file__).parents[1] / "examples"
N_NORMAL, N_NEW, N_SAMPLES, RATE = 40, 110, 16000, 16000
SUBNET = "10.77.0"

needs_dask = pytest.mark.skipif(
    find_spec("distributed") is None, reason="Dask is an extra: pip install 'skanopatch[dask]'"
)
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is an extra: pip install 'skanopatch[ray]'"
)

# The worker that starts the first task ends there as if its machine had lost power.
KILL = """
import os, signal, sys
from functools import partial
import cluster_dask

def score(score, marker, model, paths):
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return score(model, paths)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    cluster_dask.CLIPS_A_TASK = 10
    cluster_dask.score = partial(score, cluster_dask.score, sys.argv[4])
    cluster_dask.main(*sys.argv[1:4])
"""

# What is handed to Dask is counted: tasks, and what is scattered to workers.
COUNT = """
import sys
import cloudpickle, cluster_dask
from distributed import Client

sent, submit, scatter = [], Client.submit, Client.scatter

def count_submit(client, function, *args, **kwargs):
    sent.append(len(cloudpickle.dumps((function, kwargs))))
    return submit(client, function, *args, **kwargs)

def count_scatter(client, data, **kwargs):
    sent.append(len(cloudpickle.dumps(data)))
    return scatter(client, data, **kwargs)

Client.submit, Client.scatter = count_submit, count_scatter
if __name__ == "__main__":
    cluster_dask.main(*sys.argv[1:4])
    print(len(sent), sum(sent))
"""

# The hosts of the workers are printed, once there are as many as asked for.
WAIT = """
import sys
import cluster_dask
from distributed import Client

if __name__ == "__main__":
    *arguments, n_workers = sys.argv[1:]
    with Client(arguments[-1]) as client:
        client.wait_for_workers(int(n_workers), timeout=120)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        print(*(worker["host"] for worker in workers))
    cluster_dask.main(*arguments)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write normal and new clips; return their folders, and a function for expected scores."""
    root = tmp_path_factory.mktemp("cluster")
    rng = np.random.default_rng(0)
    for name, n_clips in (("normal", N_NORMAL), ("new", N_NEW)):
        (root / name).mkdir()
        for i in range(n_clips):
            clip = rng.normal(size=N_SAMPLES) * (0.3 if name == "new" and i % 5 == 0 else 0.1)
            soundfile.write(root / name / f"{i:03d}.wav", clip, RATE, subtype="PCM_16")
    normal, new = (sorted(map(str, (root / name).iterdir())) for name in ("normal", "new"))
    model = AnomalousSoundDetector(map_detector="drop").fit(normal)

    def expect(clips_a_task):
        """Return clips and scores of one process, with the same clips together.

        Scores of other clips together differ in their last bit.
        """
        tasks = [new[i : i + clips_a_task] for i in range(0, len(new), clips_a_task)]
        scores = np.concatenate([model.score_samples(task) for task in tasks])
        assert_allclose(scores, model.score_samples(new), rtol=1e-13)
        return new, scores / model.offset_

    return root / "normal", root / "new", expect


def environment_of(home):
    """Return the environment of a process that imports the package and the examples."""
    paths = os.pathsep.join([str(EXAMPLES), str(EXAMPLES.parent)])
    # Ray keeps a token in HOME.
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HOME": str(home)}


def run(script, *arguments, home):
    """Run a script that other processes import the package for; return what it prints."""
    process = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment_of(home),
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def assert_equals(path, expected):
    clips, scores = expected
    table = pd.read_csv(path, dtype=str)
    assert table["clip"].tolist() == clips
    assert_array_equal([float(score) for score in table["score"]], scores)  # written in full
    assert (scores > 1).sum() >= N_NEW / 5  # the loud ones


@pytest.mark.slow
@needs_dask
def test_scores_of_dask_equal_those_of_one_process(folders, tmp_path):
    *given, expect = folders
    output = run(EXAMPLES / "cluster_dask.py", *given, tmp_path / "scores.csv", home=tmp_path)
    assert f"{N_NEW} clips scored" in output
    assert_equals(tmp_path / "scores.csv", expect(50))


@pytest.mark.slow
@needs_ray
def test_scores_of_ray_equal_those_of_one_process(folders, tmp_path):
    *given, expect = folders
    output = run(EXAMPLES / "cluster_ray.py", *given, tmp_path / "scores.csv", home=tmp_path)
    assert f"{N_NEW} clips scored" in output
    assert_equals(tmp_path / "scores.csv", expect(50))


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Two hosts, each a network namespace, on a bridge to this one; return their names."""
    prefix = f"sk{os.getpid() % 10000}"
    bridge, names = f"{prefix}b", [f"{prefix}h1", f"{prefix}h2"]
    with ExitStack() as stack:
        if shutil.which("ip") is None or ip("link", "add", bridge, "type", "bridge").returncode:
            pytest.skip("network namespaces need Linux, the program ip, and root")
        stack.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{SUBNET}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number, name in enumerate(names, 2):
            stack.callback(ip, "netns", "del", name)
            lines = (
                f"netns add {name}",
                f"link add {name} type veth peer name eth0 netns {name}",
                f"link set {name} master {bridge} up",
                f"-n {name} addr add {SUBNET}.{number}/24 dev eth0",
                f"-n {name} link set eth0 up",
                f"-n {name} link set lo up",
            )
            for line in lines:
                if (done := ip(*line.split())).returncode:
                    pytest.skip(f"ip {line}: {done.stderr}")
        yield names


@pytest.mark.slow
@needs_dask
def test_workers_on_hosts_of_their_own_give_the_same_scores(folders, hosts, tmp_path):
    *given, expect = folders
    address = f"{SUBNET}.1:18786"
    cli = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://{address}"]
    worker += ["--no-nanny", "--no-dashboard", "--nthreads", "1"]
    commands = [[*cli, "--host", address.split(":")[0], "--port", address.split(":")[1]]]
    commands += [["ip", "netns", "exec", host, *worker, "--name", host] for host in hosts]
    logs = [tmp_path / f"{i}.log" for i in range(len(commands))]
    with ExitStack() as stack:
        for command, log in zip(commands, logs, strict=True):
            file = stack.enter_context(log.open("w"))
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment_of(tmp_path),
                cwd=tmp_path,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        script = tmp_path / "wait.py"
        script.write_text(WAIT)
        output = run(
            script, *given, tmp_path / "scores.csv", f"tcp://{address}", len(hosts), home=tmp_path
        )
    assert f"{N_NEW} clips scored" in output
    assert {f"{SUBNET}.2", f"{SUBNET}.3"} <= set(output.splitlines()[0].split())
    assert_equals(tmp_path / "scores.csv", expect(50))


@pytest.mark.slow
@needs_dask
def test_a_killed_worker_loses_no_scores(folders, tmp_path):
    *given, expect = folders
    script, marker = tmp_path / "kill.py", tmp_path / "killed"
    script.write_text(KILL)
    run(script, *given, tmp_path / "scores.csv", marker, home=tmp_path)
    assert marker.exists()  # a worker was killed
    assert_equals(tmp_path / "scores.csv", expect(10))


@pytest.mark.slow
@needs_dask
def test_models_and_paths_travel_and_audio_does_not(folders, tmp_path):
    *given, _ = folders
    script = tmp_path / "count.py"
    script.write_text(COUNT)
    output = run(script, *given, tmp_path / "scores.csv", home=tmp_path)
    n_sent, n_bytes = map(int, output.split("\n")[1].split())
    assert n_sent >= 5  # tasks of fit, the model, and 3 tasks of 50 clips
    assert n_bytes < (N_NORMAL + N_NEW) * N_SAMPLES * 2 / 5
