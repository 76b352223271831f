"""``skanopatch info`` and ``skanopatch backbones``: what there is."""

from __future__ import annotations

import json
from typing import Any

import click

from skanopatch.cli.clips import example

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")


@click.command(
    epilog=example("skanopatch info fan.skano"),
)
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@_JSON
def info(model: str, as_json: bool) -> None:
    """Tell what is in a MODEL file."""
    import numpy as np

    from skanopatch.model_file import load_model

    loaded = load_model(model)
    patcher, detector = loaded.pipeline[0], loaded.pipeline[-1]
    facts = {
        "file": model,
        "written by": f"skanopatch {loaded.version}",
        "created": loaded.created,
        "normal clips": int(np.isfinite(detector.training_scores_).sum()),
        "seconds heard": patcher.duration_,
        "sample rate": patcher.sample_rate,
        "pipeline": [repr(step) for step in loaded.pipeline.named_steps.values()],
        "maps": loaded.map_pipeline is not None and repr(loaded.map_pipeline[-1]),
        "machines": [group for group in getattr(detector, "detectors_", {}) if group is not None],
    }
    if as_json:
        click.echo(json.dumps({**facts, "clips": loaded.clips}, indent=2, ensure_ascii=False))
    else:
        for name, value in facts.items():
            click.echo(f"{name:14}{_in_words(value)}")


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "no" if value is False else str(value)


@click.command(
    epilog=example("skanopatch backbones"),
)
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
