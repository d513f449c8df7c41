"""The page to look at: a status as HTML. Pure but for its templates and static files, which are read once.

Whatever comes from the cloud is hostile: jinja2 escapes each value, and ``words.seen`` shows characters that hide.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ddslogd.model import units
from ddslogd.monitoring.freshness import in_gap
from ddslogd.scheduling.backoff import bucket
from ddslogd.web import sparkline, text_format
from ddslogd.web.table_query import STATES, read, select

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ddslogd.monitoring.status import CloudStatus, InstanceStatus, Status
    from ddslogd.storage.ledger.status_queries import NodeFacts

_PACKAGE = "ddslogd.web"
_CONTENT_TYPES = {
    "ddslogd.css": "text/css",
    "ddslogd.js": "text/javascript",
    "ddslogd.svg": "image/svg+xml",
}
_TRANSFERS = 50  # that are shown one by one
_BREAKS = re.compile(r"(?<=[/_])(?=[^/_])")
_NOTHING: Mapping[str, str] = {}


def static(name: str) -> tuple[str, bytes] | None:
    """Return the content type and the bytes of a static file; None where there is none of that name."""
    return _static_files().get(name)


def overview(status: Status, query: Mapping[str, str] = _NOTHING) -> str:
    """Return the page of all instances.

    Args:
        status: May leave out the instances' nodes.
        query: Of the address.
    """
    asked = read(query)
    return (
        _environment()
        .get_template("overview.html")
        .render(
            root="",
            status=status,
            now=status.now,
            query=asked,
            selection=select(status.instances, asked),
            states=_counted(status),
            with_gaps=sum(bool(one.gaps_24h) for one in status.instances),
            clouds=sorted(status.clouds, key=_is_well),
            transfers=status.transfers[:_TRANSFERS],
        )
    )


def instance(status: Status, instance: InstanceStatus, query: Mapping[str, str] = _NOTHING) -> str:  # noqa: ARG001  # nothing yet
    """Return the page of one instance.

    Args:
        status: For what is around it.
        instance: The instance with its nodes.
        query: Of the address.
    """
    running = tuple(transfer for transfer in status.transfers if transfer.instance == instance.name)
    return (
        _environment()
        .get_template("instance.html")
        .render(root="../", status=status, now=status.now, instance=instance, transfers=running)
    )


def missing(status: Status, name: str) -> str:
    """Return the page that says that there is no such instance."""
    return _environment().get_template("missing.html").render(root="../", status=status, now=status.now, name=name)


def _counted(status: Status) -> tuple[tuple[str, int], ...]:
    counts = {"stale": status.stale, "new": status.new, "fresh": status.fresh}
    return tuple((state, counts[state]) for state in STATES)


def _is_well(cloud: CloudStatus) -> bool:
    return cloud.credentials != "refused" and cloud.reachable and cloud.paused_until is None


def _last_error(instance: InstanceStatus) -> str:
    """Return the last error in full; empty where there is none, or where it is told already by why."""
    if instance.last_cycle is not None and instance.last_cycle.error:
        where, error = "", instance.last_cycle.error
    elif instance.failures:
        newest = max(instance.failures, key=lambda failure: failure.last)
        where, error = f"{newest.node} ({newest.log} log): " if newest.node else "", newest.reason
    else:
        return ""
    return "" if error in instance.why else where + error


def _node_states(instance: InstanceStatus) -> str:
    """Return in words how many nodes are in which state, but those that are gone: 2 nodes stalled at the source."""
    counts = Counter(state for _, state in dict.fromkeys((one.node, one.state) for one in instance.node_troubles))
    return ", ".join(f"{number} node{'' if number == 1 else 's'} {state}" for state, number in counts.items())


def _fails_with_all(node: NodeFacts, instance: InstanceStatus) -> bool:
    """Return whether an export fails as a whole that would have brought a node's log."""
    return any(not one.node and one.log in {"", node.log} for one in instance.failures)


def _time(moment: datetime | None, now: datetime, *, none: str = "never", late: str = "") -> Markup:
    """Return a moment in relative words, with the absolute time next to them.

    Args:
        moment: The moment.
        now: What it is seen from.
        none: The words where there is no moment.
        late: The words in place of "3 min ago", where it should have been in the future.
    """
    if moment is None:
        return Markup('<span class="none">{}</span>').format(none)
    told = late if late and moment <= now else text_format.relative(moment, now)
    # Formatted as plain text, in a third of the time: nothing but digits and the templates' own words is in it.
    html = f'<time datetime="{text_format.machine(moment)}" title="{text_format.absolute(moment)}">{told}</time>'
    return Markup(html)  # noqa: S704  # see above


@lru_cache(maxsize=16_384)
def _sparkline(counts: tuple[int, ...]) -> Markup:
    """Draw new bytes a cycle; kept, since few of many instances have had a cycle since the page was last made."""
    template = _environment().get_template("parts.html").module
    drawn: Markup = template.sparkline(sparkline.spark(counts))  # type: ignore[attr-defined]  # a macro
    return drawn


def _soft(path: str) -> Markup:
    """Let a path break behind slashes and underscores."""
    return Markup("<wbr>").join(text_format.seen(part) for part in _BREAKS.split(path))


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_template),
        undefined=StrictUndefined,
        finalize=text_format.seen,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "absolute": text_format.absolute,
        "clock": lambda moment: text_format.absolute(moment).removesuffix(" UTC"),
        "burst": lambda calls_per_minute: bucket(calls_per_minute)[0],
        "fails_with_all": _fails_with_all,
        "in_gap": in_gap,
        "last_error": _last_error,
        "node_states": _node_states,
        "size": units.spelled_size,
        "soft": _soft,
        "span": units.span,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "spark": sparkline.spark,
        "sparkline": _sparkline,
        "time": _time,
        "segment": lambda name: quote(name, safe="", errors="surrogatepass"),
    }
    return environment


def _template(name: str) -> str:
    return (resources.files(_PACKAGE) / "templates" / name).read_text(encoding="utf-8")


@cache
def _static_files() -> Mapping[str, tuple[str, bytes]]:
    """Read all there are: a closed set, so that no name can lead elsewhere."""
    directory = resources.files(_PACKAGE) / "static"
    return {name: (kind, (directory / name).read_bytes()) for name, kind in _CONTENT_TYPES.items()}
