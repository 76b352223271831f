"""Data sets: the machine-sound simulator, DCASE Task 2 and own recordings."""

from skanopatch.datasets.challenge import read_challenge_files, write_challenge_files
from skanopatch.datasets.dcase import load_dcase
from skanopatch.datasets.fetch import fetch_dcase
from skanopatch.datasets.folder import load_folder
from skanopatch.datasets.machine_sounds import make_machine_sounds
from skanopatch.datasets.miniature import make_miniature_dcase

__all__ = [
    "fetch_dcase",
    "load_dcase",
    "load_folder",
    "make_machine_sounds",
    "make_miniature_dcase",
    "read_challenge_files",
    "write_challenge_files",
]
