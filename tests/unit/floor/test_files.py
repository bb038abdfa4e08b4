"""Files are written whole or not at all, and nothing but a file is ever replaced."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from hhrnet_deploy.errors import InputError
from hhrnet_deploy.files import replacing, require_folder, write_text


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target, link, loose = tmp_path / "there" / "a.txt", tmp_path / "link.txt", tmp_path / "loose.txt"
    target.parent.mkdir()
    target.write_text("before")
    link.symlink_to("there/a.txt")
    loose.symlink_to("there/b.txt")
    write_text(link, "after")
    write_text(loose, "new")
    assert (link.is_symlink(), target.read_text()) == (True, "after")
    assert (loose.is_symlink(), (tmp_path / "there" / "b.txt").read_text()) == (True, "new")
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_into(tmp_path: Path, linked: bool) -> None:
    pipe, name = tmp_path / "pipe", tmp_path / "link.csv"
    os.mkfifo(pipe)
    name.symlink_to(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(name if linked else pipe, "people")
    reader.join(timeout=30)
    assert found == ["people"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "pipe"]


def test_what_a_process_has_open_is_appended_to(tmp_path: Path) -> None:
    """As ``/dev/stdout`` is: a link into /proc, behind which there may be a pipe or a file."""
    out = tmp_path / "out.txt"
    out.write_text("first ")
    name = tmp_path / "stdout"
    with out.open("a") as stream:
        name.symlink_to(f"/proc/self/fd/{stream.fileno()}")
        write_text(name, "second")
    assert out.read_text() == "first second"
    assert out.stat().st_nlink == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "stdout"]


def test_a_pipe_without_a_name(tmp_path: Path) -> None:
    read, write = os.pipe()
    write_text(f"/proc/self/fd/{write}", "people")
    os.close(write)
    with os.fdopen(read) as stream:
        assert stream.read() == "people"


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "text")


def test_where_no_folder_can_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    require_folder(tmp_path)
    require_folder(tmp_path / "new" / "newer")
    with pytest.raises(InputError, match=r"The output folder .*file is a file") as caught:
        require_folder(file, "-o")
    assert caught.value.hint == "Give another folder with -o."
    with pytest.raises(InputError, match=r"file is a file, not a folder"):
        require_folder(file / "inside" / "deeper")
