"""Runs in a process of its own, with one release of the bindings on its path: what the release lacks, as JSON."""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any


def resolve(trt: Any, chain: str) -> Any:
    value = trt
    for part in chain.split("."):
        value = getattr(value, part)
    return value


def arities(value: Any) -> list[tuple[int, int]] | None:
    """(fewest, most) positional arguments of every overload, self left out; None where the binding does not say."""
    if isinstance(value, type):
        value = value.__init__
    lines = re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> ", value.__doc__ or "", re.MULTILINE)
    return [_arity(line) for line in lines] or None


def _arity(arguments: str) -> tuple[int, int]:
    flat = re.sub(r"<[^>]*>", "", arguments)
    while "[" in flat:
        flat = re.sub(r"\[[^\[\]]*\]", "", flat)
    parts = [part for part in flat.split(",") if part.strip() and not part.strip().startswith("self")]
    optional = sum("=" in part for part in parts)
    return len(parts) - optional, len(parts)


def problems(trt: Any, names: dict[str, Any]) -> list[str]:
    found: list[str] = []
    there: dict[str, Any] = {}
    for chain in names["chains"] + names["read"] + names["written"] + list(names["bases"]):
        try:
            there[chain] = resolve(trt, chain)
        except AttributeError:
            found.append(f"no {chain}")
    for chain in names["written"]:
        if chain in there and getattr(there[chain], "fset", None) is None:
            found.append(f"{chain} cannot be set")
    for chain, counts in names["calls"].items():
        known = arities(there[chain]) if chain in there else None
        for count in counts if known else ():
            if not any(fewest <= count <= most for fewest, most in known or ()):
                ranges = ", ".join(f"{fewest} to {most}" for fewest, most in known or ())
                found.append(f"{chain} takes {ranges} arguments, gets {count}")
    for chain, methods in names["bases"].items():
        found += [f"{chain} has no method {method}" for method in methods if not hasattr(there.get(chain), method)]
    return found


def callbacks(trt: Any) -> list[str]:
    """Make logger and monitor on the real base classes, and start a builder that cannot start."""
    from pathlib import Path
    from types import SimpleNamespace

    from hhrnet_deploy.errors import HHRNetError
    from hhrnet_deploy.targets.trt_builder import Request, build_plan
    from hhrnet_deploy.targets.trt_callbacks import Log, Progress, make_logger, make_monitor
    from hhrnet_deploy.targets.trt_options import TensorRtOptions

    log = Log()
    make_logger(trt, log).log(trt.ILogger.Severity.ERROR, "broken")
    shares: list[float] = []
    progress = Progress(lambda share, _: shares.append(share))
    monitor = make_monitor(trt, progress)
    monitor.phase_start("all", None, 2)
    assert monitor.step_complete("all", 0)
    progress.cancel()
    assert not monitor.step_complete("all", 1)
    monitor.phase_finish("all")
    assert (log.errors, shares) == (["broken"], [0.0, 0.5, 1.0])
    graph: Any = SimpleNamespace(path=Path("none.onnx"))
    try:
        build_plan(trt, Request(graph, (), TensorRtOptions(), (), lambda *_: None))
    except HHRNetError as error:
        return [] if "cannot start" in str(error) else [f"unexpected: {error}"]
    return ["a builder of stub libraries started"]


def main() -> None:
    module, stubs = sys.argv[1:]
    trt = importlib.import_module(module)
    found = problems(trt, json.load(sys.stdin))
    found += callbacks(trt) if stubs == "stubs" else []
    json.dump({"version": trt.__version__, "problems": sorted(set(found))}, sys.stdout)


if __name__ == "__main__":
    main()
