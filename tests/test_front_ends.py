"""Front ends: patches are plain arrays, and functions that build pipelines refuse a mismatch."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.pipeline import make_pipeline

from skanopatch import BandStatistics, MelPatcher, PatchStatistics, make_anopatch_pipeline
from skanopatch.backbones import make_patcher
from skanopatch.backbones.front_ends import KALDI, KALDI_HANNING

CLIPS = np.random.default_rng(0).normal(size=(4, 16000))
MISMATCH = r"trained with window='hanning', scale=1\.0, but"


def test_patches_are_plain_arrays():
    patches = MelPatcher(duration=1.0).fit_transform(CLIPS)
    assert type(patches) is np.ndarray
    assert_array_equal(pickle.loads(pickle.dumps(patches)), patches)


def test_a_patcher_has_the_settings_of_its_backbone():
    assert MelPatcher(duration=1.0).front_end == KALDI
    assert make_patcher("ast:x").front_end == KALDI_HANNING


@pytest.mark.parametrize(
    "build",
    [
        lambda **params: make_patcher("ast:x", **params),
        lambda **params: make_anopatch_pipeline(
            "ast:x", **{f"melpatcher__{name}": value for name, value in params.items()}
        ),
    ],
    ids=["patcher", "pipeline"],
)
def test_a_mismatch_is_refused_where_parts_are_put_together(build):
    build(duration=1.0)
    with pytest.raises(ValueError, match=MISMATCH):
        build(window="povey", scale=2.0**15)


def test_a_whole_pipeline_is_set_to_pandas_and_patches_stay_arrays():
    for statistics in (BandStatistics(), PatchStatistics()):
        pipe = make_pipeline(MelPatcher(duration=1.0), statistics)
        expected = pipe.fit_transform(CLIPS)
        pipe.set_output(transform="pandas")
        assert type(pipe[0].transform(CLIPS)) is np.ndarray
        output = pipe.fit_transform(CLIPS)
        assert_array_equal(output, expected)
        assert isinstance(output, np.ndarray) == (output.ndim == 4)
