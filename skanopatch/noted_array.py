"""Arrays with a note: what they are made of or by, which their slices and pickles keep."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class NotedArray(np.ndarray):
    """An array with one further attribute, which slices, views and pickles keep.

    An operation that makes a plain array of it loses the note, and whoever reads it has to do
    without.
    """

    _note: ClassVar[str]  # the name of the attribute, which is None where nothing is known

    def __array_finalize__(self, array: Any) -> None:
        setattr(self, self._note, getattr(array, self._note, None))

    def __reduce__(self) -> Any:
        rebuild, arguments, state = super().__reduce__()  # type: ignore[str-unpack]
        return rebuild, arguments, (getattr(self, self._note), state)

    def __setstate__(self, state: tuple[Any, Any]) -> None:  # type: ignore[override]
        note, array_state = state
        setattr(self, self._note, note)
        super().__setstate__(array_state)
