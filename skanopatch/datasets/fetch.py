"""Download of DCASE Challenge Task 2 from Zenodo, verified and resumable."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from tqdm.auto import tqdm

from skanopatch.datasets.layout import SUBSETS, challenge_of, check_choice, check_machines

# dev_data_fan.zip, eval_data_train_fan.zip (2020), eval_data_fan_train.zip, dev_ToyCar_r2.zip
_ARCHIVE = re.compile(
    r"(?:dev|eval)(?:_data)?_(?:(?:train|test)_)?(?P<machine>[^_]+)(?:_(?:train|test))?"
    r"(?:_r(?P<revision>\d+))?\.zip"
)
_RECORDS = {"development": (0,), "evaluation": (1, 2)}  # of Challenge.records
_CHUNK = 2**20  # bytes
_TIMEOUT = 60  # seconds without a byte


def fetch_dcase(
    year: int,
    *,
    root: str | PathLike[str] | None = None,
    machine: str | Sequence[str] | None = None,
    subset: str | None = None,
    base_url: str = "https://zenodo.org",
) -> Path:
    """Download the recordings of DCASE Challenge Task 2 from Zenodo and unpack them.

    A year takes 5 to 30 GB. Archives are checked against Zenodo's MD5 sums. An archive that is
    already there is not downloaded again, and an interrupted download continues where it stopped.
    Archives are kept in ``root / "archives"``. They may be deleted after the call.

    Parameters
    ----------
    year : int
        2020 to 2026.
    root : str or Path, default=None
        The folder to write to. None is ``dcase<year>`` in the user's cache folder for skanopatch.
    machine : str or sequence of str, default=None
        The machine types to fetch. None fetches all.
    subset : {"development", "evaluation"}, default=None
        The set to fetch. None fetches both.
    base_url : str, default="https://zenodo.org"
        The server: Zenodo or a mirror of it.

    Returns
    -------
    root : Path
        The folder of the unpacked recordings, which `load_dcase` takes.

    Raises
    ------
    ImportError
        If pooch is not installed.
    ValueError
        If a parameter is out of its range, or an archive has another MD5 sum than Zenodo says.
    FileNotFoundError
        If Zenodo has no archive of a machine.
    requests.RequestException
        If the server cannot be reached or answers with an error.

    See Also
    --------
    load_dcase : Lists the clips with their labels.

    Examples
    --------
    >>> from skanopatch.datasets import fetch_dcase
    >>> root = fetch_dcase(2023, machine="valve", subset="development")  # doctest: +SKIP
    """
    try:
        import pooch  # imports an HTTP client, which nothing else here needs
    except ImportError as error:
        raise ImportError("fetch_dcase needs pooch: pip install 'skanopatch[fetch]'.") from error
    challenge = challenge_of(year)
    check_choice(subset, "subset", SUBSETS)
    root = Path(pooch.os_cache("skanopatch") / f"dcase{year}" if root is None else root)
    chosen = check_machines(machine, challenge, subset)
    for name in SUBSETS if subset is None else (subset,):
        machines = [owner for owner in challenge.machines(name) if owner in chosen]
        for record in [challenge.records[number] for number in _RECORDS[name]]:
            files = f"{base_url}/api/records/{record}"
            for key, checksum in _choose_archives(_get(files).json(), machines, files).items():
                path = pooch.retrieve(
                    f"{files}/files/{key}/content",
                    known_hash=checksum,
                    fname=key,
                    path=root / "archives" / str(record),
                    downloader=_resuming_downloader(key, root / "archives" / f"{key}.part"),
                )
                _unpack(Path(path), root)
    return root


def _get(url: str, **kwargs: Any) -> Any:
    import requests

    response = requests.get(url, timeout=_TIMEOUT, **kwargs)
    if response.status_code != requests.codes.requested_range_not_satisfiable:
        response.raise_for_status()
    return response


def _choose_archives(record: dict[str, Any], machines: list[str], url: str) -> dict[str, str]:
    """Map the archives of the machines, the last revision of each, to their checksums."""
    latest: dict[str, tuple[int, str, str]] = {}
    for file in record["files"]:
        match = _ARCHIVE.fullmatch(file["key"])
        if match and match["machine"] in machines:
            candidate = (int(match["revision"] or 1), file["key"], file["checksum"])
            latest[match["machine"]] = max(candidate, latest.get(match["machine"], candidate))
    missing = [name for name in machines if name not in latest]
    if missing:
        raise FileNotFoundError(f"The record {url} has no archive of {', '.join(missing)}.")
    return {key: checksum for _, key, checksum in latest.values()}


def _resuming_downloader(name: str, part: Path) -> Callable[[str, str, Any], None]:
    """Make a downloader for pooch that appends to what an interrupted one has left in `part`."""

    def download(url: str, output_file: str, _: Any) -> None:
        done = part.stat().st_size if part.exists() else 0
        response = _get(url, stream=True, headers={"Range": f"bytes={done}-"} if done else {})
        if response.status_code != 416:  # which says that nothing is left to send
            size = int(response.headers.get("Content-Length", 0))
            mode = "ab" if response.status_code == 206 else "wb"
            with (
                part.open(mode) as file,
                tqdm.wrapattr(file, "write", desc=name, total=size) as stream,
            ):
                for chunk in response.iter_content(_CHUNK):
                    stream.write(chunk)
        part.replace(output_file)

    return download


def _unpack(archive: Path, root: Path) -> None:
    """Extract what an earlier, perhaps interrupted, call has not extracted."""
    with ZipFile(archive) as file:
        for member in file.infolist():
            target = root / member.filename
            if not target.is_file() or target.stat().st_size != member.file_size:
                file.extract(member, root)
