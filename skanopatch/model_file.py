"""The former place of `load_model` and `save_model`, until no import names it any more."""

from skanopatch.persistence import load_model, save_model

__all__ = ["load_model", "save_model"]
