"""Arrays of any layout, type and storage: the scores are those of a plain array, or it is an error.

Hypothesis makes the arrays and, where one fails, finds the smallest. It makes the same at each run.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    BandStatistics,
    CalibratedDetector,
    FitOnNormal,
    GMMDetector,
    GroupedDetector,
    JoinedDetector,
    KNNDetector,
    MahalanobisDetector,
    MelPatcher,
    MelStatistics,
    PatchKNNDetector,
    PatchStatistics,
    SubbandKNNDetector,
    export_onnx,
)
from skanopatch.persistence.onnx_scorer import OnnxScorer

few = settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# What is fitted once, on an array of 24 rows of this shape.
FEATURES, PATCHES, SAMPLES = (8,), (3, 4, 256), (8000,)
ESTIMATORS = {
    "KNNDetector": (KNNDetector(), FEATURES),
    "MahalanobisDetector": (MahalanobisDetector(), FEATURES),
    "GMMDetector": (GMMDetector(random_state=0), FEATURES),
    "GroupedDetector": (GroupedDetector(KNNDetector()), FEATURES),
    "JoinedDetector": (
        JoinedDetector([("near", KNNDetector()), ("far", MahalanobisDetector())]),
        FEATURES,
    ),
    "CalibratedDetector": (CalibratedDetector(KNNDetector()), FEATURES),
    "FitOnNormal": (FitOnNormal(KNNDetector()), FEATURES),
    "SubbandKNNDetector": (SubbandKNNDetector(), PATCHES),
    "PatchKNNDetector": (PatchKNNDetector(random_state=0), PATCHES),
    "BandStatistics": (BandStatistics(), PATCHES),
    "MelStatistics": (MelStatistics(), PATCHES),
    "PatchStatistics": (PatchStatistics(), PATCHES),
    "AnoPatchEmbedder": (AnoPatchEmbedder(statistics=False, random_state=0), PATCHES),
    "MelPatcher": (MelPatcher(duration=0.5), SAMPLES),
    "AnomalousSoundDetector": (
        AnomalousSoundDetector(MelPatcher(duration=0.5), embedder="drop"),
        SAMPLES,
    ),
}


def values(shape, n_rows, seed):
    """Return numbers that each type of float holds exactly."""
    whole = np.random.default_rng(seed).integers(-99, 100, size=(n_rows, *shape))
    return whole / 128


def use(estimator, X):
    return (
        estimator.score_samples(X)
        if hasattr(estimator, "score_samples")
        else estimator.transform(X)
    )


@pytest.fixture(scope="module", params=ESTIMATORS)
def fitted(request):
    estimator, shape = ESTIMATORS[request.param]
    with warnings.catch_warnings(action="ignore"):  # of few rows
        return estimator.fit(values(shape, 24, seed=0).astype(np.float32)), shape


# --- Layouts ----------------------------------------------------------------------------------


def in_fortran_order(X):
    return np.asfortranarray(X)


def every_second_row(X):
    return np.repeat(X, 2, axis=0)[::2]


def turned_round_twice(X):
    return np.ascontiguousarray(X[::-1, ..., ::-1])[::-1, ..., ::-1]


def part_of_a_larger_one(X):
    larger = np.full((len(X) + 2, *(size + 3 for size in X.shape[1:])), np.nan, dtype=X.dtype)
    part = larger[(slice(1, -1), *(slice(2, -1) for _ in X.shape[1:]))]
    part[:] = X
    return part


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def unaligned(X):
    buffer = np.zeros(X.nbytes + 1, dtype=np.uint8)
    made = buffer[1:].view(X.dtype).reshape(X.shape)
    made[:] = X
    return made


def mapped_to_memory(X):
    path = Path(tempfile.mkdtemp(), "x.npy")
    np.save(path, X)
    mapped = np.load(path, mmap_mode="r")
    path.unlink()  # which stays readable while it is mapped
    path.parent.rmdir()
    return mapped


def masked_nowhere(X):
    return np.ma.masked_array(X, mask=False)


def as_lists(X):
    return X.tolist()


LAYOUTS = [
    *(in_fortran_order, every_second_row, turned_round_twice, part_of_a_larger_one, read_only),
    *(unaligned, mapped_to_memory, masked_nowhere),
]
TYPES = ["<f4", ">f4", "<f8", ">f8", "<f2", "O"]


@few
@given(
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(TYPES),
    n_rows=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_layout_and_the_type_of_an_array_change_no_result(fitted, layout, dtype, n_rows, seed):
    estimator, shape = fitted
    plain = values(shape, n_rows, seed)
    made = plain.astype(object) if dtype == "O" else layout(plain.astype(dtype))
    before = np.array(made)
    expected = use(estimator, plain.astype(np.float32))
    assert np.isfinite(expected).all()
    # Sums of float64 and float32 differ by rounding, and so do those in another order.
    assert_allclose(use(estimator, made), expected, rtol=1e-5, atol=1e-6)
    assert_array_equal(np.array(made), before)  # nothing is written into it


@pytest.mark.parametrize("layout", [*LAYOUTS, as_lists])
@pytest.mark.parametrize("name", ["KNNDetector", "MahalanobisDetector"])
def test_fit_takes_every_layout(name, layout):
    estimator, shape = ESTIMATORS[name]
    X, new = values(shape, 24, seed=1), values(shape, 5, seed=2)
    expected = estimator.fit(X).score_samples(new)
    assert_allclose(estimator.fit(layout(X)).score_samples(new), expected, rtol=1e-9)


# --- Arrays that are an error -------------------------------------------------------------------


@few
@given(at=st.integers(0, 10**6), n_rows=st.integers(1, 4), is_float=st.booleans())
def test_a_masked_value_is_an_error_and_never_read(fitted, at, n_rows, is_float):
    estimator, shape = fitted
    X = values(shape, n_rows, seed=3)
    X = np.ma.masked_array(X.astype(np.float32) if is_float else np.round(100 * X).astype(int))
    X[np.unravel_index(at % X.size, X.shape)] = np.ma.masked
    reason = "contains NaN" if shape is SAMPLES else f"X has 1 masked values of {X.size}. Fill"
    with pytest.raises(ValueError, match=reason):
        use(estimator, X)


def test_sparse_empty_complex_and_flat_arrays_are_errors(fitted):
    estimator, shape = fitted
    X = values(shape, 4, seed=4)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        use(estimator, sparse.csr_array(X.reshape(4, -1)))
    with pytest.raises(ValueError, match="0 sample"):
        use(estimator, X[:0])
    with pytest.raises(ValueError, match="Complex data not supported"):
        use(estimator, X.astype(complex))
    with pytest.raises((ValueError, TypeError)):
        use(estimator, X.ravel()[:3])


def test_masked_samples_of_a_list_are_named_and_have_no_score(tmp_path):
    clips = [*values(SAMPLES, 12, seed=5).astype(np.float32)]
    model = AnomalousSoundDetector(
        MelPatcher(duration=0.5, on_error="nan"), embedder="drop", map_detector="drop"
    ).fit(clips)
    export_onnx(model, tmp_path / "m.onnx")
    masked = np.ma.masked_array(clips[0], mask=np.arange(8000) == 9)
    integers = np.ma.masked_array((2**14 * clips[0]).astype(np.int16), mask=masked.mask)
    X = [clips[1], masked, (masked, 16000), integers]
    for scorer in (model, OnnxScorer(tmp_path / "m.onnx", on_error="nan")):
        with pytest.warns(UserWarning, match="clip 1: it contains NaN"):
            scores = scorer.score_samples(X)
        assert_array_equal(np.isnan(scores), [False, True, True, True])
