"""scikit-learn's own checks, over every public estimator and with no exception made."""

import inspect

import pytest
from numpydoc.docscrape import NumpyDocString
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import skanopatch
from skanopatch import (
    AnomalousSoundDetector,
    AnoPatchEmbedder,
    BandStatistics,
    CalibratedDetector,
    FineTuning,
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
)

INSTANCES = [
    AnoPatchEmbedder(),
    # Ten seconds of each of thousands of clips take minutes. The suite wants anomalies among its
    # 300 clips of fit: with 58 features, not 186, and half of the clips beyond the threshold there
    # are many, whatever the machine's rounding.
    AnomalousSoundDetector(MelPatcher(duration=0.2, n_mels=16), false_alarm_rate=0.5),
    BandStatistics(),
    FitOnNormal(KNNDetector()),
    GMMDetector(),
    GroupedDetector(),
    GroupedDetector(KNNDetector(), pooled=True),
    CalibratedDetector(make_pipeline(StandardScaler(), KNNDetector())),
    JoinedDetector([("spread", MahalanobisDetector()), ("near", KNNDetector())]),
    KNNDetector(),
    KNNDetector(metric="euclidean", normalization="local_density"),
    KNNDetector(n_neighbors=2, normalization="variance_min"),
    MahalanobisDetector(),
    MelPatcher(duration=0.2),
    MelStatistics(),
    PatchKNNDetector(),
    PatchKNNDetector(metric="euclidean", max_bank_size=10, random_state=0),
    PatchStatistics(),
    SubbandKNNDetector(metric="cosine"),
    SubbandKNNDetector(),
]

# Settings of AnoPatchEmbedder, nested for the sake of `set_params`: there is nothing to fit.
NO_ESTIMATORS = {FineTuning}

PUBLIC = {
    name: getattr(skanopatch, name)
    for name in skanopatch.__all__
    if not inspect.ismodule(getattr(skanopatch, name))
}


# The suite labels clips by any two numbers, of which FitOnNormal rightly warns.
@pytest.mark.filterwarnings("ignore:y is made of .* while anomaly_label=-1:UserWarning")
@parametrize_with_checks(INSTANCES)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_every_public_estimator_is_checked():
    estimators = {
        item
        for item in PUBLIC.values()
        if inspect.isclass(item) and issubclass(item, BaseEstimator)
    }
    assert estimators - NO_ESTIMATORS == {type(instance) for instance in INSTANCES}
    assert not any(hasattr(item, "fit") for item in NO_ESTIMATORS)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_lists_the_parameters_of_the_signature(name):
    item = PUBLIC[name]
    documented = [
        parameter.strip().lstrip("*")
        for entry in NumpyDocString(inspect.getdoc(item))["Parameters"]
        for parameter in entry.name.split(",")
    ]
    assert documented == list(inspect.signature(item).parameters)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_an_example(name):
    assert NumpyDocString(inspect.getdoc(PUBLIC[name]))["Examples"]
