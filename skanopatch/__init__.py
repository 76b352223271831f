"""Anomalous sound detection with scikit-learn's grammar."""

from skanopatch.embedding import AnoPatchEmbedder
from skanopatch.patching import MelPatcher, patchify, unpatchify

__version__ = "0.1.0.dev0"

__all__ = ["AnoPatchEmbedder", "MelPatcher", "patchify", "unpatchify"]
