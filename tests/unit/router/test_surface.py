from __future__ import annotations

import subprocess
import sys

import router


def test_all_names_every_public_export() -> None:
    exported = {name for name in vars(router) if name[0].isupper() and not name.isupper()}
    functions = {
        "check_examples", "decide_all", "ensure_encoder", "find_overlap", "finetune", "fit", "load_artifact",
        "load_current", "load_reference", "render_report", "split", "summarise",
    }  # fmt: skip
    assert set(router.__all__) == exported | functions
    assert router.__all__ == sorted(router.__all__, key=lambda name: (name[0].islower(), name.lower()))


def test_importing_loads_neither_a_model_runtime_nor_scikit_learn() -> None:
    code = (
        "import sys, router, threading; "
        "heavy = {'torch', 'onnxruntime', 'tokenizers', 'sklearn', 'transformers'} & set(sys.modules); "
        "print(sorted(heavy), threading.active_count())"
    )
    child = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[] 1"
