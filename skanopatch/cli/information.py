"""``skanopatch info`` and ``skanopatch backbones``: what there is."""

from __future__ import annotations

import json
from typing import Any

import click

from skanopatch.cli.options import MODEL, example

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")


@click.command(epilog=example("skanopatch info fan.skano"))
@MODEL
@_JSON
def info(model: str, as_json: bool) -> None:
    """List the facts of a MODEL file."""
    from skanopatch.inspection.decisions import decider
    from skanopatch.persistence.model_files import load_model, read_header

    loaded, header = load_model(model), read_header(model)
    facts = {
        "file": model,
        "written by": f"skanopatch {header['skanopatch']}",
        "created": header["created"],
        **_facts_of(loaded),
    }
    if as_json:
        facts["clips"] = _clips_of(decider(loaded))
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
        return
    for name, value in facts.items():
        click.echo(f"{name:20}{_in_words(value)}")


def _facts_of(model: Any) -> dict[str, Any]:
    """Return what is known of an estimator; None is what it does not have."""
    import numpy as np

    from skanopatch.inspection.decisions import decider, known_groups, split_model

    end = decider(model)
    try:
        patcher = split_model(model)[0]
    except ValueError:  # it does not go from clips to decisions
        patcher = None
    scores, offset = getattr(end, "training_scores_", None), getattr(end, "offset_", None)
    n_windows = None if scores is None else int(np.isfinite(scores).sum())
    return {
        "estimator": " ".join(repr(model).split()),
        "normal clips": len(_clips_of(end)) or n_windows,
        "windows": n_windows,
        "machines": known_groups(model),
        "duration": getattr(patcher, "duration_", None),
        "sample rate": getattr(patcher, "sample_rate", None),
        "channel": getattr(patcher, "channel", None),
        "members": getattr(end, "members_", None),
        "separation": getattr(end, "separation_", None),
        "threshold distance": None if offset is None else -float(offset),
        "false-alarm rate": getattr(end, "false_alarm_rate", None),
        "changes": [_change_in_words(entry) for entry in getattr(end, "updates_", [])],
        "maps": getattr(end, "map_pipeline_", None) is not None or hasattr(end, "level_"),
    }


def _clips_of(detector: Any) -> list[str]:
    """Return the files that a model was fitted on, without those that could not be used."""
    import numpy as np

    from skanopatch.audio import printable_path

    names = getattr(detector, "clip_names_", [])
    used = np.isfinite(detector.training_scores_) if names else []
    files = dict.fromkeys(name for name, is_used in zip(names, used, strict=True) if is_used)
    return [printable_path(file) for file in files if file]


def _change_in_words(entry: dict[str, Any]) -> str:
    """Say what changed a model, such as "update with 5 clips at 2026-11-28T14:30:00+00:00"."""
    replaced = entry.get("replaced_before")
    of_earlier = f", without those from before {replaced}" if replaced else ""
    return f"{entry['action']} with {entry['n_clips']} clips at {entry['time']}{of_earlier}"


def _in_words(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@click.command(epilog=example("skanopatch backbones"))
@_JSON
def backbones(as_json: bool) -> None:
    """List the networks that --backbone names, and where their weights come from."""
    from skanopatch.backbones import describe_backbones

    rows = [backbone._asdict() for backbone in describe_backbones()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(f"{'name':30}{'sample rate':14}{'parameters':14}weights")
    for row in rows:
        rate = f"{row['sample_rate']} Hz" if row["sample_rate"] else "any"
        size = f"{row['n_parameters'] / 1e6:.1f} M" if row["n_parameters"] else "of the file"
        click.echo(f"{row['name']:30}{rate:14}{size:14}{row['weights']}")
