"""What `make demo` runs: score a simulated park of machines, or folders of one's own recordings."""

from __future__ import annotations

import argparse
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.utils import Bunch

from skanopatch.audio.clips import clip_duration
from skanopatch.datasets import make_machine_sounds
from skanopatch.datasets.folder import find_recordings as find_in_folder
from skanopatch.files import atomic_write
from skanopatch.inspection.decisions import decision_table, relative_scores
from skanopatch.inspection.style import BLUE, VERMILION
from skanopatch.metrics import auc_score, pauc_score
from skanopatch.recipes.sound_detector import AnomalousSoundDetector
from skanopatch.spectra.mel_patcher import MelPatcher
from skanopatch.spectra.mel_statistics import MelStatistics

PICTURE = Path("demo_scores.png")
FALSE_ALARM_RATE = 0.1
LONGEST = 10.0  # seconds of a recording of one's own that are used
MOST_BARS = 30
WORDS = {"anomaly": "ANOMALY", "normal": "normal", "unreadable": "not readable"}
WIDTH = 92  # of the table and of the sentences below it

NORMAL_STYLE: dict[str, Any] = {"color": BLUE, "marker": "o"}
ANOMALY_STYLE: dict[str, Any] = {"color": VERMILION, "marker": "x"}


class InputError(Exception):
    """What is wrong with the folders, in one sentence."""


def default_model(duration: float) -> AnomalousSoundDetector:
    """Return the default without labels."""
    return AnomalousSoundDetector(
        MelPatcher(duration=duration),
        map_detector="drop",
        false_alarm_rate=FALSE_ALARM_RATE,
        random_state=0,
    )


def baseline_model(duration: float) -> AnomalousSoundDetector:
    """Return the same with mel statistics in place of what it computes of clips."""
    return default_model(duration).set_params(embedder=MelStatistics())


def unit_names(sounds: Bunch) -> np.ndarray:
    """Name the unit of each clip, such as "fan 0"."""
    return np.array([f"{m} {s}" for m, s in zip(sounds.machine, sounds.section, strict=True)])


def fit_park(model: AnomalousSoundDetector, sounds: Bunch) -> AnomalousSoundDetector:
    """Fit a model on the training clips of a park; units are its groups."""
    is_train = sounds.split == "train"
    return model.fit(sounds.clips[is_train], groups=unit_names(sounds)[is_train])


