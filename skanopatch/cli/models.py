"""Model files, as the commands open them."""

from __future__ import annotations

from typing import Any


def load(model: str, group: str | None) -> tuple[Any, str | None]:
    """Read a model, and return it with the group that its methods take.

    Of a file of several models, `group` names the one to read.
    """
    from skanopatch.inspection.decisions import known_groups
    from skanopatch.persistence.header import read_header
    from skanopatch.persistence.model_files import load_model

    if "models" in read_header(model):
        loaded = load_model(model, group)
        return loaded, group if group in known_groups(loaded) else None
    loaded = load_model(model)
    groups = known_groups(loaded)
    if group is not None and group not in groups:
        known = ", ".join(map(repr, groups)) or "none"
        raise ValueError(
            f"--group must be a machine that the model knows ({known}). Got {group!r}."
        )
    return loaded, group
