"""Fetching DCASE from a server on the loopback that answers as Zenodo does."""

import hashlib
import io
import json
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from skanopatch.datasets import fetch_dcase, load_dcase
from skanopatch.datasets.fetch import _ARCHIVE
from skanopatch.datasets.layout import CHALLENGES


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def train(machine, content=b"sound"):
    return {f"{machine}/train/section_00_source_train_normal_0000_noAttribute.wav": content}


def test(machine):
    return {f"{machine}/test/section_00_0000.wav": b"unknown"}


test.__test__ = False  # it is a folder's name

DEVELOPMENT, TRAINING, EVALUATION = CHALLENGES[2026].records
RECORDS = {
    DEVELOPMENT: {
        "dev_fan.zip": zipped(train("fan")),
        "dev_ToyCar.zip": zipped(train("ToyCar", b"withdrawn")),
        "dev_ToyCar_r2.zip": zipped(train("ToyCar", b"revised")),
        "LICENSE.pdf": b"%PDF",
    },
    TRAINING: {"eval_data_Sander_train.zip": zipped(train("Sander"))},
    EVALUATION: {"eval_data_Sander_test.zip": zipped(test("Sander"))},
}


class Zenodo(BaseHTTPRequestHandler):
    """Knows the records' JSON, their files and byte ranges; breaks off after `limit` bytes."""

    def do_GET(self):
        record, *key = re.fullmatch(
            r"/api/records/(\d+)(?:/files/(.+)/content)?", self.path
        ).groups()
        files = self.server.records[int(record)]
        self.server.requests.append((key[0], self.headers.get("Range")))
        if key[0] is None:
            listed = [
                {"key": name, "checksum": f"md5:{self.server.md5(content)}"}
                for name, content in files.items()
            ]
            self.answer(200, json.dumps({"files": listed}).encode())
            return
        content, start = files[key[0]], self.headers.get("Range")
        if start is None:
            self.answer(200, content)
        elif (first := int(start[6:-1])) < len(content):
            self.answer(206, content[first:])
        else:
            self.answer(416, b"")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body[: self.server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def zenodo():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Zenodo)
    server.records, server.requests, server.limit = RECORDS, [], None
    server.md5 = lambda content: hashlib.md5(content).hexdigest()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def downloads(server):
    return [key for key, _ in server.requests if key]


def test_recordings_arrive_and_are_listed(zenodo, tmp_path):
    for machine, subset in (("fan", "development"), ("Sander", None)):
        root = fetch_dcase(2026, root=tmp_path, machine=machine, subset=subset, base_url=zenodo.url)
    assert root == tmp_path
    clips = load_dcase(root, year=2026, machine=["fan", "Sander"], split="train")
    assert clips.machine.tolist() == ["Sander", "fan"]
    assert (tmp_path / "Sander" / "test" / "section_00_0000.wav").read_bytes() == b"unknown"
    assert downloads(zenodo) == [
        "dev_fan.zip",
        "eval_data_Sander_train.zip",
        "eval_data_Sander_test.zip",
    ]


def test_the_last_revision_counts_and_nothing_is_fetched_twice(zenodo, tmp_path):
    arguments = {"root": tmp_path, "machine": "ToyCar", "subset": "development"}
    fetch_dcase(2026, **arguments, base_url=zenodo.url)
    clip = next((tmp_path / "ToyCar" / "train").iterdir())
    assert clip.read_bytes() == b"revised"
    clip.unlink()
    fetch_dcase(2026, **arguments, base_url=zenodo.url)
    assert clip.read_bytes() == b"revised"  # unpacked again, from the archive on the disk
    assert downloads(zenodo) == ["dev_ToyCar_r2.zip"]


def test_an_interrupted_download_goes_on_where_it_stopped(zenodo, tmp_path):
    arguments = {"root": tmp_path, "machine": "fan", "subset": "development"}
    content = RECORDS[DEVELOPMENT]["dev_fan.zip"]
    part = tmp_path / "archives" / "dev_fan.zip.part"
    part.parent.mkdir()
    part.write_bytes(content[:50])
    fetch_dcase(2026, **arguments, base_url=zenodo.url)
    assert zenodo.requests[-1] == ("dev_fan.zip", "bytes=50-")
    assert (tmp_path / "archives" / str(DEVELOPMENT) / "dev_fan.zip").read_bytes() == content
    assert not part.exists()
    assert (tmp_path / "fan" / "train").exists()


def test_a_broken_connection_leaves_what_has_arrived(zenodo, tmp_path):
    arguments = {"root": tmp_path, "machine": "fan", "subset": "development"}
    zenodo.records = {
        DEVELOPMENT: {"dev_fan.zip": zipped(train("fan", bytes(3_000_000)))},
    }
    zenodo.limit = 2_000_000
    with pytest.raises(requests.RequestException):
        fetch_dcase(2026, **arguments, base_url=zenodo.url)
    part = tmp_path / "archives" / "dev_fan.zip.part"
    arrived = part.stat().st_size
    assert 0 < arrived <= zenodo.limit
    zenodo.limit = None
    fetch_dcase(2026, **arguments, base_url=zenodo.url)
    assert zenodo.requests[-1] == ("dev_fan.zip", f"bytes={arrived}-")
    assert next((tmp_path / "fan" / "train").iterdir()).stat().st_size == 3_000_000


def test_a_complete_part_needs_no_byte(zenodo, tmp_path):
    part = tmp_path / "archives" / "dev_fan.zip.part"
    part.parent.mkdir()
    part.write_bytes(RECORDS[DEVELOPMENT]["dev_fan.zip"])
    fetch_dcase(2026, root=tmp_path, machine="fan", subset="development", base_url=zenodo.url)
    assert (tmp_path / "fan" / "train").exists()


def test_another_checksum_is_refused_and_not_kept(zenodo, tmp_path):
    zenodo.md5 = lambda content: hashlib.md5(content + b"!").hexdigest()
    with pytest.raises(ValueError, match=r"MD5 hash of downloaded file .* does not match"):
        fetch_dcase(2026, root=tmp_path, machine="fan", subset="development", base_url=zenodo.url)
    assert not list(tmp_path.rglob("*.wav"))
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_not_there_is_named(zenodo, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=rf"/api/records/{DEVELOPMENT} has no archive of va"
    ):
        fetch_dcase(
            2026, root=tmp_path, machine="valveEmu", subset="development", base_url=zenodo.url
        )
    with pytest.raises(ValueError, match=r"^year must be one of the challenges"):
        fetch_dcase(2019, root=tmp_path, base_url=zenodo.url)
    assert not downloads(zenodo)


@pytest.mark.parametrize(
    "name",
    [
        "dev_data_ToyCar.zip",  # 2020 and 2021
        "eval_data_train_ToyCar.zip",  # 2020
        "eval_data_ToyCar_train.zip",  # 2021 and later
        "eval_data_ToyCar_test_r2.zip",
        "dev_ToyCar.zip",  # 2022 and later
    ],
)
def test_names_of_archives_of_all_years(name):
    assert _ARCHIVE.fullmatch(name)["machine"] == "ToyCar"
