"""The pinned llama.cpp source archive: its own LoRA converter, and the C++ sources of a native llama-server.

Owns which archive it is and how parts of it are unpacked. It is fetched from the package index as a file: `pip
download` would build the package's metadata and so want a C++ compiler. `native` compiles.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from urllib.parse import urljoin

import httpx

from gateway.download import Remote, exclusive, fetch, get_json, open_client
from gateway.errors import GatewayError
from gateway.sources import index_url
from training.errors import SetupError
from training.files import write_text

__all__ = ["CONVERTER_BUILD", "PACKAGE", "SHA256", "VERSION", "ensure_llama_cpp", "unpack_once"]

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
FILE = f"llama_cpp_python-{VERSION}.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
CONVERTER_BUILD = f"convert_lora_to_gguf.py of {PACKAGE} {VERSION}"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
WANTED = ("convert_lora_to_gguf.py", "convert_hf_to_gguf.py", "conversion/", "gguf-py/", "LICENSE")
INDEX_JSON = "application/vnd.pypi.simple.v1+json"


def ensure_llama_cpp(cache_dir: Path) -> Path:
    """Return the folder with the converter's sources, fetching them the first time.

    Raises:
        SetupError: no index answers, or the archive is not the pinned one.
    """
    folder = cache_dir / "llama.cpp" / VERSION
    unpack_once(cache_dir, folder, WANTED)
    return folder


def unpack_once(cache_dir: Path, folder: Path, wanted: tuple[str, ...]) -> None:
    """Unpack what the archive holds under these names into `folder`, unless that is done; the archive is not kept.

    Raises:
        SetupError: no index answers, or the archive is not the pinned one.
    """
    marker = folder / "complete"
    if marker.is_file():
        return
    try:
        with exclusive(cache_dir / "llama.cpp" / ".lock"), open_client() as client:
            if not marker.is_file():
                archive = cache_dir / "llama.cpp" / FILE
                fetch(client, _find(client), archive)
                _unpack(archive, folder, wanted)
                write_text(marker, f"{FILE} {SHA256}\n")
                archive.unlink()
    except (GatewayError, tarfile.TarError) as error:
        raise SetupError(f"{FILE}: {error}") from error


def _find(client: httpx.Client) -> Remote:
    """Ask the package index that pip uses where the archive lies; the hash is ours, not the index's."""
    page = f"{index_url()}{PACKAGE}/"
    data = get_json(client, page, f"package {PACKAGE}", {"Accept": INDEX_JSON})
    for file in data.get("files", []):
        if file["filename"] == FILE:
            return Remote(urljoin(page, file["url"]), FILE, SHA256, file.get("size"), PACKAGE, VERSION)
    raise SetupError(f"the package index has no {FILE}")


def _unpack(archive: Path, folder: Path, wanted: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(INSIDE)
            if member.isfile() and name != member.name and name.startswith(wanted):
                tar.extract(member.replace(name=name), folder, filter="data")
