"""``skanopatch info`` and ``skanopatch backbones``: what there is."""

from __future__ import annotations

import json
from typing import Any

import click

from skanopatch.cli.options import MODEL, example

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")


@click.command(epilog=example("skanopatch info fan.skano"))
@MODEL
@click.option("--group", metavar="NAME", help="Of a file of several models, the one that is meant.")
@_JSON
def info(model: str, group: str | None, as_json: bool) -> None:
    """List the facts of a MODEL file."""
    from skanopatch.persistence.header import read_header

    header = read_header(model, group)
    facts = {
        "file": model,
        "written by": f"skanopatch {header['skanopatch']}",
        "created": header["created"],
        **header["facts"],
    }
    if as_json:
        from skanopatch.persistence.facts import clips_of
        from skanopatch.persistence.model_files import load_model

        if "models" not in header:
            facts["clips"] = clips_of(load_model(model, group))
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in facts.items():
        click.echo(f"{name:20}{_in_words(value)}")


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
