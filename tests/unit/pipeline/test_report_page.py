"""report.html: what it says, that nothing in it can break out, and how a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_photos import write_coco

from hhrnet_deploy.data.coco import open_dataset
from hhrnet_deploy.people import People
from hhrnet_deploy.pipeline.compile import CompileOptions, compile_checkpoint
from hhrnet_deploy.pipeline.report_html import Html, element
from hhrnet_deploy.pipeline.report_layers import kind_of, place_of, precision_map
from hhrnet_deploy.pipeline.report_quantization import quantization_sections
from hhrnet_deploy.pipeline.report_worst import difference
from hhrnet_deploy.pipeline.spec import EngineSpec
from hhrnet_deploy.skeletons import COCO
from hhrnet_deploy.targets.quantization import Budget, BudgetStep, CalibrationRecord, LayerSensitivity, Quantization
from hhrnet_deploy.targets.target import Layer

pytestmark = pytest.mark.xdist_group("report_page")
HOSTILE = ["<img src=x onerror=alert(1)>.png", "a\"b'c & d.png", "${title} $body.png"]
_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
)


@pytest.fixture(scope="module")
def page(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a compilation whose photos have names that try to be HTML."""
    root = tmp_path_factory.mktemp("report")
    data = open_dataset(write_coco(root / "data <b>", 3, names=HOSTILE))
    options = CompileOptions(
        spec=EngineSpec(target="openvino", precision="fp32"), pairs=1, flip=False, max_ap_drop=0.01
    )
    return compile_checkpoint(tiny_checkpoint, root / "out", data, options).report


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def test_the_page_has_every_part(page: Path) -> None:
    reader = _read(page)
    assert [attrs["id"] for tag, attrs in reader.elements if tag == "section"] == [
        "accuracy",
        "latency",
        "precision",
        "worst",
        "reproduce",
    ]
    for words in ("AP drop", "95% interval", "Agreement", "hhrnet compile", "hhrnet eval", "model.xml", "kept"):
        assert words in reader.text


def test_names_stay_text(page: Path) -> None:
    reader = _read(page)
    assert not [tag for tag, attrs in reader.elements if tag in ("script", "b") or "onerror" in attrs]
    assert all(name in reader.text for name in HOSTILE)


def test_the_page_asks_for_nothing_outside(page: Path) -> None:
    reader = _read(page)
    links = [attrs[key] or "" for _, attrs in reader.elements for key in ("src", "href") if key in attrs]
    assert len(links) == 1 + 3 * len(HOSTILE)
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in page.read_text(encoding="utf-8")


def _browse(url: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = folder / f"profile{len(list(folder.iterdir()))}"
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_has_nothing_to_complain_about(page: Path, tmp_path: Path) -> None:
    done = _browse(page.as_uri(), tmp_path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,2400")
    assert "CONSOLE" not in done.stderr
    import cv2

    picture = cv2.imread(str(tmp_path / "page.png"))
    assert picture.shape[:2] == (2400, 1280)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500, "the photos are missing"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_show_and_nothing_sticks_out(page: Path, tmp_path: Path, width: int) -> None:
    # The page forbids scripts, so one around it looks in: a frame without that rule.
    inside = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text(encoding="utf-8"))
    outside = f"""<!doctype html><iframe width={width} height=900 srcdoc="{html.escape(inside)}"></iframe>
<pre></pre><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, images = [...page.images];
  document.querySelector("pre").textContent = JSON.stringify({{
    loaded: images.filter(i => i.complete && i.naturalWidth && i.getBoundingClientRect().width > 50).length,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth}});
}}</script>"""
    (tmp_path / "outside.html").write_text(outside, encoding="utf-8")
    done = _browse((tmp_path / "outside.html").as_uri(), tmp_path, "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout)
    assert found is not None, done.stderr
    seen: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    assert seen == {"loaded": 3 * len(HOSTILE), "overflow": 0}


def test_text_is_escaped_and_html_is_not() -> None:
    assert element("p", "<b>", element("i", "&"), title='"', class_="x") == (
        '<p title="&quot;" class="x">&lt;b&gt;<i>&amp;</i></p>'
    )
    assert element("p", Html("<br>")) == "<p><br></p>"


@pytest.mark.parametrize(
    ("name", "kind", "row", "column"),
    [
        ("/conv1/Conv/WithoutBiases", "Convolution", "stem", None),
        ("/layer1/layer1.0/conv1/Conv/WithoutBiases", "Convolution", "layer 1", None),
        ("/transition2.2/transition2.2.0/Conv", "Convolution", "transition 2", None),
        ("/stage4/stage4.2/branches.3/branches.3.0/conv1/Conv", "Convolution", "stage 4, module 3", 3),
        ("/stage3/stage3.0/fuse_layers.0.1/Conv", "Convolution", "stage 3, module 1", 4),
        ("/stage3/stage3.0/Add_5", "Eltwise", "stage 3, module 1", 4),
        ("ConvolutionBackpropData_848", "Deconvolution", "deconvolution", None),
        ("coarse", "Convolution", "heads (final layers)", None),
        ("/final_layers.1/Conv + bias", "correlation", "heads (final layers)", None),
    ],
)
def test_layers_find_their_place(name: str, kind: str, row: str, column: int | None) -> None:
    place = place_of(Layer(name=name, type=kind, precision="f32"))
    assert place is not None
    assert (place.row, place.column) == (row, column)


@pytest.mark.parametrize("kind", ["Reorder", "Input", "Transpose"])
def test_layers_that_only_move_data_are_left_out(kind: str) -> None:
    assert place_of(Layer(name="/layer1/x", type=kind, precision="f32")) is None


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("i8", "int8"),
        ("u8", "int8"),
        ("Int8", "int8"),
        ("INT8", "int8"),
        ("bf16", "bf16"),
        ("f16", "fp16"),
        ("Half", "fp16"),
        ("f32", "fp32"),
        ("Float", "fp32"),
        ("i4", "other"),
    ],
)
def test_precisions_of_every_target_have_one_name(word: str, kind: str) -> None:
    assert kind_of(word) == kind


