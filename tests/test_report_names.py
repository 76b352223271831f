"""Names, labels and titles in the report are text, and the page loads and runs nothing else."""

import base64
import os
import re
from hashlib import sha256

import pytest
import soundfile
from report_pages import RATE, Page, cells, hum

from skanopatch import AnomalousSoundDetector, MelPatcher
from skanopatch.audio import Segment
from skanopatch.report import make_report

HOSTILE_FILE = "<img src=x onerror=alert(1)>.wav"
HOSTILE_LABEL = "</script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def normal_clips():
    return [hum(seed) for seed in range(24)]


@pytest.fixture(scope="module")
def model(normal_clips):
    return AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop").fit(normal_clips)


@pytest.fixture(scope="module")
def clips():
    """Two normal clips, a loud fault and a faint one."""
    return [hum(100), hum(101, whine=0.1), hum(102), hum(103, whine=0.02)]


def test_names_labels_and_title_are_text_and_nothing_else(clips, normal_clips, tmp_path):
    def report_of(name, labels, groups, title):
        files = [tmp_path / f"{i}{name}" for i in range(4)]
        for path, clip in zip(files, [*normal_clips[:3], clips[1]], strict=True):
            soundfile.write(path, clip, RATE)
        detector = AnomalousSoundDetector(MelPatcher(duration=1.0), map_detector="drop")
        fitted = detector.fit(files[:3])
        return Page(make_report(fitted, files[2:], y=labels, groups=groups, title=title))

    hostile = report_of(
        HOSTILE_FILE,
        ["normal", HOSTILE_LABEL],
        ['" onclick="alert(3)', HOSTILE_LABEL],
        HOSTILE_LABEL,
    )
    tame = report_of(".wav", ["normal", "whine"], ["a", "b"], None)
    assert hostile.contents["h1"] == HOSTILE_LABEL
    count = ("img", "button", "style", "option", "svg", "td")
    assert [hostile.tags.count(tag) for tag in count] == [tame.tags.count(tag) for tag in count]
    assert HOSTILE_LABEL in {row["data-group"] for row in hostile.rows}
    assert not any(name.startswith("on") for names in hostile.attributes for name in names)


def test_page_refers_to_nothing_outside_and_runs_only_its_own_script(model, clips):
    html = make_report(model, clips)
    assert "://" not in html
    assert not re.search(r"url\(|@import|\b(src|href)=(?!\"data:)", html)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; media-src blob:;")
    for tag in ("style", "script"):
        allowed = re.search(rf"{tag}-src 'sha256-([^']+)'", policy)[1]
        contents = re.findall(rf'<{tag}(?: type="module")?>(.*?)</{tag}>', html, re.DOTALL)
        assert [base64.b64encode(sha256(c.encode()).digest()).decode() for c in contents] == [
            allowed
        ]
    assert " style=" not in html  # the policy would not let it through


def test_segments_are_named_by_their_file_and_their_seconds(model, tmp_path):
    soundfile.write(tmp_path / "shift.wav", hum(0, seconds=3), RATE)
    segments = [Segment(tmp_path / "shift.wav", start, start + 1) for start in (0, 1.5)]
    html = make_report(model, segments)
    assert set(cells(html, "file")) == {"shift.wav, 0 to 1 s", "shift.wav, 1.5 to 2.5 s"}


def test_file_names_that_are_no_utf_8_make_a_page_that_can_be_written(model, clips, tmp_path):
    name = os.fsencode(tmp_path) + b"/p\xfcmp.wav"
    with open(name, "wb") as file:
        soundfile.write(file, clips[0], RATE, format="WAV")
    html = make_report(model, [os.fsdecode(name)])
    assert cells(html, "file") == ["p\\xfcmp.wav"]
    assert html.encode("utf-8")


def test_file_names_leave_out_the_folder_that_all_share(model, clips, tmp_path):
    paths = [tmp_path / "hall 2" / "monday" / "a.wav", tmp_path / "hall 2" / "b.wav"]
    paths[0].parent.mkdir(parents=True)
    for path, clip in zip(paths, clips, strict=False):
        soundfile.write(path, clip, RATE)
    html = make_report(model, paths)
    assert {name.split()[0] for name in cells(html, "file")} == {"monday/a.wav", "b.wav"}
    assert str(tmp_path) not in html
