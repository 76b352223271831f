"""Arrays with a note: what they are made of or by, which their rows and pickles keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np


class NotedArray(np.ndarray):
    """An array with one further attribute, which slices, views, copies and pickles keep.

    Arrays that are joined row after row keep it too, if it is the same. Arithmetic makes plain
    arrays, of whose numbers the note may be wrong.
    """

    _note: ClassVar[str]  # the name of the attribute, which is None where nothing is known

    def __array_finalize__(self, array: Any) -> None:
        setattr(self, self._note, getattr(array, self._note, None))

    def __array_wrap__(
        self, array: np.ndarray, context: Any = None, return_scalar: bool = False
    ) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        # `numpy.vstack` and `numpy.append` come here as well: they call it.
        if func is np.concatenate:
            note = _note_of_rows(self._note, *args, **kwargs)
            if note is not None:
                result = result.view(type(self))
                setattr(result, self._note, note)
        return result

    def __reduce__(self) -> Any:
        rebuild, arguments, state = super().__reduce__()  # type: ignore[str-unpack]
        return rebuild, arguments, (getattr(self, self._note), state)

    def __setstate__(self, state: tuple[Any, Any]) -> None:  # type: ignore[override]
        note, array_state = state
        setattr(self, self._note, note)
        super().__setstate__(array_state)


def _note_of_rows(
    name: str, arrays: Sequence[Any], axis: int | None = 0, out: Any = None, **kwargs: Any
) -> Any:
    """Return the note that arrays have in common, given what `numpy.concatenate` was given."""
    notes = [getattr(array, name, None) for array in arrays]
    is_common = all(note == notes[0] for note in notes)
    return notes[0] if axis == 0 and out is None and is_common else None
