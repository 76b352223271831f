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
    "table": table,
}
