"""HTML from small pieces; everything that is not HTML already is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_VOID = frozenset({"br", "img", "col"})
_JPEG_QUALITY = 82


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """Any text as HTML; HTML stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def element(name: str, *children: object, **attributes: object) -> Html:
    """``<name attributes>children</name>``.

    Args:
        name: of the element.
        children: escaped unless they are `Html`.
        attributes: a trailing underscore is dropped (``class_``), others become dashes; None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(parts: Sequence[object]) -> Html:
    """Parts one after the other."""
    return Html("".join(escaped(part) for part in parts))


def section(title: str, *children: object, key: str) -> Html:
    """A section with a heading and an anchor."""
    return element("section", element("h2", title), *children, id=key)


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """A table whose first column names the row; it scrolls sideways where it does not fit."""
    top = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))
    body = element(
        "tbody",
        *(
            element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]))
            for row in rows
        ),
    )
    return element("div", element("table", top, body), class_="scroll", tabindex="0")


def picture(image: Image, alt: str) -> Html:
    """An image inside the page.

    Args:
        image: (H, W, 3) uint8 RGB.
        alt: what it shows.
    """
    import cv2

    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    source = "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
    height, width = image.shape[:2]
    return element("img", src=source, alt=alt, width=width, height=height)
