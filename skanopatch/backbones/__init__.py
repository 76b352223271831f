"""The Vision Transformers that take spectrograms to tokens, and their registry."""

from skanopatch.backbones.base import Backbone
from skanopatch.backbones.registry import (
    check_front_end,
    create_backbone,
    describe_backbones,
    front_end,
    joins_statistics,
    list_backbones,
    make_patcher,
)

__all__ = [
    "Backbone",
    "check_front_end",
    "create_backbone",
    "describe_backbones",
    "front_end",
    "joins_statistics",
    "list_backbones",
    "make_patcher",
]
