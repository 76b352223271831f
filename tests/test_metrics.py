"""AUC and pAUC against worked examples, and the errors that label confusion deserves."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skanopatch.metrics import auc_score, make_anomaly_scorer, pauc_score


def test_auc_is_the_share_of_pairs_in_the_right_order():
    # Pairs: .3 > .1 yes, .3 > .4 no, .8 > .1 yes, .8 > .4 yes.
    assert auc_score([1, 1, -1, -1], [0.1, 0.4, 0.3, 0.8]) == 0.75
    assert auc_score([1, -1], [0.5, 0.5]) == 0.5


def test_pauc_by_hand():
    # Ten normals score 0..9; of two anomalies one beats all and one beats eight of them. Up to
    # a false-alarm rate of 0.1 the curve lies at 0.5: area 0.05, McClish: (1 + (0.05 - 0.005) /
    # (0.1 - 0.005)) / 2.
    y = [1] * 10 + [-1] * 2
    scores = [*range(10), 20, 7.5]
    assert pauc_score(y, scores) == pytest.approx((1 + 0.045 / 0.095) / 2)


def test_both_equal_scikit_learn_on_random_scores():
    rng = np.random.default_rng(0)
    y = rng.choice([1, -1], size=500)
    scores = rng.normal(size=500) - 0.5 * y
    assert auc_score(y, scores) == roc_auc_score(y == -1, scores)
    assert pauc_score(y, scores, max_fpr=0.2) == roc_auc_score(y == -1, scores, max_fpr=0.2)


@pytest.mark.parametrize(
    ("normal", "anomaly"), [(1, -1), (0, 1), (False, True), ("normal", "anomaly")]
)
def test_labels_of_every_kind_mean_the_same(normal, anomaly):
    y = [normal, normal, anomaly, anomaly]
    assert auc_score(y, [0.1, 0.4, 0.3, 0.8], pos_label=anomaly) == 0.75


@pytest.mark.parametrize(
    ("y", "pos_label", "labels"),
    [([0, 1], -1, [0, 1]), ([1, 1], -1, [1]), ([-1, -1], -1, [-1]), ([1, 0, -1], -1, [1, 0, -1])],
)
def test_labels_that_leave_it_open_are_refused(y, pos_label, labels):
    message = (
        "y must hold two labels, that of anomalous clips (pos_label) and that of normal ones. Got "
        f"the labels {labels} with pos_label={pos_label}."
    )
    if len(labels) == 1:
        message += " StratifiedKFold(shuffle=True) gives each fold both."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        auc_score(y, np.zeros(len(y)), pos_label=pos_label)


def test_nan_scores_are_counted():
    message = (
        "The scores of 2 of 4 clips are NaN. Leave clips that could not be read out of the "
        "evaluation."
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        pauc_score([1, 1, -1, -1], [0.0, np.nan, 1.0, np.nan])


class _Detector:
    def score_samples(self, X):
        return -np.asarray(X)


def test_a_scorer_is_its_metric_of_the_anomaly_score():
    y, X = np.repeat([0, 1], 50), np.random.default_rng(0).normal(size=100) + np.repeat([0, 1], 50)
    for metric, function, kwargs in (
        ("auc", auc_score, {}),
        ("pauc", pauc_score, {}),
        ("pauc", pauc_score, {"max_fpr": 0.3}),
    ):
        scorer = make_anomaly_scorer(metric, pos_label=1, **kwargs)
        assert scorer(_Detector(), X, y) == function(y, X, pos_label=1, **kwargs)


def test_anomalies_are_minus_one_and_the_metric_is_auc_unless_said_otherwise():
    y, scores = [1, 1, -1, 1, -1], [0.1, 0.2, 0.3, 0.4, 0.5]
    assert auc_score(y, scores) == pytest.approx(5 / 6)
    assert pauc_score(y, scores) == pauc_score(y, scores, pos_label=-1, max_fpr=0.1)
    assert make_anomaly_scorer()(_Detector(), scores, y) == pytest.approx(5 / 6)
    assert repr(make_anomaly_scorer()) == "make_anomaly_scorer('auc', pos_label=-1)"


def test_an_unknown_metric_is_named():
    with pytest.raises(
        ValueError, match=r"^metric must be one of \['auc', 'pauc'\]. Got 'f1' inst"
    ):
        make_anomaly_scorer("f1")
