"""The scores of DCASE Task 2 against worked examples, a plain restatement and brute force."""

import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.metrics import roc_auc_score

from skanopatch.metrics import compare_dcase_scores, dcase, dcase_scores
from skanopatch.metrics.dcase import _averages
from skanopatch.metrics.sections import Section, bootstrap_weights, weighted_roc_area

SOURCE, TARGET = "source", "target"


def clips_of(machines=("fan", "valve"), sections=(0, 1), n=5, seed=0):
    """n clips of each kind in each section, with scores that hold ties."""
    rng = np.random.default_rng(seed)
    rows = [
        (machine, section, domain, y)
        for machine in machines
        for section in sections
        for domain in (SOURCE, TARGET)
        for y in (1, -1)
        for _ in range(n)
    ]
    clips = pd.DataFrame(rows, columns=["machine", "section", "domain", "y"])
    clips["score"] = np.round(rng.normal(size=len(clips)) - 0.5 * clips.y, 1)
    return clips.sample(frac=1, random_state=seed, ignore_index=True)


def score(clips, year, **kwargs):
    return dcase_scores(
        clips.y,
        clips.score,
        machine=clips.machine,
        section=clips.section,
        domain=clips.domain,
        year=year,
        **kwargs,
    )


def share_of_pairs(anomalous, normal):
    """AUC by its definition."""
    difference = np.subtract.outer(np.asarray(anomalous), np.asarray(normal))
    return np.mean((difference > 0) + 0.5 * (difference == 0))


def test_by_hand():
    # Source normals .1 and .4, target normals .2 and .6, anomalies .3 (source) and .5 (target).
    # Source: .3 > .1, .5 > .1, .5 > .4 of four pairs: 3/4. Target: .3 > .2, .5 > .2: 1/2.
    # The best normal is the best clip: no anomaly is found up to FPR 1/4, hence pAUC is
    # (1 + (0 - 0.005) / (0.1 - 0.005)) / 2 = 9/19.
    clips = pd.DataFrame(
        {
            "machine": "fan",
            "section": 0,
            "domain": [SOURCE, SOURCE, TARGET, TARGET, SOURCE, TARGET],
            "y": [1, 1, 1, 1, -1, -1],
            "score": [0.1, 0.4, 0.2, 0.6, 0.3, 0.5],
        }
    )
    scores = score(clips, 2023)
    row = scores.per_section.loc["fan", 0]
    assert row.auc_source == 0.75
    assert row.auc_target == 0.5
    assert row.pauc == pytest.approx(9 / 19)
    assert scores.official == pytest.approx(3 / (4 / 3 + 2 + 19 / 9))
    assert scores.per_machine.official["fan"] == pytest.approx(scores.official)
    # In 2021 only the anomaly of the same domain counts: .3 beats .1 alone, .5 beats .2 alone.
    row = score(clips, 2021).per_section.loc["fan", 0]
    assert (row.auc_source, row.auc_target) == (0.5, 0.5)
    # In 2020 all are of one kind: .3 > .1, .2; .5 > .1, .2, .4 of eight pairs.
    assert score(clips, 2020).per_section.auc["fan", 0] == 5 / 8


@pytest.mark.parametrize("year", [2022, 2023, 2024, 2025, 2026])
def test_official_score_since_2022_is_one_harmonic_mean_of_all_areas(year):
    clips = clips_of()
    areas = []
    for _, section in clips.groupby(["machine", "section"]):
        anomalous = section.score[section.y == -1]
        for domain in (SOURCE, TARGET):
            normal = section.score[(section.y == 1) & (section.domain == domain)]
            areas.append(share_of_pairs(anomalous, normal))
        areas.append(roc_auc_score(section.y == -1, section.score, max_fpr=0.1))
    scores = score(clips, year)
    assert_allclose(
        scores.per_section[["auc_source", "auc_target", "pauc"]].to_numpy().ravel(),
        areas,
        rtol=1e-12,
    )
    assert scores.official == pytest.approx(stats.hmean(areas), rel=1e-12)
    assert scores.per_machine.official["valve"] == pytest.approx(stats.hmean(areas[6:]), rel=1e-12)
    assert scores.per_machine.auc_target["fan"] == pytest.approx(stats.hmean(areas[1:6:3]))


