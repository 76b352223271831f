"""A short run of each kind of damaged file; `make fuzz` makes the long one."""

import pytest

from fuzz import makers
from fuzz.runner import Worker, run
from fuzz.targets import TARGETS

pytestmark = pytest.mark.slow  # processes of their own

SHORT = {"audio": 200, "model": 60, "network": 15, "onnx": 80, "table": 80}


@pytest.mark.parametrize("kind", TARGETS)
def test_damaged_files_are_refused_or_read_and_nothing_else(kind):
    answers, wrong = run(kind, range(SHORT[kind]))
    assert wrong == {}
    assert answers["refused"] > 0.1 * SHORT[kind]
    assert answers.total() == SHORT[kind]


@pytest.mark.parametrize("maker", [makers.audio, makers.table])
def test_makers_make_the_same_from_a_seed(maker):
    assert maker(3) == maker(3)
    assert maker(3) != maker(4)


def test_the_runner_sees_a_process_that_ends(monkeypatch):
    worker = Worker("table")
    worker.process.kill()
    verdict, words = worker.ask(0)
    assert (verdict, words) == ("wrong", "the process ended with -9")
    assert worker.ask(0)[0] == "ok"  # it starts again
    worker.close()
