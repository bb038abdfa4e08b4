"""The fenced blocks of README.md and docs/*.md, as CONTRIBUTING.md describes them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_FENCE = re.compile(r"^```(?P<info>.*?)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r"\s+# exits with (\d+)$")
_NUMBER = re.compile(r"[-+]?\d[\d.,e+-]*")


@dataclass(frozen=True)
class Command:
    """A command of a console block: the line after ``$``, its exit code, and the output lines that are shown."""

    line: str
    exit_code: int
    output: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """As a shell splits it."""
        return shlex.split(self.line, comments=True)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``not_run`` is the reason why it is not executed."""

    page: Path
    number: int
    language: str
    not_run: str | None
    body: str

    @property
    def commands(self) -> list[Command]:
        """Of a console block. A line that ends in a backslash goes on in the next one."""
        found: list[Command] = []
        for line in self.body.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                code = _EXIT.search(line)
                text = _EXIT.sub("", line.removeprefix("$ "))
                found.append(Command(text, int(code.group(1)) if code else 0, ()))
            elif line.strip():
                assert found, f"{self.page.name}: output before the first command: {line!r}"
                found[-1] = replace(found[-1], output=(*found[-1].output, line))
        return found


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found = []
    for number, match in enumerate(_FENCE.finditer(page.read_text(encoding="utf-8"))):
        language, _, rest = match["info"].strip().partition(" ")
        rest = rest.strip()
        reason = rest.removeprefix("not run:").strip() if rest.startswith("not run:") else None
        assert not rest or reason, f"{page.name}: block {number} has the info string {match['info']!r}"
        found.append(Block(page, number, language, reason, match["body"]))
    return found


def first_words(line: str) -> str:
    """The first two words of an output line, numbers replaced: what has to stay while figures may change.

    What follows ``...`` in a line is left out.
    """
    text = line.replace("│", " ").replace("┃", " ").partition("...")[0]
    return " ".join(_NUMBER.sub("#", text).split()[:2])


def matched_lines(shown: tuple[str, ...], printed: str) -> list[tuple[str, str | None]]:
    """Each shown line with the printed one that has its first words, in order; None where there is none.

    Lines without words, and ``...``, which stands for any lines, are left out.
    """
    lines = printed.splitlines()
    actual = [first_words(line) for line in lines]
    found: list[tuple[str, str | None]] = []
    place = 0
    for line in shown:
        wanted = first_words(line)
        if not re.search(r"\w", wanted):
            continue
        number = next((number for number in range(place, len(actual)) if actual[number].startswith(wanted)), None)
        found.append((line, None if number is None else lines[number]))
        place = place if number is None else number + 1
    return found


def missing_lines(shown: tuple[str, ...], printed: str) -> list[str]:
    """Shown lines that were not printed."""
    return [line for line, actual in matched_lines(shown, printed) if actual is None]


def refreshed(text: str, shown: tuple[str, ...], printed: str) -> str:
    """A page with the shown lines of one command replaced by what was printed, figures included."""
    old = [line for line in shown if "..." not in line]
    pairs = [(line, actual) for line, actual in matched_lines(shown, printed) if actual is not None and line in old]
    start = 0
    for line, actual in pairs:
        place = text.find(f"{line}\n", start)
        if place >= 0:
            text = text[:place] + actual.rstrip() + text[place + len(line) :]
            start = place + len(actual.rstrip())
    return text