EVALUATORS = {
    2023: (
        {
            "ToyDrone": (0.655, 0.45, 0.5),
            "Vacuum": (0.6475, 0.7175, 0.5657894736842105),
            "bandsaw": (0.7875000000000001, 0.8075, 0.7039473684210527),
        },
        0.6257255149285612,
    ),
    2024: (
        {
            "3DPrinter": (0.8775000000000001, 0.6825, 0.631578947368421),
            "HairDryer": (0.755, 0.6925, 0.5657894736842105),
            "ToothBrush": (0.73, 0.6475, 0.5263157894736842),
        },
        0.664776289641276,
    ),
}


@pytest.mark.parametrize("year", EVALUATORS)
def test_scores_are_those_of_the_official_evaluators(year):
    """On drawn labels and scores, written by `write_challenge_files`; scores have ties.

    Numbers that came out of the organizers' scripts on 28 November 2026: dcase2023_task2_evaluator
    (10 August 2023, commit 3aa8a9f) and dcase2024_task2_evaluator (10 September 2024, b5d17f6) at
    https://github.com/nttcslab. Those of 2025 and 2026 could not be had.
    """
    sections, official = EVALUATORS[year]
    rng, parts = np.random.RandomState(year), []
    for machine in sections:
        domain, y = np.repeat([0, 1], 20), np.tile(np.repeat([0, 1], 10), 2)
        order = rng.permutation(40)
        domain, y = domain[order], y[order]
        drawn = np.round(rng.normal(size=40) + 0.8 * y + 0.3 * domain, 2)
        parts.append(
            pd.DataFrame(
                {
                    "machine": machine,
                    "section": 0,
                    "domain": np.array([SOURCE, TARGET])[domain],
                    "y": np.where(y, -1, 1),
                    "score": drawn,
                }
            )
        )
    scores = score(pd.concat(parts, ignore_index=True), year)
    for machine, areas in sections.items():
        row = scores.per_section.loc[machine, 0]
        assert_allclose([row.auc_source, row.auc_target, row.pauc], areas, rtol=1e-9)
    assert scores.official == pytest.approx(official, rel=1e-9)


def test_the_average_of_2025_is_that_of_its_evaluator():
    """Areas and score of the Mahalanobis baseline, as the evaluator's README lists them.

    https://github.com/nttcslab/dcase2025_task2_evaluator, read on 28 November 2026.
    """
    source = [0.7726, 0.8616, 0.6982, 0.5586, 0.7638, 0.7498, 0.7042, 0.729]
    target = [0.526, 0.4264, 0.509, 0.5548, 0.3268, 0.4042, 0.5278, 0.7904]
    pauc = [0.541578947368421, 0.5184210526315789, 0.5684210526315789, 0.54]
    pauc += [0.49105263157894735, 0.5142105263157895, 0.5378947368421052, 0.7005263157894737]
    _, official = _averages(np.stack([source, target, pauc], axis=1), list(range(8)), 2025)
    assert official == pytest.approx(0.5650558189601554, rel=1e-9)


def test_2021_keeps_the_domains_apart():
    clips = clips_of()
    areas = [
        roc_auc_score(part.y == -1, part.score, max_fpr=max_fpr)
        for _, part in clips.groupby(["machine", "section", "domain"])
        for max_fpr in (None, 0.1)
    ]
    assert score(clips, 2021).official == pytest.approx(stats.hmean(areas), rel=1e-12)


def test_2020_gives_each_machine_the_same_weight():
    clips = clips_of()
    clips = clips[(clips.machine == "fan") | (clips.section == 0)]  # the valve has one id
    table = pd.DataFrame(
        {
            key: [
                roc_auc_score(part.y == -1, part.score),
                roc_auc_score(part.y == -1, part.score, max_fpr=0.1),
            ]
            for key, part in clips.groupby(["machine", "section"])
        },
        index=["auc", "pauc"],
    )
    means = {machine: table[machine].mean(axis=1) for machine in ("fan", "valve")}
    scores = score(clips, 2020)
    assert scores.per_machine.auc["fan"] == pytest.approx(means["fan"]["auc"])
    assert scores.per_machine.pauc["fan"] == pytest.approx(means["fan"]["pauc"])
    expected = np.mean([means["fan"].mean(), means["valve"].mean()])
    assert scores.official == pytest.approx(expected)


