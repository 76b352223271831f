"""A graph of ONNX that is written like NumPy: `Graph` and the `Tensor` it consists of.

Only operators of the standard domain are used, in the version `OPSET`, so that every runtime of
ONNX has them. `onnx` itself is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

OPSET = 18  # reductions take their axes as inputs, as torch's exporter writes them
IR_VERSION = 9  # onnxruntime 1.15 and later read it


class Graph:
    """Nodes and constants, in the order in which they were made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._names: dict[tuple, str] = {}
        self._n_tensors = 0

    def new_name(self, kind: str) -> str:
        """Return a name that no other tensor has."""
        self._n_tensors += 1
        return f"{kind.lower()}_{self._n_tensors}"

    def node(
        self, kind: str, *inputs: Tensor, dtype: DTypeLike | None = None, **attributes: Any
    ) -> Any:
        """Add a node, and return its output of `dtype`, None being that of the first input."""
        return self.nodes_of(
            kind, inputs, (inputs[0].dtype if dtype is None else dtype,), **attributes
        )[0]

    def nodes_of(
        self, kind: str, inputs: Sequence[Tensor], dtypes: Sequence[DTypeLike], **attributes: Any
    ) -> list[Tensor]:
        """Add a node with several outputs, and return them."""
        from onnx import helper

        names = [self.new_name(kind) for _ in dtypes]
        read = [x.name for x in inputs]
        # Without names of their own, two nodes that onnxruntime 1.20 fuses get the same one.
        self.nodes.append(helper.make_node(kind, read, names, name=names[0], **attributes))
        return [Tensor(self, n, np.dtype(d)) for n, d in zip(names, dtypes, strict=True)]

    def constant(self, values: Any, dtype: DTypeLike = np.float64) -> Tensor:
        """Return a constant; equal ones are stored once."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(values, dtype=dtype).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = self.new_name("constant")
            self.constants.append(numpy_helper.from_array(array, self._names[key]))
        return Tensor(self, self._names[key], array.dtype)

    def concatenate(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Join tensors along an axis."""
        return self.node("Concat", *tensors, axis=axis)

    def stack(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Join tensors along a new axis."""
        return self.concatenate([tensor.expand_dims(axis) for tensor in tensors], axis)

    def where(self, condition: Tensor, yes: Any, no: Any) -> Tensor:
        """Return `yes` where a condition holds, and `no` elsewhere; one of them is a tensor."""
        dtype = yes.dtype if isinstance(yes, Tensor) else no.dtype
        return self.node(
            "Where", condition, self._tensor(yes, dtype), self._tensor(no, dtype), dtype=dtype
        )

    def maximum(self, first: Tensor, second: Any) -> Tensor:
        """Return the larger of two values."""
        return self.node("Max", first, self._tensor(second, first.dtype))

    def minimum(self, first: Tensor, second: Any) -> Tensor:
        """Return the smaller of two values."""
        return self.node("Min", first, self._tensor(second, first.dtype))

    def _tensor(self, value: Any, dtype: np.dtype) -> Tensor:
        return value if isinstance(value, Tensor) else self.constant(value, dtype)


class Tensor:
    """A value in a graph: operators and methods add nodes. Arrays become constants of its dtype."""

    __array_ufunc__ = None  # array + tensor is the tensor's business

    def __init__(self, graph: Graph, name: str, dtype: np.dtype) -> None:
        self.graph = graph
        self.name = name
        self.dtype = dtype

    def _binary(
        self, kind: str, other: Any, *, swap: bool = False, dtype: DTypeLike | None = None
    ) -> Any:
        other = other if isinstance(other, Tensor) else self.graph.constant(other, self.dtype)
        first, second = (other, self) if swap else (self, other)
        return self.graph.node(kind, first, second, dtype=dtype)

    def __add__(self, other: Any) -> Tensor:
        return self._binary("Add", other)

    def __radd__(self, other: Any) -> Tensor:
        return self._binary("Add", other, swap=True)

    def __sub__(self, other: Any) -> Tensor:
        return self._binary("Sub", other)

    def __rsub__(self, other: Any) -> Tensor:
        return self._binary("Sub", other, swap=True)

    def __mul__(self, other: Any) -> Tensor:
        return self._binary("Mul", other)

    def __rmul__(self, other: Any) -> Tensor:
        return self._binary("Mul", other, swap=True)

    def __truediv__(self, other: Any) -> Tensor:
        return self._binary("Div", other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._binary("Div", other, swap=True)

    def __mod__(self, other: Any) -> Tensor:
        return self._binary("Mod", other)

    def __pow__(self, other: Any) -> Tensor:
        return self._binary("Pow", other)

    def __matmul__(self, other: Any) -> Tensor:
        return self._binary("MatMul", other)

    def __neg__(self) -> Tensor:
        return self.graph.node("Neg", self)

    def __gt__(self, other: Any) -> Tensor:
        return self._binary("Greater", other, dtype=np.bool)

    def __ge__(self, other: Any) -> Tensor:
        return self._binary("GreaterOrEqual", other, dtype=np.bool)

    def __le__(self, other: Any) -> Tensor:
        return self._binary("LessOrEqual", other, dtype=np.bool)

    def equals(self, other: Any) -> Tensor:
        """Return where two values are equal."""
        return self._binary("Equal", other, dtype=np.bool)

    def __and__(self, other: Tensor) -> Tensor:
        return self._binary("And", other)

    def cast(self, dtype: DTypeLike) -> Tensor:
        """Return the values in another type."""
        from onnx import helper

        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        to = helper.np_dtype_to_tensor_dtype(dtype)
        return self.graph.node("Cast", self, dtype=dtype, to=to)

    def _reduce(self, kind: str, axes: int | Sequence[int], keepdims: bool) -> Tensor:
        listed = self.graph.constant(np.atleast_1d(axes), np.int64)
        return self.graph.node(kind, self, listed, keepdims=int(keepdims))

    def mean(self, axes: int | Sequence[int], keepdims: bool = False) -> Tensor:
        """Return means over axes."""
        return self._reduce("ReduceMean", axes, keepdims)

    def sum(self, axes: int | Sequence[int], keepdims: bool = False) -> Tensor:
        """Return sums over axes."""
        return self._reduce("ReduceSum", axes, keepdims)

    def max(self, axes: int | Sequence[int], keepdims: bool = False) -> Tensor:
        """Return the largest values over axes."""
        return self._reduce("ReduceMax", axes, keepdims)

    def min(self, axes: int | Sequence[int], keepdims: bool = False) -> Tensor:
        """Return the smallest values over axes."""
        return self._reduce("ReduceMin", axes, keepdims)

    def std(self, axis: int) -> Tensor:
        """Return standard deviations over an axis."""
        deviations = self - self.mean(axis, keepdims=True)
        return (deviations * deviations).mean(axis).sqrt()

    def logsumexp(self, axis: int) -> Tensor:
        """Return the logarithms of the sums of exponentials over an axis."""
        largest = self.max(axis, keepdims=True)
        return ((self - largest).exp().sum(axis, keepdims=True).log() + largest).squeeze(axis)

    def argmin(self, axis: int) -> Tensor:
        """Return the index of the smallest value over an axis, the first of equal ones."""
        return self.graph.node("ArgMin", self, dtype=np.int64, axis=axis, keepdims=0)

    def argmax(self, axis: int) -> Tensor:
        """Return the index of the largest value over an axis, the first of equal ones."""
        return self.graph.node("ArgMax", self, dtype=np.int64, axis=axis, keepdims=0)

    def smallest(self, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
        """Return the `k` smallest values over an axis in ascending order, and their indices."""
        values, indices = self.graph.nodes_of(
            "TopK",
            (self, self.graph.constant([k], np.int64)),
            (self.dtype, np.int64),
            axis=axis,
            largest=0,
        )
        return values, indices

    def sqrt(self) -> Tensor:
        """Return square roots."""
        return self.graph.node("Sqrt", self)

    def exp(self) -> Tensor:
        """Return exponentials."""
        return self.graph.node("Exp", self)

    def log(self) -> Tensor:
        """Return natural logarithms."""
        return self.graph.node("Log", self)

    def abs(self) -> Tensor:
        """Return absolute values."""
        return self.graph.node("Abs", self)

    def sigmoid(self) -> Tensor:
        """Return the logistic function."""
        return self.graph.node("Sigmoid", self)

    def is_nan(self) -> Tensor:
        """Return where values are no numbers."""
        return self.graph.node("IsNaN", self, dtype=np.bool)

    def reshape(self, *shape: int) -> Tensor:
        """Return the values in another shape; -1 is what remains, 0 keeps an axis."""
        return self.graph.node("Reshape", self, self.graph.constant(shape, np.int64))

    def transpose(self, *order: int) -> Tensor:
        """Return the values with their axes in another order."""
        return self.graph.node("Transpose", self, perm=order)

    def expand_dims(self, *axes: int) -> Tensor:
        """Insert axes of length 1."""
        return self.graph.node("Unsqueeze", self, self.graph.constant(axes, np.int64))

    def squeeze(self, *axes: int) -> Tensor:
        """Remove axes of length 1."""
        return self.graph.node("Squeeze", self, self.graph.constant(axes, np.int64))

    def cut(self, start: int, stop: int, axis: int) -> Tensor:
        """Return the stretch from `start` to `stop` of an axis."""
        bounds = [self.graph.constant([value], np.int64) for value in (start, stop, axis)]
        return self.graph.node("Slice", self, *bounds)

    def take(self, indices: NDArray | Tensor, axis: int) -> Tensor:
        """Return the entries of an axis that have the indices."""
        if not isinstance(indices, Tensor):
            indices = self.graph.constant(indices, np.int64)
        return self.graph.node("Gather", self, indices, axis=axis)

    def is_index(self, n_entries: int) -> Tensor:
        """Return whether each of `n_entries` is the one with the index, on a new last axis."""
        return self.expand_dims(-1).equals(np.arange(n_entries))