def score_park(model: AnomalousSoundDetector, sounds: Bunch) -> pd.DataFrame:
    """Score the test clips of a park.

    Returns
    -------
    clips : DataFrame
        One row a test clip: machine, unit, y, `score` (distance from normal over that of the
        threshold: above 1 is an anomaly), prediction and the seconds it took.
    """
    units = unit_names(sounds)
    tables = []
    for machine in dict.fromkeys(sounds.machine):
        rows = (sounds.split == "test") & (sounds.machine == machine)
        start = perf_counter()
        scores = model.score_samples(sounds.clips[rows], groups=units[rows])
        seconds = (perf_counter() - start) / rows.sum()
        tables.append(
            pd.DataFrame(
                {
                    "machine": machine,
                    "unit": units[rows],
                    "y": sounds.y[rows],
                    "score": relative_scores(scores, model.offset_),
                    "prediction": np.where(scores < model.offset_, -1, 1),
                    "seconds": seconds,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def summarise(clips: pd.DataFrame) -> pd.DataFrame:
    """Return AUC, pAUC, false alarms and seconds a clip of each machine, and their mean.

    AUC and pAUC are computed for each unit and averaged; false alarms are the share of the
    machine's normal test clips that were predicted -1.
    """
    rows = {}
    for machine, of_machine in clips.groupby("machine", sort=False):
        units = [unit for _, unit in of_machine.groupby("unit")]
        normal = of_machine[of_machine.y == 1]
        rows[machine] = {
            "AUC": np.mean([auc_score(unit.y, unit.score) for unit in units]),
            "pAUC": np.mean([pauc_score(unit.y, unit.score) for unit in units]),
            "false alarms": (normal.prediction == -1).mean(),
            "s/clip": of_machine.seconds.mean(),
        }
    summary = pd.DataFrame.from_dict(rows, orient="index")
    summary.loc["mean"] = summary.mean()
    return summary


def format_tables(summaries: dict[str, pd.DataFrame]) -> str:
    """Put the summaries of several models side by side, aligned."""
    formats = {"AUC": "8.3f", "pAUC": "8.3f", "false alarms": "14.2f", "s/clip": "9.4f"}
    header = "".join(f"{name:>{form.split('.')[0]}}" for name, form in formats.items())
    gap = " |"
    index = next(iter(summaries.values())).index
    lines = [
        f"{'':10}" + gap.join(f"{name:>{len(header)}}" for name in summaries),
        f"{'machine':10}" + gap.join([header] * len(summaries)),
    ]
    for machine in index:
        cells = (
            "".join(f"{summary.loc[machine, name]:{form}}" for name, form in formats.items())
            for summary in summaries.values()
        )
        lines.append(f"{machine:10}" + gap.join(cells))
    lines.insert(2, "-" * len(lines[1]))
    lines.insert(-1, lines[2])
    return "\n".join(lines)


def plot_park(scored: dict[str, pd.DataFrame]) -> Figure:
    """Draw the scores of normal and anomalous clips: a column a machine, a row a model."""
    machines = list(dict.fromkeys(next(iter(scored.values())).machine))
    figure = Figure(figsize=(2.1 * len(machines) + 0.9, 1.9 * len(scored) + 1.0))
    axes = figure.subplots(len(scored), len(machines), sharex="row", sharey=True, squeeze=False)
    rng = np.random.default_rng(0)
    for row, (name, clips) in zip(axes, scored.items(), strict=True):
        for ax, machine in zip(row, machines, strict=True):
            for place, y, style in [(1, 1, NORMAL_STYLE), (0, -1, ANOMALY_STYLE)]:
                score = clips.score[(clips.machine == machine) & (clips.y == y)]
                height = place + rng.uniform(-0.25, 0.25, len(score))
                ax.scatter(score, height, s=14, alpha=0.7, linewidths=1.0, **style)
            ax.axvline(1, color="0.2", linestyle="--", linewidth=1)
            ax.set(yticks=[1, 0], yticklabels=["normal", "anomalous"], ylim=(-0.5, 1.5))
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(name)
    for ax, machine in zip(axes[0], machines, strict=True):
        ax.set_title(machine)
    figure.supxlabel("distance from the normal clips of the unit (1 = threshold)", fontsize=10)
    handles = [
        Line2D([], [], linestyle="", label="normal clip", **NORMAL_STYLE),
        Line2D([], [], linestyle="", label="clip with a fault", **ANOMALY_STYLE),
        Line2D([], [], color="0.2", linestyle="--", label="threshold"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    figure.set_layout_engine("constrained")
    return figure


def run_park(
    picture: Path = PICTURE,
    *,
    machines: Sequence[str] | None = None,
    n_train: int = 32,
    n_test: int = 12,
    duration: float = 2.0,
    severity: float = 2.0,
) -> dict[str, pd.DataFrame]:
    """Simulate a park of machines, score it by two models, and print how it went.

    Returns
    -------
    summaries : dict of DataFrame
        What is printed, by the name of the model.
    """
    _say("[1/4] Simulating the sounds of the park ...")
    sounds = make_machine_sounds(
        machines,
        n_train=n_train,
        n_normal=n_test,
        n_anomalous=n_test,
        duration=duration,
        severity=severity,
        random_state=0,
    )
    n_units = len(sounds.units)
    n_fit = int((sounds.split == "train").sum())
    _say(
        f"      {n_units} units of {len(set(sounds.machine))} machine types; of each {n_train} "
        f"normal clips of {duration:g} s to fit on,\n      {n_test} normal ones and {n_test} with "
        f"a fault of severity {severity:g} to test with."
    )
    models = {
        "skanopatch": default_model(duration),
        "mel statistics": baseline_model(duration),
    }
    scored, summaries = {}, {}
    for step, (name, model) in enumerate(models.items(), start=2):
        _say(f"[{step}/4] {name}: fitting on {n_fit} clips, then scoring ...")
        start = perf_counter()
        fit_park(model, sounds)
        seconds = perf_counter() - start
        scored[name] = score_park(model, sounds)
        summaries[name] = summarise(scored[name])
        _say(f"      fitted in {seconds:.1f} s")
    _say(f"[4/4] Drawing {picture} ...\n")
    _save(plot_park(scored), picture)
    _say(format_tables(summaries))
    _say(_explain(summaries))
    _say(f"\nThe scores of all clips are drawn in {picture}.")
    return summaries


def _explain(summaries: dict[str, pd.DataFrame]) -> str:
    default, baseline = (summary.drop(index="mean")["AUC"] for summary in summaries.values())
    n_better = int((default > baseline).sum())
    return "\n" + "\n".join(
        textwrap.fill(paragraph, WIDTH)
        for paragraph in (
            "AUC is the chance that a clip with a fault scores higher than a normal clip of its "
            "unit (0.5 is guessing), pAUC the same where false alarms are below 10 %. False alarms "
            "are the share of normal clips called anomalous, for which "
            f"{FALSE_ALARM_RATE:.2f} was asked. Half of the test clips are of another hall and "
            "other speeds, which are rare in training.",
            f"The default has the higher AUC on {n_better} of {len(default)} machines. "
            "Mel statistics are what five lines without it would do. Given labels as well, it "
            "fine-tunes a network, which takes minutes: docs/recipes.rst says where that pays.",
        )
    )


def find_recordings(folder: Path, option: str) -> list[Path]:
    """Return the recordings in a folder and in the folders below it, in order.

    Raises
    ------
    InputError
        If there is no such folder, or no recording in it.
    """
    if not folder.is_dir():
        raise InputError(f"{option}: there is no folder '{folder}'.")
    try:
        return find_in_folder(folder)
    except OSError as error:
        raise InputError(f"{option}: {error}") from error


def fit_recordings(files: Sequence[Path]) -> AnomalousSoundDetector:
    """Fit on recordings of one machine that runs well.

    Raises
    ------
    InputError
        If there are fewer than two, or one cannot be used.
    """
    if len(files) < 2:
        raise InputError(f"--clips: at least 2 normal recordings are needed, '{files[0]}' is one.")
    lengths = []
    for file in files:
        try:
            lengths.append(clip_duration(file, sample_rate=16000))
        except ValueError as error:
            raise InputError(f"--clips: '{file}' cannot be used, since {error}.") from error
        if lengths[-1] == 0:
            raise InputError(f"--clips: '{file}' cannot be used, since it has no samples.")
    try:
        return default_model(min(LONGEST, max(lengths))).fit(list(files))
    except ValueError as error:  # what the header does not say
        raise InputError("--clips: " + " ".join(str(error).split())) from error


def rank_recordings(model: AnomalousSoundDetector, files: Sequence[Path]) -> pd.DataFrame:
    """Score recordings, the most anomalous first; those that cannot be read come last.

    Returns
    -------
    ranked : DataFrame
        `file`, and the columns of `decision_table`: `score` is the distance from normal over that
        of the threshold.
    """
    ranked = decision_table(model, list(files)).assign(file=list(files))
    return ranked.sort_values("score", ascending=False, na_position="last", ignore_index=True)


def plot_ranking(ranked: pd.DataFrame, folder: Path) -> Figure:
    """Draw the scores of the most anomalous recordings as bars."""
    shown = ranked.dropna(subset="score").head(MOST_BARS)
    figure = Figure(figsize=(7, 1.2 + 0.24 * len(shown)), layout="constrained")
    ax = figure.subplots()
    is_anomaly = shown.decision == "anomaly"
    for rows, style, label, hatch in [
        (is_anomaly, ANOMALY_STYLE, "anomaly", "///"),
        (~is_anomaly, NORMAL_STYLE, "normal", None),
    ]:
        ax.barh(
            shown.index[rows],
            shown.score[rows],
            color=style["color"],
            edgecolor="white",
            hatch=hatch,
            label=label,
        )
    ax.axvline(1, color="0.2", linestyle="--", linewidth=1, label="threshold")
    ax.set_yticks(shown.index, [str(file.relative_to(folder)) for file in shown.file])
    ax.invert_yaxis()
    ax.set_xlabel("distance from the normal recordings (1 = threshold)")
    if len(shown) < len(ranked):
        ax.set_title(f"{len(shown)} of {len(ranked)} recordings")
    ax.legend(loc="lower right")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def run_recordings(clips: Path, test: Path, picture: Path = PICTURE) -> pd.DataFrame:
    """Fit on a folder of normal recordings, rank those of another and print the list.

    Raises
    ------
    InputError
        If a folder is missing or empty, or a normal recording cannot be used.
    """
    normal_files = find_recordings(clips, "--clips")
    test_files = find_recordings(test, "--test")
    _say(f"[1/3] Fitting on {len(normal_files)} normal recordings in {clips} ...")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = fit_recordings(normal_files)
    for warning in caught:
        _say(f"      Note: {warning.message}")
    duration = model.patcher.duration
    _say(f"      The first {duration:.3g} s of each are used; shorter ones are repeated.")
    _say(f"[2/3] Scoring {len(test_files)} recordings in {test} ...")
    ranked = rank_recordings(model, test_files)
    if ranked.score.notna().any():
        _say(f"[3/3] Drawing {picture} ...")
        _save(plot_ranking(ranked, test), picture)
    _say(f"\n{'rank':>4}  {'score':>7}  {'decision':12}  file")
    for rank, row in enumerate(ranked.itertuples(), start=1):
        score = "-" if np.isnan(row.score) else f"{row.score:.2f}"
        _say(f"{rank:4}  {score:>7}  {WORDS[row.decision]:12}  {row.file.relative_to(test)}")
    n_anomalies = int((ranked.decision == "anomaly").sum())
    explanation = (
        f"{n_anomalies} of {len(ranked)} recordings are further from the normal ones than the "
        "threshold. The score is the distance over that of the threshold, which is set so that "
        f"about {FALSE_ALARM_RATE:.0%} of new normal recordings exceed it."
    )
    _say("\n" + textwrap.fill(explanation, WIDTH))
    n_unreadable = int((ranked.decision == "unreadable").sum())
    if n_unreadable:
        _say(f"{n_unreadable} could not be read.")
    return ranked


def _save(figure: Figure, picture: Path) -> None:
    with atomic_write(picture) as file:
        figure.savefig(file, format="png", dpi=110)


def _say(message: str) -> None:
    print(message, flush=True)


def run(clips: Path | None, test: Path | None, picture: Path = PICTURE) -> None:
    """Run the demo on the simulated park, or on two folders of recordings.

    Raises
    ------
    InputError
        If one folder is given without the other, or they cannot be used.
    """
    if clips is None and test is None:
        run_park(picture)
    elif clips is None:
        raise InputError("--test needs --clips, a folder of normal recordings to fit on.")
    elif test is None:
        raise InputError("--clips needs --test, a folder of recordings to judge.")
    else:
        run_recordings(clips, test, picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return 0, 2 for wrong input, or 130 if it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m skanopatch.cli.park",
        description="Score a simulated park of machines, or recordings of one machine of your own.",
    )
    parser.add_argument(
        "--clips",
        type=Path,
        metavar="FOLDER",
        help="normal recordings (wav, flac, ogg, mp3, aiff) of one machine, also in folders below",
    )
    parser.add_argument("--test", type=Path, metavar="FOLDER", help="recordings to judge")
    options = parser.parse_args(argv)
    try:
        run(options.clips, options.test)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    matplotlib.use("agg")
    sys.exit(main())
