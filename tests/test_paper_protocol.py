"""benchmarks/paper_protocol.py, end to end on miniatures of the challenge."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mini_beats import save_mini_beats

from skanopatch.datasets import load_dcase, make_miniature_dcase, read_challenge_files
from skanopatch.datasets.layout import challenge_of
from skanopatch.embedding.net import FineTuningNet
from skanopatch.metrics import dcase_scores

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def protocol(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("paper_protocol")


@pytest.fixture
def run(protocol, capsys, tmp_path):
    """Run the command on two machines, and return what it prints."""
    backbone = save_mini_beats(tmp_path / "mini.pt")

    def run(year, **options):
        root, subset = tmp_path / str(year), options.get("subset", "development")
        if not root.exists():
            machines = challenge_of(year).machines(subset)[:2]
            make_miniature_dcase(root, year=year, machines=machines, random_state=0)
        options = {"backbone": backbone, "work": tmp_path / "run", "workers": 0, **options}
        if subset == "evaluation":
            options.setdefault("ground_truth", root / "evaluator")
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value]
        given += ["--workers=0", "--quick", "--seeds", *map(str, seeds_of(options))]
        given = [argument for argument in given if not argument.startswith("--seeds=")]
        capsys.readouterr()
        protocol.main([str(root), f"--year={year}", *given])
        return capsys.readouterr().out

    return run


def seeds_of(options):
    return options.get("seeds", (0,))


def official(output):
    return [float(score) for score in re.findall(r"official score \d+: (\S+)", output)]


pytestmark = pytest.mark.filterwarnings("ignore:.*lacks .* part:UserWarning")


@pytest.mark.slow
@pytest.mark.parametrize("year", range(2020, 2027))
def test_every_year_ends_in_its_official_score(run, year, tmp_path):
    subset = "evaluation" if year in (2020, 2023, 2024, 2025) else "development"
    output = run(year, subset=subset)
    (score,) = official(output)
    assert 0 <= score <= 1  # 0 where the few clips of a section are in the wrong order
    assert f"mean over 1 seeds: {score:.4f}\n" in output
    published = {2020: "0.943", 2023: "0.7775 (best)", 2024: "0.662", 2025: "0.626"}
    assert f"{published.get(year, 'published: none')}" in output

    truth = tmp_path / f"{year}" / "evaluator" if subset == "evaluation" else None
    clips = load_dcase(
        tmp_path / f"{year}", year=year, split="test", subset=subset, ground_truth=truth
    )
    where = {"machine": clips.machine, "section": clips.section}
    names = [Path(path).name for path in clips.paths]
    folder = tmp_path / "run" / f"{year}_{subset}_lora_arcface0.2_seed0" / "challenge"
    files = read_challenge_files(folder, names=names, **where)
    scores = dcase_scores(clips.y, files.anomaly_score, domain=clips.domain, year=year, **where)
    assert f"{scores.official:.4f}" == f"{score:.4f}"


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_to_the_same_score(run, monkeypatch, tmp_path):
    options = {"year": 2023, "loss": "adacos", "epochs": 2}
    straight = run(work=tmp_path / "straight", **options)
    epochs, notify = [], FineTuningNet.notify

    def watch(net, method_name, **kwargs):
        if method_name == "on_epoch_begin":
            if epochs == [0]:
                epochs.append("stopped")
                raise KeyboardInterrupt
            epochs.append(len(net.history))
        notify(net, method_name, **kwargs)

    monkeypatch.setattr(FineTuningNet, "notify", watch)
    with pytest.raises(KeyboardInterrupt):
        run(**options)
    assert run(**options) == straight
    assert epochs == [0, "stopped", 1]
    assert run(**options) == straight  # from what is there
    assert len(epochs) == 3


@pytest.mark.slow
def test_seeds_are_averaged(run, tmp_path):
    output = run(2020, seeds=(0, 1), margin=0.5)
    scores = official(output)
    assert len(scores) == 2
    mean, spread = re.search(r"mean over 2 seeds: (\S+) ± (\S+)", output).groups()
    np.testing.assert_allclose(float(mean), np.mean(scores), atol=1e-4)
    np.testing.assert_allclose(float(spread), np.std(scores, ddof=1), atol=1e-4)
    assert len(list((tmp_path / "run").glob("2020_development_lora_arcface0.5_seed*"))) == 2


def test_the_settings_are_those_of_the_protocol(protocol):
    options = protocol.parse(["data", "--year=2024", "--backbone=vit_tiny", "--work=run"])
    embedder = protocol.make_pipeline(options, 7)[1]
    training = embedder.fine_tuning
    assert (embedder.batch_size, embedder.pooling, embedder.random_state) == (8, "attentive", 7)
    assert (training.tuning, training.lora_rank, training.n_dims) == ("lora", 64, 256)
    assert (training.scale, training.margin, training.mixup) == (30.0, 0.2, 0.5)
    assert (training.optimizer, training.lr) == ("AdamW", 1e-4)
    assert (training.warmup, training.max_epochs) == (5000, 25)
    options = protocol.parse(
        ["data", "--year=2024", "--backbone=vit_tiny", "--work=run", "--loss=adacos"]
    )
    assert protocol.make_pipeline(options, 0)[1].fine_tuning.scale == "adaptive"


@pytest.mark.slow
@pytest.mark.parametrize("year", [2025, 2026])
def test_supplemental_clips_are_further_classes_or_noise(
    run, protocol, year, tmp_path, monkeypatch
):
    given, evaluate = [], protocol.evaluate_dcase

    def watch(*arguments, **options):
        given.append((options["extra_clips"], options["extra_labels"]))
        return evaluate(*arguments, **options)

    monkeypatch.setattr(protocol, "evaluate_dcase", watch)
    outputs = [run(year, supplemental=kind) for kind in ("none", "classes", "noise")]
    clips = load_dcase(tmp_path / str(year), year=year, subset="development")
    sound = clips.attributes["sound"].fillna("")
    further, train = clips.split == "supplemental", clips.split == "train"
    noisy = clips.machine[sound == "noise"][0]  # one machine has noise, the other itself alone
    assert set(sound[further]) == {"machine", "noise"}
    none, (class_paths, class_labels), (noise_paths, noise_labels) = given

    assert none == ([], [])
    assert class_paths == clips.paths[further].tolist()
    assert not set(class_labels) & set(clips.label[train])
    rows = np.flatnonzero(train & (clips.machine == noisy))
    assert noise_labels == clips.label[rows].tolist()
    of_noise = clips.paths[further & (sound == "noise").to_numpy()]
    noises = [soundfile.read(path, always_2d=True)[0] for path in of_noise]
    for path, row in zip(noise_paths, rows, strict=True):
        mixed, _ = soundfile.read(path, always_2d=True)
        clip, _ = soundfile.read(clips.paths[row], always_2d=True)
        added = mixed - clip
        below = 10 * np.log10(np.mean(clip**2) / np.mean(added**2))
        assert -0.1 < below < 10.1
        spectra = [np.abs(np.fft.rfft(sound[:, 0])) for sound in (added, *noises)]
        assert np.corrcoef(spectra)[0, 1:].max() > 0.99  # one of them, moved in time

    counts = [int(re.search(r"(\d+) clips to train on", output).group(1)) for output in outputs]
    assert counts == [train.sum() + n for n in (0, further.sum(), len(rows))]
    written = {path: Path(path).stat().st_mtime_ns for path in noise_paths}
    assert run(year, supplemental="noise") == outputs[2]
    assert {path: Path(path).stat().st_mtime_ns for path in noise_paths} == written
    folders = {path.name for path in (tmp_path / "run").glob(f"{year}_*")}
    name = f"{year}_development_lora_arcface0.2"
    assert folders == {f"{name}{kind}_seed0" for kind in ("", "_classes", "_noise")}


def test_years_without_supplemental_clips_say_so(run):
    with pytest.raises(ValueError, match=r"no supplemental clips of 2023 .*'noise'"):
        run(2023, supplemental="noise")


def test_the_cost_counts_the_operations_of_every_epoch(run):
    def cost(output):
        pattern = r"(\d+) clips to train on, (\d+) steps, (\S+) GFLOP a clip; .* (\S+) PFLOP"
        return [float(number) for number in re.search(pattern, output).groups()]

    clips, steps, per_clip, total = cost(run(2023))
    assert steps == np.ceil(clips / 8)
    assert total * 1e6 > clips * per_clip
    _, more_steps, same, larger = cost(run(2023, epochs=3))
    assert (more_steps, same) == (3 * steps, per_clip)
    np.testing.assert_allclose((larger - total) * 1e6, 2 * clips * per_clip, rtol=0.02)


def test_an_evaluation_set_without_its_labels_gets_files_only(run, tmp_path):
    output = run(2023, subset="evaluation", ground_truth=None, tuning="head")
    assert "labels are unknown" in " ".join(output.split())
    assert "mean over" not in output
    folder = tmp_path / "run" / "2023_evaluation_head_arcface0.2_seed0" / "challenge"
    assert list(folder.glob("anomaly_score_*_section_00_test.csv"))