def test_the_official_evaluator_prints_our_number():
    # The line "official score" that the evaluator of 2023 writes (nttcslab/
    # dcase2023_task2_evaluator at 3aa8a9f, unmodified) for these clips as challenge files, with
    # their labels and domains as its ground truth.
    clips = clips_of(("bandsaw", "ToyTank"), (0,), n=12, seed=23)
    assert score(clips, 2023).official == pytest.approx(0.7020301045351856, abs=1e-12)


def test_a_perfect_and_a_reversed_system():
    clips = clips_of(n=20)
    clips["score"] = -clips.y.astype(float)
    assert score(clips, 2023).official == 1.0
    clips["score"] = clips.y.astype(float)
    # Areas of 0 count as float64's eps, so that the harmonic mean is almost 0 but no division by
    # zero: two of three areas are eps, pAUC is 9/19.
    assert score(clips, 2023).official == pytest.approx(
        3 / (2 / np.finfo(float).eps + 19 / 9), rel=1e-9
    )


@pytest.mark.parametrize(
    ("normal", "anomaly"), [(1, -1), (0, 1), (False, True), ("normal", "anomaly")]
)
def test_labels_of_every_kind_mean_the_same(normal, anomaly):
    clips = clips_of()
    expected = score(clips, 2023).official
    clips["y"] = [anomaly if y == -1 else normal for y in clips.y]
    assert score(clips, 2023, pos_label=anomaly).official == expected


