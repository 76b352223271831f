"""Anomalous sound detection with scikit-learn's grammar.

The public names are in ``__init__.pyi``, and each is imported when it is first asked for: torch
alone takes seconds, which ``skanopatch --help`` should not.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
