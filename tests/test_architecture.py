"""Imports go down only, and each library is known where it belongs. Read from the sources: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).parent.parent / "daemon"
PACKAGE = "ddslogd"

# From the ground up. A module imports modules of lower layers only: neither of its own layer nor of a higher one.
LAYERS: tuple[set[str], ...] = (
    # Packages. They say what is in them and import nothing.
    {"ddslogd", "cloud", "operate", "storage", "transfer"},
    # Floor 0: the vocabulary.
    {"errors", "findings", "models"},
    # Floor 1: pure.
    {"cloud.wire", "cloud.links", "cloud.regions", "cloud.signing", "storage.layout", "storage.overlap"},
    {"storage.logtime"},
    {"pacing", "shared", "grouped", "operate.log", "operate.notify", "operate.progress"},
    {"operate.words", "operate.globs", "operate.pseudonyms"},
    {"patience", "values", "yamltree"},
    {"config"},
    # Floor 2: the network and the disk.
    {"cloud.http", "cloud.budget", "cloud.tally"},
    {"cloud.metadata", "cloud.credentials", "cloud.projects", "storage.filesystem", "storage.room", "storage.digests"},
    {"cloud.identity", "storage.window", "storage.database", "storage.directories"},
    {"storage.publisher", "storage.standing"},
    {"storage.part"},
    {"storage.store"},
    {"cloud.api", "cloud.tokens", "cloud.keys", "cloud.rights", "cloud.secrecy", "storage.premises"},
    {"storage.ledger"},
    {"storage.recovery", "storage.streambook", "storage.shippers", "storage.inventory", "cloud.reach"},
    # Floor 3: one export, one file.
    {"cloud.exports", "transfer.answers", "transfer.delta", "transfer.effort", "transfer.intake", "transfer.slots"},
    {"transfer.downloader", "storage.blame", "storage.livefile"},
    {"storage.adoption"},
    {"storage.stream", "storage.retention"},
    # Floor 4: when, what, and of whom.
    {"roster", "habits", "tempo"},
    {"scheduler", "collector", "discovery", "reload"},
    {"accounts"},
    {"operate.status", "operate.query", "operate.chart"},
    {"operate.activity", "operate.listing", "operate.page"},
    {"operate.observer", "operate.metrics"},
    {"operate.web", "operate.asking"},
    {"operate.shipperconfig", "operate.shipperrules", "operate.housing"},
    # Floor 5: everything together, and the made-up cloud beside it.
    {"service", "sandbox"},
    {"demo", "operate.doctor"},
    {"operate.bundle"},
    {"cli"},
    {"__main__"},
)
LEVELS = {module: level for level, layer in enumerate(LAYERS) for module in layer}

# A module, or a package with all that is in it.
KNOWN_BY: dict[str, set[str]] = {
    "aiohttp": {"cloud", "transfer", "operate.web", "sandbox"},
    "prometheus_client": {"operate.metrics"},
    "aiofiles": {"cloud.credentials"},
    "yaml": {"config", "values", "yamltree", "storage.shippers", "operate.shipperconfig"},  # shippers' files
    "pydantic": {"config", "values", "yamltree"},
    "pydantic_core": {"config", "values", "yamltree"},
    "jinja2": {"operate.page"},
    "markupsafe": {"operate.page"},
    "sqlite3": {
        "storage.ledger",
        "storage.database",
        "storage.inventory",
        "storage.shippers",
    },  # Fluent Bit keeps its books in SQLite
}


def runtime_imports(node: ast.AST, *, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Give the full names that are imported when the program runs, and whether a function does it.

    What stands under ``if TYPE_CHECKING`` is not imported.
    """
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            children: list[ast.AST] = [*node.orelse]
        case ast.Import():
            yield from ((alias.name, late) for alias in node.names)
            return
        case ast.ImportFrom(level=0):
            yield from ((f"{node.module}.{alias.name}", late) for alias in node.names)
            return
        case ast.ImportFrom():
            pytest.fail(f"line {node.lineno}: a relative import")
        case _:
            children = [*ast.iter_child_nodes(node)]
    late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from runtime_imports(child, late=late)


