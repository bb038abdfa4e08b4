"""What compute-sanitizer's racecheck reports, and which race is meant."""

from __future__ import annotations

import re
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "hhrnet_deploy" / "decode" / "csrc" / "kernels.cu"


def races(log: str) -> list[list[str]]:
    """The accesses of every race that racecheck reports, each as it is printed."""
    found: list[list[str]] = []
    for line in log.splitlines():
        if "Race reported between" in line:
            found.append([line.split("Race reported between", 1)[1].strip()])
        elif found and re.match(r"=+\s+and (Read|Write) access at", line):
            found[-1].append(line.split("and ", 1)[1].strip())
    return found


def is_meant(accesses: list[str]) -> bool:
    """Whether all accesses are `refine` reading its best place while others raise it.

    ``Block.peek`` reads what ``Block.raise`` changes atomically: an old value only searches one tile more. The log has
    lines of the source where the kernels were compiled with ``HHRNET_CUDA_LINEINFO``.
    """
    lines = KERNELS.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines, 1) if "void raise(" in line)
    last = next(number for number, line in enumerate(lines, 1) if "volatile unsigned long long" in line)

    def allowed(access: str) -> bool:
        place = re.search(r"kernels\.cu:(\d+)", access)
        return (place is not None and first <= int(place[1]) <= last) or "atomic_functions" in access

    return all(allowed(access) for access in accesses)
