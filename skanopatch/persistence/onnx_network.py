"""The network of an `AnoPatchEmbedder` as a part of a graph of ONNX."""

from __future__ import annotations

import logging
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from skanopatch.persistence.onnx_graph import OPSET, Graph, Tensor


def add_network(
    graph: Graph,
    network: Any,
    log_mel: Tensor,
    shape: tuple[int, int],
    *,
    gives_tokens: bool,
    int8: bool,
) -> tuple[Tensor, tuple[int, ...]]:
    """Add a network that reads spectrograms clip by clip.

    A loop over the clips keeps the memory of a batch that of one clip. With int8 it also keeps the
    score of a clip independent of the others: what is quantized together is of one clip.

    Parameters
    ----------
    graph : Graph
        It gets the nodes.
    network : EmbeddingNetwork
        It is not changed.
    log_mel : Tensor of shape (n_clips, n_frames, n_mels), float32
    shape : tuple (n_frames, n_mels)
    gives_tokens : bool
        Whether it gives tokens on their grid, or one embedding a clip.
    int8 : bool
        Whether the matrices that activations are multiplied by are stored as 8-bit integers.

    Returns
    -------
    outputs : Tensor of shape (n_clips, ...), float32
    output_shape : tuple of int
        Without the first axis.
    """
    from onnx import helper

    model = _trace(network, shape, gives_tokens)
    if int8:
        model = quantize(model)
    body = model.graph
    (source,), (result,) = body.input, body.output
    output_shape = tuple(d.dim_value for d in result.type.tensor_type.shape.dim)[1:]
    prefix = graph.new_name("network")
    _rename(body, prefix)
    # The weights belong to the outer graph, where runtimes prepare them once.
    graph.constants += body.initializer
    zero = graph.constant([0], np.int64).name
    first = helper.make_node("Unsqueeze", [f"{prefix}_frames", zero], [source.name])
    last = helper.make_node("Squeeze", [result.name, zero], [f"{prefix}_tokens"])
    number = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    scanned = helper.make_graph(
        [first, *body.node, last],
        prefix,
        [helper.make_tensor_value_info(f"{prefix}_frames", number, shape)],
        [helper.make_tensor_value_info(f"{prefix}_tokens", number, output_shape)],
    )
    tokens = graph.node("Scan", log_mel, body=scanned, num_scan_inputs=1)
    return tokens, output_shape


def _trace(network: Any, shape: tuple[int, int], gives_tokens: bool) -> Any:
    """Return a model of ONNX from torch's exporter, for one clip."""
    import torch

    network = _with_fixed_size(network, shape)
    if gives_tokens:
        network.forward = network.token_map
    example = torch.zeros(1, *shape)
    with warnings.catch_warnings(), torch.no_grad():
        network(example)  # what backbones keep from call to call must not come from the exporter
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                network, (example,), dynamo=True, opset_version=OPSET, verbose=False
            )
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    foreign = sorted({node.domain for node in model.graph.node if node.domain})
    if foreign or model.functions:
        raise ValueError(f"The network has operators of {foreign}, which are not standard.")
    return model


def _with_fixed_size(network: Any, shape: tuple[int, int]) -> Any:
    """Return a copy of a network whose position embeddings fit what it reads.

    Resampling them is a part of timm's forward pass that ONNX has no operator for.
    """
    network = deepcopy(network).eval()
    for module in network.modules():
        vit: Any = getattr(module, "vit", None)
        if hasattr(vit, "set_input_size"):
            n_frames = min(shape[0], module.segment or shape[0])
            vit.set_input_size(img_size=(n_frames, shape[1]))
    return network


def quantize(model: Any) -> Any:
    """Return a model whose constant matrices are 8-bit integers, quantized column by column.

    What they are multiplied by is quantized when the model runs, token by token (Yao et al. 2022,
    ZeroQuant): one token of large numbers takes no digits from the others.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = _with_scaled_tokens(model)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        onnx.save(model, given)
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that is done
        try:
            quantize_dynamic(
                given,
                made,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.getLogger().setLevel(level)
        return onnx.load(made)


def _with_scaled_tokens(model: Any) -> Any:
    """Return a model that divides each token by its largest number before it meets a matrix.

    The product is multiplied by that number. onnxruntime quantizes by the range of a whole tensor.
    Tokens that layer normalization gives are of one size already.
    """
    from onnx import ModelProto, helper, numpy_helper

    scaled = ModelProto()
    scaled.CopyFrom(model)
    graph = scaled.graph
    matrices = {matrix.name for matrix in graph.initializer}
    kinds = {output: node.op_type for node in graph.node for output in node.output}
    last, least = "scaled_axis", "scaled_least"
    nodes = []
    for i, node in enumerate(graph.node):
        tokens, matrix = (*node.input, "", "")[:2]
        is_product = node.op_type == "MatMul" and matrix in matrices
        if not is_product or kinds.get(tokens) == "LayerNormalization":
            nodes.append(node)
            continue
        highest, lowest, depth, scale, inverse, token, product = (
            f"scaled_{i}_{part}" for part in range(7)
        )
        nodes += [
            helper.make_node("ReduceMax", [tokens, last], [highest], keepdims=1),
            helper.make_node("ReduceMin", [tokens, last], [lowest], keepdims=1),
            helper.make_node("Neg", [lowest], [depth]),
            helper.make_node("Max", [highest, depth, least], [scale]),
            helper.make_node("Reciprocal", [scale], [inverse]),
            helper.make_node("Mul", [tokens, inverse], [token]),
            helper.make_node("MatMul", [token, matrix], [product]),
            helper.make_node("Mul", [product, scale], [node.output[0]]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    smallest = np.array(1e-30, dtype=np.float32)  # its inverse is in the range of float32
    graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), last))
    graph.initializer.append(numpy_helper.from_array(smallest, least))
    return scaled


def _rename(graph: Any, prefix: str) -> None:
    """Put a prefix before all names of a graph, so that none occurs twice in another."""
    for item in (*graph.initializer, *graph.input, *graph.output):
        item.name = f"{prefix}_{item.name}"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{prefix}_{name}" if name else "" for name in names]
        node.name = node.output[0]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                raise ValueError(f"The network has a {node.op_type}, which cannot be exported.")
