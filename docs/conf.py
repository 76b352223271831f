"""Configuration of Sphinx."""

import inspect
import os
import warnings
from pathlib import Path

from sphinx.errors import ExtensionError

import skanopatch
from skanopatch import backbones, datasets, metrics

os.environ.setdefault("OMP_NUM_THREADS", "2")

project = "skanopatch"
author = "The skanopatch developers"
copyright = author
release = version = skanopatch.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "auto_examples/**.ipynb", "auto_examples/**.md5"]
default_role = "py:obj"

# Backticks in docstrings also mark parameters, which have no page: only explicit roles must
# resolve.
# Other packages' names resolve where their inventories are at hand; there is no network here.
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:(class|func|meth)", r"(joblib|matplotlib|numpy|pathlib|scipy|sklearn)\..*"),
]

plot_formats = [("png", 120)]
plot_html_show_formats = False
plot_html_show_source_link = False

autosummary_generate = True
toc_object_entries_show_parents = "hide"  # methods by their own names at the right of a page
autodoc_typehints = "none"  # numpydoc's sections say the types
numpydoc_show_class_members = False  # the template lists the methods
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("skanopatch",),
    "within_subsection_order": "ExampleTitleSortKey",
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}
# Examples are drawn into files: there is no window to show them in.
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

html_theme = "pydata_sphinx_theme"
html_title = "skanopatch"
html_static_path = ["_static"]
html_css_files = ["doors.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 4,  # so that the search stays in their line
}
# Pages of their own have nothing below them to show at the left.
html_sidebars = {
    page: [] for page in ("index", "quickstart", "faq", "extending", "peers", "glossary")
}


def public_names() -> set[str]:
    """Return every public name, as the API reference has to list it."""
    names = {name for name in skanopatch.__all__ if not inspect.ismodule(getattr(skanopatch, name))}
    names |= {f"datasets.{name}" for name in datasets.__all__}
    names |= {f"metrics.{name}" for name in metrics.__all__ if name not in skanopatch.__all__}
    return names | {f"backbones.{backbones.list_backbones.__name__}"}


def check_api_reference(app) -> None:
    """Fail the build unless the API reference lists each public name once."""
    lines = [line.strip() for line in (Path(app.srcdir) / "api.rst").read_text().splitlines()]
    wrong = sorted(name for name in public_names() if lines.count(name) != 1)
    if wrong:
        raise ExtensionError(f"docs/api.rst must list each public name once. Look at {wrong}.")


def setup(app) -> None:
    """Connect the check of the API reference."""
    app.connect("builder-inited", check_api_reference, priority=100)
