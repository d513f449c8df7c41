"""Imports go down only, and each library is known where it belongs. Read from the sources: nothing is imported."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from support.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = ROOT / "daemon"
PACKAGE = "ddslogd"

# From the top down. A folder imports from itself and from folders of lower floors; the sandbox nothing of ours.
FLOORS: tuple[set[str], ...] = (
    {"cli"},
    {"service"},
    {"web", "doctor", "cluster"},
    {"collection", "monitoring"},
    {"download"},
    {"storage", "huaweicloud"},
    {"config"},
    {"scheduling"},
    {"model"},
)
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
OUTSIDE = {"ddslogd", "__main__", "sandbox"}

# Who may use a library: folders and modules. What is not named here may be used anywhere.
KNOWN_BY = {
    "aiohttp": {"huaweicloud", "download", "web", "doctor", "service", "cli.demo", "sandbox"},
    "aiohttp.web": {"web", "sandbox"},
    "stamina": {"download", "huaweicloud"},
    "aiolimiter": {"huaweicloud.rate_limiter"},
    "cronsim": {"config.types", "scheduling.triggers"},
    "click": {"cli"},
    "prometheus_client": {"monitoring.metrics"},
    "aiofiles": {"huaweicloud.auth"},
    "yaml": {"config", "storage.shippers"},  # shippers' files
    # What comes in as text, and what goes out as JSON.
    "pydantic": {"config", "monitoring.status_json", "storage.ledger.stream_records"},
    "pydantic_core": {"config", "monitoring.status_json"},
    "jinja2": {"web.page"},
    "markupsafe": {"web.page"},
    "psycopg": {"cluster"},
    "sqlite3": {"storage.ledger", "storage.shippers.fluent_bit"},  # Fluent Bit's registry is SQLite
}


def runtime_imports(node: ast.AST) -> Iterator[str]:
    """Return the full names that are imported when the program runs, also inside of functions.

    What stands under ``if TYPE_CHECKING`` is not imported.
    """
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            children: list[ast.AST] = [*node.orelse]
        case ast.Import():
            yield from (alias.name for alias in node.names)
            return
        case ast.ImportFrom(level=0):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            return
        case ast.ImportFrom():
            pytest.fail(f"line {node.lineno}: a relative import")
        case _:
            children = [*ast.iter_child_nodes(node)]
    for child in children:
        yield from runtime_imports(child)


@cache
def modules() -> dict[str, list[str]]:
    """Return each module's imports by its name, without the package's own before it."""
    found = {}
    for path in sorted((SOURCES / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(SOURCES / PACKAGE).with_suffix("").parts).removesuffix("__init__")
        found[name.removesuffix(".") or PACKAGE] = list(runtime_imports(ast.parse(path.read_bytes())))
    return found


def ours(name: str) -> str | None:
    """Return the module of ours that an imported name is, or is a part of; None where it is somebody else's."""
    top, _, rest = name.partition(".")
    if top != PACKAGE:
        return None
    while rest and rest not in modules():
        rest = rest.rpartition(".")[0]
    return rest or PACKAGE


def folder(module: str) -> str:
    """Return the top folder that a module is in."""
    return module.partition(".")[0]


def within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def imports_of_ours() -> list[tuple[str, str]]:
    """Return who imports whom."""
    pairs = {
        (module, target) for module, names in modules().items() for name in names if (target := ours(name)) is not None
    }
    return sorted((module, target) for module, target in pairs if module != target)


def test_every_folder_is_on_exactly_one_floor() -> None:
    assert sum(map(len, FLOORS)) == len(FLOOR)
    assert {folder(module) for module in modules()} == set(FLOOR) | OUTSIDE


def test_folders_import_from_lower_floors_only() -> None:
    upward = [
        f"{module} imports {target}"
        for module, target in imports_of_ours()
        if folder(module) in FLOOR and folder(target) in FLOOR and folder(module) != folder(target)
        if FLOOR[folder(target)] <= FLOOR[folder(module)]
    ]

    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    below: dict[str, set[str]] = {module: set() for module in modules()}
    for module, target in imports_of_ours():
        below[module].add(target)
    while leaves := {module for module, targets in below.items() if not targets}:
        below = {module: targets - leaves for module, targets in below.items() if module not in leaves}

    assert below == {}


