"""Writes config/README.md, every setting in tables, from the configuration's schema. Called by `make schema`."""

from __future__ import annotations

import re
import sys
from textwrap import fill
from typing import TYPE_CHECKING

from ddslogd.config import loader
from manual import Node, described, kind_of, places, referred, spelled

if TYPE_CHECKING:
    from collections.abc import Iterator

_FEW_KEYS = 2
NO_DEFAULT = "\N{EN DASH}"
_ABOUT = """\
<!-- Written by `make schema` from the models in daemon/ddslogd/config/settings.py: change their docstrings. -->

# Settings

[ddslogd.example.yaml](ddslogd.example.yaml) shows every setting in place, with comments.
[ddslogd.schema.json](ddslogd.schema.json) lets an editor complete and check; `ddslogd schema` prints it.
`ddslogd check` reports every mistake at once, by line and column.

What the settings are about is in [systemd/README.md](../systemd/README.md):
[credentials](../systemd/README.md#credentials), [schedule and budget](../systemd/README.md#schedule-and-budget),
[streams](../systemd/README.md#streams), [shippers](../systemd/README.md#shippers),
[retention](../systemd/README.md#retention), [delta downloads](../systemd/README.md#delta-downloads),
[discovery](../systemd/README.md#names-of-discovered-instances), [page](../systemd/README.md#status).
"""


def readme(schema: Node) -> str:
    """Return the whole text: each group of settings once, under all the keys that take it, common ones last."""
    parts = [_ABOUT, *paragraphs(schema["description"]), table("", schema, schema)]
    for name, keys in sorted(places(schema).items(), key=lambda place: len(place[1]) > _FEW_KEYS):
        model = schema["$defs"][name]
        if "properties" in model:
            parts += [heading(name, keys, model), *paragraphs(model.get("description", ""))]
            if len(keys) > _FEW_KEYS:
                parts.append(filled(f"At {', '.join(f'`{key}`' for key in keys)}."))
            parts.append(table(keys[0] if len(keys) == 1 else "", model, schema))
    return "\n".join(parts)


def heading(name: str, keys: list[str], model: Node) -> str:
    """Return the heading of a group: its keys, or its name where there are many, and what chooses it."""
    chosen = [f"`{key}: {node['const']}`" for key, node in model["properties"].items() if "const" in node]
    own = [f"`{key}`" for key in keys] if len(keys) <= _FEW_KEYS else [name]
    if "discover" in model["properties"]:
        chosen.append("with `discover`")
    return f"## {', '.join([*own, *chosen])}\n"


def paragraphs(text: str) -> Iterator[str]:
    """Return the paragraphs of a docstring, filled again."""
    return (filled(block) for block in re.split(r"\n\s*\n", text.strip()))


def filled(text: str) -> str:
    """Return one paragraph in lines of Markdown."""
    return fill(shown(" ".join(text.split())), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def table(key: str, model: Node, schema: Node) -> str:
    """Return a row for each key of a mapping."""
    rows = ["| setting | default | takes | meaning |", "| --- | --- | --- | --- |"]
    for name, node in model["properties"].items():
        if "const" in node:  # in the heading
            continue
        if name in model.get("required", []):
            default = "required"
        else:
            default = f"`{spelled(node['default'])}`" if node.get("default") not in (None, []) else NO_DEFAULT
        meaning = " ".join((node.get("description") or described(node, schema)).split())
        below = "[secret](#secret)" if referred(node) == ["Secret"] else "mapping"
        takes = shown(kind_of(node, schema)).replace("mapping, see below", below)
        rows.append(f"| `{f'{key}.' if key else ''}{name}` | {default} | {takes} | {shown(meaning)} |")
    return "\n".join([*rows, ""])


def shown(text: str) -> str:
    """Return text that Markdown takes as it is."""
    return re.sub(r"[\\`*|<>\[\]]", r"\\\g<0>", text) if "`" not in text else text


if __name__ == "__main__":
    sys.stdout.write(readme(loader.schema()))
