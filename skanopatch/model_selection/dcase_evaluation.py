"""Evaluation on DCASE Task 2: one embedder for all machines, one detector for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache as cached
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

import skanopatch
from skanopatch.audio.clips import file_state
from skanopatch.datasets.challenge import write_challenge_files
from skanopatch.datasets.dcase import load_dcase
from skanopatch.detectors import GroupedDetector
from skanopatch.detectors.metadata import call_with_groups, fit_with, rows_of
from skanopatch.files import atomic_write
from skanopatch.metrics import DCASEScores, dcase_scores


@dataclass(frozen=True)
class DCASEEvaluation:
    """Scores and decisions of a detector on a year of DCASE Task 2, from `evaluate_dcase`.

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
        ``false_alarm_rate``, the share of normal clips judged anomalous, and ``detection_rate``,
        the share of anomalous ones, by machine and section.
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
            It gets ``clips.csv``, ``per_section.csv`` and ``per_machine.csv``, and the challenge
            files in ``challenge``.
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
    detector: BaseEstimator,
    root: str | PathLike[str],
    *,
    year: int,
    machine: str | Sequence[str] | None = None,
    subset: str = "development",
    ground_truth: str | PathLike[str] | None = None,
    domains: bool = True,
    extra_clips: Sequence[str | PathLike[str]] | None = None,
    extra_labels: Sequence[Hashable] | None = None,
    cache: str | PathLike[str] | None = None,
    verbose: int = 0,
) -> DCASEEvaluation:
    """Fit a detector on the training clips of a year of DCASE Task 2 and score its test clips.

    In a pipeline, the steps before the detector are fitted once, on the clips of all machines. The
    detector is fitted for each machine and section. Any other model is fitted once if its `fit`
    takes ``groups``, else for each machine and section. Steps that take ``labels`` get machine,
    section and attributes as labels. Steps that take ``domains`` get the domains.

    Parameters
    ----------
    detector : estimator object
        A pipeline of clips to embeddings to a detector, or any other detector of clips, such as
        `AnomalousSoundDetector`. It is cloned.
    root : str or Path
        As in `load_dcase`.
    year : int
        2020 to 2026.
    machine : str or sequence of str, default=None
        The machine types to evaluate. None evaluates all that are there.
    subset : {"development", "evaluation"}, default="development"
        The set to evaluate.
    ground_truth : str or Path, default=None
        The official evaluator's folder: an evaluation set has scores only with it.
    domains : bool, default=True
        Whether detectors are fitted with the domains of their clips. The detector may need a least
        number of clips per domain; target domains have 3 to 10.
    extra_clips : sequence of str or Path, default=None
        Files that the steps before the detector are fitted on too, such as the ``supplemental``
        clips of `load_dcase`. No detector is fitted on them.
    extra_labels : sequence of hashable, default=None
        The label of each extra clip.
    cache : str or Path, default=None
        A folder for the fitted steps and the embeddings of each machine. With it, another detector
        takes seconds, and an interrupted evaluation continues at the same machine. Changed
        parameters or files are computed again. For a model that is no pipeline it stores the
        scores. The files are pickles, so do not use a cache from somebody whom you do not trust.
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
        If a section that is to be tested has no clips to train on, extra clips and labels differ
        in number or are given for a `detector` that is no pipeline, or what `load_dcase` and
        `dcase_scores` raise.
    TypeError
        If `detector` has no `fit`, `score_samples` and `predict`.

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
    if not all(hasattr(detector, name) for name in ("fit", "score_samples", "predict")):
        raise TypeError(
            "The 'detector' parameter of evaluate_dcase must be a detector of clips, such as a "
            "Pipeline of clips to embeddings to a detector or AnomalousSoundDetector(). Got "
            f"{detector!r} instead."
        )
    extra = [os.fspath(path) for path in extra_clips or ()]
    labels_of_extra = list(extra_labels or ())
    is_pipeline = isinstance(detector, Pipeline) and len(detector) > 1
    if len(extra) != len(labels_of_extra):
        raise ValueError(
            f"extra_labels must have one label per extra clip. Got {len(labels_of_extra)} labels "
            f"for {len(extra)} clips."
        )
    if extra and not is_pipeline:
        raise ValueError(
            "extra_clips need a Pipeline, whose steps before the detector are fitted on them. Got "
            f"{detector!r} instead."
        )
    data = load_dcase(root, year=year, machine=machine, subset=subset, ground_truth=ground_truth)
    sections = np.array(
        [f"{name}/{number:02d}" for name, number in zip(data.machine, data.section, strict=True)]
    )
    is_test = data.split == "test"
    untrained = sorted(set(sections[is_test]) - set(sections[data.split == "train"]))
    if untrained:
        raise ValueError(f"'{root}' has no clips to train on of {', '.join(untrained)}.")
    data.state = [
        (Path(path).relative_to(root).as_posix(), file_state(path)) for path in data.paths
    ]

    with config_context(enable_metadata_routing=False):
        if is_pipeline:
            X = _embed(detector[:-1], data, extra, labels_of_extra, cache, verbose)
            end = clone(detector[-1])
            if not isinstance(end, GroupedDetector):
                end = GroupedDetector(end)
            scored = _score(end, X, data, sections, domains, verbose)
        else:
            known = [data.state, data.label.tolist(), domains]
            key = joblib.hash([skanopatch.__version__, clone(detector), *known])
            scored = _keep(
                None if cache is None else Path(cache) / f"{key}.joblib",
                lambda: _score(detector, data.paths, data, sections, domains, verbose),
            )

    columns = {name: data[name][is_test] for name in ("machine", "section", "domain", "y")}
    clips = pd.DataFrame({"path": data.paths[is_test], **columns, **scored})
    clips["name"] = clips.path.map(os.path.basename)
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


def _score(
    detector: BaseEstimator, X: NDArray, data: Bunch, sections: NDArray, domains: bool, verbose: int
) -> dict[str, NDArray]:
    """Fit a detector, one for each section if it takes no groups; score and judge the tests."""
    metadata = {"labels": data.label.tolist(), "groups": sections.tolist()}
    if domains:
        metadata["domains"] = data.domain.tolist()
    every = np.ones(len(X), dtype=bool)
    takes_groups = has_fit_parameter(detector, "groups")
    parts = [every] if takes_groups else [sections == name for name in dict.fromkeys(sections)]
    anomaly_score, decision = np.full(len(X), np.nan), np.zeros(len(X), dtype=int)
    for part in tqdm(parts, desc="sections", disable=not verbose or takes_groups):
        train, test = (np.flatnonzero(part & (data.split == s)) for s in ("train", "test"))
        fitted = fit_with(clone(detector), X[train], rows_of(metadata, train))
        groups = sections[test].tolist()
        anomaly_score[test] = -call_with_groups(fitted, "score_samples", X[test], groups)
        decision[test] = call_with_groups(fitted, "predict", X[test], groups) == -1
    is_test = data.split == "test"
    return {"anomaly_score": anomaly_score[is_test], "decision": decision[is_test]}


def _embed(
    steps: Pipeline,
    data: Bunch,
    extra: list[str],
    extra_labels: list[Hashable],
    cache: str | PathLike[str] | None,
    verbose: int,
) -> NDArray:
    """Fit the steps on all training clips, and embed the clips machine by machine."""
    train = np.flatnonzero(data.split == "train")
    clips = np.append(data.paths[train], extra)
    metadata = {"labels": [*data.label[train].tolist(), *extra_labels]}
    folder: Path | None = None
    if cache is not None:
        trained_on = [*(data.state[row] for row in train), *map(file_state, extra)]
        key = joblib.hash([skanopatch.__version__, clone(steps), trained_on, metadata["labels"]])
        folder = Path(cache) / key

    @cached
    def embedder() -> Pipeline:
        return _keep(
            folder and folder / "embedder.joblib",
            lambda: fit_with(clone(steps), clips, metadata),
        )

    def embed(paths: NDArray) -> NDArray:
        return np.asarray(embedder().transform(paths))

    parts: list[tuple[NDArray[np.intp], NDArray]] = []
    for machine in tqdm(dict.fromkeys(data.machine.tolist()), "embedding", disable=not verbose):
        rows = np.flatnonzero((data.machine == machine) & (data.split != "supplemental"))
        name = f"{machine}_{joblib.hash([data.state[row] for row in rows])}.joblib"
        compute = partial(embed, data.paths[rows])
        parts.append((rows, _keep(folder and folder / name, compute)))
    embeddings = np.full((len(data.paths), *parts[0][1].shape[1:]), np.nan, parts[0][1].dtype)
    for rows, part in parts:
        embeddings[rows] = part
    return embeddings


def _keep(path: Path | None, compute: Callable[[], Any]) -> Any:
    """Return what is kept at a path, or compute it and keep it there; None keeps nothing."""
    if path is not None and path.exists():
        return joblib.load(path)
    value = compute()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            joblib.dump(value, file)
    return value
