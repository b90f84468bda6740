"""Each benchmark runs at toy size, where its figures mean nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLOW = {
    "ablation", "adapt", "corpus", "engraving", "fuzz", "fuzz_api", "fuzz_inputs", "growth",
    "listening", "playground", "receipt", "sampling", "same_behaviour", "serving", "training",
}  # fmt: skip
SCRIPTS = [
    pytest.param(path, marks=pytest.mark.promises if path.stem in SLOW else (), id=path.stem)
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmark_prints_figures(script: Path) -> None:
    process = subprocess.run(
        [sys.executable, str(script), "--toy"], cwd=ROOT, capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert re.search(r"\d\.\d", process.stdout)
