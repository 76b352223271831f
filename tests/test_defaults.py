"""Defaults of signatures are those that the documentation names."""

import ast
import inspect
import re

import pytest
from numpydoc.docscrape import NumpyDocString

import skanopatch
from skanopatch.detectors.contributions import contributions
from skanopatch.detectors.gain_tolerance import GainTolerantDetector
from skanopatch.detectors.thresholds import place_threshold

DOCUMENTED = {
    name: getattr(skanopatch, name)
    for name in skanopatch.__all__
    if callable(getattr(skanopatch, name))
} | {f.__name__: f for f in (contributions, GainTolerantDetector, place_threshold)}


def documented_defaults(item):
    """Return the defaults that a docstring names, as `default=0.1`, or as `default=1 and 2`."""
    defaults = {}
    for entry in NumpyDocString(inspect.getdoc(item))["Parameters"]:
        if named := re.search(r"default=(.+)$", entry.type):
            names = entry.name.split(", ")
            values = [ast.literal_eval(value) for value in named[1].split(" and ")]
            values = values * len(names) if len(values) == 1 else values
            defaults.update(zip(names, values, strict=True))
    return defaults


@pytest.mark.parametrize("name", DOCUMENTED)
def test_defaults_are_those_that_the_documentation_names(name):
    found = {
        parameter.name: parameter.default
        for parameter in inspect.signature(DOCUMENTED[name]).parameters.values()
    }
    for parameter, default in documented_defaults(DOCUMENTED[name]).items():
        assert found[parameter] == default, parameter
        assert type(found[parameter]) is type(default), parameter