@cache
def modules() -> dict[str, list[tuple[str, bool]]]:
    """Give each module's imports by its name, without the package's own before it."""
    found = {}
    for path in sorted((SOURCES / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(SOURCES / PACKAGE).with_suffix("").parts).removesuffix("__init__")
        found[name.removesuffix(".") or PACKAGE] = list(runtime_imports(ast.parse(path.read_bytes())))
    return found


def ours(name: str) -> str | None:
    """Give the module of ours that an imported name is, or is a part of; None where it is somebody else's."""
    top, _, rest = name.partition(".")
    if top != PACKAGE:
        return None
    while rest and rest not in modules():
        rest = rest.rpartition(".")[0]
    return rest or PACKAGE


def unit(module: str) -> str:
    """Give what stands in a layer: the module, but the sandbox as a whole."""
    return "sandbox" if within(module, {"sandbox"}) else module


def within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def imports_of_ours(*, early: bool = False) -> list[tuple[str, str]]:
    """Give who imports whom, by units; with ``early`` only what is imported before anything runs."""
    pairs = {
        (unit(module), unit(target))
        for module, names in modules().items()
        for name, late in names
        if (target := ours(name)) is not None and not (early and late)
    }
    return sorted((module, target) for module, target in pairs if module != target)


def test_every_module_stands_in_exactly_one_layer() -> None:
    """A new module gets its place here, and one that is gone loses it."""
    placed = sorted(module for layer in LAYERS for module in layer)

    assert placed == sorted({unit(module) for module in modules()})


def test_imports_go_down_only() -> None:
    """Also those inside of functions."""
    upward = [
        f"{module} imports {target}"
        for module, target in imports_of_ours()
        if LEVELS.get(target, 0) >= LEVELS.get(module, 0)
    ]

    assert upward == []


def test_packages_import_nothing() -> None:
    """Else an import of one module of theirs would be one of all. The sandbox is one unit."""
    imported = [name for package in LAYERS[0] for name, _ in modules()[package] if name != "__future__.annotations"]

    assert imported == []


@pytest.mark.parametrize(("library", "places"), KNOWN_BY.items(), ids=KNOWN_BY)
def test_a_library_is_known_where_it_belongs_and_nowhere_else(library: str, places: set[str]) -> None:
    users = {module for module, names in modules().items() if any(within(name, {library}) for name, _ in names)}

    assert users
    assert {user for user in users if not within(user, places)} == set()


def test_the_scheduler_knows_no_cloud_and_no_disk() -> None:
    """It is handed what to run."""
    assert [target for module, target in imports_of_ours() if module == "scheduler"] == ["pacing"]


def test_the_sandbox_imports_nothing_of_ours() -> None:
    """It is written from the API's reference, so that the two check each other."""
    assert [target for module, target in imports_of_ours() if module == "sandbox"] == []


def test_only_the_demo_imports_the_sandbox_and_commands_that_need_it() -> None:
    users = {module for module, target in imports_of_ours() if target == "sandbox"}
    at_once = {module for module, target in imports_of_ours(early=True) if target == "sandbox"}

    assert (users - {"demo", "cli"}, at_once) == (set(), {"demo"})


# --- the reader itself ------------------------------------------------------------------------------------------------


def read(source: str) -> list[tuple[str, bool]]:
    return list(runtime_imports(ast.parse(source)))


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
import a, b.c as d
from ddslogd.cloud import links as l, wire
try:
    import e
except ImportError:
    import f
class G:
    import g
"""

    expected = ["a", "b.c", "ddslogd.cloud.links", "ddslogd.cloud.wire", "e", "f", "g"]
    assert read(source) == [(name, False) for name in expected]


def test_the_reader_sees_late_imports_and_says_so() -> None:
    source = """
import a
def f():
    if True:
        import b
async def g():
    class H:
        from c import d
import e
"""

    assert read(source) == [("a", False), ("b", True), ("c.d", True), ("e", False)]


def test_the_reader_passes_over_what_only_types_need() -> None:
    source = """
from typing import TYPE_CHECKING
import typing
if TYPE_CHECKING:
    import a
else:
    import b
if typing.TYPE_CHECKING:
    import c
if not TYPE_CHECKING:
    import d
"""

    assert [name for name, _ in read(source)] == ["typing.TYPE_CHECKING", "typing", "b", "d"]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("ddslogd.cloud.wire", "cloud.wire"),
        ("ddslogd.cloud.wire.read_export", "cloud.wire"),
        ("ddslogd.cloud", "cloud"),
        ("ddslogd.__version__", "ddslogd"),
        ("ddslogd", "ddslogd"),
        ("ddslogd.sandbox.Sandbox", "sandbox"),
        ("ddslogdx.cloud", None),
        ("aiohttp.web", None),
    ],
)
def test_an_imported_name_is_traced_to_its_module(name: str, module: str | None) -> None:
    assert ours(name) == module
