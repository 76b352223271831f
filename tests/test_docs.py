"""The examples of the documentation and of the README run with the names that they use."""

import copy
import re
import shlex
import textwrap
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile
import torch
from command_line import make_workspace
from mini_beats import save_mini_beats

from skanopatch import AnomalousSoundDetector, MelPatcher, MelStatistics, save_model
from skanopatch.backbones import beats as beats_module
from skanopatch.backbones.hub import sha256_of
from skanopatch.cli import main
from skanopatch.datasets import make_machine_sounds, make_miniature_dcase
from skanopatch.embedding import training
from skanopatch.streaming.results import WindowResult
from skanopatch.streaming.sinks import open_sink

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
RATE = 16000


def code_blocks(path, language):
    """Return the line number and the text of each block of a language."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
        return [(text[: match.start()].count("\n") + 2, match[1]) for match in found]
    directive = rf"^( *)\.\. code-block:: {language}\n(?:\1 +:.*\n)*((?:\1 +.*\n|\n)+)"
    found = re.finditer(directive, text + "\n", re.M)
    return [(text[: match.start(2)].count("\n") + 1, textwrap.dedent(match[2])) for match in found]


def commands(path):
    """Return the lines of console blocks that call ``skanopatch``, continuation lines joined."""
    blocks = [*code_blocks(path, "console"), *code_blocks(path, "sh")]
    for number, block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            match = re.search(r"(?:^|\| )(?:\$ )?skanopatch (.*)", line.strip())
            if match:
                yield number, match[1]


def name_of(path):
    return path.name


@pytest.fixture(scope="module")
def sounds():
    """Two units of a fan, 1 s a clip, which all pages may use."""
    return make_machine_sounds(
        ["fan"], n_units=2, n_train=12, n_normal=4, n_anomalous=4, target_fraction=0.25,
        duration=1.0, severity=3.0, random_state=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(sounds):
    clips = list(sounds.clips[sounds.split == "train"])
    return AnomalousSoundDetector().fit(clips)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("docs"))


@pytest.fixture
def names(sounds, fitted, workspace, tmp_path, monkeypatch):
    """The names that a page need not define, in a folder in which its files lie."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").symlink_to(workspace / "recordings")
    save_model("fan.skano", fitted)
    # A checkpoint of BEATs of random weights, by the name of the official one.
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    save_mini_beats(checkpoints / "BEATs_iter3.pt")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    digest = sha256_of(checkpoints / "BEATs_iter3.pt")
    monkeypatch.setitem(beats_module.OFFICIAL, "BEATs_iter3.pt", digest)
    monkeypatch.setattr(training, "default_epochs", lambda n_clips: 1)

    is_train, is_test = sounds.split == "train", sounds.split == "test"
    normal, new = list(sounds.clips[is_train]), list(sounds.clips[is_test])
    statistics = MelPatcher(duration=1.0)
    patches, new_patches = (statistics.fit_transform(clips) for clips in (normal, new))
    units, new_units = (list(sounds.section[rows]) for rows in (is_train, is_test))
    features = MelStatistics().fit(patches)
    return {
        "model": copy.deepcopy(fitted),
        "normal_clips": normal,
        "new_clips": new,
        "units": units,
        "new_units": new_units,
        "new_y": list(sounds.y[is_test]),
        "domains": list(sounds.domain[is_train]),
        "days": [i // 2 for i in range(len(normal))],
        "patches": np.asarray(patches),
        "new_patches": np.asarray(new_patches),
        "X": features.transform(patches),
        "new_X": features.transform(new_patches),
        "blocks": np.array_split(np.concatenate(new), 20),
    }


def write_files(folder, clips):
    """Write clips to wav files, and return their paths."""
    folder.mkdir(parents=True)
    for i, clip in enumerate(clips):
        soundfile.write(folder / f"{i:04}.wav", clip, RATE)
    return sorted(folder.glob("*.wav"))


# What a page has beside the names of all pages, and the files that it reads.
def prepare_fine_tuning(names):
    names["machine_and_state"] = names["units"]


def prepare_maintenance(names):
    names["normal_files"] = write_files(Path("files"), names["normal_clips"])
    names["model"].fit(names["normal_files"])
    names["confirmed_normal"] = names["new_clips"][:1]
    names["after_repair"] = names["new_clips"][1:6]


def prepare_metrics(names):
    make_miniature_dcase("data/dcase2023", year=2023, machines=["valve"], random_state=0)


def prepare_model_selection(names):
    names["clips"] = names["normal_clips"] + names["new_clips"]
    names["y"] = [1] * len(names["normal_clips"]) + names["new_y"]


def prepare_quickstart(names):
    names["long_recordings"] = [np.concatenate(names["normal_clips"][:12])]


def prepare_alarms(names):
    names["switch"] = lambda pin, is_on: None


def prepare_trend(names):
    hours = 3600.0 * np.arange(10 * 24)
    scores = 0.7 + 0.05 * np.random.default_rng(0).standard_normal(len(hours))
    with open_sink("sqlite:history.db") as sink:
        for hour, score in zip(hours, scores, strict=True):
            window = WindowResult("fan 3", hour, hour, hour + 10, -score, score, 0.4, "", False, "")
            sink.write(window)


def prepare_scale(names):
    names["machines"] = [f"fan {unit}" for unit in names["units"]]


def prepare_training_free(names):
    names["machines"] = names["units"]
    names["attributes"] = [None] * len(names["units"])


PREPARE = {
    "README.md": prepare_quickstart,
    "alarms_to_tickets.rst": prepare_alarms,
    "fine_tuning.rst": prepare_fine_tuning,
    "maintenance.rst": prepare_maintenance,
    "metrics.rst": prepare_metrics,
    "model_selection.rst": prepare_model_selection,
    "quickstart.rst": prepare_quickstart,
    "scale.rst": prepare_scale,
    "training_free.rst": prepare_training_free,
    "trend.rst": prepare_trend,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_blocks(page, "python")], ids=name_of
)
@pytest.mark.filterwarnings("default")  # clips are few and short here; warnings are not the topic
def test_the_python_blocks_of_a_page_run_in_order(page, names):
    PREPARE.get(page.name, lambda names: None)(names)
    for number, block in code_blocks(page, "python"):
        exec(compile("\n" * (number - 1) + block, page.name, "exec"), names)
        plt.close("all")


