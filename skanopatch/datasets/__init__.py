"""Data sets: the machine-sound simulator."""

from skanopatch.datasets.machine_sounds import make_machine_sounds

__all__ = ["make_machine_sounds"]
