"""Displays in scikit-learn's convention: where, when and how much a machine is anomalous.

The names are in ``__init__.pyi``, and each is imported when it is used: tables of decisions need
no matplotlib.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
