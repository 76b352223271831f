"""OnnxScorer: decisions on clips by an ONNX file, without torch, scikit-learn and SciPy.

At import it needs NumPy only, and onnxruntime when a file is opened. What reads recordings is
imported when a clip is no array of floats.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from skanopatch.persistence.onnx_file import read_file

_BATCH_SIZE = 8  # windows that are scored together: maps take memory


class _WrongGraph(ValueError):
    """The graph of a file cannot be computed, or contradicts its properties: it was forged."""


class OnnxScorer:
    """Score clips with an ONNX file that `export_onnx` wrote.

    The scores are nearly those of the exported model. The scorer has the methods of an outlier
    detector of scikit-learn and is already fitted: `fit` does nothing.

    Parameters
    ----------
    path : str or Path
        The ONNX file.
    n_threads : int or None, default=None
        Number of threads that compute. None lets onnxruntime choose: one per core.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a clip cannot be used. "raise" raises an error that names it. "nan" gives
        it the score NaN, with one warning for all such clips.

    Attributes
    ----------
    offset_ : float
        The threshold: a clip with a lower score is an anomaly. ``score / offset_`` is the distance
        of a clip divided by that of the threshold.
    sample_rate_ : int
        Sample rate in Hz that a clip must have if it is a bare array.
    duration_ : float
        Length of a window in seconds.
    hop_ : float or None
        Seconds from the start of one window of a longer clip to the start of the next. With None
        only the first window of a clip is used.
    n_features_in_ : int
        Number of samples of a window.
    metadata_ : dict
        All properties of the file (:ref:`onnx`).

    Raises
    ------
    ValueError
        When the file is opened: if it was not written by `export_onnx`, is damaged, was changed
        since, or refers to other files. When clips are scored: if the graph of the file fails, or
        its results contradict its properties.
    FileNotFoundError
        If there is no such file.
    ImportError
        If onnxruntime is missing.

    See Also
    --------
    export_onnx : Writes the file.

    Notes
    -----
    A file from somebody else runs no code of its own, and no other file is read. But a forged file
    can give any scores, take long and use much memory.

    Examples
    --------
    See `export_onnx`.
    """

    _estimator_type = "outlier_detector"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        on_error: str = "raise",
    ) -> None:
        self.path = path
        self.n_threads = n_threads
        self.on_error = on_error
        self._open()

    def _open(self) -> None:
        if self.on_error not in ("raise", "nan"):
            raise ValueError(f"on_error must be 'raise' or 'nan'. Got {self.on_error!r} instead.")
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("OnnxScorer needs onnxruntime: pip install onnxruntime.") from error
        content, self.metadata_ = read_file(self.path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        if self.n_threads is not None:
            options.intra_op_num_threads = self.n_threads
        wrong = f"{os.fspath(self.path)!r} is no file of skanopatch.export_onnx"
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has types of its own for a wrong graph
            raise ValueError(f"{wrong}: {error}") from error
        inputs = [(source.name, source.type) for source in self._session.get_inputs()]
        self._names = [output.name for output in self._session.get_outputs()]
        missing = {"score", "decision", "p_value"} - set(self._names)
        if "map_of_score" in self._names:
            missing |= {"map", "map_of_moments"} - set(self._names)
        if missing or inputs != [("waveform", "tensor(float)")]:
            raise ValueError(f"{wrong}: it takes {inputs} and gives {self._names}.")
        self.offset_ = float(self.metadata_["offset"])
        self.sample_rate_ = int(self.metadata_["sample_rate"])
        self.duration_ = float(self.metadata_["duration"])
        self.hop_ = self.metadata_["hop"]
        self.n_features_in_ = int(self.metadata_["window_samples"])
        self._has_map = "map" in self._names
        self._training_scores = np.array(self.metadata_["training_scores"])
        self._session_weights = np.array(self.metadata_["session_weights"])

    # --- What scikit-learn asks of estimators ---------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return self.get_params()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __repr__(self) -> str:
        return f"OnnxScorer({os.fspath(self.path)!r})"

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="outlier_detector",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(string=True),
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters."""
        return {"path": self.path, "n_threads": self.n_threads, "on_error": self.on_error}

    def set_params(self, **params: Any) -> Self:
        """Set parameters, and open the file again."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"OnnxScorer has no parameter {name!r}.")
            setattr(self, name, value)
        self._open()
        return self

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Do nothing: the file holds what was learnt.

        Parameters
        ----------
        X, y : Ignored

        Returns
        -------
        self : object
        """
        return self

    # --- Scores -------------------------------------------------------------------------------

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return how normal each clip is: minus the distance of its worst window.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)
            A clip is a path, a `Segment` of a file, a 1-D array at `sample_rate_` or a pair
            (array, sample_rate), of any length.

        Returns
        -------
        scores : ndarray of shape (n_clips,)
            Float64, higher = more normal. With ``on_error="nan"``, NaN for clips that cannot be
            used.

        Raises
        ------
        ValueError
            If clips cannot be used, with ``on_error="raise"``; the message names them.
        """
        return self.examine(X)["score"]

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return ``score_samples(X) - offset_``, of shape (n_clips,): negative for anomalies."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int_]:
        """Return decisions of shape (n_clips,): +1 normal, -1 anomaly or no score."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[np.int_]:
        """Return `predict(X)`."""
        return self.predict(X)

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """Return ``-score_samples(X)``, of shape (n_clips,): higher = more anomalous."""
        return -self.score_samples(X)

    def relative_scores(self, scores: NDArray) -> NDArray[np.float64]:
        """Convert scores to those of reports: 1 is the threshold, and higher is more anomalous.

        Parameters
        ----------
        scores : ndarray of shape (n_clips,)
            Results of `score_samples`.

        Returns
        -------
        relative : ndarray of shape (n_clips,)
            ``scores / offset_`` if `offset_` is negative, as usual; else 1 plus the distance below
            `offset_`, in units of `offset_`.
        """
        if self.offset_ < 0:
            return scores / self.offset_
        with np.errstate(over="ignore"):
            return 1 + (self.offset_ - scores) / max(self.offset_, np.finfo(np.float64).tiny)

    def p_values(self, X: Any) -> NDArray[np.float64]:
        """Return the share of normal clips that are at least as anomalous as each clip.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)

        Returns
        -------
        p_values : ndarray of shape (n_clips,)
            Conformal p-values in (0, 1], float64; NaN for clips that cannot be used.
        """
        return self.examine(X)["p_value"]

    def anomaly_map(self, X: Any) -> NDArray[np.float64]:
        """Return how anomalous each cell of the worst window of each clip is.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)

        Returns
        -------
        maps : ndarray of shape (n_clips, n_time, n_freq)
            Float64, 1 is the threshold; NaN for clips that cannot be used.

        Raises
        ------
        AttributeError
            If the file has no maps.
        """
        if not self._has_map:
            raise AttributeError(
                f"{os.fspath(self.path)!r} has no maps. Export a model that has, with maps=True."
            )
        return self.examine(X)["map"]

    def examine(self, X: Any) -> dict[str, Any]:
        """Return scores, p-values, worst windows and maps of clips, all from one computation.

        Parameters
        ----------
        X : sequence of clips, or array-like of shape (n_clips, n_samples)

        Returns
        -------
        clips : dict
            Arrays of shape (n_clips,): "score"; "p_value"; "start" and "stop" of the worst window
            and "length" of the clip, in seconds; "n_windows", the number of windows. The list
            "error" says why a clip cannot be used, or is "". If the file has maps, "map" has the
            shape (n_clips, n_time, n_freq).

        Raises
        ------
        ValueError
            If clips cannot be used, with ``on_error="raise"``; the message names them.
        """
        rows = [self._of_clip(clip) for clip in X]
        errors = [row.pop("error") for row in rows]
        self._report(errors, X)
        self._warn_of_long_clips([row["length"] for row in rows])
        table: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in _NUMBERS}
        table["error"] = errors
        if self._has_map:
            shape = next((row["map"].shape for row in rows if row["map"] is not None), (0, 0))
            empty = np.full(shape, np.nan)
            maps = [empty if row["map"] is None else row["map"] for row in rows]
            table["map"] = np.stack(maps) if maps else np.empty((0, *shape))
        return table

    def _of_clip(self, clip: Any) -> dict[str, Any]:
        """Return the row of a clip, as `examine` names its values, and its map."""
        row: dict[str, Any] = {**dict.fromkeys(_NUMBERS, np.nan), "n_windows": 1, "map": None}
        try:
            windows, starts, length = self._windows(clip)
            outputs = []
            for first in range(0, len(windows), _BATCH_SIZE):
                batch = np.stack([self._samples(w) for w in windows[first : first + _BATCH_SIZE]])
                outputs.append(self._run(batch))
        except _WrongGraph:
            raise
        except ValueError as error:
            return {**row, "error": str(error)}
        scores, p_values = (np.concatenate([o[n] for o in outputs]) for n in ("score", "p_value"))
        worst = int(scores.argmin())
        number = len(windows)
        row |= {"start": starts[worst], "stop": min(starts[worst] + self.duration_, length)}
        row |= {"length": length, "n_windows": number, "error": ""}
        row["score"] = float(scores[worst] / self._ratio(number))
        row["p_value"] = float(p_values[0]) if number == 1 else self._p_value(row["score"])
        if self._has_map:
            own = {
                name: v[worst % _BATCH_SIZE] for name, v in outputs[worst // _BATCH_SIZE].items()
            }
            row["map"] = own["map"]
            if number > 1 and "map_of_score" in own:
                of_score = own["map_of_score"] / self._ratio(number)
                row["map"] = np.maximum(own["map_of_moments"], of_score)
        return row

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray]:
        """Return what the graph gives for windows; a forged one may fail, or contradict itself."""
        try:
            values = self._session.run(None, {"waveform": batch})
        except Exception as error:  # onnxruntime has types of its own
            raise _WrongGraph(f"{os.fspath(self.path)!r} gives no scores: {error}") from error
        outputs = dict(zip(self._names, values, strict=True))
        score, p_value = outputs["score"], outputs["p_value"]
        shapes = {np.shape(outputs[name]) for name in ("score", "decision", "p_value")}
        maps = {np.shape(outputs[name]) for name in self._names if name.startswith("map")}
        is_right = all(len(shape) == 3 and shape[0] == len(batch) for shape in maps)
        if shapes != {(len(batch),)} or len(maps) > 1 or not is_right:
            found = {name: np.shape(value) for name, value in outputs.items()}
            raise _WrongGraph(
                f"{os.fspath(self.path)!r} gives outputs of the shapes {found} for {len(batch)} "
                "windows."
            )
        expected = score - self.offset_
        agrees = np.allclose(outputs["decision"], expected, rtol=1e-9, atol=1e-12, equal_nan=True)
        if not agrees or not ((p_value > 0) & (p_value <= 1) | np.isnan(score)).all():
            raise _WrongGraph(
                f"{os.fspath(self.path)!r} contradicts itself: with the offset {self.offset_} it "
                f"gives the scores {score}, the decisions {outputs['decision']} and the p-values "
                f"{p_value}."
            )
        return outputs

    def _ratio(self, number: int) -> float:
        """Return the threshold of the worst of so many windows, over that of one."""
        if number == 1:
            return 1.0
        known = np.log(self.metadata_["window_numbers"])
        return float(np.interp(np.log(number), known, self.metadata_["window_ratios"]))

    def _p_value(self, score: float) -> float:
        weights = self._session_weights
        return float((1 + weights[self._training_scores <= score].sum()) / (1 + weights.sum()))

    def _windows(self, clip: Any) -> tuple[list[Any], list[float], float]:
        """Return the windows of a clip, where they start, and the length of all in seconds."""
        if not _is_floats(clip):
            return self._windows_of_recording(clip)
        samples, rate = np.asarray(clip, dtype=np.float32), self.sample_rate_
        if samples.ndim != 1:
            raise ValueError(f"a bare array must be 1-D. Got shape {samples.shape} instead")
        length = len(samples) / rate
        starts = self._starts(length)
        if len(starts) == 1:
            return [samples], starts, length
        stops = [start + self.duration_ for start in starts]
        return (
            [
                samples[round(a * rate) : round(b * rate)]
                for a, b in zip(starts, stops, strict=True)
            ],
            starts,
            length,
        )

    def _windows_of_recording(self, clip: Any) -> tuple[list[Any], list[float], float]:
        from skanopatch.audio import clip_duration
        from skanopatch.recipes.windows import cut_windows

        length = clip_duration(clip, sample_rate=self.sample_rate_)
        if self.hop_ is None:
            return [clip], [0.0], length
        windows = cut_windows(
            [clip], duration=self.duration_, hop=self.hop_, sample_rate=self.sample_rate_
        )
        return list(windows.X), windows.starts.tolist(), length

    def _starts(self, length: float) -> list[float]:
        """Return where the windows of a clip start: the last one ends with the clip."""
        if self.hop_ is None or length <= self.duration_:
            return [0.0]
        last = length - self.duration_
        n_more = int(np.ceil(round(last / self.hop_, 6)))
        return [min(i * self.hop_, last) for i in range(n_more + 1)]

    def _samples(self, window: Any) -> NDArray[np.float32]:
        """Return the samples of a window, repeated from the start if they are too few."""
        if not _is_floats(window):
            from skanopatch.audio import load_clip

            return load_clip(
                window,
                sample_rate=self.sample_rate_,
                channel=self.metadata_["channel"],
                duration=self.n_features_in_ / self.sample_rate_,
            )
        samples = np.asarray(window, dtype=np.float32)
        if not len(samples):
            raise ValueError("it has no samples")
        if not np.isfinite(samples).all():
            raise ValueError("it contains NaN or infinity")
        return np.resize(samples, self.n_features_in_)

    def _report(self, errors: Sequence[str], X: Any) -> None:
        """Raise or warn if clips cannot be used."""
        bad = [(i, error) for i, error in enumerate(errors) if error]
        if not bad:
            return
        lines = "".join(f"\n- {_name(X[i], i)}: {error}" for i, error in bad[:20])
        if len(bad) > 20:
            lines += f"\n- and {len(bad) - 20} more"
        text = f"{len(bad)} of {len(errors)} clips cannot be used"
        if self.on_error == "raise":
            raise ValueError(
                f"{text}:{lines}\nLeave them out, or set on_error='nan': they then score NaN."
            )
        warnings.warn(f"{text} and score NaN:{lines}", UserWarning, stacklevel=4)

    def _warn_of_long_clips(self, lengths: Sequence[float]) -> None:
        """Say of how many clips only the beginning is used."""
        longer = [length for length in lengths if length > 1.001 * self.duration_]
        if self.hop_ is None and longer:
            warnings.warn(
                f"{len(longer)} of {len(lengths)} clips are longer than the {self.duration_:g} s "
                f"that are scored, up to {max(longer):g} s: the rest of them is not used. An "
                "exported AnomalousSoundDetector takes long recordings apart.",
                UserWarning,
                stacklevel=4,
            )


_NUMBERS = ("score", "p_value", "start", "stop", "length", "n_windows")


def _is_floats(clip: Any) -> bool:
    is_array = isinstance(clip, np.ndarray) and not np.ma.is_masked(clip)
    return is_array and clip.dtype.kind == "f"


def _name(clip: Any, index: int) -> str:
    return repr(os.fspath(clip)) if isinstance(clip, (str, os.PathLike)) else f"clip {index}"
