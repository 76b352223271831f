"""Count the mutants of the package that its tests kill.

    pip install cosmic-ray
    python benchmarks/mutants.py --sample 300 --seed 0

A mutant is a module with one change, as cosmic-ray makes them: another operator, another number, a
negated condition, a loop that does not run. It is killed if one of the nearest tests fails. Places
in the source are drawn at random, in proportion to the lines of the modules, and one change of each
place. Annotations are not changed, and neither is equality for identity nor the reverse, which is
the same for None, True and small integers. Tests that are marked as slow are not run.

No file is written: a mutant exists in a process of its own only, and so it does not reach the
processes that tests start. Mutants come in random order: the first hundred are a sample too.

The output is a table of the modules and, for each survivor, its line before and after. "Too long"
took more than `--seconds` of the processor: the tests are slow, or the mutant does not end.
"""

import argparse
import ast
import importlib
import itertools
import multiprocessing
import os
import random
import resource
import runpy
import sys
from collections import Counter, defaultdict
from multiprocessing.connection import wait
from pathlib import Path

import parso.python.tree  # noqa: F401 (cosmic_ray imports parts of parso in a circle)

# isort: split
import pytest
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = OperatorProvider()
SAME = {("Eq", "Is"), ("NotEq", "IsNot"), ("Is", "Eq"), ("IsNot", "NotEq")}

# The modules and the tests nearest to them, of which the first ones kill most.
DETECTORS = "detectors detectors_domains thresholds detectors_calibration"
PATCHES = "detectors_patches map_pipelines"
SPECTRA = "patching front_ends band_statistics"
NEAREST = {
    "detectors/*.py": DETECTORS,
    "detectors/calibrated.py": "joined " + DETECTORS,
    "detectors/contributions.py": "contributions explanation training_free",
    "detectors/folds.py": "thresholds detectors_domains detectors",
    "detectors/gain_tolerance.py": "conditions",
    "detectors/joined.py": "joined " + DETECTORS,
    "detectors/maps.py": PATCHES,
    "detectors/metadata.py": "joined " + DETECTORS,
    "detectors/patch_knn.py": PATCHES,
    "detectors/subband.py": PATCHES,
    "detectors/thresholds.py": "thresholds detectors_calibration detectors",
    "metrics/*.py": "metrics metrics_dcase evaluation",
    "metrics/dcase.py": "metrics_dcase evaluation",
    "metrics/sections.py": "metrics_dcase metrics evaluation",
    "model_selection/dcase_evaluation.py": "evaluation",
    "model_selection/fit_on_normal.py": "model_selection",
    "model_selection/pseudo_anomalies.py": "model_selection_pseudo_anomalies",
    "spectra/*.py": SPECTRA,
    "spectra/*_statistics.py": "band_statistics front_ends",
}


def try_mutant(path, code, tests, seconds):
    """End the process with pytest's exit code for a mutant, or be ended when late."""
    get_code = importlib.machinery.SourceFileLoader.get_code
    changed = str(ROOT / path)

    def get_mutant(loader, name):
        if loader.path == changed:
            return compile(code, changed, "exec", dont_inherit=True)
        return get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_mutant
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os._exit(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]))


def annotated(code):
    """Return the positions of the source that annotations take, as (line, column)."""
    spans = []
    for node in ast.walk(ast.parse(code)):
        for field in ("annotation", "returns"):
            if part := getattr(node, field, None):
                spans.append(
                    ((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset))
                )
    return spans


def places_of(path):
    """Return the changes at each place of a module: {(line, column): [(operator, occurrence)]}."""
    code = (ROOT / path).read_text(encoding="utf-8")
    spans = annotated(code)
    tree = get_ast(code)
    places = defaultdict(list)
    for name in OPERATORS:
        operator_class = OPERATORS[name]
        if operator_class.arguments() or tuple(name.split("_")[-2:]) in SAME:
            continue
        operator = operator_class()
        nodes = [tree]
        occurrence = 0
        while nodes:  # in the order of cosmic_ray.ast.Visitor
            node = nodes.pop()
            for start, _ in operator.mutation_positions(node):
                if not any(first <= start < last for first, last in spans):
                    places[start].append((name, occurrence))
                occurrence += 1
            nodes.extend(reversed(getattr(node, "children", [])))
    return places


def nearest_tests(path):
    """Return the test files of a module: of all, and of the last pattern that it matches."""
    names = [tests for pattern, tests in NEAREST.items() if path.match(f"skanopatch/{pattern}")]
    return [f"tests/test_{name}.py" for name in ("defaults", *names[-1].split())]


