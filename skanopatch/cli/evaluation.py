"""``skanopatch evaluate``: the official scores on DCASE Challenge Task 2."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import click

from skanopatch.cli import options

# Those of skanopatch.datasets.layout, which takes a second to import; a test compares them.
YEARS = (2020, 2026)
SUBSETS = ("development", "evaluation")


def _parse_settings(
    _: click.Context, __: click.Parameter, settings: tuple[str, ...]
) -> dict[str, Any]:
    """Turn ``step__parameter=value`` into parameters; what is no Python literal is a string."""
    parameters = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise click.BadParameter(f"'{setting}' is not of the form step__parameter=value.")
        try:
            parameters[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            parameters[name] = text
    return parameters


@click.command(
    epilog=options.example("skanopatch evaluate dcase --year 2023 --embedder mel-statistics")
)
@click.argument("root", type=options.FOLDER)
@click.option("--year", type=click.IntRange(*YEARS), required=True)
@click.option("--subset", type=click.Choice(SUBSETS), default=SUBSETS[0])
@click.option("--machine", multiple=True, help="A machine type; may be repeated. All by default.")
@click.option(
    "--ground-truth", type=options.FOLDER, help="Folder of the year's official evaluator."
)
@options.EMBEDDER
@options.DETECTOR
@click.option(
    "--set",
    "parameters",
    multiple=True,
    callback=_parse_settings,
    metavar="STEP__PARAMETER=VALUE",
    help="A parameter of the steps patcher, embedder and detector, such as patcher__channel=0.",
)
@click.option(
    "--domains/--no-domains",
    default=True,
    help="Whether the detector gets the domains of the clips it is fitted on.",
)
@click.option("--cache", type=options.NEW_FOLDER, help="Folder that keeps embeddings between runs.")
@click.option(
    "--output", type=options.NEW_FOLDER, help="Folder for tables (CSV) and challenge files."
)
def evaluate(
    root: Path,
    embedder: str,
    detector: str,
    parameters: dict[str, Any],
    machine: tuple[str, ...],
    output: Path | None,
    **settings: Any,
) -> None:
    """Evaluate a pipeline on DCASE Challenge Task 2, whose recordings are below ROOT."""
    from sklearn.pipeline import Pipeline

    import skanopatch

    pipeline = Pipeline(
        [
            ("patcher", skanopatch.MelPatcher()),
            ("embedder", getattr(skanopatch, options.EMBEDDERS[embedder])()),
            ("detector", getattr(skanopatch, options.DETECTORS[detector])()),
        ]
    )
    evaluation = skanopatch.evaluate_dcase(
        pipeline.set_params(**parameters),
        root,
        machine=list(machine) or None,
        verbose=int(sys.stderr.isatty()),
        **settings,
    )
    if output is not None:
        evaluation.write(output)
    click.echo(str(evaluation))
