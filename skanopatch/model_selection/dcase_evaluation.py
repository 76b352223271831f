"""Evaluation on DCASE Task 2: one embedder for all machines, one detector for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

import skanopatch
from skanopatch.audio.clips import file_state
from skanopatch.datasets.challenge import write_challenge_files
from skanopatch.datasets.dcase import load_dcase
from skanopatch.detectors import GroupedDetector
from skanopatch.files import atomic_write
from skanopatch.metrics import DCASEScores, dcase_scores


@dataclass(frozen=True)
class DCASEEvaluation:
    """What `evaluate_dcase` returns.

    Attributes
    ----------
    year : int
        Of the challenge.

    clips : DataFrame of shape (n_test_clips, 8)
        ``path``, ``machine``, ``section``, ``domain``, ``y`` (+1 normal, -1 anomalous, 0 unknown),
        ``anomaly_score``, ``decision`` (1 where the clip is judged anomalous, else 0) and ``name``.

    scores : DCASEScores or None
        The official score, by machine and by section. None where labels are unknown.

    rates : DataFrame of shape (n_sections, 2) or None
        What the threshold does: ``false_alarm_rate``, the share of normal clips judged anomalous,
        and ``detection_rate``, the share of anomalous ones, by machine and section.
    """

    year: int
    clips: pd.DataFrame
    scores: DCASEScores | None
    rates: pd.DataFrame | None

    def __str__(self) -> str:
        if self.scores is None or self.rates is None:
            return (
                f"{len(self.clips)} clips of DCASE {self.year} Task 2 were scored. Their labels "
                "are unknown: give the official evaluator's folder as ground_truth."
            )
        return f"{self.rates.to_string(float_format='{:.3f}'.format)}\n\n{self.scores}"

    def write(self, folder: str | PathLike[str]) -> None:
        """Write the tables as CSV, and challenge files.

        Parameters
        ----------
        folder : str or Path
            Where to. It gets ``clips.csv``, ``per_section.csv`` and ``per_machine.csv``, and the
            challenge files in ``challenge``.
        """
        folder = Path(folder)
        clips = self.clips
        write_challenge_files(
            folder / "challenge",
            **{name: clips[name] for name in ("machine", "section", "anomaly_score", "decision")},
            names=clips.name,
            year=self.year,
        )
        tables = {"clips": clips.set_index("path")}
        if self.scores is not None:
            tables["per_section"] = self.scores.per_section.join(self.rates)
            tables["per_machine"] = self.scores.per_machine
        for name, table in tables.items():
            with atomic_write(folder / f"{name}.csv") as file:
                table.to_csv(file)


def evaluate_dcase(
    pipeline: Pipeline,
    root: str | PathLike[str],
    *,
    year: int,
    machine: str | Sequence[str] | None = None,
    subset: str = "development",
    ground_truth: str | PathLike[str] | None = None,
    domains: bool = True,
    cache: str | PathLike[str] | None = None,
    verbose: int = 0,
) -> DCASEEvaluation:
    """Fit a pipeline on the training clips of a year of DCASE Task 2 and score its test clips.

    The steps before the detector are fitted once, on the clips of all machines, and told machine,
    section and attributes as ``labels`` if they take labels. A detector is then fitted for each
    machine and section, with the domains if it takes them.

    Parameters
    ----------
    pipeline : Pipeline
        Takes clips and ends in a detector. It is cloned. A detector that is not a
        `GroupedDetector` is put into one.

    root : str or Path
        As in `load_dcase`.

    year : int
        2020 to 2026.

    machine : str or sequence of str, default=None
        The machine types to evaluate. None evaluates all that are there.

    subset : {"development", "evaluation"}, default="development"
        The set to evaluate.

    ground_truth : str or Path, default=None
        The official evaluator's folder, as in `load_dcase`: an evaluation set has scores only with
        it.

    domains : bool, default=True
        Whether the detector is fitted with the domains of its training clips. It then needs as many
        clips of each as the detector asks for; target domains have 3 to 10.

    cache : str or Path, default=None
        A folder that keeps the fitted embedder and the embeddings of each machine, by the
        parameters of the steps and by names, sizes and times of the files. What is in it is not
        computed again: another detector takes seconds, and an evaluation that was interrupted goes
        on with the machine it was at. None keeps nothing. The embedder is pickled: do not take
        over a cache from somebody whom you do not trust.

    verbose : int, default=0
        1 shows the progress over the machines.

    Returns
    -------
    evaluation : DCASEEvaluation
        With the DataFrame `clips`, the official `scores`, and the `rates` of false alarms and
        detections. Printed, it is a table.

    Raises
    ------
    ValueError
        If the pipeline has no step before the detector, if a section that is to be tested has no
        clips to train on, or what `load_dcase` and `dcase_scores` raise.

    See Also
    --------
    skanopatch.datasets.load_dcase : What it reads.
    skanopatch.metrics.compare_dcase_scores : Whether one system is better than another.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from sklearn.pipeline import make_pipeline
    >>> from skanopatch import KNNDetector, MelPatcher, MelStatistics, evaluate_dcase
    >>> from skanopatch.datasets import make_miniature_dcase
    >>> root = make_miniature_dcase(mkdtemp(), year=2023, machines=["valve"], random_state=0)
    >>> pipe = make_pipeline(MelPatcher(), MelStatistics(), KNNDetector(metric="euclidean"))
    >>> evaluation = evaluate_dcase(pipe, root, year=2023, machine="valve")
    >>> evaluation.clips.shape
    (8, 8)
    """
    if not isinstance(pipeline, Pipeline) or len(pipeline) < 2:
        raise ValueError(
            "The 'pipeline' parameter of evaluate_dcase must be a Pipeline of clips to embeddings "
            f"to a detector. Got {pipeline!r} instead."
        )
    data = load_dcase(root, year=year, machine=machine, subset=subset, ground_truth=ground_truth)
    section_names = np.array(
        [f"{name}/{number:02d}" for name, number in zip(data.machine, data.section, strict=True)]
    )
    is_train, is_test = data.split == "train", data.split == "test"
    untrained = sorted(set(section_names[is_test]) - set(section_names[is_train]))
    if untrained:
        raise ValueError(f"'{root}' has no clips to train on of {', '.join(untrained)}.")

    with config_context(enable_metadata_routing=False):
        embeddings = _embed(pipeline[:-1], data, Path(root), cache, verbose)
        detector = clone(pipeline[-1])
        if not isinstance(detector, GroupedDetector):
            detector = GroupedDetector(detector)
        detector.fit(
            embeddings[is_train],
            groups=section_names[is_train],
            domains=data.domain[is_train] if domains else None,
        )
        anomaly_score = detector.anomaly_score(embeddings[is_test], groups=section_names[is_test])
        decision = detector.predict(embeddings[is_test], groups=section_names[is_test]) == -1

    columns = {name: data[name][is_test] for name in ("machine", "section", "domain", "y")}
    clips = pd.DataFrame(
        {"path": data.paths[is_test], **columns, "anomaly_score": anomaly_score}
    ).assign(decision=decision.astype(int), name=lambda table: table.path.map(os.path.basename))
    if (clips.y == 0).any():
        return DCASEEvaluation(year=year, clips=clips, scores=None, rates=None)
    areas = {name: clips[name] for name in ("machine", "section", "domain")}
    scores = dcase_scores(clips.y, clips.anomaly_score, **areas, year=year)
    rates = clips.pivot_table("decision", ["machine", "section"], "y").rename(
        columns={1: "false_alarm_rate", -1: "detection_rate"}
    )[["false_alarm_rate", "detection_rate"]]
    return DCASEEvaluation(
        year=year, clips=clips, scores=scores, rates=rates.rename_axis(columns=None)
    )


def _embed(
    steps: Pipeline,
    data: Bunch,
    root: Path,
    cache: str | PathLike[str] | None,
    verbose: int,
) -> NDArray:
    """Fit the steps on all training clips, and embed the clips machine by machine."""
    files = [(Path(path).relative_to(root).as_posix(), file_state(path)) for path in data.paths]
    is_train = data.split == "train"
    labels = data.label[is_train].tolist()
    folder: Path | None = None
    if cache is not None:
        trained_on = [file for file, used in zip(files, is_train, strict=True) if used]
        key = joblib.hash([skanopatch.__version__, clone(steps), trained_on, labels])
        folder = Path(cache) / key
        folder.mkdir(parents=True, exist_ok=True)

    embedder: Pipeline | None = None
    parts: list[tuple[NDArray[np.intp], NDArray]] = []
    machines = list(dict.fromkeys(data.machine.tolist()))
    for machine in tqdm(machines, desc="embedding", unit="machine", disable=not verbose):
        rows = np.flatnonzero((data.machine == machine) & (data.split != "supplemental"))
        kept = folder and folder / f"{machine}_{joblib.hash([files[row] for row in rows])}.joblib"
        if kept is not None and kept.exists():
            parts.append((rows, joblib.load(kept)))
            continue
        if embedder is None:
            embedder = _fit(steps, data.paths[is_train], labels, folder)
        parts.append((rows, np.asarray(embedder.transform(data.paths[rows]))))
        if kept is not None:
            with atomic_write(kept) as file:
                joblib.dump(parts[-1][1], file)
    embeddings = np.full((len(files), *parts[0][1].shape[1:]), np.nan, parts[0][1].dtype)
    for rows, part in parts:
        embeddings[rows] = part
    return embeddings


def _fit(steps: Pipeline, paths: NDArray, labels: list[str], folder: Path | None) -> Pipeline:
    """Fit the steps, or load those that an earlier evaluation has fitted."""
    kept = folder and folder / "embedder.joblib"
    if kept is not None and kept.exists():
        return joblib.load(kept)
    told = {
        f"{name}__labels": labels for name, step in steps.steps if has_fit_parameter(step, "labels")
    }
    embedder = clone(steps).fit(paths, **told)
    if kept is not None:
        with atomic_write(kept) as file:
            joblib.dump(embedder, file)
    return embedder
