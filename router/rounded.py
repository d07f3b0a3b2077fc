"""Cosines of new texts with all those that a router was fitted on, in eight bits. Knows nothing of routes.

That product is what a decision takes longest for after the encoder: a router of some thousand texts fetches all their
vectors from memory for each. In eight bits they are a quarter as long, and sums of whole numbers are the same on every
machine. ONNX Runtime multiplies, since NumPy has no such product.
"""

from __future__ import annotations

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

AT_ONCE = 64
"""Texts that are multiplied together: of thousands the whole numbers alone would take gigabytes."""


class RoundedTexts:
    """Vectors of texts in eight bits, and their cosines with others."""

    def __init__(self, values: Bytes, steps: Vectors) -> None:
        """Join them.

        Args:
            values: [n_texts, width].
            steps: [width], what one stands for in each column.

        Raises:
            ValueError: the arrays are of another kind, or do not belong together.
        """
        if values.dtype != np.int8 or values.ndim != 2 or steps.shape != values.shape[1:]:
            raise ValueError(f"texts {values.dtype} {values.shape} and steps {steps.shape} do not belong together")
        self.values, self.steps = values, steps
        self._session = _open_session(values)

    @classmethod
    def of(cls, vectors: Vectors) -> RoundedTexts:
        """Round vectors [n_texts, width]: by up to half a step, of which a column's largest value has 127."""
        steps = np.maximum(np.abs(vectors).max(axis=0, initial=0.0) / LARGEST, 1e-9).astype(np.float32)
        return cls(np.rint(vectors / steps).astype(np.int8), steps)

    @property
    def vectors(self) -> Vectors:
        """What they stand for: float32 [n_texts, width]; nearly of unit length, if they were."""
        found: Vectors = self.values * self.steps
        return found

    def cosines(self, vectors: Vectors) -> Vectors:
        """Multiply with other vectors: float32 [n, n_texts] from float32 [n, width].

        Right to some 2e-4 for these texts, which differ by up to 2e-3 from what was rounded (all-MiniLM-L6-v2).
        """
        found = np.empty((len(vectors), len(self.values)), dtype=np.float32)
        for start in range(0, len(vectors), AT_ONCE):
            self._multiply(vectors[start : start + AT_ONCE], found[start : start + AT_ONCE])
        return found

    def _multiply(self, vectors: Vectors, found: Vectors) -> None:
        scaled = vectors * self.steps
        units = np.maximum(np.abs(scaled).max(axis=1, initial=0.0), 1e-30)[:, None] / MOST
        written = np.rint(scaled / units).astype(np.int16)
        written += BASE * ZERO + ZERO
        digits = np.empty((2 * len(vectors), len(self.steps)), dtype=np.uint8)
        digits[0::2] = written // BASE
        digits[1::2] = written & (BASE - 1)
        (products,) = self._session.run(None, {"digits": digits})
        found[...] = products[0::2]
        found *= BASE
        found += products[1::2].astype(np.float32)  # at once it would go by way of float64
        found *= units


def _open_session(values: Bytes) -> Any:
    """Return what multiplies digits [n, width] with texts [n_texts, width]: int32 [n, n_texts]."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    n_texts, width = values.shape
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["digits", "texts", "zero"], ["products"])],
        "cosines",
        [helper.make_tensor_value_info("digits", TensorProto.UINT8, [None, width])],
        [helper.make_tensor_value_info("products", TensorProto.INT32, [None, n_texts])],
        [
            numpy_helper.from_array(np.ascontiguousarray(values.T), "texts"),
            numpy_helper.from_array(np.array(ZERO, dtype=np.uint8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep the memory of the largest product
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
