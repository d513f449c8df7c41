"""The page as text: what it says, in which order, and that no text from outside becomes anything but text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddslogd.model import units
from ddslogd.model.failure_kind import FailureKind
from ddslogd.monitoring.status import State
from ddslogd.storage.ledger.status_queries import Failing, NodeFacts
from ddslogd.web import page, sparkline, table_query, text_format
from support.sample_status import (
    MINUTE,
    NOW,
    REFUSED,
    cycle,
    dozen,
    fleet,
    instance,
    new,
    nodes,
    silent,
    stale,
    status,
    transfer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddslogd.monitoring.status import InstanceStatus, Status

VOID = {"meta", "link", "input", "wbr", "br"}
CELLS = {"td", "th", "dt", "dd"}
DRAWN = {"path", "circle", "rect", "use", "symbol", "svg"}


@dataclass
class Element:
    """An element as a browser would read it."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Return what is in it, by tag and attributes, in order."""
        return [
            element
            for element in self._inner()
            if (not tag or element.tag == tag)
            and all(
                element.attributes.get(name.strip("_").replace("_", "-")) == value for name, value in attributes.items()
            )
        ]

    def one(self, tag: str = "", **attributes: str) -> Element:
        """Return the only one."""
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        """What is read, blanks folded."""
        return " ".join(self._text().split())

    def _text(self) -> str:
        inner = "".join(child if isinstance(child, str) else child._text() for child in self.children)
        return f" {inner} " if self.tag in CELLS else inner

    def _inner(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._inner()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("#document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag}: an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in DRAWN, f"{tag}: only SVG closes itself"
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(html: str) -> Element:
    """Read a page; fails where an element is not closed or closed twice."""
    html.encode()
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1
    return reader.open[0]


def rows(html: str) -> list[str]:
    """Return the names in the table, in order."""
    return [heading.text.split()[0] for heading in read(html).all("th", scope="row")]


def row(html: str, name: str) -> Element:
    """Return all that the table says of an instance."""
    return read(html).one("tbody", id=f"i-{name}")


EVERY_PAGE = {
    "fresh": page.overview(dozen()),
    "stale": page.overview(dozen(late=True), {"q": "e", "state": "stale", "sort": "age"}),
    "many": page.overview(fleet(450), {"page": "2"}),
    "whole": page.overview(fleet(450), {"show": "all"}),
    "empty": page.overview(status()),
    "none fits": page.overview(dozen(), {"q": "nothing is called that"}),
    "no daemon": page.overview(replace(status(new()), started_at=None, loop_lag_s=None, clouds=())),
    "instance": page.instance(status(instance(), transfers=(transfer(),)), instance(nodes=nodes(), gaps=2)),
    "stale instance": page.instance(status(stale()), stale()),
    "new instance": page.instance(status(new()), new()),
    "missing": page.missing(status(), "nobody"),
}


@pytest.fixture(params=list(EVERY_PAGE.values()), ids=list(EVERY_PAGE))
def document(request: pytest.FixtureRequest) -> Element:
    return read(request.param)


# --- what it says -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "said", "shape"),
    [
        (status(instance("a"), instance("b")), "All 2 instances fresh", "#shape-fresh"),
        (status(instance("a"), stale("b")), "1 of 2 instances stale", "#shape-stale"),
        (status(instance("a"), new("b")), "1 of 2 instances fresh, 1 new", "#shape-new"),
        (status(), "No instances", "#shape-new"),
    ],
)
def test_the_headline_says_it_in_words_and_by_a_shape(shown: Status, said: str, shape: str) -> None:
    document = read(page.overview(shown))
    headline = document.one("h1")

    assert (headline.text, headline.one("use").attributes["href"], document.one("head").one("title").text) == (
        said,
        shape,
        f"{said} · collector-1 · ddslogd",
    )


def test_each_page_names_its_host_in_header_and_title() -> None:
    """Whoever looks at several collectors through tunnels sees 127.0.0.1 at all of them."""
    pages = [page.overview(status()), page.instance(status(instance()), instance()), page.missing(status(), "nobody")]

    assert [read(html).one("header").one("span", class_="host").text for html in pages] == ["on collector-1"] * 3
    assert ["collector-1" in read(html).one("head").one("title").text for html in pages] == [True] * 3


def test_a_host_without_a_name_is_not_named() -> None:
    document = read(page.overview(status(host="")))

    assert (document.all("span", class_="host"), document.one("head").one("title").text) == (
        [],
        "No instances · ddslogd",
    )


@pytest.mark.parametrize("made", [instance, stale, new, silent])
def test_a_state_is_told_by_word_shape_and_colour(made: Callable[[str], InstanceStatus]) -> None:
    shown = made("orders")
    badge = row(page.overview(status(shown)), "orders").all("span")[0]

    assert (badge.text, badge.one("use").attributes["href"], badge.attributes["class"]) == (
        str(shown.state),
        f"#shape-{shown.state}",
        f"badge {shown.state}",
    )


def test_a_silent_database_is_fresh_without_new_lines_and_nothing_failed() -> None:
    for html in (
        row(page.overview(status(silent("quiet"))), "quiet").text,
        read(page.instance(status(silent("quiet")), silent("quiet"))).one("main").text,
    ):
        assert "fresh" in html
        assert "no new lines" in html
        assert "stale " not in html.replace("stale after", "")
        assert not re.search(r"[1-9]\d* failed|error", html)


def test_a_row_says_all_that_is_asked_of_it() -> None:
    said = row(page.overview(status(instance("orders", gaps=2))), "orders").text

    for part in ("fresh", "orders", "main", "3 min ago", "2 min of 40 min", "ok, 2 min ago", "took 4 s", "146 kB"):
        assert part in said
    assert "2 gaps" in said
    assert "in 8 min every 20m" in said


def test_the_last_error_is_told_in_full_and_once() -> None:
    said = row(page.overview(status(stale("ledger"))), "ledger").text

    assert said.count(REFUSED) == 1
    assert "Yours: fix the credentials." in said


def test_a_fresh_instance_with_a_failing_node_says_so() -> None:
    """One node's failure leaves the instance fresh for a while: it is told, with who has to act."""
    failing = Failing(
        node="node_2",
        log="slow",
        kind=FailureKind.NOT_ALLOWED,
        since=NOW,
        last=NOW,
        times=3,
        reason="the role lacks a right",
    )
    said = row(page.overview(status(instance("orders", failures=(failing,), turn="yours: grant it"))), "orders").text

    assert "Yours: grant it. Last error: node_2 (slow log): the role lacks a right" in said


def test_an_error_that_differs_from_the_reason_is_told_beside_it() -> None:
    shown = stale("ledger", why="no good cycle for 2h: the disk is full", last_cycle=cycle(error="no room"))
    said = row(page.overview(status(shown)), "ledger").text

    assert "No good cycle for 2h: the disk is full" in said
    assert "Last error: no room" in said


def test_a_running_cycle_and_one_that_is_due_are_told_apart() -> None:
    html = page.overview(
        status(
            instance("runs", running=True), instance("due", next_tick=NOW - MINUTE), instance("idle", next_tick=None)
        )
    )

    said = {name: row(html, name).all("td")[-1].text for name in ("runs", "due", "idle")}
    assert said == {"runs": "running now every 20m", "due": "due now every 20m", "idle": "none every 20m"}


def test_a_time_is_relative_with_the_absolute_one_beside_it() -> None:
    time = row(page.overview(status(instance("orders"))), "orders").all("time")[0]

    assert (time.text, time.attributes) == (
        "3 min ago",
        {"datetime": "2026-11-24T14:09:05.000Z", "title": "2026-11-24 14:09:05 UTC"},
    )


def test_the_spark_line_has_words() -> None:
    spark = row(page.overview(status(instance("orders", new_bytes=(0, 2000, 1000)))), "orders").one("svg", role="img")

    assert spark.one("title").text == "new bytes in the last 3 cycles: 3.0 kB, at most 2.0 kB in one"


def test_budget_disk_and_transfers_are_bars_with_names_and_numbers() -> None:
    document = read(page.overview(dozen(late=True)))
    bars = {bar.attributes["aria-label"]: bar.attributes for bar in document.all("meter") + document.all("progress")}

    assert (bars["Calls used in cloud main"]["value"], bars["Calls used in cloud main"]["max"]) == ("1", "6")
    assert bars["Calls used in cloud europe"]["value"] == "6"
    assert (bars["Disk used"]["value"], bars["Disk used"]["max"]) == ("46000000000", "107000000000")
    assert bars["Transfer of events/events_replica_node_2"]["value"] == "27900000"
    assert "value" not in bars["Transfer of events/events_mongos_node_2"]  # nobody knows how much is to come


def test_budget_and_disk_count_the_same_way() -> None:
    """Of both it is what is used that is told, and that fills the bar: a fuller one is worse."""
    document = read(page.overview(dozen()))

    budget, disk = [document.one("section", aria_labelledby=name).all("li")[-1] for name in ("budget", "disk")]
    assert (budget.all("span")[1].text, disk.all("span")[1].text) == (
        "0 of 6 calls used, 60 a minute",
        "46.0 GB of 107 GB used",
    )
    assert list(budget.one("meter").attributes) == list(disk.one("meter").attributes)


@pytest.mark.parametrize(("left", "waiting", "is_bad"), [(0, 0, False), (0, 4, True), (1, 4, False)])
def test_the_bar_of_a_budget_turns_red_where_calls_wait(left: int, waiting: int, *, is_bad: bool) -> None:
    """As that of the disk does where nothing is fetched any more; a burst that is used up is nothing bad by itself."""
    cloud = replace(status().clouds[0], left=left, waiting=waiting)
    bar = read(page.overview(replace(status(), clouds=(cloud,)))).one("meter", aria_label="Calls used in cloud main")

    assert (int(bar.attributes["value"]) > int(bar.attributes["high"])) is is_bad


def test_a_cloud_in_trouble_is_told_first_and_in_words() -> None:
    panel = read(page.overview(dozen(late=True))).all("section")[0]

    assert panel.text.startswith("Call budget europe 6 of 6 calls used, 60 a minute Credentials refused 4 waiting")


def test_a_full_disk_is_told_in_words() -> None:
    full = replace(status().disk, free=1_000_000_000, below=True)

    assert "nothing is fetched" in read(page.overview(replace(status(), disk=full))).all("section")[1].text


def test_many_transfers_are_counted_and_not_all_listed() -> None:
    shown = replace(status(), transfers=tuple(transfer(node=f"n{place}") for place in range(60)))
    panel = read(page.overview(shown)).all("section")[2]

    assert (len(panel.all("progress")), "and 10 more" in panel.text) == (50, True)


def test_an_instance_shows_its_nodes_snapshots_and_gaps() -> None:
    shown = instance(nodes=nodes(), gaps=2)
    document = read(page.instance(status(shown), shown))
    second = document.all("article")[1]

    assert [article.one("h3").text for article in document.all("article")] == [
        "orders_replica_node_1 error log, Primary",
        "orders_replica_node_2 error log, Secondary",
        "orders_replica_node_3 error log, Hidden",
    ]
    assert [table.one("caption").text for table in second.all("table")] == ["Gaps, newest first", "Newest snapshots"]
    assert "2026-11-24 09:12:05 2026-11-24 09:31:05 window overflow" in second.text
    assert "unverified" in second.text
    assert "verified, by delta" in second.text
    assert "No snapshot yet" in document.all("article")[2].text


def test_an_instance_shows_only_its_own_transfers() -> None:
    shown = status(instance("a"), instance("b"), transfers=(transfer("a"), transfer("b")))

    labels = [bar.attributes["aria-label"] for bar in read(page.instance(shown, instance("a"))).all("progress")]
    assert labels == ["Transfer of a/a_replica_node_2"]


def test_links_lead_where_they_should_below_any_prefix() -> None:
    """All are relative: a proxy may serve the page below a path of its own."""
    overview = read(page.overview(status(instance("orders"))))
    below = read(page.instance(status(instance("orders")), instance("orders")))

    assert row(page.overview(status(instance("orders"))), "orders").all("a")[0].attributes["href"] == "instances/orders"
    assert overview.one("script").attributes["src"] == "static/ddslogd.js"
    assert below.one("script").attributes["src"] == "../static/ddslogd.js"
    assert below.all("nav")[0].one("a").attributes["href"] == "../"


# --- which rows, in which order ---------------------------------------------------------------------------------------


def test_the_worst_come_first_and_equals_by_name() -> None:
    shown = status(instance("b"), instance("A"), new("n"), stale("s"), stale("r"))

    assert rows(page.overview(shown)) == ["r", "s", "n", "A", "b"]


@pytest.mark.parametrize("sort", table_query.SORTS)
def test_a_column_is_sorted_and_turned_round_by_its_link(sort: str) -> None:
    late = instance(
        "late",
        age_s=500.0,
        newest_line=NOW,
        last_cycle=cycle(finished_at=NOW),
        new_bytes=(10**9,),
        next_tick=NOW + timedelta(hours=9),
    )
    shown = status(late, new("never"), stale("bad", age_s=300.0))
    first = read(page.overview(shown, {"sort": sort}))
    link = first.one("a", id=f"sort-{sort}").attributes["href"]
    turned = dict(part.split("=") for part in link[1:].split("&"))

    assert rows(page.overview(shown, turned))[0] == rows(page.overview(shown, {"sort": sort}))[-1]
    heading = {th.attributes["class"]: th.attributes.get("aria-sort") for th in first.one("thead").all("th")}
    other = {
        th.attributes["class"]: th.attributes.get("aria-sort")
        for th in read(page.overview(shown, turned)).one("thead").all("th")
    }
    assert {heading.pop(sort), other.pop(sort)} == {"ascending", "descending"}
    assert {*heading.values(), *other.values()} == {None}


def test_by_age_what_never_had_a_good_cycle_is_oldest() -> None:
    shown = status(instance("young", age_s=1.0), new("never"), stale("old", age_s=9000.0))

    assert rows(page.overview(shown, {"sort": "age"})) == ["never", "old", "young"]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("RDE", ["orders"]),
        ("in02", ["ledger", "orders"]),
        ("refused 401", ["ledger"]),
        ("in02 led", ["ledger"]),
        ("orders ledger", []),
        ("   ", ["ledger", "orders"]),
    ],
)
def test_a_filter_has_words_that_all_fit(typed: str, found: list[str]) -> None:
    assert rows(page.overview(status(instance("orders"), stale("ledger")), {"q": typed})) == found