@pytest.mark.parametrize("max_fpr", [None, 0.1, 0.25, 1 / 6])
def test_weighted_area_is_that_of_repeated_clips(max_fpr):
    rng = np.random.default_rng(1)
    is_anomaly = np.repeat([False, True], [12, 9])
    scores = np.round(rng.normal(size=21) + is_anomaly, 1)
    weights = rng.integers(0, 4, size=(20, 21))
    expected = [
        roc_auc_score(np.repeat(is_anomaly, row), np.repeat(scores, row), max_fpr=max_fpr)
        for row in weights
    ]
    areas = weighted_roc_area(is_anomaly, scores, weights.astype(float), max_fpr)
    assert_allclose(areas, expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("year", [2020, 2021, 2024])
def test_intervals_are_those_of_a_jackknife_by_brute_force(year):
    clips = clips_of(n=4)
    scores = score(clips, year)
    left_out = [score(clips.drop(index=row), year) for row in clips.index]

    def half_width(values):
        # The variance by pseudo-values, as in Mesaros et al., equations 4 to 6.
        n, values = len(values), np.array(values)
        pseudo = n * values.mean() - (n - 1) * values
        variance = np.sum((pseudo - pseudo.mean()) ** 2) / (n * (n - 1))
        return stats.t.ppf(0.975, n - 1) * np.sqrt(variance)

    assert scores.official_ci95 == pytest.approx(half_width([s.official for s in left_out]))
    of_fan = [
        s for s, row in zip(left_out, clips.index, strict=True) if clips.machine[row] == "fan"
    ]
    for name in ("official", scores.per_section.columns[0]):
        assert scores.per_machine[f"{name}_ci95"]["fan"] == pytest.approx(
            half_width([s.per_machine[name]["fan"] for s in of_fan])
        )
    used = (clips.machine == "fan") & (clips.section == 1)
    if year == 2021:
        used &= clips.domain == SOURCE
    elif year == 2024:
        used &= (clips.domain == SOURCE) | (clips.y == -1)
    name = scores.per_section.columns[0]
    assert scores.per_section[f"{name}_ci95"]["fan", 1] == pytest.approx(
        half_width(
            [
                left.per_section[name]["fan", 1]
                for left, is_used in zip(left_out, used, strict=True)
                if is_used
            ]
        )
    )


@pytest.mark.slow
def test_jackknife_interval_of_auc_covers_the_truth():
    # Two normal distributions one standard deviation apart: AUC is Phi(1 / sqrt(2)).
    rng = np.random.default_rng(0)
    truth, hits = stats.norm.cdf(1 / np.sqrt(2)), 0
    y = np.repeat([1, -1], 50)
    for _ in range(200):
        scores = dcase_scores(
            y, rng.normal(size=100) + (y == -1), machine=["m"] * 100, section=[0] * 100, year=2020
        )
        row = scores.per_section.iloc[0]
        hits += abs(row.auc - truth) <= row.auc_ci95
    assert 0.90 <= hits / 200 <= 0.99  # 95 % give or take three standard errors of 200 draws


def test_the_table_shows_value_and_interval():
    scores = score(clips_of(), 2023)
    value, half = scores.per_machine.loc["fan", ["auc_source", "auc_source_ci95"]]
    assert f"{value:.4f} ± {half:.4f}" in str(scores)
    assert str(scores).endswith(
        f"official score 2023: {scores.official:.4f} ± {scores.official_ci95:.4f}"
    )


def compare(clips, first, second, year=2023, **kwargs):
    return compare_dcase_scores(
        clips.y,
        first,
        second,
        machine=clips.machine,
        section=clips.section,
        domain=clips.domain,
        year=year,
        random_state=0,
        **kwargs,
    )


@pytest.mark.slow
def test_bootstrap_of_the_mean_auc_has_the_spread_of_a_loop_over_resamples():
    clips = clips_of(machines=("fan",), sections=(0,), n=15)
    second = clips.score + np.random.default_rng(3).normal(size=len(clips))
    comparison = compare(clips, clips.score, second, n_resamples=4000)
    rng = np.random.default_rng(5)
    strata = list(clips.groupby(["domain", "y"]).indices.values())
    differences = []
    for _ in range(1000):
        rows = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        official = [
            stats.hmean(
                [
                    share_of_pairs(s[rows][y == -1], s[rows][(y == 1) & (domain == d)])
                    for d in (SOURCE, TARGET)
                ]
                + [roc_auc_score(y == -1, s[rows], max_fpr=0.1)]
            )
            for s in (clips.score.to_numpy(), second.to_numpy())
            for y, domain in [(clips.y.to_numpy()[rows], clips.domain.to_numpy()[rows])]
        ]
        differences.append(official[1] - official[0])
    # The quantiles of 1000 draws lie within about 0.1 of the spread of the true ones.
    spread = np.std(differences)
    assert_allclose(
        comparison.interval, np.quantile(differences, [0.025, 0.975]), atol=0.25 * spread
    )
    assert comparison.share_better == pytest.approx(np.mean(np.array(differences) > 0), abs=0.06)
    expected = score(clips.assign(score=second), 2023).official - score(clips, 2023).official
    assert comparison.difference == pytest.approx(expected)
    assert comparison.per_machine.difference["fan"] == pytest.approx(expected)


def test_resamples_keep_the_number_of_clips_of_each_domain_and_label():
    """The one normal clip of the target domain is never absent."""
    kinds = [(SOURCE, 1)] * 12 + [(TARGET, 1)] + [(SOURCE, -1)] * 5 + [(TARGET, -1)] * 2
    domain, y = map(np.array, zip(*kinds, strict=True))
    part = Section("fan", 0, np.arange(20), y == -1, domain)
    weights = bootstrap_weights(part, 300, np.random.RandomState(0))
    assert weights.shape == (300, 20)
    for kind in set(kinds):
        of_kind = (domain == kind[0]) & (y == kind[1])
        assert (weights[:, of_kind].sum(axis=1) == of_kind.sum()).all()
    assert weights[:, 12].tolist() == [1] * 300
    assert weights[:, :12].std() == pytest.approx(np.sqrt(1 - 1 / 12), rel=0.05)  # binomial
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 20)) - y
    comparison = compare_dcase_scores(
        y,
        first,
        second,
        machine=["fan"] * 20,
        section=[0] * 20,
        domain=domain,
        year=2023,
        n_resamples=300,
        random_state=0,
    )
    assert np.isfinite(comparison.interval).all()


def test_comparison_is_paired_and_seeded():
    clips = clips_of(n=10)
    same = compare(clips, clips.score, 3 * clips.score + 1, n_resamples=200)
    assert same.interval == (0.0, 0.0)
    assert same.share_better == 0.5
    noisy = clips.score + np.random.default_rng(0).normal(size=len(clips))
    first, second = (compare(clips, clips.score, noisy, n_resamples=200) for _ in range(2))
    assert first.interval == second.interval
    reverse = compare(clips, noisy, clips.score, n_resamples=200)
    assert_allclose(reverse.interval, (-first.interval[1], -first.interval[0]), atol=1e-12)
    assert reverse.share_better == pytest.approx(1 - first.share_better)


