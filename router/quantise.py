"""The graph of an encoder in eight bits, with ranges that are fixed. Used by `export.py` only.

ONNX Runtime quantises weights, and has every product measure the range of its input at run time: of the whole tensor,
so that a text's vector would depend on the texts that are read beside it. Here ordinary texts are observed beforehand,
and their ranges written into the graph. What eight bits would spoil even so can be told, and left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.errors import EmbeddingError
from router.taught import FOLLOW_UPS, PHRASES, REQUESTS

DYNAMIC = "DynamicQuantizeLinear"
CONTRIBUTED = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

QUANTISED = {"MatMul", "Attention"}
"""Operators whose weights are the bulk of an encoder."""

# Lengths, scripts and styles that a quantised or mistraced graph would get wrong.
PARITY_TEXTS = (
    "hi",
    "How do I prune a climbing rose in late winter?",
    "my back tyre keeps going flat, tube or rim tape?",
    "¿Cuánto tiempo debe fermentar la masa madre?",
    "def quicksort(xs): return xs if len(xs) < 2 else ...",
    "The quarterly report shows revenue of 4.2 million, 12 % above the plan, although shipping costs doubled. " * 3,
    "🙂🙂 ok!!! THANKS...",
)


OBSERVED_TEXTS = (*PARITY_TEXTS, *(*PHRASES, *FOLLOW_UPS, *REQUESTS)[::4], " ".join(REQUESTS))
"""Some 300, from which the ranges are taken, one of them longer than any encoder reads."""


@dataclass(frozen=True)
class Observed:
    """What a graph in float32 does with texts."""

    ranges: Mapping[str, tuple[float, float]]
    """Of the tensors that are quantised at run time: least and greatest value, 0 included."""

    noise: Mapping[str, float]
    """Of each node with weights: how much of its output, as a share, eight bits for its input would disturb."""


def observe(source: Path, quantised: Path, tokenizer: Path, *, prompt: str, max_tokens: int) -> Observed:
    """Run ordinary texts through a graph.

    Quantisation cuts a range into 255 steps: an outlier leaves few for the rest. The error is evenly spread over a
    step, so that its deviation is the step over the square root of 12; the weights carry it to the output, with which
    it is compared channel by channel, since some are far larger than others.

    Args:
        source: in float32.
        quantised: the same, as ONNX Runtime quantises it.

    Raises:
        EmbeddingError: a tensor that is quantised is not to be found in the source.
    """
    import onnx
    import onnxruntime
    from tokenizers import Tokenizer

    model = onnx.load(str(source))
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in QUANTISED and node.input[1] in weights]
    at_run_time = [node.input[0] for node in onnx.load(str(quantised)).graph.node if node.op_type == DYNAMIC]
    inputs = list(dict.fromkeys([*at_run_time, *(node.input[0] for node in nodes)]))
    if unknown := set(inputs) - {name for node in model.graph.node for name in node.output}:
        raise EmbeddingError(f"no range can be observed for {sorted(unknown)}")
    shown = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs if name not in shown
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reader = Tokenizer.from_file(str(tokenizer))
    reader.no_padding()
    reader.enable_truncation(max_tokens)
    ranges = dict.fromkeys(inputs, (0.0, 0.0))
    spread = dict.fromkeys([node.name for node in nodes], 0.0)
    """How far a step of 1 would disturb the output."""
    for number, text in enumerate(OBSERVED_TEXTS):
        ids = np.array([reader.encode(prompt + text).ids], dtype=np.int64)
        values = session.run(inputs, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        found = dict(zip(inputs, values, strict=True))
        for name, (least, greatest) in ranges.items():
            ranges[name] = min(least, float(found[name].min())), max(greatest, float(found[name].max()))
        for node in nodes if number < len(PARITY_TEXTS) else ():
            weight = weights[node.input[1]]
            size = np.sqrt(np.mean(np.square(found[node.input[0]][0] @ weight), axis=0))
            disturbed = np.linalg.norm(weight, axis=0) / 12**0.5
            spread[node.name] = max(spread[node.name], float(np.mean(disturbed / np.maximum(size, 1e-9))))
    steps = {node.name: _step(*ranges[node.input[0]]) for node in nodes}
    return Observed(ranges, {name: share * steps[name] for name, share in spread.items()})


def _step(least: float, greatest: float) -> float:
    return (greatest - least) / 255


def quantise(source: Path, target: Path, spared: Sequence[str] = ()) -> None:
    """Write a graph in int8, but for some nodes, as ONNX Runtime quantises it: inputs by the range each has."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        nodes_to_exclude=list(spared),
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # fused operators do not tell theirs
    )


def fix(path: Path, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Have a graph that `quantise` wrote quantise its inputs by the ranges that were observed."""
    import onnx

    model = onnx.load(str(path))
    _fix_ranges(model, ranges)
    _join_products(model)
    onnx.save(model, str(path))


def _fix_ranges(model: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Quantise every input by the range that was observed, in place of its own.

    Its own would be that of the whole tensor: the vector of a text would depend on those that are read beside it.
    """
    from onnx import helper, numpy_helper

    nodes = []
    for node in model.graph.node:
        if node.op_type == DYNAMIC:
            least, greatest = ranges[node.input[0]]
            step = max(_step(least, greatest), 1e-9)
            fixed = (np.array(step, dtype=np.float32), np.array(round(-least / step), dtype=np.uint8))
            model.graph.initializer.extend(map(numpy_helper.from_array, fixed, node.output[1:]))
            given = [node.input[0], *node.output[1:]]
            node = helper.make_node("QuantizeLinear", given, node.output[:1], name=node.name)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _join_products(model: Any) -> None:
    """Join each product of integers with what makes floats of it: ONNX Runtime does so with ranges of run time only."""
    from onnx import helper

    all_nodes = list(model.graph.node)  # of one identity each from here on
    makers = {name: node for node in all_nodes for name in node.output}
    takers: dict[str, list[Any]] = {}
    for node in all_nodes:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    dropped, joined = set[int](), dict[int, Any]()
    for node in all_nodes:
        if node.op_type != "MatMulInteger":
            continue
        (cast,) = takers[node.output[0]]
        (scaled,) = takers[cast.output[0]]
        (scale,) = [name for name in scaled.input if name != cast.output[0]]
        given = [*node.input[:2], *makers[scale].input, *node.input[2:]]
        joined[id(scaled)] = helper.make_node(
            "MatMulIntegerToFloat", given, scaled.output, name=node.name, domain=CONTRIBUTED
        )
        dropped |= {id(node), id(cast)}
    nodes = [joined.get(id(node), node) for node in all_nodes if id(node) not in dropped]
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    del model.graph.node[:]
    model.graph.node.extend(node for node in nodes if used.intersection(node.output))
    if all(opset.domain != CONTRIBUTED for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))
