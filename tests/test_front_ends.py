"""Patches tell what made them, so that a backbone refuses those that were made for another."""

import pickle

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.pipeline import make_pipeline

from skanopatch import AnoPatchEmbedder, KNNDetector, MelPatcher

CLIPS = np.random.default_rng(0).normal(size=(4, 16000))
MISMATCH = r"trained with window='hanning', scale=1\.0, but"


@pytest.mark.parametrize(
    "carry",
    [
        lambda X: X,
        lambda X: X[1:],
        lambda X: X[np.array([0, 2])],
        lambda X: pickle.loads(pickle.dumps(X)),
        lambda X: X.copy(),
    ],
    ids=["itself", "a slice", "rows", "a pickle", "a copy"],
)
def test_a_mismatch_is_refused_whatever_happened_to_the_patches(carry):
    patches = MelPatcher(duration=1.0).fit_transform(CLIPS)
    with pytest.raises(ValueError, match=MISMATCH):
        AnoPatchEmbedder("audiomae:x").fit(carry(patches))


def test_a_mismatch_is_refused_where_a_pipeline_remembers_its_patches(tmp_path):
    for _ in range(2):
        pipe = make_pipeline(
            MelPatcher(duration=1.0), AnoPatchEmbedder("ast:x"), KNNDetector(), memory=str(tmp_path)
        )
        with pytest.raises(ValueError, match=MISMATCH):
            pipe.fit(CLIPS)


def test_patches_from_a_file_know_their_front_end_and_their_values(tmp_path):
    patches = MelPatcher(duration=1.0).fit_transform(CLIPS)
    joblib.dump(patches, tmp_path / "patches")
    loaded = joblib.load(tmp_path / "patches")
    assert loaded.front_end == patches.front_end
    assert_array_equal(loaded, patches)
    assert type(np.asarray(loaded)) is np.ndarray
