"""HTML that cannot carry a script: text is escaped where a tag is made of it, and the page's policy forbids the rest.

A page is one file: no script, no font, no address but its own sections; pictures are inside. Its look follows the
reader's: light or dark, wide or narrow, on paper.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any

from clearloop.report_style import STYLE

VOID = ("img", "meta", "br")


class Markup(str):
    """Text that is HTML already; all other text is escaped when a tag takes it in.

    >>> tag("b", "1 < 2", Markup("<i></i>"))
    '<b>1 &lt; 2<i></i></b>'
    """

    __slots__ = ()


def shown(value: Any, lines: bool = False) -> str:
    r"""Text as a page may show it: what cannot be printed (control codes, codes that turn text around) is marked.

    Args: `lines`, whether line breaks and tabs stay.

    >>> shown("a\x00b"), shown("1\n2", lines=True)
    ('a�b', '1\n2')
    """
    kept = "\n\t" if lines else ""
    return "".join(mark if mark.isprintable() or mark in kept else "�" for mark in str(value))


def tag(name: str, /, *content: Any, **attributes: Any) -> Markup:
    """One element. `content` is text, Markup, or lists of them; attributes that are None are left out.

    An underscore at the end of an attribute's name goes (`class_`), others become hyphens.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{html.escape(shown(value))}"' for key, value in given.items())
    if name in VOID:
        return Markup(f"<{name}{opening}>")
    return Markup(f"<{name}{opening}>{joined(content, lines=name == 'pre')}</{name}>")


def joined(content: Iterable[Any], lines: bool = False) -> Markup:
    """Texts and elements one after another."""
    found = []
    for part in content:
        if isinstance(part, Markup):
            found.append(str(part))
        elif isinstance(part, (list, tuple)):
            found.append(str(joined(part, lines)))
        elif part is not None:
            found.append(html.escape(shown(part, lines)))
    return Markup("".join(found))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = (), class_: str = "") -> Markup:
    """A table that scrolls where the page is narrower; `numbers` are the columns that are set to the right."""
    right = set(numbers)

    def cells(kind: str, row: Sequence[Any]) -> Markup:
        return tag("tr", [tag(kind, cell, class_="n" if at in right else None) for at, cell in enumerate(row)])

    body = tag("tbody", [cells("td", row) for row in rows])
    inside = [tag("thead", cells("th", head)), body] if head else [body]
    return tag("div", tag("table", inside, class_=class_ or None), class_="scroll", tabindex="0")


def pairs(rows: Iterable[tuple[str, Any]]) -> Markup:
    """Names and values, in two columns where there is room."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows])


def folded(title: str, *content: Any) -> Markup:
    """Something long that opens on a click; no script is needed for that."""
    return tag("details", tag("summary", title), content)


def code(text: Any) -> Markup:
    """A few words of code."""
    return tag("code", text)


def picture(png: bytes, what: str, width: int, height: int) -> Markup:
    """A PNG file inside the page."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return tag("img", src=source, alt=what, width=width, height=height)


def page(title: str, body: Markup) -> str:
    """The whole file. The policy lets a browser fetch nothing, run nothing, and use this style sheet alone."""
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    head = [
        tag("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Markup(f"<style>{STYLE}</style>"),
    ]
    return f'<!doctype html>\n<html lang="en">\n{tag("head", head)}\n{tag("body", body)}\n</html>\n'