@pytest.mark.parametrize("state", list(State))
def test_a_state_is_picked(state: State) -> None:
    shown = status(instance("fresh"), stale("stale"), new("new"))
    html = page.overview(shown, {"state": state.value})

    assert rows(html) == [state.value]
    current = [a.attributes["id"] for a in read(html).all("a") if "aria-current" in a.attributes]
    assert current == [f"tab-{state}"]


def test_the_form_keeps_the_rest_of_the_address() -> None:
    html = page.overview(dozen(), {"q": "a", "state": "fresh", "sort": "age", "order": "reverse", "show": "all"})
    kept = {box.attributes["name"]: box.attributes["value"] for box in read(html).one("form").all("input")}

    assert kept == {"q": "a", "state": "fresh", "sort": "age", "order": "reverse", "show": "all"}


def test_many_instances_come_in_pages() -> None:
    shown = fleet(450)
    read_pages = [rows(page.overview(shown, {"page": str(number)})) for number in (1, 2, 3)]

    assert [len(names) for names in read_pages] == [200, 200, 50]
    assert len({name for names in read_pages for name in names}) == 450
    assert len(rows(page.overview(shown, {"show": "all"}))) == 450
    assert "201 to 400 of 450 instances" in read(page.overview(shown, {"page": "2"})).one("caption").text


