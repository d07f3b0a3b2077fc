"""What an adapter's GGUF says of itself: rewritten after conversion, because the converter copies local paths.

llama.cpp's converter writes PEFT's ``base_model_name_or_path`` into the base's name, its URL and the tags; for a base
prepared on this machine that is a path of somebody's home. Owns the metadata only: tensors are copied byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader, GGUFWriter

from training.files import replace_file

__all__ = ["set_identity"]


def set_identity(path: Path, *, name: str, base: str) -> None:
    """Rewrite an adapter's metadata atomically: what llama.cpp needs to load it, ``name`` and ``base``, nothing else.

    Args:
        name: the expert's.
        base: name and revision of the base model.
    """
    reader = GGUFReader(path)
    kept = {key: reader.fields[key].contents() for key in ("general.architecture", "adapter.lora.alpha")}
    temporary = path.with_name(path.name + ".identity.tmp")
    writer = GGUFWriter(temporary, kept["general.architecture"])
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", kept["adapter.lora.alpha"])
    writer.add_string("general.name", name)
    writer.add_uint32("general.base_model.count", 1)
    writer.add_string("general.base_model.0.name", base)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    replace_file(temporary, path)
