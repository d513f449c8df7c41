"""What a node writes to its slow log: operations that took long, as mongod words them, the same for the same seed.

Since MongoDB 4.4 a line is a JSON object with the message "Slow query"; up to 4.2 it is one sentence that ends in
the milliseconds.
"""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

from ddslogd.sandbox.dds.error_log import json_layout, text_layout

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

_SLOW_QUERY = 51803
_SLOWEST_MS = 20_000
_SLOW_MS = 100

# Component, type, JSON command, text command, plan. A dollar of mongod's own is doubled since these are templates.
_OPERATIONS = (
    (
        "COMMAND",
        "command",
        '{"find":"orders","filter":{"größe":{"$$gt":$b}},"lsid":{"id":{"$$uuid":"$uuid"}},"$$db":"shop"}',
        'command: find { find: "orders", filter: { größe: { $$gt: $b } }, lsid: { id: UUID("$uuid") }, $$db: "shop" }',
        "COLLSCAN",
    ),
    (
        "COMMAND",
        "command",
        '{"aggregate":"orders","pipeline":[{"$$match":{"user":$n}}],"cursor":{},"$$db":"shop"}',
        'command: aggregate { aggregate: "orders", pipeline: [ { $$match: { user: $n } } ], cursor: {}, $$db: "shop" }',
        "IXSCAN { user: 1 }",
    ),
    (
        "WRITE",
        "update",
        '{"q":{"state":"new"},"u":{"$$set":{"state":"seen","by":"app$a"}},"multi":true,"upsert":false}',
        'command: { q: { state: "new" }, u: { $$set: { state: "seen", by: "app$a" } }, multi: true, upsert: false }',
        "IXSCAN { state: 1 }",
    ),
)
_ATTR = Template(
    '{"type":"$type","ns":"shop.orders","appName":"app$a","command":$command,"planSummary":"$plan",'
    '"keysExamined":$b,"docsExamined":$n,"numYields":$b,"nreturned":$a,"queryHash":"$hash","planCacheKey":"$hash",'
    '"reslen":$n,"locks":{"Global":{"acquireCount":{"r":$b}},"Collection":{"acquireCount":{"r":$b}}},"storage":{},'
    '"protocol":"op_msg","durationMillis":$took}'
)
_SENTENCE = Template(
    '$type shop.orders appName: "app$a" $command planSummary: $plan keysExamined:$b docsExamined:$n numYields:$b '
    "nreturned:$a queryHash:$hash planCacheKey:$hash reslen:$n locks:{ Global: { acquireCount: { r: $b } }, "
    "Collection: { acquireCount: { r: $b } } } storage:{} protocol:op_msg ${took}ms"
)


def json_line(moment: datetime, random: Random) -> str:
    """Return a line as MongoDB 4.4 and later write it."""
    component, _, attr = _said(random, _ATTR, json=True)
    return json_layout(moment, random, ("I", component, _SLOW_QUERY, "Slow query", attr))


def text_line(moment: datetime, random: Random) -> str:
    """Return a line as MongoDB up to 4.2 writes it."""
    component, kind, rest = _said(random, _SENTENCE, json=False)
    return text_layout(moment, random, ("I", component, _SLOW_QUERY, kind, rest.removeprefix(f"{kind} ")))


def _said(random: Random, form: Template, *, json: bool) -> tuple[str, str, str]:
    """Choose an operation and give its component, its type and what the form says of it."""
    component, kind, as_json, as_text, plan = random.choice(_OPERATIONS)
    numbers = {
        "a": random.randrange(256),
        "b": random.randrange(10**4),
        "n": random.randrange(10**6),
        "uuid": f"{random.getrandbits(32):08x}-4bad-4d55-8bad-{random.getrandbits(48):012x}",
        "hash": f"{random.getrandbits(32):08X}",
        "took": random.randrange(_SLOW_MS, _SLOWEST_MS),
    }
    command = Template(as_json if json else as_text).substitute(numbers)
    return component, kind, form.substitute(numbers, type=kind, command=command, plan=plan)