def test_the_last_page_is_shown_where_more_is_asked() -> None:
    assert len(rows(page.overview(fleet(450), {"page": "99"}))) == 50


@pytest.mark.parametrize(
    "asked",
    [
        {"page": "-1"},
        {"page": "0"},
        {"page": "\N{ARABIC-INDIC DIGIT ONE}"},
        {"page": "1" * 5000},
        {"sort": "id; drop", "order": "x", "state": "bad", "show": "?"},
        {"unknown": "1"},
    ],
)
def test_what_the_address_should_not_hold_is_ignored(asked: dict[str, str]) -> None:
    assert page.overview(dozen(), asked) == page.overview(dozen())


def test_a_filter_of_any_text_is_shown_and_bounded() -> None:
    document = read(page.overview(dozen(), {"q": '"><script>\ud800' + "x" * 5000}))

    typed = document.one("input", id="q").attributes["value"]
    assert (typed[:11], len(typed), len(document.all("script"))) == ('"><script>?', 200, 1)


# --- hostile text -----------------------------------------------------------------------------------------------------

HOSTILE = {
    "markup": "<script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "template": "{{ 7 * 7 }}{% raw %}",
    "entity": "&lt;b&gt;&#60;",
    "comment": "--><img src=x>",
    "bidi": "prod\u202egol\u2066.exe\u2069",
    "control": "a\x00b\x1b[31mc\x7f",
    "surrogate": "n\udcff",
    "blank": "a b\u00a0c\u200bd\ufeff",
    "path": "../../etc/passwd?x=1#y",
    "long": "x" * 3000,
    "lines": "first\nsecond\u2028third",
}


