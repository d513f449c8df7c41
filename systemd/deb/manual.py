"""Writes ddslogd(1), from the commands, and ddslogd.yaml(5), from the configuration's schema, below a directory.

Called by build. The pages are in the language of groff_man(7).
"""

from __future__ import annotations

import gzip
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from ddslogd import __version__
from ddslogd.cli import exit_status
from ddslogd.cli.main import commands
from ddslogd.config import loader

if TYPE_CHECKING:
    from collections.abc import Iterator

Node: TypeAlias = dict[str, Any]  # of a JSON schema

FILES = {
    "/etc/ddslogd/ddslogd.yaml": "The configuration, see ddslogd.yaml(5).",
    "/var/log/ddslogd": "The logs: snapshots and streams.",
    "/var/lib/ddslogd": "The ledger of what is on disk.",
    "/usr/share/doc/ddslogd": "The whole documentation, a commented example, alert rules, a dashboard, shippers.",
}
ANY_NAME = "NAME"  # stands for a key that the operator chooses


def main(root: Path) -> None:
    """Write both pages, compressed, with nothing in them that changes from build to build."""
    for name, section, lines in (
        ("ddslogd", 1, commands_page()),
        ("ddslogd.yaml", 5, settings_page(loader.schema())),
    ):
        path = root / f"usr/share/man/man{section}/{name}.{section}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        title = f'.TH "{name.upper()}" "{section}" "" "ddslogd {__version__}" "ddslogd"'
        path.write_bytes(gzip.compress("\n".join([title, *lines, ""]).encode(), mtime=0))


def commands_page() -> Iterator[str]:
    """Return the lines of ddslogd(1)."""
    group = commands
    context = click.Context(group, info_name="ddslogd", **group.context_settings)
    yield from heading("NAME")
    summary = inspect.cleandoc(group.help or "").partition("\n")[0].rstrip(".")
    yield escaped(f"ddslogd - {summary[:1].lower()}{summary[1:]}")
    yield from heading("SYNOPSIS")
    yield f".B ddslogd\n{escaped(' '.join(group.collect_usage_pieces(context)))}"
    yield from heading("OPTIONS")
    yield from options(group, context)
    yield from heading("COMMANDS")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield from command_section(command, click.Context(command, parent=context, info_name=name))
    yield from heading("EXIT STATUS")
    yield from paragraphs(inspect.cleandoc(exit_status.__doc__ or "").partition("Exit status: ")[2])
    yield from heading("ENVIRONMENT")
    for variable, meaning in sorted(variables(group, context).items()):
        yield from entry(variable, meaning)
    yield from heading("FILES")
    for file, meaning in FILES.items():
        yield from entry(file, meaning)
    yield from heading("SEE ALSO")
    yield ".BR ddslogd.yaml (5),\n.BR systemctl (1),\n.BR journalctl (1)"


def command_section(command: click.Command, context: click.Context) -> Iterator[str]:
    """Return the lines on one command: how it is called, its help, its options."""
    yield f'.SS "{escaped(command.name or "")}"'
    yield f".B {escaped(context.command_path)}\n{escaped(' '.join(command.collect_usage_pieces(context)))}"
    yield ".PP"
    yield from paragraphs(inspect.cleandoc(command.help or ""))
    yield from options(command, context)


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Return a tagged paragraph for each option that --help shows."""
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            yield from entry(*record)


def variables(group: click.Group, context: click.Context) -> dict[str, str]:
    """Return the environment variables that options read, each with the option's help."""
    found = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        for parameter in [] if command is None else command.params:
            if isinstance(parameter, click.Option) and isinstance(parameter.envvar, str):
                found[parameter.envvar] = f"Read where {parameter.opts[-1]} is not given. {parameter.help or ''}"
    return found


def settings_page(schema: Node) -> Iterator[str]:
    """Return the lines of ddslogd.yaml(5): each group of settings once, under all the keys where it is taken."""
    yield from heading("NAME")
    yield escaped("ddslogd.yaml - configuration of ddslogd")
    yield from heading("DESCRIPTION")
    yield from paragraphs(
        f"{schema['description']}\n\n{ANY_NAME} is a name of your own; [] is each entry of a list. `ddslogd check` "
        "reports all that is wrong, with file, line and column; `ddslogd schema` prints the JSON schema that this page "
        "is made from."
    )
    yield from heading("SETTINGS")
    yield from properties("", schema, schema)
    models = schema["$defs"]
    for name, keys in places(schema).items():
        if "properties" in models[name]:
            chosen = [f"{key}: {node['const']}" for key, node in models[name]["properties"].items() if "const" in node]
            yield f'.SS "{escaped(", ".join([*keys, *chosen]))}"'
            yield from paragraphs(models[name].get("description", ""))
            yield from properties(keys[0] if len(keys) == 1 else "", models[name], schema)
    yield from heading("FILES")
    yield from entry("/etc/ddslogd/ddslogd.yaml", "Read where neither --config nor DDSLOGD_CONFIG names a file.")
    yield from entry("/usr/share/doc/ddslogd/config/ddslogd.example.yaml", "Every setting, with comments.")
    yield from heading("SEE ALSO")
    yield ".BR ddslogd (1)"


