"""What a seed decides: which kinds of trouble there are, how the nodes write, and when what happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

WINDOWS = (20_000, 60_000)  # bytes of an export, from and to

# Each kind of trouble with the share of the seeds that have it.
KINDS = {
    "overflow": 0.7,  # windows that do not reach back to the last one
    "storm": 0.6,  # lines without a time, the same behind many events
    "ending": 0.5,  # exports whose last line the exporter changed
    "earlier": 0.4,  # exports that end earlier than the last one
    "rows": 0.5,  # missing, failed and late rows, replies without rows, FAILED over SUCCESS
    "stall": 0.3,  # the same row, or the same object, for a while
    "ahead": 0.3,  # rows whose update time is a day ahead
    "rename": 0.3,  # nodes that get other names
    "twins": 0.2,  # two nodes of one name
    "outage": 0.5,  # 500, 503, 429, connections that are reset, bodies that are torn
    "list": 0.3,  # the list of instances is refused for a while
    "clock": 0.35,  # host, API and store have clocks of their own, that jump
    "dates": 0.3,  # lines whose date no clock shows
    "ledger": 0.35,  # the ledger is removed, put back from a copy, damaged
    "files": 0.2,  # snapshots are deleted while the daemon is stopped
    "encoding": 0.25,  # objects that are compressed, bodies without length and ETag
    "kill": 0.8,  # SIGKILL and SIGTERM, and starts
}

LONG = (15.0, 19.0)  # seconds: what lasts so long has to be reported, see ``trial.BOUND``

# What can happen for a while, by kind: names, and from how long to how long it lasts in seconds.
TROUBLES: dict[str, tuple[tuple[str, float, float], ...]] = {
    "rows": (
        ("row missing", 1, 4),
        ("row missing", *LONG),
        ("row failed", 1, 4),
        ("row failed", *LONG),
        ("row late", 1, 3),
        ("row nameless", 1, 6),
        ("empty list", 1, 4),
        ("empty list", *LONG),
        ("no list", *LONG),
        ("error body", 1, 5),
        ("failed on top", 1, 6),
    ),
    "stall": (
        ("same row", 1, 4),
        ("same row", *LONG),
        ("same row, other bytes", 1, 5),
        ("same row, other bytes", *LONG),
    ),
    "outage": (
        ("api 500", 0.5, 4),
        ("api 503", 0.5, 4),
        ("api 429", 0.5, 2),
        ("api 404", 0.5, 4),
        ("api reset", 0.5, 3),
        ("api down", *LONG),
        ("store 503", 0.5, 4),
        ("store reset", 0.5, 4),
        ("store torn", 0.5, 6),
    ),
    "encoding": (("store gzip", 1, 6), ("store gzip object", 1, 6), ("store bare", 1, 6), ("store bare torn", 1, 6)),
    "list": (("list refused", 2, 12),),
    "rename": (("rename", 0, 0),),
    "clock": (
        ("host ahead 8 h", 1, 3),
        ("host ahead 8 h, then api down", 17, 20),
        ("host ahead 365 d", 2, 4),
        ("host behind 2 h", 2, 8),
        ("api ahead 2 h", 2, 6),
        ("api behind 2 h", 2, 6),
        ("store ahead 30 min", 2, 6),
        ("store behind 30 min", 2, 6),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that happens for a while.

    Attributes:
        name: As in ``TROUBLES``.
        at: Seconds after the start.
        until: The same.
        whom: Chooses the node or instance: a number between 0 and 1.
    """

    name: str
    at: float
    until: float
    whom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """How one node writes and is exported; see ``node_log.Habits``."""

    window: int
    growth: float
    json: bool
    storm: float
    odd_dates: float
    changed_endings: float
    earlier: float
    ahead: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePlan:
    """One instance.

    Attributes:
        discovered: It is no entry of the configuration, but found in the cloud's list.
        twins: Its first two nodes have one name.
    """

    name: str
    discovered: bool
    twins: bool
    nodes: tuple[NodePlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All that a seed decides before it runs.

    Attributes:
        kinds: The kinds of trouble.
        seconds: How long there is trouble; after it comes the calm.
        rotate: Bytes of a stream's file.
        snapshots: ``all``, ``latest`` or ``none``.
    """

    seed: int
    kinds: frozenset[str]
    seconds: float
    rotate: int
    snapshots: str
    delta: str
    adapt: bool
    instances: tuple[InstancePlan, ...]
    troubles: tuple[Trouble, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for next to the seed.

    Attributes:
        only: These kinds of trouble, all of them; None for what the seed chooses.
        without: None of these.
        seconds: How long there is trouble.
        small: One instance of one node.
    """

    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    seconds: float = 22.0
    small: bool = False


def scenario(seed: int, options: Options) -> Scenario:
    """Return what happens with a seed. Each part has chances of its own: one less does not change the others."""
    chosen = frozenset(kind for kind, share in KINDS.items() if _random(seed, kind).random() < share)
    kinds = (chosen if options.only is None else options.only) - options.without
    random = _random(seed, "settings")
    names = ("alpha",) if options.small else ("alpha", "beta")
    return Scenario(
        seed=seed,
        kinds=kinds,
        seconds=options.seconds,
        rotate=random.choice((40_000, 80_000, 300_000, 100_000_000)),
        snapshots=random.choice(("all", "latest", "none")),
        delta=random.choice(("auto", "auto", "off")),
        adapt=random.choice((True, False)),
        instances=tuple(_instance(seed, name, kinds, small=options.small) for name in names),
        troubles=tuple(sorted(_troubles(seed, kinds, options.seconds), key=lambda one: one.at)),
    )


def _instance(seed: int, name: str, kinds: frozenset[str], *, small: bool) -> InstancePlan:
    random = _random(seed, name)
    count = 1 if small else random.choice((1, 2, 3))
    twins = "twins" in kinds and random.random() < 0.7  # not every instance
    nodes = [_node(_random(seed, f"{name} {number}"), kinds) for number in range(max(2, count) if twins else count)]
    return InstancePlan(name=name, discovered=random.random() < 0.5, twins=twins, nodes=tuple(nodes))


def _node(random: Random, kinds: frozenset[str]) -> NodePlan:
    window, growth = random.randint(*WINDOWS), random.choice((0.4, 1.2, 2.0))
    storm, odd, changed = random.choice((0.02, 0.1, 0.5, 1.0)), random.choice((0.002, 0.02)), random.uniform(0.2, 0.9)
    earlier, ahead, json = random.uniform(0.1, 0.4), random.uniform(0.05, 0.2), random.random()
    return NodePlan(
        window=window,
        growth=growth if "overflow" in kinds else min(growth, 0.6),
        json=json < 0.5,  # half of them
        storm=storm if "storm" in kinds else 0.0,
        odd_dates=odd if "dates" in kinds else 0.0,
        changed_endings=changed if "ending" in kinds else 0.0,
        earlier=earlier if "earlier" in kinds else 0.0,
        ahead=ahead if "ahead" in kinds else 0.0,
    )


def _troubles(seed: int, kinds: frozenset[str], seconds: float) -> list[Trouble]:
    found: list[Trouble] = []
    for kind in sorted(kinds & TROUBLES.keys()):
        random = _random(seed, f"troubles {kind}")
        for _ in range(random.randint(1, 3)):
            name, least, most = random.choice(TROUBLES[kind])
            length = random.uniform(least, most)
            at = random.uniform(1.0, max(1.0, min(seconds * 0.8, seconds - length)))
            until = min(at + length, seconds)
            found.append(Trouble(name=name, at=at, until=until, whom=random.random()))
    return found


def _random(seed: int, use: str) -> Random:
    return Random(f"{seed} {use}")
