"""Print the oldest versions that pyproject.toml admits, as constraints for pip."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("test", "onnx", "mqtt", "microphone", "smote")  # what the tests import


def oldest(requirements):
    """Return ``name==version`` for each requirement with a lower bound."""
    pattern = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\w.]+)")
    return [
        f"{name}=={version}" for name, version in (pattern.match(r).groups() for r in requirements)
    ]


def main():
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = project["dependencies"] + [r for name in EXTRAS for r in extras.get(name, [])]
    print(*sorted(set(oldest(listed)), key=str.lower), sep="\n")


if __name__ == "__main__":
    main()