@pytest.mark.parametrize("year", [2020, 2021, 2023])
def test_a_comparison_is_that_of_its_resamples_written_out(year, monkeypatch):
    clips = clips_of(n=4)
    second = clips.score + np.random.default_rng(3).normal(size=len(clips))
    drawn = []

    def draw(part, n_resamples, rng):
        weights = bootstrap_weights(part, n_resamples, rng)
        drawn.append((part.rows, weights))
        return weights

    monkeypatch.setattr(dcase, "bootstrap_weights", draw)
    found = compare(clips, clips.score, second, year=year, n_resamples=8)
    differences = []
    for resample in range(8):
        rows = np.concatenate([np.repeat(rows, w[resample].astype(int)) for rows, w in drawn])
        both = [
            score(clips.assign(score=s).iloc[rows].reset_index(drop=True), year)
            for s in (clips.score, second)
        ]
        differences.append(
            [b - a for a, b in [[s.official for s in both]]]
            + [b - a for a, b in zip(*(s.per_machine.official for s in both), strict=True)]
        )
    differences = np.array(differences)
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    better = np.mean((differences > 0) + 0.5 * (differences == 0), axis=0)
    assert_allclose(found.interval, [low[0], high[0]], atol=1e-12)
    assert found.share_better == pytest.approx(better[0])
    both = [score(clips.assign(score=s), year) for s in (clips.score, second)]
    assert found.difference == pytest.approx(both[1].official - both[0].official)
    expected = [both[1].per_machine.official - both[0].per_machine.official, low[1:], high[1:]]
    assert list(found.per_machine.columns) == ["difference", "low", "high", "share_better"]
    assert found.per_machine.index.tolist() == ["fan", "valve"]
    assert found.per_machine.index.name == "machine"
    assert_allclose(found.per_machine.to_numpy().T, [*expected, better[1:]], atol=1e-12)


def test_a_comparison_draws_2000_resamples_from_any_seed_unless_said_otherwise(monkeypatch):
    clips = clips_of(machines=("fan",), sections=(0,))
    numbers = []

    def draw(part, n_resamples, rng):
        numbers.append(n_resamples)
        return bootstrap_weights(part, n_resamples, rng)

    monkeypatch.setattr(dcase, "bootstrap_weights", draw)
    noisy = clips.score + np.random.default_rng(0).normal(size=len(clips))
    arguments = {name: clips[name] for name in ("machine", "section", "domain")}
    found = compare_dcase_scores(clips.y, clips.score, noisy, **arguments, year=2023)
    assert numbers == [2000]
    expected = score(clips.assign(score=noisy), 2023).official - score(clips, 2023).official
    assert found.difference == pytest.approx(expected)  # -1 is the label of anomalies
    state = np.random.RandomState(0)
    few = [
        compare_dcase_scores(
            clips.y, clips.score, noisy, **arguments, year=2023, n_resamples=20, random_state=state
        ).interval
        for _ in range(2)
    ]
    assert few[0] != few[1]
    for wrong in (1.5, "20", -1):
        with pytest.raises(ValueError, match=f"at least 1. Got {wrong!r} instead"):
            compare(clips, clips.score, noisy, n_resamples=wrong)
    assert compare(clips, clips.score, noisy, n_resamples=1).interval[0] is not None


def test_quick_intervals_are_those_of_a_jackknife_by_brute_force():
    clips = clips_of(machines=("fan",), sections=(0, 1), n=2)
    for year in (2020, 2021, 2024):
        scores = score(clips, year)
        left_out = {}
        for row in clips.index:
            try:
                left_out[row] = score(clips.drop(index=row), year)
            except ValueError:  # the last clip of its kind
                left_out[row] = None
        assert all(left_out.values())
        n = len(clips)
        official = np.array([s.official for s in left_out.values()])
        spread = np.sqrt((n - 1) / n * np.sum((official - official.mean()) ** 2))
        half = stats.t.ppf(0.975, n - 1) * spread
        assert scores.official_ci95 == pytest.approx(half)
        assert scores.year == year
        areas = list(scores.per_section.columns[::2])
        assert list(scores.per_section.columns[1::2]) == [f"{a}_ci95" for a in areas]
        assert list(scores.per_machine.columns[::2]) == [*areas, "official"]
        assert scores.per_section.index.names == ["machine", "section"]
        for area in areas:
            domain = area.split("_")[1] if "_" in area else None
            of_area = clips[clips.section == 1]
            if domain:
                is_used = of_area.domain == domain
                of_area = of_area[is_used if year == 2021 else is_used | (of_area.y == -1)]
            values = np.array([left_out[row].per_section[area]["fan", 1] for row in of_area.index])
            n_area = len(values)
            spread = np.sqrt((n_area - 1) / n_area * np.sum((values - values.mean()) ** 2))
            half = stats.t.ppf(0.975, n_area - 1) * spread
            assert scores.per_section[f"{area}_ci95"]["fan", 1] == pytest.approx(half)


