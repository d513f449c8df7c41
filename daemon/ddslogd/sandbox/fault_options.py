"""Faults as somebody types them who rehearses: ``NAME`` or ``NAME=VALUE``."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ddslogd.sandbox.faults import ApiError, Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NUMBER_AND_CODE = "STATUS[:CODE]"


def read_faults(texts: Iterable[str]) -> dict[str, Any]:
    """Return the fields of ``Faults`` that are named; several of one list, set or mapping are its elements, in order.

    Raises:
        ValueError: There is no such fault, or it takes no such value; the message says what there is.
    """
    known, found = _types(), dict[str, Any]()
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(sorted(known))}")
        kind = known[name]
        try:
            _enter(found, name, kind, value if equals else None)
        except (ValueError, ArithmeticError):
            raise ValueError(f"{name} takes {_FORMS[kind] or 'no value'}, not {value!r}") from None
    return found


def fault_forms() -> dict[str, str]:
    """Return the form of each fault's value by its name; empty where it takes none."""
    return {name: _FORMS[kind] for name, kind in sorted(_types().items())}


def _types() -> dict[str, str]:
    """Return the types of the faults that can be typed, by name: a function cannot."""
    return {each.name: str(each.type) for each in fields(Faults) if str(each.type) in _FORMS}


def _enter(found: dict[str, Any], name: str, kind: str, value: str | None) -> None:
    if kind == "bool":
        if value is not None:
            raise ValueError
        found[name] = True
        return
    if value is None:
        raise ValueError
    container, _, item = kind.rstrip("]").partition("[")
    match container:
        case "list":
            found.setdefault(name, []).extend(_READ[item](one) for one in value.split(","))
        case "set":
            found.setdefault(name, set()).update(value.split(","))
        case "dict":
            key, _, one = value.partition(":")
            found.setdefault(name, {})[key] = _READ[item.removeprefix("str, ")](one)
        case _:
            found[name] = _READ[kind](value)


def _seconds(text: str) -> timedelta:
    return timedelta(seconds=float(text))


def _etag(text: str) -> str:
    if text not in {"md5", "multipart", "encrypted", "none"}:
        raise ValueError
    return text


def _error(text: str) -> ApiError:
    status, _, code = text.partition(":")
    return ApiError(int(status), code)


_READ: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "float | None": float,
    "str": str,
    "Etag": _etag,
    "timedelta": _seconds,
    "ApiError": _error,
}
_FORMS = {
    "bool": "",
    "int": "a number",
    "float | None": "a number",
    "str": "a text",
    "Etag": "md5, multipart, encrypted or none",
    "timedelta": "seconds",
    "list[int]": "numbers, with commas",
    "list[float]": "numbers, with commas",
    "list[str]": "texts, with commas",
    "list[Etag]": "md5, multipart, encrypted or none, with commas",
    "list[ApiError]": f"{NUMBER_AND_CODE}, with commas",
    "set[str]": "texts, with commas",
    "dict[str, float]": "KEY:number",
    "dict[str, timedelta]": "KEY:seconds",
}
