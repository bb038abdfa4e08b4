"""COCO AP of engines on a card beside PyTorch's: float16 loses at most 0.0005."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from card import Card
from card_engines import TARGETS, TorchOnCard, engines_here

pytestmark = pytest.mark.gpu
LIMITS = {"fp32": 0.0005, "fp16": 0.0005}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """COCO's subset where HHRNET_COCO names it, otherwise 100 drawn images."""
    from hhrnet_deploy.data.coco import open_dataset
    from hhrnet_deploy.data.synth import synthesize

    coco = os.environ.get("HHRNET_COCO")
    if coco:
        return open_dataset(Path(coco), "val2017")
    root = tmp_path_factory.mktemp("drawn") / "coco"
    synthesize(root, images=100, seed=11)
    return open_dataset(root, "val2017")


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("target", ["torch", *TARGETS])
def test_ap_is_that_of_pytorch(
    card: Card, data: Any, target: str, precision: str, tmp_path: Path, record_property: Any
) -> None:
    from hhrnet_deploy.evaluate import evaluate
    from hhrnet_deploy.model.checkpoint import load_model
    from hhrnet_deploy.targets.opening import open_engine, open_model

    if target == "torch":
        subject: Any = TorchOnCard(load_model(None, "default"), half=precision == "fp16", name=f"torch-{precision}")
    else:
        built, refused = engines_here(tmp_path, precision=precision)
        if target not in built:
            pytest.skip(f"{target}: {refused[target]}")
        subject = open_engine(built[target])
    report = evaluate(subject, data, reference=open_model("default", device="cpu"))
    drop = report.drop["AP"] if report.drop is not None else None
    record_property("drop", drop)
    print(f"{target} {precision}: AP {report.subject.metrics['AP']:.4f}, drop {drop}")
    assert drop is not None
    assert drop <= LIMITS[precision]
