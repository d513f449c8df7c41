"""What leads where in a Markdown text."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"(?ms)^```.*?^```$")
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Return the anchors of a text's headings, as GitHub makes them."""
    found = re.findall(r"(?m)^#+ +(.+)$", _BLOCK.sub("", text))
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in found}


def links(text: str) -> list[str]:
    """Return where a text's links lead, but for those to other hosts."""
    prose = _CODE.sub("", _BLOCK.sub("", text))
    return [target for target in _LINK.findall(prose) if not target.startswith("https://")]
