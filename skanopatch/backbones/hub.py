"""Where weights come from: a path, or the Hugging Face hub; verified, and never executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open

_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(/(?P<file>.+))?")


class Source(NamedTuple):
    """A place with the files of a model: a file, a folder, or a repository of the hub."""

    text: str
    place: str  # as in the text, without revision and hash
    revision: str | None
    sha256: str | None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read ``"<place>[@<revision>][#<sha256>]"``.

        Parameters
        ----------
        text : str
            The place is a path, or ``"<owner>/<repository>[/<file>]"`` of the hub. The hash is
            that of the file with the weights.

        Raises
        ------
        ValueError
            If the hash is no SHA-256.
        """
        place, _, sha256 = text.partition("#")
        if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(
                "What follows '#' must be a SHA-256 of 64 hexadecimal digits in lower case. "
                f"Got {sha256!r} instead."
            )
        revision = None
        if not Path(place).expanduser().exists():
            place, _, revision = place.partition("@")
        return cls(text, place, revision or None, sha256 or None)

    def weights(self, *names: str) -> Path:
        """Find the file with the weights, download it if it is not here yet, and verify it.

        Parameters
        ----------
        *names : str
            File names that are looked for in a folder or repository, the first one first. A
            source that is a file is that file, whatever its name.

        Raises
        ------
        OSError
            If there is no such file, it cannot be downloaded, or its SHA-256 is not the one
            stated. A download that fails so is taken out of the cache.
        """
        path = self._find(names)
        if path is None:
            raise FileNotFoundError(
                f"{self.place!r} has none of the files {list(names)}."
                if names
                else f"{self.place!r} is not a file. Name one of the files in it."
            )
        is_pinned = self.is_local or (self.revision and self.sha256)
        if self.sha256 or not is_pinned:
            self._verify(path)
        return path

    def companion(self, name: str) -> Path | None:
        """Find a file beside the weights, None if there is none."""
        return self._find((name,), beside=True)

    @property
    def is_local(self) -> bool:
        """Whether the place is a path."""
        return Path(self.place).expanduser().exists()

    def _find(self, names: tuple[str, ...], *, beside: bool = False) -> Path | None:
        if self.is_local:
            path = Path(self.place).expanduser()
            if path.is_file():
                if not beside:
                    return path
                path = path.parent
            return next((path / name for name in names if (path / name).is_file()), None)
        match = _REPOSITORY.fullmatch(self.place)
        if match is None:
            raise FileNotFoundError(
                f"There is no file or folder {self.place!r}, nor is that the name of a repository "
                "on the Hugging Face hub, '<owner>/<repository>[/<file>]'."
            )
        repository, file = match["repository"], match["file"]
        if file is not None:
            folder = file.rpartition("/")[0]
            names = tuple(f"{folder}/{name}".lstrip("/") for name in names) if beside else (file,)
        for name in names:
            downloaded = self._download(repository, name)
            if downloaded is not None:
                return downloaded
        return None

    def _download(self, repository: str, name: str) -> Path | None:
        """Return the path of a file of the hub in the cache, None if the hub has no such file."""
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        url = f"{endpoint}/{repository}/resolve/{self.revision or 'main'}/{name}"
        try:
            path = hf_hub_download(repository, name, revision=self.revision, endpoint=endpoint)
        except Exception as error:  # of the hub's client, or of the HTTP library below it
            is_local = isinstance(error, LocalEntryNotFoundError)  # the hub could not be asked
            if isinstance(error, EntryNotFoundError) and not is_local:
                return None
            raise OSError(
                f"There is no file or folder {self.place!r}, and {url} could not be downloaded "
                f"({str(error).splitlines()[0]}). Get the file where there is a connection, put "
                "it anywhere on this machine, and give its path instead of "
                f"{self.text!r}. Files of models with a config.json belong in one folder, whose "
                "path is then given."
            ) from error
        return Path(path)

    def _verify(self, path: Path) -> None:
        found = sha256_of(path)
        if self.sha256 is None:
            commit = path.parts[path.parts.index("snapshots") + 1]
            warnings.warn(
                f"{self.text!r} says no revision and SHA-256, so it may stand for other weights "
                f"tomorrow. Today's are '{self.place}@{self.revision or commit}#{found}'.",
                UserWarning,
                stacklevel=2,
            )
        elif found != self.sha256:
            removed = ""
            if not self.is_local:
                path.resolve().unlink()
                path.unlink(missing_ok=True)
                removed = " It was removed, so that the next attempt downloads it anew."
            raise OSError(
                f"The SHA-256 of {str(path)!r} is {found}, but {self.sha256} was expected: the "
                f"file is damaged, or another one.{removed} It can also be got by other means, "
                f"put anywhere on this machine, and be given by its path."
            )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint without executing anything in it.

    Parameters
    ----------
    path : Path
        A safetensors file, or one that `torch.save` wrote.

    Returns
    -------
    content : dict
        Tensors by name; of a torch file whatever it holds.
    metadata : dict
        What the header of a safetensors file says, with its JSON values read; else empty.

    Raises
    ------
    ValueError
        If the file holds more than tensors and plain values.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            metadata = {key: _read_json(text) for key, text in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    try:
        return torch.load(path, map_location="cpu", weights_only=True), {}
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as tensors and plain values, and nothing else in a "
            f"file is executed ({str(error).splitlines()[0]}). If you trust it, load it with "
            "torch.load(weights_only=False), and save its tensors as safetensors."
        ) from error


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
