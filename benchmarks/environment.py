"""What a number was measured on: printed above every benchmark."""

import platform
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "timm", "skorch")


def print_environment(seed):
    """Print the machine, the versions and the seed."""
    print(f"{_processor()}, {torch.get_num_threads()} threads, {platform.system()}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("skanopatch", *PACKAGES))
    print(f"Python {platform.python_version()}, {versions}, seed {seed}")


def time_in_turns(functions, repeats):
    """Return the median seconds of functions that take turns, so that all share the noise.

    Parameters
    ----------
    functions : list of callables without arguments
    repeats : int
    """
    seconds = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, seconds, strict=True):
            start = perf_counter()
            function()
            taken.append(perf_counter() - start)
    return [median(taken) for taken in seconds]


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
