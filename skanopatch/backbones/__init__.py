"""The Vision Transformers that take spectrograms to tokens, and their registry.

The names are in ``__init__.pyi``, and each is imported when it is used: the mel settings of a
backbone need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
