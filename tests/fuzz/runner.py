"""Run checks on damaged files in a process of their own, which may crash, hang or grow.

    python -m fuzz.runner audio 20000 --start 0     from the folder tests, see `make fuzz`

A check returns what it found in a word, or raises AssertionError. A crash of the process, 10 s
without an answer and 1 GB more memory than at the start are failures as well.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

MOST_SECONDS = 10.0
MOST_BYTES = 2**30

# What reading must never do. Opening files for writing is judged by their folder.
_FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
              "os.fork", "socket.connect", "ctypes.dlopen", "marshal.loads", "exec")  # fmt: skip


class Watch:
    """Notes forbidden events of the interpreter, while it is on."""

    def __init__(self, folder: Path):
        self.folder, self.events, self.is_on = str(folder), [], False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        """Note an event."""
        if not self.is_on:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        outside = writes and not str(args[0]).startswith((self.folder, "/dev/", "/proc/"))
        if event in _FORBIDDEN or outside:
            self.events.append((event, str(args)[:200]))


def _work(kind: str, connection: Any) -> None:
    """Answer seeds with what the check of a kind found, until None comes."""
    from fuzz.targets import TARGETS

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder))
        make, check = TARGETS[kind](Path(folder))
        connection.send(("ready", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        for seed in iter(connection.recv, None):
            suffix, data = make(seed)
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(data)
            watch.events.clear()
            watch.is_on = True
            try:
                answer = ("ok", check(path))
            except AssertionError as error:
                answer = ("wrong", str(error).split("\n")[0] or "assertion")
            except MemoryError:
                answer = ("wrong", "MemoryError")
            except Exception as error:
                answer = ("wrong", f"{type(error).__name__}: {error}"[:300])
            finally:
                watch.is_on = False
            if watch.events:
                answer = ("wrong", f"forbidden: {watch.events[0]}")
            connection.send(answer)


class Worker:
    """A process that checks one kind of file."""

    def __init__(self, kind: str):
        self.kind = kind
        self.start()

    def start(self) -> None:
        """Start the process; the first answer comes after its imports."""
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(self.kind, other), daemon=True)
        self.process.start()
        other.close()
        assert self.connection.poll(300), f"{self.kind}: the process does not start"
        _, kilobytes = self.connection.recv()
        self.baseline = 1024 * kilobytes

    def ask(self, seed: int) -> tuple[str, str]:
        """Return "ok" or "wrong", and a word on it; start again where the process had to end."""
        try:
            self.connection.send(seed)
            if not self.connection.poll(MOST_SECONDS):
                answer = ("wrong", f"no answer in {MOST_SECONDS:g} s")
            else:
                answer = self.connection.recv()
                grown = psutil.Process(self.process.pid).memory_info().rss - self.baseline
                if grown < MOST_BYTES:
                    return answer
                answer = ("wrong", f"{grown / 2**20:.0f} MiB more memory")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            answer = ("wrong", f"the process ended with {self.process.exitcode}")
        self.close()
        self.start()
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def run(kind: str, seeds: range) -> tuple[Counter[str], dict[int, str]]:
    """Return how often each answer came, and what was wrong, by seed."""
    worker = Worker(kind)
    answers: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    for seed in seeds:
        verdict, words = worker.ask(seed)
        answers[words if verdict == "ok" else "wrong"] += 1
        if verdict == "wrong":
            wrong[seed] = words
            print(f"{kind} {seed}: {words}", flush=True)
    worker.close()
    return answers, wrong


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("number", type=int)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    counts, faults = run(options.kind, range(options.start, options.start + options.number))
    print(options.kind, dict(counts))
    sys.exit(bool(faults))
