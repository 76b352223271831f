"""benchmarks/paper_protocol.py, end to end on a miniature of the challenge."""

import importlib
import re
from pathlib import Path

import pytest
from mini_beats import save_mini_beats

from skanopatch.datasets import load_dcase, make_miniature_dcase, read_challenge_files
from skanopatch.embedding.net import FineTuningNet
from skanopatch.metrics import dcase_scores

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command on two machines, and return what it prints."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    protocol = importlib.import_module("paper_protocol")
    monkeypatch.setattr(protocol, "SECONDS", 1.0)
    beats = save_mini_beats(tmp_path / "mini.pt").removeprefix("beats:")

    def run(year, **options):
        root = tmp_path / str(year)
        if not root.exists():
            machines = ["fan", "valve"] if year == 2020 else ["fan", "grinder"]
            make_miniature_dcase(root, year=year, machines=machines, random_state=0)
        options = {"beats": beats, "work": tmp_path / "run", "workers": 0, "epochs": 2, **options}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        capsys.readouterr()
        protocol.main([str(root), f"--year={year}", *options])
        return capsys.readouterr().out

    return run


pytestmark = pytest.mark.filterwarnings("ignore:.*lacks .* part:UserWarning")


@pytest.mark.parametrize(
    ("year", "subset", "published"), [(2020, "development", 0.909), (2023, "evaluation", 0.742)]
)
def test_a_run_that_is_stopped_goes_on_to_the_official_score(
    run, monkeypatch, tmp_path, year, subset, published
):
    options = {"year": year, "subset": subset, "ground_truth": tmp_path / f"{year}" / "evaluator"}
    straight = run(work=tmp_path / "straight", **options)

    epochs = []
    notify = FineTuningNet.notify

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

    clips = load_dcase(
        tmp_path / f"{year}",
        year=year,
        split="test",
        subset=subset,
        ground_truth=options["ground_truth"],
    )
    place = {"machine": clips.machine, "section": clips.section}
    names = [Path(path).name for path in clips.paths]
    folder = tmp_path / "run" / f"{year}_{subset}_full" / "challenge"
    files = read_challenge_files(folder, names=names, **place)
    scores = dcase_scores(clips.y, files.anomaly_score, domain=clips.domain, year=year, **place)
    printed = re.search(rf"official score {year}: (\S+) .*\npublished: (\S+)", straight)
    assert printed.groups() == (f"{scores.official:.4f}", str(published))


def test_an_evaluation_set_without_its_labels_gets_files_only(run, tmp_path):
    printed = run(2023, subset="evaluation", tuning="lora", epochs=1)
    assert "labels are unknown" in " ".join(printed.split())
    folder = tmp_path / "run" / "2023_evaluation_lora" / "challenge"
    assert len(list(folder.glob("anomaly_score_grinder_section_00_test.csv"))) == 1
