"""The simulated park of machines that ``skanopatch demo`` scores, and the picture that it draws."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

from skanopatch.datasets import make_machine_sounds
from skanopatch.files import atomic_write
from skanopatch.inspection import ScoreDisplay
from skanopatch.inspection.decisions import relative_scores
from skanopatch.metrics import auc_score, pauc_score
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.mel_patcher import MelPatcher
from skanopatch.spectra.mel_statistics import MelStatistics

_SEVERITY = 2.0  # of the faults
_WIDTH = 92  # characters of a line of text


def make_model(
    duration: float | None, embedder: BaseEstimator | None = None
) -> AnomalousSoundDetector:
    """Return the default without maps; None is the duration of the longest clip."""
    patcher = MelPatcher(duration=duration)
    return AnomalousSoundDetector(patcher, embedder=embedder, map_detector="drop", random_state=0)


def run_park(
    picture: Path,
    *,
    machines: Sequence[str] | None = None,
    n_train: int = 32,
    n_test: int = 12,
    duration: float = 2.0,
) -> dict[str, pd.DataFrame]:
    """Simulate a park of machines, score it by two models, print how well they do and return it."""
    click.echo("[1/4] Simulating the sounds of the park ...")
    sounds = make_machine_sounds(
        machines,
        n_train=n_train,
        n_normal=n_test,
        n_anomalous=n_test,
        duration=duration,
        severity=_SEVERITY,
        random_state=0,
    )
    click.echo(
        f"      {len(sounds.units)} units of {len(set(sounds.machine))} machine types; of each "
        f"{n_train} normal clips of {duration:g} s to fit on,\n      {n_test} normal ones and "
        f"{n_test} with a fault of severity {_SEVERITY:g} to test with."
    )
    models = {
        "skanopatch": make_model(duration),
        "mel statistics": make_model(duration, MelStatistics()),
    }
    tables = {}
    for step, (name, model) in enumerate(models.items(), start=2):
        click.echo(f"[{step}/4] {name}: fitting, then scoring ...")
        start = perf_counter()
        tables[name] = score_park(model, sounds)
        click.echo(f"      {perf_counter() - start:.1f} s for {len(sounds.clips)} clips")
    click.echo(f"[4/4] Drawing {picture} ...\n")
    draw_scores({name: table.assign(row=table.machine) for name, table in tables.items()}, picture)
    summaries = {name: summarise(table) for name, table in tables.items()}
    click.echo(pd.concat(summaries, axis=1).to_string(float_format="{:.3f}".format))
    click.echo(_explain(summaries, models["skanopatch"].false_alarm_rate))
    return summaries


def score_park(model: AnomalousSoundDetector, sounds: Bunch) -> pd.DataFrame:
    """Fit a model on the training clips of a park, and score the test clips relative to 1."""
    units = np.array([f"{m} {s}" for m, s in zip(sounds.machine, sounds.section, strict=True)])
    is_train, is_test = (sounds.split == split for split in ("train", "test"))
    model.fit(sounds.clips[is_train], groups=units[is_train])
    scores = model.score_samples(sounds.clips[is_test], groups=units[is_test])
    return pd.DataFrame(
        {
            "machine": sounds.machine[is_test],
            "unit": units[is_test],
            "y": sounds.y[is_test],
            "score": relative_scores(scores, model.offset_),
        }
    )


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return the AUC and pAUC of a machine's units, their mean, and its share of false alarms."""
    rows = {}
    for machine, own in table.groupby("machine", sort=False):
        units = [unit for _, unit in own.groupby("unit")]
        rows[machine] = {
            "AUC": np.mean([auc_score(unit.y, unit.score) for unit in units]),
            "pAUC": np.mean([pauc_score(unit.y, unit.score) for unit in units]),
            "false alarms": (own.score[own.y == 1] > 1).mean(),
        }
    summary = pd.DataFrame.from_dict(rows, orient="index")
    summary.loc["mean"] = summary.mean()
    return summary


def draw_scores(tables: dict[str, pd.DataFrame], picture: Path) -> None:
    """Draw the scores of clips to a PNG file: axes a table, in them a line for each `row`."""
    n_rows = next(iter(tables.values())).row.nunique()
    figure = Figure(figsize=(6 * len(tables) + 1, 1.6 + 0.3 * n_rows), layout="constrained")
    axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        ScoreDisplay.from_predictions(table.y, table.score, machine=table.row, threshold=1, ax=ax)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set(title=title, xlabel="distance from the normal clips (1 = threshold)")
    with atomic_write(picture) as file:
        figure.savefig(file, format="png", dpi=110)


def _explain(summaries: dict[str, pd.DataFrame], false_alarm_rate: float) -> str:
    default, baseline = (summary.drop(index="mean")["AUC"] for summary in summaries.values())
    paragraphs = (
        "AUC is the chance that a clip with a fault scores higher than a normal clip of its unit "
        "(0.5 is guessing), pAUC the same where false alarms are below 10 %. False alarms are the "
        f"share of normal clips called anomalous, for which {false_alarm_rate:.2f} was asked. Half "
        "of the test clips are of another hall and other speeds, which are rare in training.",
        f"The default has the higher AUC on {(default > baseline).sum()} of {len(default)} "
        "machines. Mel statistics are a simple baseline. With labels it also trains a network, "
        "which takes minutes: the page Recipes of the documentation says when that helps.",
    )
    return "\n" + "\n".join(textwrap.fill(paragraph, _WIDTH) for paragraph in paragraphs)
