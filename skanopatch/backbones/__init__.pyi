from .base import Backbone
from .registry import (
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