def test_the_map_counts_convolutions_by_precision() -> None:
    layers = [Layer(name="/layer1/a", type="Convolution", precision=word) for word in ("i8", "i8", "f32")]
    shown = precision_map([*layers, Layer(name="/layer1/b", type="Eltwise", precision="f32")])
    assert "INT8: 2 of 3 convolutions, 0 other layers" in shown
    assert "FP32: 1 of 3 convolutions, 1 other layers" in shown


def test_sensitivity_and_budget_are_shown_when_there_are_some() -> None:
    layers = [LayerSensitivity(name=f"/layer<{n}>", noise=10.0**-n, multiply_adds=5) for n in range(1, 6)]
    steps = (
        BudgetStep(layers=(), ap=0.5, drop=0.02, int8_share=1.0),
        BudgetStep(layers=("/layer<1>",), ap=0.519, drop=0.001, int8_share=0.9),
    )
    budget = Budget(max_ap_drop=0.003, data="set", reference_ap=0.52, steps=steps, sensitivity=tuple(layers))
    record = CalibrationRecord(name="set", images=4, set_sha256="0" * 64, network_sha256="1" * 64, method="mse")
    given = Quantization(family="cpu", calibration=record, kept={"/layer<1>": "budget"}, budget=budget)
    types, sensitivity = quantization_sections(given)
    assert "4 images of set, thresholds by mse" in types
    assert sensitivity.count("piece sensitive") == 1
    assert sensitivity.count("piece kept") == 4
    assert re.findall(r"width:([\d.]+)%", sensitivity)[0] == "100.00"
    assert "/layer&lt;1&gt;" in sensitivity
    assert "/layer<1>" not in types + sensitivity
    assert "+0.0010" in sensitivity
    assert quantization_sections(None) == []
    assert len(quantization_sections(given.model_copy(update={"budget": None}))) == 1


def _people(*offsets: float, score: float = 0.5) -> People:
    rng = np.random.default_rng(0)
    one = np.concatenate([rng.uniform(0, 100, (17, 2)), np.ones((17, 1))], axis=1)
    keypoints = np.stack([one + np.array([offset, 0, 0]) for offset in offsets]) if offsets else np.zeros((0, 17, 3))
    return People(
        keypoints.astype(np.float32),
        np.full(len(offsets), score, np.float32),
        np.zeros((len(offsets), 17, 0), np.float32),
    )


def test_the_same_people_in_any_order_do_not_differ() -> None:
    assert difference(_people(0, 1000), _people(1000, 0), COCO) == pytest.approx(0, abs=1e-6)
    assert difference(_people(), _people(), COCO) == 0


def test_a_person_of_one_model_only_counts_with_the_score() -> None:
    assert difference(_people(0, 1000), _people(0), COCO) == pytest.approx(0.5)
    assert difference(_people(0), _people(0, 1000), COCO) == pytest.approx(0.5)
    assert difference(_people(0), _people(), COCO) == pytest.approx(0.5)


def test_further_apart_differs_more() -> None:
    near, far = (difference(_people(0), _people(offset), COCO) for offset in (1.0, 10.0))
    assert 0 < near < far < 1.0


def test_broken_numbers_differ_and_do_no_harm() -> None:
    broken = _people(0)
    broken.keypoints[0, :, 0] = np.nan
    assert difference(_people(0), broken, COCO) > 0.5
