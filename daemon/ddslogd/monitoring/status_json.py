"""The status as JSON."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, SchemaSerializer, core_schema

from ddslogd.model.units import iso_time
from ddslogd.monitoring.status import InstanceStatus, Status

_Excluded = dict[str, dict[str, dict[str, bool]]]
_NODES: Final[_Excluded] = {"instances": {"__all__": {"nodes": True}}}


_ISO_TIME: Final = core_schema.plain_serializer_function_ser_schema(iso_time, return_schema=core_schema.str_schema())


def _serializer(model: type[Any]) -> SchemaSerializer:
    """Return what writes a model, with our times: pydantic's own have microseconds, and annotations are for models."""
    return SchemaSerializer(_with_our_times(TypeAdapter(model).core_schema))


def _with_our_times(schema: Any) -> Any:
    match schema:
        case {"type": "datetime"}:
            return schema | {"serialization": _ISO_TIME}
        case dict():
            return {key: _with_our_times(value) for key, value in schema.items()}
        case list():
            return [_with_our_times(value) for value in schema]
        case _:
            return schema


_STATUS: Final = _serializer(Status)
_INSTANCE: Final = _serializer(InstanceStatus)


def as_json(status: Status, *, nodes: bool = False) -> bytes:
    """Return what ``/api/v1/status`` sends: times as ISO 8601 in UTC, durations in seconds."""
    return _written(_STATUS, status, exclude=None if nodes else _NODES)


def instance_as_json(instance: InstanceStatus) -> bytes:
    """Return what ``/api/v1/instances/<name>`` sends."""
    return _written(_INSTANCE, instance)


def as_object(status: Status, *, nodes: bool = False) -> dict[str, Any]:
    """Return what ``as_json`` writes."""
    found: dict[str, Any] = _STATUS.to_python(status, mode="json", exclude=None if nodes else _NODES, warnings=False)
    return found


def _written(
    serializer: SchemaSerializer, model: Status | InstanceStatus, *, exclude: _Excluded | None = None
) -> bytes:
    try:
        return serializer.to_json(model, exclude=exclude, warnings=False)
    except PydanticSerializationError:  # a text from outside holds half a character, which UTF-8 does not take
        return json.dumps(serializer.to_python(model, mode="json", exclude=exclude, warnings=False)).encode()