@pytest.fixture(params=list(HOSTILE.values()), ids=list(HOSTILE))
def hostile(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


def hostile_pages(text: str) -> list[str]:
    failing = Failing(node=text, log=text, kind=FailureKind.UNKNOWN, since=NOW, last=NOW, times=1, reason=text)
    node = NodeFacts(name=text, log=text, role=text, stream=text, snapshots=nodes()[0].snapshots, gaps=nodes()[1].gaps)
    node = replace(
        node,
        state=text,
        failure=failing,
        snapshots=(replace(node.snapshots[0], path=text),),
        gaps=(replace(node.gaps[0], cause=text),),
    )
    shown = stale(
        text,
        id=text,
        cloud=text,
        why=text,
        turn=text,
        schedule=text,
        failures=(failing,),
        nodes=(node,),
        last_cycle=cycle(outcome=text, error=text + text),
    )
    around = status(
        shown,
        headline=text,
        version=text,
        host=text,
        transfers=(transfer(text, node=text, file=text, log=text),),
        clouds=(replace(status().clouds[0], name=text, credentials=text),),
        disk=replace(status().disk, directory=text),
    )
    return [page.overview(around, {"q": text[:1]}), page.instance(around, shown), page.missing(around, text)]


def test_hostile_text_stays_text(hostile: str) -> None:
    """The same elements with the same attributes come of it as of a plain name."""

    def skeleton(html: str) -> list[tuple[str, list[str]]]:
        return [(element.tag, sorted(element.attributes)) for element in read(html).all() if element.tag != "wbr"]

    assert [skeleton(html) for html in hostile_pages(hostile)] == [skeleton(html) for html in hostile_pages("plain")]


def test_hostile_text_is_read_as_it_is(hostile: str) -> None:
    expected = " ".join(str(text_format.seen(hostile)).split())
    first = read(hostile_pages(hostile)[0])

    assert (first.one("h1").text, expected in first.one("table").text) == (expected, True)


def test_no_character_hides_or_turns_what_follows(hostile: str) -> None:
    for html in hostile_pages(hostile):
        assert {character for character in html if not character.isprintable()} - {"\n", "\u00a0"} == set()


def test_an_address_of_a_hostile_name_stays_in_its_place(hostile: str) -> None:
    link = read(hostile_pages(hostile)[0]).one("th", scope="row").one("a").attributes["href"]

    assert re.fullmatch(r"instances/[A-Za-z0-9_.~%-]+", link)


# --- what any page has ------------------------------------------------------------------------------------------------


def test_nothing_is_inline_and_nothing_from_elsewhere(document: Element) -> None:
    """What the Content-Security-Policy would refuse is not there."""
    for element in document.all():
        assert element.tag not in {"style", "iframe", "object", "embed", "img", "base"}
        assert not any(name == "style" or name.startswith("on") for name in element.attributes)
        for name in ("href", "src", "action"):
            assert not re.match(r"[a-z]+:|//", element.attributes.get(name, ""))
    assert [script.attributes.get("src", "").rpartition("/")[2] for script in document.all("script")] == ["ddslogd.js"]
    assert document.one("script").text == ""


def test_landmarks_and_names(document: Element) -> None:
    assert document.one("html").attributes["lang"] == "en"
    assert len(document.all("main")) == len(document.all("header")) == len(document.all("footer")) == 1
    assert len(document.all("h1")) == 1
    assert document.all("a")[0].attributes == {"class": "skip", "href": "#main"}
    assert [element.tag for element in document.all() if "aria-live" in element.attributes] == ["div"]
    for element in document.all():
        named = "aria-label" in element.attributes or "aria-labelledby" in element.attributes
        assert named or element.tag not in {"nav", "meter", "progress", "section", "article"}
        assert element.text or element.tag not in {"a", "button", "th", "h1", "h2", "h3", "caption", "title"}


def test_ids_are_unique_and_what_refers_to_one_finds_it(document: Element) -> None:
    ids = [element.attributes["id"] for element in document.all() if "id" in element.attributes]

    assert len(ids) == len(set(ids))
    for element in document.all():
        for name in ("aria-labelledby", "for"):
            assert element.attributes.get(name, ids[0]) in ids
        if element.attributes.get("href", "").startswith("#"):
            assert element.attributes["href"][1:] in ids


def test_headings_skip_no_level(document: Element) -> None:
    levels = [int(element.tag[1]) for element in document.all() if re.fullmatch(r"h[1-6]", element.tag)]

    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_have_captions_and_scopes(document: Element) -> None:
    for table in document.all("table"):
        assert table.one("caption").text
        assert {heading.attributes["scope"] for heading in table.one("thead").all("th")} == {"col"}
        columns = len(table.one("thead").all("th"))
        for line in table.all("tr"):
            assert sum(int(cell.attributes.get("colspan", "1")) for cell in line.all("td") + line.all("th")) == columns


def test_no_object_is_shown_raw(document: Element) -> None:
    assert not re.search(r"datetime\(|<[A-Za-z]+ object|\bNone\b|State\.|Undefined|Node\(|\{'", document.text)


# --- colours ----------------------------------------------------------------------------------------------------------

STATIC = {name: page.static(name) or ("", b"") for name in ("ddslogd.css", "ddslogd.js", "ddslogd.svg")}
CSS = STATIC["ddslogd.css"][1].decode()
TEXT = [
    *((ink, ground) for ink in ("ink", "muted", "link") for ground in ("paper", "ground", "stale-wash", "hover")),
    *((ink, ground) for ink in ("fresh", "new", "stale") for ground in ("paper", "hover", "stale-wash", "ground")),
]
SHAPES = [
    *(("focus", ground) for ground in ("paper", "ground", "stale-wash", "hover")),
    *(("bar", ground) for ground in ("paper", "stale-wash", "hover")),
    *(("edge", ground) for ground in ("paper", "ground")),
    *(("paper", shape) for shape in ("fresh", "stale")),
    ("bar", "trough"),
    ("stale", "trough"),
]


def schemes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in (light, dark)]
    return {"light": found[0], "dark": found[1]}


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_reckoned_as_wcag_has_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), TEXT)
def test_text_can_be_read(scheme: str, ink: str, ground: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    colours = schemes()[scheme]

    assert contrast(colours[ink], colours[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_shapes_can_be_seen(scheme: str, shape: str, ground: str) -> None:
    """WCAG 2.2, 1.4.11: 3 to 1."""
    colours = schemes()[scheme]

    assert contrast(colours[shape], colours[ground]) >= 3


def test_every_colour_is_a_property_that_both_schemes_have() -> None:
    """So that no pair slips past the contrast tests in only one of them."""
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)

    assert schemes()["light"].keys() == schemes()["dark"].keys() == set(re.findall(r"var\(--([a-z-]+)\)", rules))
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", rules) == []


# --- what is served next to it ----------------------------------------------------------------------------------------


def test_static_files_are_a_closed_set_and_small() -> None:
    assert {name: kind for name, (kind, _) in STATIC.items()} == {
        "ddslogd.css": "text/css",
        "ddslogd.js": "text/javascript",
        "ddslogd.svg": "image/svg+xml",
    }
    assert sum(len(body) for _, body in STATIC.values()) < 20_000


@pytest.mark.parametrize("name", ["", "..", "../page.py", "../templates/base.html", "screenshot.png", "ddslogd.css/"])
def test_no_other_name_is_served(name: str) -> None:
    assert page.static(name) is None


def test_the_script_is_short_and_asks_nobody_but_its_own_page() -> None:
    script = STATIC["ddslogd.js"][1].decode()

    assert len([line for line in script.splitlines() if line.strip() and not line.lstrip().startswith("//")]) <= 60
    assert re.findall(r"fetch\(([^,]+),", script) == ["location.href"]
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval|new Function", script)


def test_every_template_escapes() -> None:
    for template in (Path(page.__file__).parent / "templates").iterdir():
        assert not re.search(r"\|\s*safe\b|autoescape\s+false", template.read_text())


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.0021, "2 ms"),
        (1, "1 s"),
        (59.6, "60 s"),
        (119, "119 s"),
        (120, "2 min"),
        (179, "2 min"),
        (3600, "1 h"),
        (4200, "1 h 10 min"),
        (86_400, "1 d"),
        (97_200, "1 d 3 h"),
        (400 * 86_400, "400 d"),
    ],
)
def test_a_duration_is_told_by_its_two_largest_units(seconds: float, said: str) -> None:
    assert units.span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "now"), (4, "now"), (-4, "now"), (5, "5 s ago"), (-40, "in 40 s"), (600, "10 min ago")]
)
def test_a_moment_is_told_from_now(seconds: int, said: str) -> None:
    assert text_format.relative(NOW - timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (41_943_040, "41.9 MB"),
        (107 * 10**9, "107 GB"),
        (3 * 10**12, "3.0 TB"),
        (5 * 10**15, "5.0 PB"),
    ],
)
def test_a_size_has_three_digits(count: int, said: str) -> None:
    assert units.spelled_size(count) == said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Zürich 東京", "Zürich 東京"),
        ("a\nb\tc", "a b c"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\udcff", "⟨U+DCFF⟩"),
        ("\x1b[0m", "⟨U+001B⟩[0m"),
        (None, ""),
        (5, 5),
    ],
)
def test_what_hides_is_shown_as_its_code_point(text: object, shown: object) -> None:
    assert text_format.seen(text) == shown