@pytest.mark.slow
def test_the_first_example_prints_what_its_page_says(names, capsys):
    page = ROOT / "docs" / "quickstart.rst"
    exec(code_blocks(page, "python")[0][1], names)
    assert capsys.readouterr().out == code_blocks(page, "text")[0][1].strip("\n") + "\n"


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=name_of)
def test_the_commands_of_a_page_exist_with_their_options(page):
    for _, line in commands(page):
        words = shlex.split(line, comments=True)
        if {"|", "<", ">"} & set(words):
            words = words[: min(words.index(sign) for sign in "|<>" if sign in words)]
        if words[0].startswith(("-", "<")):
            continue
        command = main.commands[words[0]]
        context = click.Context(command, info_name=words[0])
        command.make_parser(context).parse_args(words[1:])


def test_blocks_are_read_with_their_lines(tmp_path):
    page = tmp_path / "page.rst"
    page.write_text("Title\n\n.. code-block:: python\n\n    a = 1\n\n    b = 2\n\nText.\n")
    assert [(n, block.strip()) for n, block in code_blocks(page, "python")] == [
        (4, "a = 1\n\nb = 2")
    ]


def test_a_command_that_does_not_exist_is_noticed(tmp_path):
    page = tmp_path / "page.rst"
    page.write_text(".. code-block:: console\n\n    $ skanopatch score m.skano new --jsn -\n")
    with pytest.raises(click.NoSuchOption, match="--jsn"):
        test_the_commands_of_a_page_exist_with_their_options(page)