def test_a_single_clip_to_leave_out_has_no_interval():
    clips = clips_of(machines=("fan",), sections=(0,), n=3)
    one = clips.drop(index=clips.query("y == -1").index[1:])
    scores = score(one, 2020)
    assert np.isfinite(scores.official)
    assert np.isnan(scores.official_ci95)
    assert np.isnan(scores.per_section.auc_ci95["fan", 0])


@pytest.mark.parametrize(
    ("year", "dropped", "message"),
    [
        (
            2023,
            "machine == 'fan' and section == 1 and domain == 'target' and y == 1",
            "Section 1 of machine 'fan' has no normal clip of the target domain, so that it has no "
            "auc_target. Give all its clips, or leave the section out.",
        ),
        (
            2021,
            "machine == 'fan' and section == 1 and domain == 'source' and y == -1",
            "Section 1 of machine 'fan' has no anomalous clip of the source domain, so that it has "
            "no auc_source. Give all its clips, or leave the section out.",
        ),
        (
            2020,
            "machine == 'valve' and section == 0 and y == -1",
            "Section 0 of machine 'valve' has no anomalous clip, so that it has no auc. Give all "
            "its clips, or leave the section out.",
        ),
    ],
)
def test_missing_clips_are_named(year, dropped, message):
    clips = clips_of()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        score(clips.drop(index=clips.query(dropped).index), year)


def test_wrong_input_is_named():
    clips = clips_of()
    for year in (2019, 2027, "2023"):
        message = f"year must be one of the challenges, 2020 to 2026. Got {year!r} instead."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            score(clips, year)
    with pytest.raises(ValueError, match=r"^domain must hold 'source' and 'target'. Got \['0'\]"):
        score(clips.assign(domain=clips.domain.where(clips.domain == TARGET, "0")), 2023)
    with pytest.raises(ValueError, match=r"^The scores of 1 of 80 clips are NaN\."):
        score(clips.assign(score=clips.score.mask(clips.index == 3)), 2023)
    with pytest.raises(
        ValueError, match=r"^y and anomaly_score must have one entry per clip\. Got"
    ):
        dcase_scores(
            clips.y, clips.score[1:], machine=clips.machine, section=clips.section, year=2020
        )
    with pytest.raises(ValueError, match=r"^section must have one entry per clip\. Got the shape"):
        dcase_scores(clips.y, clips.score, machine=clips.machine, section=[1], year=2020)
    with pytest.raises(ValueError, match=r"^domain must name the domain of each clip"):
        dcase_scores(clips.y, clips.score, machine=clips.machine, section=clips.section, year=2022)
    with pytest.raises(ValueError, match=r"^y must hold two labels"):
        score(clips, 2023, pos_label=0)
    with pytest.raises(ValueError, match=r"^n_resamples must be an int of at least 1. Got 0 inst"):
        compare(clips, clips.score, clips.score, n_resamples=0)


@pytest.mark.parametrize("missing", [None, np.nan])
@pytest.mark.parametrize("column", ["machine", "section"])
def test_a_clip_of_no_machine_is_refused(column, missing):
    y, scores = [1, 1, -1, -1] * 2, [0.1, 0.2, 0.8, 0.9] * 2
    columns = {"machine": ["fan"] * 8, "section": [0] * 8}
    columns[column] = columns[column][:4] + [missing] * 4
    with pytest.raises(ValueError, match=f"{column} must not be missing. Clip 4 has none"):
        dcase_scores(y, scores, **columns, year=2020)
