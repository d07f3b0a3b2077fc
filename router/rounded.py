"""Cosines of new texts with all those that a router was fitted on, in eight bits. Knows nothing of routes.

That product is what a decision takes longest for after the encoder: a router of some thousand texts fetches all their
vectors from memory for each. In eight bits they are a quarter as long, and sums of whole numbers are the same on every
machine. ONNX Runtime multiplies, since NumPy has no such product.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from router.embedding import Vectors

Bytes = npt.NDArray[np.int8]

LARGEST = 127
BASE, ZERO = 128, 64
"""A value of a new text is written with two digits of this base, -64 to 63, which are shifted by so much: seven bits.
Two products of eight bits with eight do not fit into the sixteen that processors without VNNI add them in; of seven
with eight they do. Source: ONNX Runtime's documentation, "Quantize ONNX models", on U8S8 and saturation."""

MOST = BASE * (ZERO - 1) + ZERO - 1


class RoundedTexts:
    """Vectors of texts in eight bits, and their cosines with others."""

    def __init__(self, values: Bytes, steps: Vectors) -> None:
        """Join what `round_texts` gave.

        Args:
            values: [n_texts, dim].
            steps: [dim], what one stands for in each column.
        """
        self.values, self.steps = values, steps

    @classmethod
    def of(cls, vectors: Vectors) -> RoundedTexts:
        """Round vectors [n_texts, dim]: by up to half a step, of which a column's largest value has 127."""
        steps = np.maximum(np.abs(vectors).max(axis=0, initial=0.0) / LARGEST, 1e-9).astype(np.float32)
        return cls(np.rint(vectors / steps).astype(np.int8), steps)

    @property
    def vectors(self) -> Vectors:
        """What they stand for: float32 [n_texts, dim]; nearly of unit length, if they were."""
        found: Vectors = self.values * self.steps
        return found

    def cosines(self, vectors: Vectors) -> Vectors:
        """Multiply with other vectors: float32 [n, n_texts] from float32 [n, dim], right to some 2e-4."""
        scaled = vectors * self.steps
        units = np.maximum(np.abs(scaled).max(axis=1, initial=0.0), 1e-30)[:, None] / MOST
        written = np.rint(scaled / units).astype(np.int32)
        high = (written + ZERO) // BASE
        digits = np.stack([high, written - BASE * high], axis=1) + ZERO
        (products,) = self._session.run(None, {"digits": digits.reshape(-1, len(self.steps)).astype(np.uint8)})
        products = products.reshape(len(vectors), 2, len(self.values)).astype(np.float32)
        found: Vectors = products[:, 0]
        found *= BASE
        found += products[:, 1]
        found *= units
        return found

    @cached_property
    def _session(self) -> Any:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["digits", "texts", "zero"], ["products"])],
            "cosines",
            [helper.make_tensor_value_info("digits", TensorProto.UINT8, [None, len(self.steps)])],
            [helper.make_tensor_value_info("products", TensorProto.INT32, [None, len(self.values)])],
            [
                numpy_helper.from_array(np.ascontiguousarray(self.values.T), "texts"),
                numpy_helper.from_array(np.array(ZERO, dtype=np.uint8), "zero"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
