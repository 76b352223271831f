"""Weights from the hub: full, broken off, damaged, absent, offline; and files that are not safe."""

import hashlib
import os
import pickle
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from skanopatch.backbones.hub import Source, read_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISION = f"@{COMMIT}"


class Hub(ThreadingHTTPServer):
    """A hub of one repository "owner/name", on this machine only."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.break_off = False
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        match = re.fullmatch(r"/owner/name/resolve/[^/]+/(.+)", self.path.partition("?")[0])
        content = self.server.files.get(match[1]) if match else None
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if match else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = int(re.search(r"\d+", self.headers.get("Range", "0"))[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return
        self.server.requests.append((match[1], first))
        if self.server.break_off:
            self.server.break_off = False
            self.wfile.write(content[first : len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content[first:])

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub({"model.bin": os.urandom(3 * 2**20), "folder/config.yaml": b"a: 1\n"})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # So that a small file, too, is broken off after some chunks; and retries come at once.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("TQDM_POSITION", "-1")  # shows the progress bar without a terminal, too
    yield server
    server.shutdown()
    server.server_close()


def pinned(content, file="model.bin"):
    return f"owner/name/{file}{REVISION}#{hashlib.sha256(content).hexdigest()}"


def test_a_file_is_downloaded_once_and_verified(hub, capsys):
    content = hub.files["model.bin"]
    source = Source.parse(pinned(content))
    assert source.weights().read_bytes() == content
    assert "model.bin" in capsys.readouterr().err  # the progress bar
    assert source.weights().read_bytes() == content
    assert hub.requests == [("model.bin", 0)]


def test_a_repository_gives_the_first_file_that_it_has(hub):
    hub.files["weights.safetensors"] = b"weights"
    source = Source.parse(f"owner/name{REVISION}#{hashlib.sha256(b'weights').hexdigest()}")
    assert source.weights("absent.pt", "weights.safetensors", "model.bin").name == (
        "weights.safetensors"
    )
    assert Source.parse("owner/name/folder/model.pt").companion("config.yaml").read_text() == (
        "a: 1\n"
    )
    assert source.companion("config.yaml") is None


def test_a_download_that_was_broken_off_is_resumed(hub):
    content = hub.files["model.bin"]
    hub.break_off = True
    assert Source.parse(pinned(content)).weights().read_bytes() == content
    assert hub.requests[0] == ("model.bin", 0)
    _, resumed_at = hub.requests[1]
    assert 0.4 * len(content) < resumed_at <= 0.5 * len(content)


def test_a_damaged_file_is_named_and_downloaded_anew(hub):
    content = hub.files["model.bin"]
    hub.files["model.bin"] = content[:-1] + bytes([content[-1] ^ 1])
    found = hashlib.sha256(hub.files["model.bin"]).hexdigest()
    expected = hashlib.sha256(content).hexdigest()
    with pytest.raises(OSError, match=f"is {found}, but {expected} was expected.*It was removed"):
        Source.parse(pinned(content)).weights()
    hub.files["model.bin"] = content
    assert Source.parse(pinned(content)).weights().read_bytes() == content
    assert len(hub.requests) == 2


@pytest.mark.parametrize("place", ["owner/name/absent.pt", "owner/name"])
def test_an_absent_file_is_named(hub, place):
    with pytest.raises(FileNotFoundError, match=re.escape(repr(place))):
        Source.parse(f"{place}{REVISION}").weights()


def test_an_absent_repository_says_what_to_do(hub):
    message = (
        r"There is no file or folder 'no/where/model.bin', and .*/no/where/resolve/main/model.bin "
        r"could not be downloaded \(.*put it anywhere on this machine, and give its path"
    )
    with pytest.raises(OSError, match=message):
        Source.parse("no/where/model.bin").weights()


def test_offline_what_was_downloaded_is_found_and_the_rest_says_what_to_do(hub, monkeypatch):
    content = hub.files["model.bin"]
    Source.parse(pinned(content)).weights()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert Source.parse(pinned(content)).weights().read_bytes() == content
    with pytest.raises(OSError, match=r"127.0.0.1:9/owner/name/resolve/main/other.bin could not"):
        Source.parse("owner/name/other.bin").weights()


def test_a_name_that_is_not_pinned_warns_with_one_that_is(hub):
    content = hub.files["model.bin"]
    with pytest.warns(UserWarning, match=re.escape(f"Today's are '{pinned(content)}'.")):
        Source.parse("owner/name/model.bin").weights()


def test_a_path_is_verified_where_its_hash_is_given(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    assert Source.parse(str(path)).weights() == path
    assert Source.parse(f"{path}#{hashlib.sha256(b'weights').hexdigest()}").weights() == path
    with pytest.raises(
        OSError, match=r"was expected: the file is damaged, or another one\. It can"
    ):
        Source.parse(f"{path}#{'0' * 64}").weights()
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("model.bin#123", ValueError, "must be a SHA-256 of 64 hexadecimal digits .* Got '123'"),
        ("/nowhere/else/model.bin", FileNotFoundError, "no file or folder '/nowhere/else/model.b"),
    ],
)
def test_a_text_that_is_no_place_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        Source.parse(text).weights()


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_nothing_in_a_file_is_executed(tmp_path):
    # What torch.save writes is refused, and so is a bare pickle.
    torch.save({"model": Intruder(str(tmp_path / "intruded"))}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="nothing else in a file is executed"):
        read_weights(tmp_path / "bad.pt")
    with (tmp_path / "worse.pt").open("wb") as file:
        pickle.dump(Intruder(str(tmp_path / "intruded")), file)
    with pytest.raises(ValueError, match="nothing else in a file is executed"):
        read_weights(tmp_path / "worse.pt")
    assert not (tmp_path / "intruded").exists()


def test_safetensors_bring_their_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(3)}, path, metadata={"cfg": '{"b": 1}', "format": "pt"})
    weights, metadata = read_weights(path)
    assert torch.equal(weights["a"], torch.arange(3))
    assert metadata == {"cfg": {"b": 1}, "format": "pt"}