def properties(key: str, model: Node, schema: Node) -> Iterator[str]:
    """Return a tagged paragraph for each key of a mapping."""
    for name, node in model.get("properties", {}).items():
        notes = [kind_of(node, schema)]
        if name in model.get("required", []):
            notes.append("required")
        elif node.get("default") is not None:
            notes.append(f"default {spelled(node['default'])}")
        text = " ".join(filter(None, [node.get("description") or described(node, schema)]))
        yield from entry(f"{key}.{name}" if key else name, f"{text} ({'; '.join(filter(None, notes))})")


def described(node: Node, schema: Node) -> str:
    """Return what the model that a key takes says of itself."""
    models = [schema["$defs"][name] for name in referred(node)]
    return " ".join(model["description"] for model in models if "description" in model)


def kind_of(node: Node, schema: Node) -> str:
    """Return what a key takes, in words: those of its type, if it has some."""
    if "$comment" in node:
        return str(node["$comment"])
    if "$ref" in node:
        model = schema["$defs"][referred(node)[0]]
        return kind_of(model, schema) if "enum" in model else "mapping, see below"
    for choice in ("oneOf", "anyOf"):
        if choice in node:
            return " or ".join(dict.fromkeys(filter(None, (kind_of(each, schema) for each in node[choice]))))
    if "const" in node or "enum" in node:
        return ", ".join(map(spelled, node.get("enum", [node.get("const")])))
    kind = node.get("type", "")
    if kind == "array":
        return f"list of: {kind_of(node['items'], schema)}"
    if kind == "object":
        return "mapping"
    bounds = [f"{word} {node[bound]}" for bound, word in (("minimum", "from"), ("maximum", "to")) if bound in node]
    examples = [f"as {', '.join(map(spelled, node['examples']))}"] if "examples" in node else []
    return "" if kind == "null" else ", ".join([" ".join([kind, *bounds]), *examples])


def places(schema: Node) -> dict[str, list[str]]:
    """Return for each model the keys that take it, outer models first."""
    found: dict[str, list[str]] = {}

    def visit(model: Node, key: str) -> None:
        for name, node in model.get("properties", {}).items():
            inner = f"{key}.{name}" if key else name
            inner += f".{ANY_NAME}" * ("patternProperties" in node) + "[]" * (node.get("type") == "array")
            for reference in referred(node):
                if inner not in found.setdefault(reference, []):
                    found[reference].append(inner)
                    visit(schema["$defs"][reference], inner)

    visit(schema, "")
    return found


def referred(node: object) -> list[str]:
    """Return the names of the models that a node refers to."""
    match node:
        case {"$ref": str(reference)}:
            return [reference.removeprefix("#/$defs/")]
        case dict():
            return [name for key, inner in node.items() if key != "discriminator" for name in referred(inner)]
        case list():
            return [name for inner in node for name in referred(inner)]
        case _:
            return []


def spelled(value: object) -> str:
    """Return a value as YAML has it."""
    match value:
        case bool():
            return str(value).lower()
        case [] | {}:
            return "none"
        case list():
            return ", ".join(map(spelled, value))
        case _:
            return str(value)


def heading(text: str) -> Iterator[str]:
    """Return the line that begins a section."""
    yield f".SH {text}"


def entry(tag: str, text: str) -> Iterator[str]:
    """Return a paragraph with a tag, as for an option."""
    yield f".TP\n.B {escaped(tag)}\n{escaped(' '.join(text.split()))}"


def paragraphs(text: str) -> Iterator[str]:
    """Return text by paragraphs, between which are blank lines; those that click leaves as they are stay so."""
    for number, block in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        if block.startswith("\b"):
            yield ".nf\n" + "\n".join(map(escaped, block.splitlines()[1:])) + "\n.fi"
        else:
            yield escaped(" ".join(block.split()))


def escaped(text: str) -> str:
    """Return text that groff takes as it is: hyphens that can be copied, no requests at the start of a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("…", "\\[u2026]")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