def test_no_command_imports_the_table_that_loads_it_by_name() -> None:
    """That would be a circle which no import shows."""
    assert [module for module, target in imports_of_ours() if target == "cli.main"] == ["__main__"]


def test_packages_import_nothing() -> None:
    """Else an import of one module of theirs would be one of all. The sandbox's is its door."""
    packages = {module for module in modules() if (SOURCES / PACKAGE / module.replace(".", "/")).is_dir()}
    imported = [
        (package, name)
        for package in packages - {"sandbox"}
        for name in modules()[package]
        if name != "__future__.annotations"
    ]

    assert imported == []


@pytest.mark.parametrize(("library", "places"), KNOWN_BY.items(), ids=KNOWN_BY)
def test_a_library_is_known_where_it_belongs_and_nowhere_else(library: str, places: set[str]) -> None:
    users = {module for module, names in modules().items() if any(within(name, {library}) for name in names)}

    assert users
    assert {user for user in users if not within(user, places)} == set()


def test_the_event_loop_is_asyncios_own() -> None:
    """On uvloop the tail of a body over TLS is lost where the server closes behind it."""
    users = [module for module, names in modules().items() if any(within(name, {"uvloop"}) for name in names)]

    assert users == []


def test_nobody_decides_by_the_words_of_an_error() -> None:
    """But where the library gives nothing else to go by: Python's sqlite3 has no code for a text that is no UTF-8."""
    by_words = re.compile(
        r"\bin (str|repr)\((exc|error|cause|bug)\b|\bstr\(\w+\)\.(startswith|endswith|find|partition)\("
    )
    found = [path.name for path in (SOURCES / PACKAGE).rglob("*.py") if by_words.search(path.read_text())]

    assert found == ["integrity_check.py"]


def test_scheduling_knows_no_cloud_and_no_disk() -> None:
    """It is handed what to run."""
    targets = {folder(target) for module, target in imports_of_ours() if folder(module) == "scheduling"}

    assert targets <= {"scheduling", "model"}


@pytest.mark.parametrize("ground", ["sandbox", "model"])
def test_the_ground_imports_nothing_of_ours(ground: str) -> None:
    """The sandbox is written from the API's reference, so that the two check each other."""
    assert {folder(target) for module, target in imports_of_ours() if folder(module) == ground} == {ground}


def test_only_the_demo_and_its_commands_import_the_sandbox() -> None:
    users = {module for module, target in imports_of_ours() if folder(target) == "sandbox" != folder(module)}

    assert users == {"cli.demo", "cli.sandbox"}


# --- the reader itself ------------------------------------------------------------------------------------------------


def read(source: str) -> list[str]:
    return list(runtime_imports(ast.parse(source)))


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
import a, b.c as d
from ddslogd.huaweicloud import link as l, http
try:
    import e
except ImportError:
    import f
class G:
    import g
"""

    expected = ["a", "b.c", "ddslogd.huaweicloud.link", "ddslogd.huaweicloud.http", "e", "f", "g"]
    assert read(source) == expected


def test_the_reader_sees_what_a_function_imports() -> None:
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

    assert read(source) == ["a", "b", "c.d", "e"]


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

    assert read(source) == ["typing.TYPE_CHECKING", "typing", "b", "d"]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("ddslogd.huaweicloud.http", "huaweicloud.http"),
        ("ddslogd.huaweicloud.http.Http", "huaweicloud.http"),
        ("ddslogd.huaweicloud", "huaweicloud"),
        ("ddslogd.__version__", "ddslogd"),
        ("ddslogd", "ddslogd"),
        ("ddslogd.sandbox.Sandbox", "sandbox"),
        ("ddslogdx.model", None),
        ("aiohttp.web", None),
    ],
)
def test_an_imported_name_is_traced_to_its_module(name: str, module: str | None) -> None:
    assert ours(name) == module
