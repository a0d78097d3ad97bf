"""Makes text from engines safe to show: control characters visible, markup inert. Pure."""

from __future__ import annotations

import html as html_module
import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_\[\]|~$#!])")
_MAX_CELL = 300


def plain(text: str, limit: int = _MAX_CELL) -> str:
    """One line without control or direction-changing characters, at most `limit` characters."""
    visible = "".join(_visible(char) for char in text[: limit * 4])
    line = " ".join(visible.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def block(text: str) -> str:
    """Several lines without control characters other than newline."""
    return "\n".join("".join(_visible(char) for char in line) for line in text.splitlines())


def markdown(text: str, limit: int = _MAX_CELL) -> str:
    """One line in which nothing is Markdown or HTML, of at most `limit` characters as they are read."""
    return _MARKDOWN.sub(r"\\\1", html_module.escape(plain(text, limit), quote=False))


def html(text: str, limit: int = _MAX_CELL) -> str:
    """One line as HTML text or attribute value."""
    return html_module.escape(plain(text, limit), quote=True)


def _visible(char: str) -> str:
    if char in "\t\n\r":
        return " "
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"\\x{ord(char):02x}"
    return char
