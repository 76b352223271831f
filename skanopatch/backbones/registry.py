"""The backbones by name: adding one means one line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from skanopatch.backbones.vit import Backbone, timm_vit, vit_tiny
from skanopatch.patches import PatchGrid

# Backbones with a name of their own; each is built for a grid of patches.
_NAMED: dict[str, Callable[[PatchGrid], Backbone]] = {
    "vit_tiny": vit_tiny,
}

# Families "scheme:what", where `what` is theirs to read.
_SCHEMES: dict[str, Callable[..., Backbone]] = {
    "timm": timm_vit,
}


def list_backbones() -> list[str]:
    """List the names that `AnoPatchEmbedder(backbone=...)` takes.

    Returns
    -------
    names : list of str
        Names, and families as ``"scheme:<...>"``.

    Examples
    --------
    >>> from skanopatch.backbones import list_backbones
    >>> list_backbones()
    ['vit_tiny', 'timm:<name>']
    """
    return [*_NAMED, *(f"{scheme}:<name>" for scheme in _SCHEMES)]


def create_backbone(name: str, grid: PatchGrid, *, pretrained: bool = True) -> Backbone:
    """Build a backbone for spectrograms of a given size.

    Parameters
    ----------
    name : str
        One of `list_backbones`.
    grid : PatchGrid
        The patches of a clip; other lengths can be embedded later.
    pretrained : bool, default=True
        Whether to get the weights that the name stands for, if any.

    Returns
    -------
    backbone : Backbone
        Its random weights are drawn from torch's global generator.

    Raises
    ------
    ValueError
        If there is no such backbone.
    """
    scheme, colon, rest = name.partition(":")
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme](rest, grid, pretrained=pretrained)
    if name in _NAMED:
        return _NAMED[name](grid)
    close = difflib.get_close_matches(name, _NAMED, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"backbone must be one of {list_backbones()}. Got {name!r} instead.{hint}")