def modules():
    """Return the paths of the modules in the folders of `NEAREST`."""
    folders = sorted({pattern.split("/")[0] for pattern in NEAREST})
    return [
        path.relative_to(ROOT)
        for folder in folders
        for path in sorted((ROOT / "skanopatch" / folder).glob("*.py"))
        if path.name != "__init__.py"
    ]


def sample(n_mutants, seed):
    """Draw mutants, in random order: (path, line, operator, occurrence)."""
    draw = random.Random(seed)
    paths = modules()
    n_lines = [len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in paths]
    mutants = []
    for path, n in zip(paths, n_lines, strict=True):
        places = places_of(path)
        n_here = round(n_mutants * n / sum(n_lines))
        drawn = (
            (path, place[0], *draw.choice(places[place]))
            for place in draw.sample(sorted(places), len(places))
        )
        mutants += itertools.islice(filter(is_python, drawn), n_here)
    draw.shuffle(mutants)
    return mutants


def run(tasks, n_jobs):
    """Run tasks in processes of their own; yield (task, exit code) as they end.

    A task is (anything, arguments of `try_mutant`).
    """
    fork = multiprocessing.get_context("fork")
    waiting = list(reversed(tasks))
    running = {}
    while waiting or running:
        while waiting and len(running) < n_jobs:
            name, arguments = waiting.pop()
            process = fork.Process(target=try_mutant, args=arguments)
            process.start()
            running[process.sentinel] = name, process
        for sentinel in wait(list(running)):
            name, process = running.pop(sentinel)
            process.join()
            yield name, process.exitcode


def mutated(mutant):
    path, _, operator, occurrence = mutant
    code = (ROOT / path).read_text(encoding="utf-8")
    return mutate_code(code, OPERATORS[operator](), occurrence)


def is_python(mutant):
    """Return whether a mutant compiles: to cosmic-ray, the ``*`` of a signature is an operator."""
    try:
        compile(mutated(mutant), str(mutant[0]), "exec")
    except SyntaxError:
        return False
    return True


def change(mutant):
    """Return the first line in which a mutant differs, before and after."""
    path, line, operator, _ = mutant
    before = (ROOT / path).read_text(encoding="utf-8").splitlines()
    if operator == "RemoveDecorator":
        return before[line - 1].strip(), ""
    pairs = zip(before, mutated(mutant).splitlines(), strict=False)
    return next((old.strip(), new.strip()) for old, new in pairs if old != new)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=300, help="mutants, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=int, default=600, help="of the processor, a mutant")
    arguments = parser.parse_args()

    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / "conftest.py"))  # settings for torch and SciPy
    for name in ("pandas", "scipy.stats", "skorch", "timm"):  # once for all processes
        importlib.import_module(name)

    groups = sorted({tuple(nearest_tests(path)) for path in modules()})
    for tests, code in run([(g, ("", "", g, 3600)) for g in groups], arguments.jobs):
        if code != pytest.ExitCode.OK:
            raise SystemExit(f"Without a mutant, a test fails of {', '.join(tests)}.")

    tasks = [
        (mutant, (mutant[0], mutated(mutant), nearest_tests(mutant[0]), arguments.seconds))
        for mutant in sample(arguments.sample, arguments.seed)
    ]
    counts = defaultdict(Counter)
    for mutant, code in run(tasks, arguments.jobs):
        path, line, *_ = mutant
        # A test fails, or cannot be collected, as where the module cannot be imported.
        outcome = {0: "survived", 1: "killed", 2: "killed"}.get(code, "too long")
        counts[path.relative_to("skanopatch").as_posix()][outcome] += 1
        print(path, line, outcome, file=sys.stderr, flush=True)
        if outcome != "killed":
            before, after = change(mutant)
            print(f"{path}:{line} {outcome}\n- {before}\n+ {after}\n", flush=True)

    counts["all"] = sum(counts.values(), Counter())
    print("| module | killed | survived | too long |\n|:--|--:|--:|--:|")
    for module, of_module in sorted(counts.items()):
        row = [str(of_module[outcome]) for outcome in ("killed", "survived", "too long")]
        print(f"| {' | '.join([module, *row])} |")
    print(f"\n{counts['all']['killed'] / counts['all'].total():.1%} of the mutants killed")


if __name__ == "__main__":
    main()