# --- the spark line ---------------------------------------------------------------------------------------------------


def test_bars_stand_at_the_right_and_the_highest_is_full() -> None:
    drawn = sparkline.spark((0, 50, 100)).bars

    assert drawn == "M84 20v-1h3v1zM88 20v-10h3v10zM92 20v-20h3v20z"


def test_no_cycle_draws_nothing_and_only_silent_ones_a_base_line() -> None:
    assert (sparkline.spark(()).bars, sparkline.spark(()).words) == ("", "no cycle yet")
    assert sparkline.spark((0, 0)).bars == "M88 20v-1h3v1zM92 20v-1h3v1z"
    assert sparkline.spark((0, 0)).words == "no new bytes in the last 2 cycles"


FIRST = 41_943_040  # bytes of a first export
USUAL = (50_000, 80_000, 20_000, 100_000)


def heights(counts: tuple[int, ...]) -> list[list[int]]:
    """Return the heights of the pieces of each bar, from the lower edge on."""
    pieces: dict[int, list[int]] = {}
    for left, height in re.findall(r"M(\d+) \d+v-(\d+)", sparkline.spark(counts).bars):
        pieces.setdefault(int(left), []).append(int(height))
    return [pieces[left] for left in sorted(pieces)]


def test_a_first_export_does_not_flatten_the_cycles_after_it() -> None:
    """Its bar has a break, and is higher than all others; these are to a scale of their own."""
    assert heights((FIRST, *USUAL)) == [[14, 4], [7], [11], [3], [14]]
    assert sparkline.spark((FIRST, *USUAL)).bars.startswith("M76 20v-14h3v14zM76 4v-4h3v4z")


