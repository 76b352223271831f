"""Pseudo-attributes: which clusters become classes."""

import numpy as np
import pytest

from skanopatch import AnoPatchEmbedder, make_pseudo_attributes


def states(centres, n=20, n_dims=8, seed=0, spread=1.0):
    """Return clips of some operating states, one after the other."""
    rng = np.random.default_rng(seed)
    directions = np.eye(n_dims)
    return np.concatenate(
        [
            rng.normal(distance * directions[i], spread, (n, n_dims))
            for i, distance in enumerate(centres)
        ]
    )


def test_hidden_states_become_the_classes():
    labels = make_pseudo_attributes(states([10, 10, 10]), random_state=0)
    assert labels == [("cluster", i // 20) for i in range(60)]


@pytest.mark.parametrize("n_dims", [4, 100])  # fewer and more than clips
def test_a_machine_in_one_state_stays_one_class(n_dims):
    split = [
        len(set(make_pseudo_attributes(states([0], 40, n_dims, seed), random_state=0))) > 1
        for seed in range(20)
    ]
    assert np.mean(split) <= 0.1


def test_one_state_of_unequal_spread_stays_one_class():
    X = states([0], 60) * 0.5 ** np.arange(8)
    assert set(make_pseudo_attributes(X, random_state=0)) == {("cluster", 0)}


def test_machines_are_clustered_apart():
    """The other machine's distance hides the states where machines are taken together."""
    two, one = states([10, 10]), states([0], n=40, seed=1) + 1000
    machines = ["fan"] * 40 + ["pump"] * 40
    labels = make_pseudo_attributes(np.concatenate([two, one]), machines=machines, random_state=0)
    expected = [("fan", "cluster", i // 20) for i in range(40)] + [("pump", "cluster", 0)] * 40
    assert labels == expected


def test_known_labels_stay_and_the_other_clips_are_clustered():
    known = ["slow"] * 20 + [None] * 40
    labels = make_pseudo_attributes(states([10, 10, 10]), labels=known, random_state=0)
    assert labels == [("label", "slow")] * 20 + [("cluster", i // 20) for i in range(40)]


def test_few_clips_are_one_class():
    X = states([50, 50], n=4)
    assert set(make_pseudo_attributes(X, random_state=0)) == {("cluster", 0)}
    assert len(set(make_pseudo_attributes(X, n_least=8, random_state=0))) == 2


def test_copies_of_one_clip_are_one_class():
    assert set(make_pseudo_attributes(np.ones((20, 3)), random_state=0)) == {("cluster", 0)}


def test_one_seed_makes_the_same_classes_and_the_order_of_clips_only_their_numbers():
    X = states([4, 4, 4], spread=1.0)
    first = make_pseudo_attributes(X, random_state=3)
    assert make_pseudo_attributes(X, random_state=3) == first
    backward = make_pseudo_attributes(states([10, 10])[::-1], random_state=0)
    assert backward == [("cluster", i // 20) for i in range(40)]


def test_a_stricter_level_splits_less():
    X = states([4.5, 4.5, 4.5, 4.5])
    numbers = [
        len(set(make_pseudo_attributes(X, significance=level, random_state=0)))
        for level in (1e-12, 0.05)
    ]
    assert numbers[0] < numbers[1]


def test_the_classes_are_labels_of_fine_tuning():
    patches = np.random.default_rng(0).normal(size=(40, 2, 2, 256)).astype(np.float32)
    patches[20:] += 3
    embedder = AnoPatchEmbedder(random_state=0).set_params(
        fine_tuning__max_epochs=1, fine_tuning__tuning="head"
    )
    labels = make_pseudo_attributes(embedder.fit(patches).transform(patches), random_state=0)
    embedder.fit(patches, labels=labels)
    assert embedder.classes_ == [("cluster", 0), ("cluster", 1)]


@pytest.mark.parametrize("name", ["machines", "labels"])
def test_metadata_of_another_length_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must have one entry per clip. Got 3 for 20."):
        make_pseudo_attributes(states([0]), **{name: ["a"] * 3})


def test_clips_that_could_not_be_read_are_refused():
    X = states([0])
    X[3] = np.nan
    with pytest.raises(ValueError, match="embeddings contains NaN"):
        make_pseudo_attributes(X)
