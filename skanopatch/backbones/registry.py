"""The backbones by name: adding one means one line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from skanopatch.backbones.front_ends import DECIBELS, KALDI, KALDI_HANNING
from skanopatch.spectra.log_mel import FrontEnd
from skanopatch.spectra.mel_patcher import MelPatcher
from skanopatch.spectra.patches import PatchGrid

if TYPE_CHECKING:
    from skanopatch.backbones.base import Backbone


class Named(NamedTuple):
    """A backbone with a name of its own, which is built for a grid of patches."""

    builder: str  # "module.function" of this folder, imported when used: torch takes seconds
    weights: str  # where they come from


_NAMED = {
    "anopatch-tiny": Named("anopatch_tiny.anopatch_tiny", "part of this package"),
    "vit_tiny": Named("vit.vit_tiny", "random"),
}


class Family(NamedTuple):
    """Backbones named "scheme:what", where `what` is for the builder to read."""

    builder: str  # as of `Named`
    placeholder: str  # for `what`
    weights: str  # where they come from
    front_end: FrontEnd | None = None  # that all of them were trained with


_HUB = "a folder, or the Hugging Face hub"
_SCHEMES = {
    "beats": Family("beats.beats", "<file>", "a file, or one on the Hugging Face hub", KALDI),
    "ast": Family("ast.ast", "<folder or hub name>", _HUB, KALDI_HANNING),
    "eat": Family("eat.eat", "<folder or hub name>", _HUB, KALDI_HANNING),
    "ced": Family("ced.ced", "<folder or hub name>", _HUB, DECIBELS),
    "dasheng": Family("ced.ced", "<file, folder or hub name>", _HUB, DECIBELS),
    "audiomae": Family("vit.audiomae", "<folder or hub name>", _HUB, KALDI_HANNING),
    "hf_hub": Family("vit.hf_hub", "<folder or hub name>", _HUB),
    "timm": Family("vit.timm_vit", "<name>", "timm's, where the name has a tag; else random"),
}


# Names of models of a family: the revision and the SHA-256 of the weights are known.
_PINNED = {
    "ced-tiny": "ced:mispeech/ced-tiny@ace276d29dd0bb3f3517b0fa8cf300738c409019"
    "#0e086f0cd62814c6def89001f3f25193f75955696f6975ef6800af31d00d6dd7",
}


class Description(NamedTuple):
    """What `describe_backbones` says about a backbone."""

    name: str
    sample_rate: int | None  # Hz; None is any
    n_parameters: int | None  # None depends on what is loaded
    weights: str


def list_backbones() -> list[str]:
    """List the names that `AnoPatchEmbedder(backbone=...)` takes.

    Returns
    -------
    names : list of str
        Names, and families as ``"scheme:<...>"``.

    Examples
    --------
    >>> from skanopatch.backbones import list_backbones
    >>> for name in list_backbones():
    ...     print(name)
    anopatch-tiny
    vit_tiny
    ced-tiny
    beats:<file>
    ast:<folder or hub name>
    eat:<folder or hub name>
    ced:<folder or hub name>
    dasheng:<file, folder or hub name>
    audiomae:<folder or hub name>
    hf_hub:<folder or hub name>
    timm:<name>
    """
    families = (f"{scheme}:{family.placeholder}" for scheme, family in _SCHEMES.items())
    return [*_NAMED, *_PINNED, *families]


def describe_backbones() -> list[Description]:
    """Describe the backbones of `list_backbones`.

    Returns
    -------
    descriptions : list of Description
        Of the fields `name`, `sample_rate` in Hz (None is any), `n_parameters` (None depends on
        what is loaded) and `weights`, which says where they come from.

    Examples
    --------
    >>> from skanopatch.backbones import describe_backbones
    >>> describe_backbones()[0].weights
    'part of this package'
    """
    from skanopatch.backbones.vit import TINY_GRID

    descriptions = []
    for name, (builder, weights) in _NAMED.items():
        parameters = _function(builder)(TINY_GRID, pretrained=False).parameters()
        size = sum(parameter.numel() for parameter in parameters)
        descriptions.append(Description(name, None, size, weights))
    for name, full_name in _PINNED.items():
        family, what = _look_up(full_name)
        rate = None if family is None or family.front_end is None else family.front_end.sample_rate
        descriptions.append(Description(name, rate, None, f"{what.partition('@')[0]} of the hub"))
    for scheme, family in _SCHEMES.items():
        name = f"{scheme}:{family.placeholder}"
        rate = None if family.front_end is None else family.front_end.sample_rate
        descriptions.append(Description(name, rate, None, family.weights))
    return descriptions


def front_end(name: str) -> FrontEnd:
    """Return the mel settings for a backbone, without building it or reading its file.

    Parameters
    ----------
    name : str
        One of `list_backbones`. One that is at home with any settings gets those of BEATs, which
        are the defaults of `MelPatcher`.

    Raises
    ------
    ValueError
        If there is no such backbone.
    """
    family, _ = _look_up(name)
    return (family.front_end if family is not None else None) or KALDI


def make_patcher(backbone: str, **params: Any) -> MelPatcher:
    """Make a `MelPatcher` with the mel settings that a backbone was trained with.

    Parameters
    ----------
    backbone : str
        One of `list_backbones`.
    **params : dict
        Further parameters, such as `duration` or `channel`.

    Returns
    -------
    patcher : MelPatcher

    Raises
    ------
    ValueError
        If there is no such backbone, or a parameter contradicts its settings.

    Examples
    --------
    >>> from skanopatch.backbones import make_patcher
    >>> make_patcher("ast:MIT/ast-finetuned-audioset-10-10-0.4593", duration=4.0)
    MelPatcher(duration=4.0, scale=1.0, window='hanning')
    """
    patcher = MelPatcher(**{**asdict(front_end(backbone)), **params})
    check_front_end(backbone, patcher.front_end)
    return patcher


def check_front_end(name: str, made_with: FrontEnd) -> None:
    """Refuse patches that were made with other mel settings than a backbone was trained with.

    Parameters
    ----------
    name : str
        One of `list_backbones`.
    made_with : FrontEnd
        What made the patches.

    Raises
    ------
    ValueError
        If a setting differs; both values are named. The patch size may: patches of any size are
        put together to the same spectrogram.
    """
    family, _ = _look_up(name)
    if family is None or family.front_end is None:
        return
    own, other = _audible(family.front_end), _audible(made_with)
    differ = [setting for setting in own if own[setting] != other[setting]]
    if differ:
        raise ValueError(
            f"The backbone {name!r} was trained with "
            f"{', '.join(f'{setting}={own[setting]!r}' for setting in differ)}, but the patches "
            f"are made with {', '.join(f'{setting}={other[setting]!r}' for setting in differ)}. "
            f"skanopatch.backbones.make_patcher({name!r}) makes patches that fit."
        )


def joins_statistics(name: str) -> bool:
    """Return whether a backbone is at its best beside the statistics of clips, not in their place.

    The small ones of this package are: without fine-tuning statistics rank clips better.

    Parameters
    ----------
    name : str
        One of `list_backbones`.

    Raises
    ------
    ValueError
        If there is no such backbone.
    """
    return _look_up(name)[0] is None


def _audible(settings: FrontEnd) -> dict[str, Any]:
    """Return what changes a spectrogram; an `f_max` of None is half the rate."""
    f_max = settings.f_max or settings.sample_rate / 2
    return {k: v for k, v in asdict(replace(settings, f_max=f_max)).items() if k != "patch_size"}


def create_backbone(
    name: str, grid: PatchGrid, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> Backbone:
    """Build a backbone for spectrograms of a given size.

    Parameters
    ----------
    name : str
        One of `list_backbones`.
    grid : PatchGrid
        The patches of a clip; other lengths can be embedded later.
    pretrained : bool, default=True
        Whether to get the weights that the name stands for, if any. False reads and downloads
        nothing.
    config : dict or None, default=None
        `Backbone.config` of a backbone of that name that was built earlier. It is needed with
        ``pretrained=False`` where the name does not say the architecture.

    Returns
    -------
    backbone : Backbone
        Its random weights are drawn from torch's global generator.

    Raises
    ------
    ValueError
        If there is no such backbone, its file holds another network, `config` is needed and
        missing, or the patches have another number of mel bins than it was trained with.
    OSError
        If its file is not there, cannot be downloaded or has another SHA-256 than was stated.
    """
    family, what = _look_up(name)
    if family is None:
        return _function(_NAMED[name].builder)(grid, pretrained=pretrained)
    if family.front_end is not None and grid.n_mels != family.front_end.n_mels:
        raise ValueError(
            f"The backbone {name!r} was trained with n_mels={family.front_end.n_mels}, but the "
            f"patches have {grid.n_mels} mel bins ({grid.n_freq} bands of {grid.width})."
        )
    if not pretrained and config is None and family.builder != "vit.timm_vit":
        # Or else a name in a model file could make us read other files, or download them.
        raise ValueError(f"config must be given with pretrained=False for {name!r}. Got None.")
    return _function(family.builder)(what, grid, pretrained=pretrained, config=config)


def _function(builder: str) -> Callable[..., Backbone]:
    module, _, function = builder.partition(".")
    return getattr(import_module(f"skanopatch.backbones.{module}"), function)


def _look_up(name: str) -> tuple[Family | None, str]:
    """Return the family of a name and what it has to read; no family has a name of its own."""
    scheme, colon, what = _PINNED.get(name, name).partition(":")
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme], what
    if name in _NAMED:
        return None, name
    close = difflib.get_close_matches(name, [*_NAMED, *_PINNED], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"backbone must be one of {list_backbones()}. Got {name!r} instead.{hint}")
