"""The Vision Transformers that take spectrograms to tokens, and their registry."""

from skanopatch.backbones.registry import create_backbone, list_backbones
from skanopatch.backbones.vit import Backbone

__all__ = ["Backbone", "create_backbone", "list_backbones"]
