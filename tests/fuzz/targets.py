"""What must hold for each kind of damaged file: a documented error, or an answer that is true."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import makers
from skanopatch import AnomalousSoundDetector, MelPatcher, load_model, save_model

Target = tuple[Callable[[int], tuple[str, bytes]], Callable[[Path], str]]


def _clips(n_clips: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).normal(size=(n_clips, 8000)).astype(np.float32)


def _detector(**parameters: Any) -> AnomalousSoundDetector:
    patcher = MelPatcher(duration=0.5, on_error="nan")
    return AnomalousSoundDetector(patcher, **parameters).fit(_clips(12))


def audio(folder: Path) -> Target:
    """A file is read as it says, or refused: then its score is NaN, and it is an anomaly."""
    from skanopatch.audio import clip_duration, load_clip

    model = _detector(map_detector="drop")
    strict = _detector(map_detector="drop")
    strict.patcher_.set_params(on_error="raise")
    model.score_samples(_clips(100))  # finds the libraries whose threads many clips take

    def check(path: Path) -> str:
        reason = None
        try:
            samples = load_clip(str(path), sample_rate=16000, channel=0)
            assert np.isfinite(samples).all(), "samples are not finite"
            seconds = clip_duration(str(path), sample_rate=16000)
            # An MP3 may lack a frame or two of what its header says.
            tolerated = 0.11 if path.suffix == ".mp3" else 0.02
            assert abs(seconds - len(samples) / 16000) < tolerated, "another length"
        except ValueError as error:
            reason = str(error)
        (score,) = model.score_samples([str(path)])
        if reason is not None:
            assert np.isnan(score), f"a score of {score} for what cannot be read: {reason}"
            assert model.predict([str(path)]).tolist() == [-1]
            with contextlib.suppress(ValueError):
                strict.score_samples([str(path)])
                raise AssertionError(f"on_error='raise' takes what load_clip refuses: {reason}")
            return "refused"
        assert np.isfinite(score), "no score for what can be read"
        return "read"

    return makers.audio, check


def model(folder: Path) -> Target:
    """A model file is refused, or gives scores of the right shape or a documented error."""
    file, clips = folder / "original.skano", _clips(3, seed=1)
    save_model(file, _detector())
    return makers.archive_maker(file.read_bytes()), _check_model(clips)


def network(folder: Path) -> Target:
    """The same of a file with a network in it."""
    from sklearn.pipeline import make_pipeline

    from skanopatch import AnoPatchEmbedder, KNNDetector

    file, clips = folder / "original.skano", _clips(3, seed=1)
    pipeline = make_pipeline(
        MelPatcher(duration=0.5), AnoPatchEmbedder(statistics=False), KNNDetector()
    )
    save_model(file, pipeline.fit(_clips(6)))
    return makers.archive_maker(file.read_bytes()), _check_model(clips)


def _check_model(clips: np.ndarray) -> Callable[[Path], str]:
    def check(path: Path) -> str:
        try:
            loaded = load_model(path)
        except ValueError:
            return "refused"
        try:
            scores = loaded.score_samples(clips)
        except (ValueError, AttributeError, TypeError, IndexError, KeyError) as error:
            return f"loaded, {type(error).__name__}"
        assert np.shape(scores) == (len(clips),), "scores of another shape"
        return "loaded"

    return check


def onnx(folder: Path) -> Target:
    """A file of ONNX is refused, or gives scores that agree with what it says of itself.

    Bytes that differ from those of the export must never give a score if the checksum was not made
    anew. Half of the forged files have a network, in a loop over clips.
    """
    from sklearn.pipeline import make_pipeline

    from skanopatch import AnoPatchEmbedder, KNNDetector, OnnxScorer, export_onnx
    from skanopatch.persistence.onnx_file import seal

    network = make_pipeline(
        MelPatcher(duration=0.5), AnoPatchEmbedder(statistics=False), KNNDetector()
    )
    models = {"statistics": _detector(), "network": network.fit(_clips(6))}
    makers_of, clips = [], [*_clips(3, seed=1), _clips(1, seed=2)[0].repeat(3)]
    for name, fitted in models.items():
        file = folder / f"{name}.onnx"
        export_onnx(fitted, file)
        makers_of.append(makers.onnx_maker(file.read_bytes(), seal=seal))
        OnnxScorer(file, n_threads=1).examine(clips)  # imports what is imported when it is used

    def make(seed: int) -> tuple[str, bytes]:
        return makers_of[seed % 2](seed)

    def check(path: Path) -> str:
        try:
            scorer = OnnxScorer(path, n_threads=1)
        except ValueError as error:
            return _refused("refused", error, path)
        content = path.read_bytes()
        body = len(content) - len(seal(b""))
        assert seal(content[:body]) == content[body:], "a damaged file is taken"
        try:
            found = scorer.examine(clips)
        except ValueError as error:
            return _refused("refused when it scores", error, path)
        assert len(found["score"]) == len(clips), "scores of another shape"
        assert not any(found["error"]), "an error of the file is one of a clip"
        has_score = np.isfinite(found["score"])
        assert ((found["p_value"] > 0) & (found["p_value"] <= 1))[has_score].all(), "p-values"
        decided = scorer.predict(clips)
        assert (decided[~has_score & np.isnan(found["score"])] == -1).all(), "NaN is normal"
        assert ((decided == 1) == (found["score"] >= scorer.offset_)).all(), "another threshold"
        return "scored"

    return make, check


def _refused(words: str, error: ValueError, path: Path) -> str:
    assert repr(str(path)) in str(error), "the error does not name the file"
    return words


def table(folder: Path) -> Target:
    """A table is read, or refused with its name."""
    from skanopatch.cli.clips import read_column

    def check(path: Path) -> str:
        try:
            labels = read_column(path, "label", ["clip0.wav", "clip1.wav"])
        except ValueError:
            return "refused"
        assert len(labels) == 2
        return "read"

    return makers.table, check


TARGETS: dict[str, Callable[[Path], Target]] = {
    "audio": audio,
    "model": model,
    "network": network,
    "onnx": onnx,
    "table": table,
}
