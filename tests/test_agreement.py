"""Agreement: the same in another process, after other fits, by copies, files, batches, threads."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from agreement_cases import CASES, NEW, RATE, SECONDS, fit
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator

import skanopatch


def scores_of_a_process(folder, **environment):
    """Return the scores of all cases, from a new interpreter."""
    file = folder / "scores.npz"
    program = Path(__file__).with_name("agreement_cases.py")
    subprocess.run(
        [sys.executable, program, file], check=True, env={**os.environ, **environment}, timeout=300
    )
    return dict(np.load(file))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return scores_of_a_process(tmp_path_factory.mktemp("one"), OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def on_two_threads(tmp_path_factory):
    return scores_of_a_process(
        tmp_path_factory.mktemp("two"), OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2"
    )


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(case):
    return fit(case)


@pytest.fixture(scope="module")
def expected(model):
    return model.score_samples(NEW)


def test_the_cases_hold_every_public_estimator():
    names = {name for name in skanopatch.__all__ if _is_estimator(getattr(skanopatch, name))}
    used = set()
    for case in CASES:
        todo = [CASES[case][0]()]
        while todo:
            estimator = todo.pop()
            used.add(type(estimator).__name__)
            todo += [v for v in estimator.get_params().values() if hasattr(v, "get_params")]
    assert names <= used


def _is_estimator(public):
    return (
        isinstance(public, type)
        and issubclass(public, BaseEstimator)
        and public.__name__ not in ("FineTuning", "OnnxScorer")  # settings; see test_onnx
    )


@pytest.mark.slow
def test_a_fresh_process_and_other_fits_before_change_no_bit(case, expected, elsewhere):
    assert_array_equal(expected, elsewhere[case])


@pytest.mark.slow
def test_two_threads_change_less_than_a_millionth(case, elsewhere, on_two_threads):
    # The cosine distance of two embeddings that are near each other has few digits of float32.
    rtol = 5e-6 if case == "AnoPatchEmbedder" else 1e-6
    assert_allclose(on_two_threads[case], elsewhere[case], rtol=rtol)


def test_batches_and_order_change_less_than_a_hundred_thousandth(model, expected):
    """Products of matrices round differently with the number of rows."""
    assert_allclose(model.score_samples(NEW[::-1])[::-1], expected, rtol=1e-5)
    alone = [model.score_samples([clip])[0] for clip in NEW]
    assert_allclose(alone, expected, rtol=1e-5)
    halves = [model.score_samples(NEW[:2]), model.score_samples(NEW[2:])]
    assert_allclose(np.concatenate(halves), expected, rtol=1e-5)


def test_copies_and_files_change_no_bit(model, expected, tmp_path):
    joblib.dump(model, tmp_path / "m.joblib")
    skanopatch.save_model(tmp_path / "m.skano", model)
    for copy in (
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "m.joblib"),
        skanopatch.load_model(tmp_path / "m.skano"),
    ):
        assert_array_equal(copy.score_samples(NEW), expected)
        assert_array_equal(copy.predict(NEW), model.predict(NEW))


@pytest.mark.parametrize("hop", [SECONDS, 0.2])
def test_a_stream_scores_its_windows_to_the_bit_as_clips_do(model, hop):
    sound = np.concatenate(NEW)
    blocks = np.split(sound, [1, 4000, 4001, 17777, 30000])  # whose bounds no window knows
    results = list(skanopatch.score_stream(model, blocks, RATE, hop=hop))
    starts = [min(i * hop, 2.0) for i in range(round(2.0 / hop) + 1)]
    assert_allclose([result.start for result in results], starts, atol=1e-9)
    windows = [sound[round(RATE * a) : round(RATE * (a + SECONDS))] for a in starts]
    alone = [model.score_samples([(window, RATE)])[0] for window in windows]
    assert_array_equal([result.score for result in results], alone)
    assert len({*alone}) == len(starts)


# torch takes ten seconds to export a network.
_EXPORTED = [
    pytest.param(name, marks=pytest.mark.slow) if "Embedder" in name else name for name in CASES
]


@pytest.mark.parametrize("case", _EXPORTED, indirect=True)
def test_a_file_of_onnx_comes_within_its_bound(model, expected, tmp_path):
    skanopatch.export_onnx(model, tmp_path / "m.onnx")
    scorer = skanopatch.OnnxScorer(tmp_path / "m.onnx", n_threads=1)
    assert_allclose(scorer.score_samples(NEW), expected, rtol=1e-4)
    far = np.abs(model.decision_function(NEW)) > 1e-3 * np.abs(expected)
    assert far.sum() >= 3
    assert_array_equal(scorer.predict(NEW)[far], model.predict(NEW)[far])
