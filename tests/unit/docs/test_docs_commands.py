"""Every command block of README.md and docs/ is what the program does: options exist, commands run, output looks so."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_blocks import Block, Command, blocks, first_words, missing_lines, pages, refreshed

import hhrnet_deploy

SHELL = ("console",)
SCRIPT = ("python",)
# Shown, never run: files, and what belongs to other programs.
QUIET = ("", "json", "yaml", "text", "make", "sh", "csv")
# The package under test, which is not the checkout's where it was installed.
PACKAGE = Path(hhrnet_deploy.__file__ or "").parent
MINUTES = 15


def _ids(page: Path) -> str:
    return page.name


def _hhrnet_commands() -> list[tuple[Block, Command]]:
    return [
        (block, command)
        for page in pages()
        for block in blocks(page)
        if block.language in SHELL
        for command in block.commands
        if command.words and command.words[0] == "hhrnet"
    ]


@pytest.mark.parametrize("page", pages(), ids=_ids)
def test_every_block_is_of_a_known_kind(page: Path) -> None:
    for block in blocks(page):
        assert block.language in (*SHELL, *SCRIPT, *QUIET), f"{page.name}: {block.language}"
        if block.language == "sh":
            assert "hhrnet " not in block.body, f"{page.name}: commands of this program belong in console blocks"
        if block.language in SHELL:
            assert block.commands, f"{page.name}: block {block.number} shows no command"


@pytest.mark.parametrize(
    ("block", "command"), _hhrnet_commands(), ids=[f"{b.page.stem}-{c.line[:50]}" for b, c in _hhrnet_commands()]
)
def test_commands_and_options_exist(block: Block, command: Command) -> None:
    from typer.main import get_command

    from hhrnet_deploy.cli.app import app

    node: Any = get_command(app)
    words = command.words[1:]
    while words and words[0] in getattr(node, "commands", {}):
        node = node.commands[words.pop(0)]
    known = {name for option in node.params for name in (*option.opts, *option.secondary_opts)} | {"-h", "--help"}
    if node.name in (None, "hhrnet"):
        known |= {"--install-completion", "--show-completion"}
    typed = {word.partition("=")[0] for word in words if word.startswith("-") and not word[1:2].isdigit()}
    typed = {word for word in typed if word != "-"}
    assert typed <= known, f"{block.page.name}: {command.line}"
    assert words == [] or not hasattr(node, "commands") or words[0].startswith("-"), command.line


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take as given: photo.jpg, holiday/, dance.mp4, coco/ and my_model.pth."""
    import cv2
    import torch

    from hhrnet_deploy.data.synth import synthesize
    from hhrnet_deploy.model.checkpoint import load_model
    from hhrnet_deploy.visualize.video import Frame, VideoWriter

    root = tmp_path_factory.mktemp("materials")
    synthesize(root / "coco", images=8, seed=1, image_format="jpg")
    photos = sorted((root / "coco" / "images" / "val2017").iterdir())
    shutil.copy(photos[0], root / "photo.jpg")
    (root / "holiday").mkdir()
    for photo in photos[:2]:
        shutil.copy(photo, root / "holiday" / photo.name)
    picture = cv2.cvtColor(cv2.imread(str(photos[0])), cv2.COLOR_BGR2RGB)
    with VideoWriter(root / "dance.mp4", 25.0) as writer:
        for number in range(5):
            writer.write(Frame(number, number / 25, picture))
    torch.save(load_model(None, "default").state_dict(), root / "my_model.pth")
    return root


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which ``hhrnet`` and ``python`` are the ones under test."""
    folder = tmp_path_factory.mktemp("bin")
    code = "import sys; sys.argv[0] = 'hhrnet'; from hhrnet_deploy.cli.app import main; main()"
    for name, words in (("hhrnet", f'"{sys.executable}" -c "{code}"'), ("python", f'"{sys.executable}"')):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    environment = dict(os.environ)
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), environment.get("PYTHONPATH")]))
    environment["COLUMNS"] = "100"
    return environment


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 * MINUTES,
        check=False,
    )


def _executed() -> Iterator[Path]:
    for page in pages():
        if any(block.language in (*SHELL, *SCRIPT) and block.not_run is None for block in blocks(page)):
            yield page


@pytest.mark.slow
@pytest.mark.parametrize("page", list(_executed()), ids=_ids)
def test_every_command_runs(page: Path, materials: Path, shell: dict[str, str], tmp_path: Path) -> None:
    """One folder per page, blocks in order."""
    shutil.copytree(materials, tmp_path, dirs_exist_ok=True)
    for block in blocks(page):
        if block.not_run is not None:
            continue
        if block.language in SCRIPT:
            done = _run([sys.executable, "-c", block.body], tmp_path, shell)
            assert done.returncode == 0, f"{page.name}, block {block.number}:\n{done.stdout}"
        if block.language in SHELL:
            _check(block, tmp_path, shell)


def _check(block: Block, folder: Path, environment: dict[str, str]) -> None:
    for command in block.commands:
        done = _run(["/bin/bash", "-c", command.line], folder, environment)
        assert done.returncode == command.exit_code, f"{block.page.name}: {command.line}\n{done.stdout}"
        missing = missing_lines(command.output, done.stdout)
        assert not missing, f"{block.page.name}: {command.line}\nshown but not printed: {missing}\n{done.stdout}"
        if os.environ.get("HHRNET_DOCS_REFRESH") == "1":
            page = block.page.read_text(encoding="utf-8")
            head, mark, tail = page.partition(f"$ {command.line.split(' ' * 2)[0]}")
            block.page.write_text(head + mark + refreshed(tail, command.output, done.stdout), encoding="utf-8")


def test_first_words_forget_the_numbers() -> None:
    assert first_words("│ engine (openvino fp32) │ 0.6712 │") == "engine (openvino"
    assert first_words("  AP drop +0.0012") == "AP drop"
    assert first_words("12 people in 3 pictures") == "# people"


def test_shown_lines_have_to_come_in_order() -> None:
    printed = "one a\ntwo b\nthree c\n"
    assert missing_lines(("one a", "...", "three c"), printed) == []
    assert missing_lines(("three c", "one a"), printed) == ["one a"]
    assert missing_lines(("four d",), printed) == ["four d"]
    assert missing_lines(("two ... and so on", "..."), printed) == []


def test_figures_can_be_refreshed() -> None:
    page = "one 1\n```\none 3\ntext one 1\n"
    assert refreshed(page, ("one 1", "..."), "zero\none 2\n") == "one 2\n```\none 3\ntext one 1\n"


def test_exit_codes_and_continued_lines_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ hhrnet a \\\n    b  # exits with 3\nout 1\n$ ls\n```\n```json\n{}\n```\n")
    first, second = blocks(page)
    assert [(command.words, command.exit_code, command.output) for command in first.commands] == [
        (["hhrnet", "a", "b"], 3, ("out 1",)),
        (["ls"], 0, ()),
    ]
    assert second.language == "json"


def test_the_shell_completes_commands(shell: dict[str, str], tmp_path: Path) -> None:
    asked = {"_HHRNET_COMPLETE": "complete_bash", "COMP_WORDS": "hhrnet ev", "COMP_CWORD": "1"}
    done = _run(["hhrnet"], tmp_path, shell | asked)
    assert done.stdout.split() == ["eval"]
    script = _run(["hhrnet"], tmp_path, shell | {"_HHRNET_COMPLETE": "source_bash"})
    assert "_HHRNET_COMPLETE=complete_bash" in script.stdout