def test_a_bar_that_is_cut_off_is_told_with_what_it_stands_for() -> None:
    assert [sparkline.spark((*firsts, *USUAL)).words for firsts in ((FIRST,), (FIRST, 3 * FIRST))] == [
        "new bytes in the last 5 cycles: 42.2 MB, at most 41.9 MB in one; 1 bar is cut off, the scale ends at 100 kB",
        "new bytes in the last 6 cycles: 168 MB, at most 126 MB in one; 2 bars are cut off, the scale ends at 100 kB",
    ]


@pytest.mark.parametrize(
    ("counts", "end"),
    [
        ((FIRST, 50_000), 50_000),  # as soon as there is a second one
        ((FIRST,), FIRST),  # nothing to compare it with
        ((FIRST, 0, 0, 0, 0), FIRST),
        ((FIRST, 0, 0, 0, 50_000), 50_000),
        ((0, 0, 0, 7, 0), 7),  # silent cycles do not make the one that brought something far
        ((50_000, 400_000), 400_000),  # eight times is busy
        ((50_000, 400_001), 50_000),
        ((*USUAL, FIRST, *USUAL), 100_000),  # wherever it is: lines of a node that was away come at once, too
        ((FIRST, FIRST + 1, FIRST, 50_000), FIRST + 1),  # what is usual is not far
        ((0, 0), 0),
    ],
)
def test_the_scale_ends_where_the_usual_cycles_do(counts: tuple[int, ...], end: int) -> None:
    assert sparkline.scale_end(counts) == end


def test_bars_without_a_break_use_the_whole_height_where_none_is_cut_off() -> None:
    assert heights(USUAL) == [[10], [16], [4], [20]]


def test_a_page_of_one_instance_tells_of_the_bar_that_is_cut_off() -> None:
    shown = instance("orders", new_bytes=(FIRST, *USUAL))
    told = "1 bar is cut off, the scale ends at 100 kB"

    assert told in row(page.overview(status(shown)), "orders").one("svg", role="img").one("title").text
    assert told in read(page.instance(status(shown), shown)).one("section", aria_labelledby="chart").one("p").text


def test_more_cycles_than_places_leave_the_newest() -> None:
    assert sparkline.spark((10**9, *(1,) * 24)) == sparkline.spark((1,) * 24)
