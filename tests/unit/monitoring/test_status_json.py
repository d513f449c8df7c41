from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.monitoring.status import Configuration
from ddslogd.monitoring.status_json import as_json, as_object, instance_as_json
from support import sample_status
from support.sample_status import NOW

if TYPE_CHECKING:
    from ddslogd.monitoring.status import Status

WHOLE = sample_status.instance(nodes=sample_status.nodes(), failures=sample_status.stale().failures)
SAMPLES = {
    "dozen": sample_status.dozen(),
    "late": sample_status.dozen(late=True),
    "none": sample_status.status(),
    "whole": sample_status.status(
        WHOLE,
        config=Configuration(loaded_at=NOW, refused="line 3"),
        transfers=(sample_status.transfer(),),
        loop_lag_s=0.25,
    ),
    "many": sample_status.fleet(100),
}


def plain(value: Any) -> Any:
    """Return what JSON has to say of a value: field by field, times to the millisecond."""
    match value:
        case tuple():
            return [plain(one) for one in value]
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case StrEnum():
            return value.value
        case None | str() | int() | float():
            return value
        case _:
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}


@pytest.mark.parametrize("status", SAMPLES.values(), ids=SAMPLES)
def test_the_json_says_every_field_in_order(status: Status) -> None:
    written = json.loads(as_json(status, nodes=True))

    assert written == as_object(status, nodes=True) == plain(status)
    assert list(written) == [field.name for field in fields(status)]
    assert [json.loads(instance_as_json(one)) for one in status.instances] == written["instances"]


@pytest.mark.parametrize("status", SAMPLES.values(), ids=SAMPLES)
def test_nodes_are_left_out_unless_they_are_asked_for(status: Status) -> None:
    expected = plain(status)
    for one in expected["instances"]:
        del one["nodes"]

    assert json.loads(as_json(status)) == as_object(status) == expected


def test_half_a_character_of_a_hostile_cloud_keeps_nobody_from_the_status() -> None:
    """UTF-8 does not take it, JSON's escapes do."""
    cloud = replace(SAMPLES["dozen"].clouds[0], silence="refused by \ud800, says Zürich")

    written = json.loads(as_json(replace(SAMPLES["dozen"], clouds=(cloud,))))

    assert written["clouds"][0]["silence"] == "refused by \ud800, says Zürich"
