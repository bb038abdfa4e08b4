"""How the benchmarks name the machine and print their tables."""

from __future__ import annotations

import platform
import subprocess
from typing import Any


def machine() -> dict[str, str]:
    """Card, driver, versions; empty where the tool that knows is missing."""
    smi = _said(["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"])
    nvcc = _said(["nvcc", "--version"])
    return {
        "card": smi.strip(),
        "nvcc": nvcc.strip().splitlines()[-1] if nvcc else "",
        "python": platform.python_version(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    names = [name for name in rows[0] if name != "kernels"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows)])


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
