"""The GGUF of an adapter names its base, and no path of the machine that made it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from training.gguf_metadata import set_identity


def test_paths_go_and_tensors_stay(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 32.0)
    writer.add_string("general.base_model.0.name", "/home/somebody/cache/base")
    writer.add_array("general.tags", ["base_model:adapter:/home/somebody/cache/base"])
    weights = np.arange(24, dtype=np.float16).reshape(3, 8)
    writer.add_tensor("blk.0.ffn_down.weight.lora_a", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    set_identity(path, name="gardening", base="a-base 1.0")

    assert b"somebody" not in path.read_bytes()
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.base_model.0.name"].contents() == "a-base 1.0"
    assert reader.fields["adapter.lora.alpha"].contents() == 32.0
    (tensor,) = reader.tensors
    assert np.array_equal(np.array(tensor.data), weights)
    assert list(tmp_path.iterdir()) == [path]
