"""The C++ of the decoder alone: by groups of threads, and under the sanitizers."""

import shutil
import subprocess
from pathlib import Path

import pytest

import hhrnet_deploy.decode

SOURCES = Path(__file__).parent / "native"
HEADERS = Path(hhrnet_deploy.decode.__file__).parent / "csrc"
COMPILER = shutil.which("g++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("native")
    built: dict[tuple[str, str], Path] = {}

    def compiled(name: str, sanitizer: str) -> Path:
        if (name, sanitizer) not in built:
            program = folder / f"{name}_{sanitizer.partition(',')[0]}"
            flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread"]
            checks = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
            if sanitizer == "thread":
                checks += ["--param", "tsan-distinguish-volatile=1"]
            paths = [f"-I{HEADERS}", f"-I{SOURCES}", "-x", "c++", str(SOURCES / f"{name}.cpp"), "-o", str(program)]
            subprocess.run([str(COMPILER), *flags, *checks, *paths], check=True)
            built[name, sanitizer] = program
        return built[name, sanitizer]

    return compiled


def run(program: Path, *arguments: int) -> None:
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.parametrize("threads", [2, 7, 32])
def test_a_group_of_threads_finds_the_same_people_without_a_race(build, threads: int) -> None:
    run(build("thread_team", "thread"), threads, 30, threads)


@pytest.mark.parametrize("threads", [1, 8, 32])
def test_the_kernels_shells_find_the_same_people_without_a_race(build, threads: int) -> None:
    run(build("kernels_on_host", "thread"), threads, 20, threads)


def test_the_shortcuts_of_grouping_are_what_they_stand_for(build) -> None:
    run(build("grouping_steps", "address,undefined"), 20, 1)


def test_a_strip_at_once_is_its_pixels_one_by_one(build) -> None:
    run(build("strips", "address,undefined"), 500, 1)


def test_arbitrary_bytes_neither_crash_nor_hang(build) -> None:
    run(build("fuzz_decode", "address,undefined"), 400, 1)


@pytest.mark.slow
def test_many_groups_and_bytes(build) -> None:
    for threads in (2, 7, 32):
        run(build("thread_team", "thread"), threads, 500, 100 + threads)
    for threads in (2, 8):  # warps of so many
        run(build("kernels_on_host", "thread"), threads, 100, 200 + threads)
    run(build("kernels_on_host", "address,undefined"), 4, 300, 5)
    run(build("grouping_steps", "thread"), 1000, 3)
    run(build("fuzz_decode", "address,undefined"), 20_000, 2)
