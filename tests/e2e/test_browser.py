"""The page in a browser: Debian's Chromium, without a screen. Screenshots of what it shows land in build/screenshots.

Its clock is made: the page's five seconds pass when a test says so.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from aiohttp import web

from ddslogd.config import loader
from ddslogd.model.cycle import Silent
from ddslogd.model.redactor import Redactor
from ddslogd.sandbox import Sandbox, configuration
from ddslogd.scheduling.clock import SystemClock
from ddslogd.service.factory import opened
from ddslogd.web import page
from ddslogd.web.connections import HEADERS
from ddslogd.web.server import listening
from support.places import ROOT
from support.sample_status import dozen, fleet, instance, nodes, silent, stale, status, transfer
from support.testbed import ANY_PORT, needed_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

    from ddslogd.monitoring.status import Status

T = TypeVar("T")

pytestmark = pytest.mark.slow

SCREENSHOTS = ROOT / "build" / "screenshots"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AXE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
TICK_MS = 5000
SWAP_LIMIT = 30.0  # a thousand rows by a hundred: linear is 10
PHONE: Any = {"width": 390, "height": 844}
DESK: Any = {"width": 1280, "height": 800}
HOSTILE = "<script>alert(1)</script>\" onclick='alert(2)' \u202eprod"


def chromium() -> str:
    """Return where Chromium is; without it the test is skipped, or fails where nothing may be skipped."""
    path = shutil.which("chromium")
    if path is None and os.environ.get("DDSLOGD_SKIP_NOTHING"):
        pytest.fail("chromium is missing: apt-get install chromium")
    if path is None:
        pytest.skip("needs Debian's chromium")
    return path


@dataclass
class Site:
    """Serves the pages of a status that a test may change, under the headers that the daemon sends."""

    status: Status = field(default_factory=dozen)
    answers: bool = True
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def shows(self, *instances: Any) -> None:
        """Show these instances from now on."""
        self.status = status(*instances)

    async def overview(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        return self._html(page.overview(self.status, dict(request.query)))

    async def instance(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        name = request.match_info["name"]
        for found in self.status.instances:
            if found.name == name:
                shown = found if found.nodes else replace(found, nodes=nodes(name), gaps=2)
                return self._html(page.instance(self.status, shown, dict(request.query)))
        return self._html(page.missing(self.status, name), status=404)

    async def static(self, request: web.Request) -> web.Response:
        found = page.static(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found[1], content_type=found[0])

    def _html(self, text: str, *, status: int = 200) -> web.Response:
        if not self.answers:
            return web.Response(status=503, text="no")
        return web.Response(text=text, status=status, content_type="text/html")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


@asynccontextmanager
async def listening_for(site: Site) -> AsyncIterator[Site]:
    app = web.Application()
    app.on_response_prepare.append(_add_headers)
    app.router.add_get("/", site.overview)
    app.router.add_get("/instances/{name:.+}", site.instance)
    app.router.add_get("/static/{name}", site.static)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = "http://{}:{}/".format(*runner.addresses[0])
    try:
        yield site
    finally:
        await runner.cleanup()


@dataclass
class Demo:
    """A real service that collects from a sandbox, and the page that it serves."""

    sandbox: Sandbox
    url: str


@asynccontextmanager
async def collecting(directory: Path) -> AsyncIterator[Demo]:
    """Run a service, its web server and a cloud that is 480 times as fast: a cycle each 2.5 s, stale after 5 s."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(
            Sandbox(speed=480.0, window=400_000, lines_per_second=60.0, backlog=timedelta(seconds=15))
        )
        os.environ["DDSLOGD_TOKEN"] = sandbox.issue_token()
        text = configuration(sandbox, directory=directory / "logs", state=directory / "state") + ANY_PORT
        settings = loader.parse(text, "test").settings
        redactor = Redactor()
        service = await stack.enter_async_context(
            opened(settings, clock=SystemClock(), progress=Silent(), redactor=redactor)
        )
        listener = await stack.enter_async_context(
            listening(settings.web, service.observer, clean=redactor.clean, page=page)
        )
        address = listener.address
        assert address is not None
        serving = asyncio.create_task(service.serve())
        try:
            yield Demo(sandbox, "http://{}:{}/".format(*address))
        finally:
            serving.cancel()
            await asyncio.wait([serving])


@contextmanager
def threaded(started: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Run it in a thread meanwhile: the browser is driven from this one."""
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), Future[T]()

    async def run() -> None:
        async with started as entered:
            up.set_result(entered)
            await stop.wait()

    def thread() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as exc:
            if up.done():
                raise
            up.set_exception(exc)

    running = threading.Thread(target=thread)
    running.start()
    try:
        yield up.result(timeout=30)
    finally:
        loop.call_soon_threadsafe(stop.set)
        running.join(30)
        loop.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    playwright = needed_module("playwright.sync_api")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with threaded(listening_for(Site())) as site:
        yield site


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A tab at a desk; whatever it complains of fails the test."""
    yield from tabs(browser, viewport=DESK)


def tabs(browser: Browser, **options: Any) -> Iterator[Page]:
    context = browser.new_context(**options)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if "503" not in message.text else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    if options.get("java_script_enabled", True):
        tab.clock.install()
    yield tab
    context.close()
    expected = ("404", "ERR_CONNECTION_REFUSED")  # the server ends before its tab, which goes on asking
    assert [text for text in complaints if not any(word in text for word in expected)] == []


def later(tab: Page) -> None:
    """Let the page ask once more, and wait for what it shows then."""
    with tab.expect_response(lambda response: "/static/" not in response.url):
        tab.clock.run_for(TICK_MS)
    tab.wait_for_load_state("networkidle")


def settled(locator: Locator, text: str) -> None:
    """Wait until an element says it."""
    locator.filter(has_text=re.compile(f"^{re.escape(text)}$")).wait_for(timeout=5000)


def names(tab: Page) -> list[str]:
    return tab.locator("tbody th[scope=row] a").all_inner_texts()


# --- a real service ---------------------------------------------------------------------------------------------------


def test_an_instance_of_a_running_service_goes_stale_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    """Nothing is made up but the cloud: exports fail until the target has passed, then succeed again."""
    with threaded(collecting(tmp_path)) as demo:
        context = browser.new_context(viewport=DESK)
        tab = context.new_page()
        tab.goto(demo.url)
        tab.evaluate("window.sameDocument = true")
        seen(tab.locator("h1"), "All 3 instances fresh")
        seen(tab.locator("#i-orders .badge"), "fresh")

        (orders,) = (one for one in demo.sandbox.fleet if one.name == "orders")
        demo.sandbox.faults.failed_rows = {node.name for node in orders.nodes}
        seen(tab.locator("h1"), "1 of 3 instances stale")
        seen(tab.locator("#i-orders .badge"), "stale")
        assert "No good cycle for" in tab.locator("#i-orders .trouble").inner_text()
        tab.screenshot(path=SCREENSHOTS / "service-stale.png", full_page=True)

        demo.sandbox.faults.failed_rows = set()
        seen(tab.locator("h1"), "All 3 instances fresh")
        assert tab.evaluate("window.sameDocument") is True
        tab.screenshot(path=SCREENSHOTS / "service-fresh.png", full_page=True)

        tab.locator("#a-orders").click()
        seen(tab.locator("h1"), "orders is fresh")
        assert tab.locator("article").count() == len(orders.nodes)
        assert tab.locator("table.snapshots tbody tr").count() >= len(orders.nodes)
        tab.screenshot(path=SCREENSHOTS / "service-instance.png", full_page=True)
        assert tab.goto(demo.url + "instances/nobody").status == 404  # type: ignore[union-attr]  # it answers
        context.close()


def seen(locator: Locator, text: str) -> None:
    """Wait until an element says it: by the true clock, three refreshes of the page and more."""
    locator.filter(has_text=re.compile(f"^{re.escape(text)}$")).wait_for(timeout=60_000)


# --- live -------------------------------------------------------------------------------------------------------------


def test_an_instance_goes_stale_and_comes_back_without_a_reload(tab: Page, site: Site) -> None:
    site.shows(instance("orders"), instance("audit"))
    tab.goto(site.url)
    tab.evaluate("window.sameDocument = true")
    headline, row = tab.locator("h1"), tab.locator("#i-orders")
    settled(headline, "All 2 instances fresh")

    site.shows(stale("orders"), instance("audit"))
    later(tab)
    settled(headline, "1 of 2 instances stale")
    assert (row.locator(".badge").inner_text(), row.get_attribute("class")) == ("stale", "stale")
    assert "Yours: fix the credentials" in row.inner_text()
    assert tab.title() == "1 of 2 instances stale · collector-1 · ddslogd"

    site.shows(instance("orders"), instance("audit"))
    later(tab)
    settled(headline, "All 2 instances fresh")
    assert row.locator(".badge").inner_text() == "fresh"
    assert tab.evaluate("window.sameDocument") is True


def test_a_transfer_is_seen_to_grow(tab: Page, site: Site) -> None:
    site.status = status(instance("orders"), transfers=(transfer(done=1000),))
    tab.goto(site.url)
    bar = tab.get_by_role("progressbar")
    assert bar.get_attribute("value") == "1000"

    site.status = status(instance("orders"), transfers=(transfer(done=2000),))
    later(tab)

    tab.locator("progress[value='2000']").wait_for(timeout=5000)


def test_focus_scroll_and_selection_stay_while_it_changes(tab: Page, site: Site) -> None:
    few = [instance(f"i-{number:03d}") for number in range(100)]
    site.shows(*few)
    tab.goto(site.url)
    tab.locator("#a-i-060").focus()
    before = tab.evaluate("scrollY")

    few[3] = replace(few[3], running=True)
    few[99] = stale("i-099")
    site.shows(*few)
    later(tab)
    settled(tab.locator("h1"), "1 of 100 instances stale")

    assert tab.evaluate("document.activeElement.id") == "a-i-060"
    assert before > 0
    assert tab.evaluate("scrollY") >= before  # a stale row came above it: the browser may keep what is seen in place


def test_what_is_typed_filters_at_once_and_is_kept(tab: Page, site: Site) -> None:
    site.shows(instance("orders"), instance("audit"))
    tab.goto(site.url)
    tab.locator("#q").focus()
    with tab.expect_response(re.compile(r"q=ord")):
        tab.keyboard.type("ord")
        tab.clock.run_for(300)
    settled(tab.locator("caption"), "1 instance with ord")

    later(tab)

    assert names(tab) == ["orders"]
    assert tab.url == site.url + "?q=ord"
    assert tab.evaluate("[document.activeElement.id, document.activeElement.value]") == ["q", "ord"]


def test_it_says_politely_that_the_daemon_does_not_answer_and_goes_on(tab: Page, site: Site) -> None:
    tab.goto(site.url)
    notice = tab.locator("[aria-live=polite] #notice")
    assert not notice.is_visible()

    site.answers = False
    later(tab)
    notice.wait_for(state="visible", timeout=5000)
    assert re.fullmatch(
        r"The daemon does not answer\. This is from \d\d:\d\d:\d\d UTC; trying again\.", notice.inner_text()
    )
    assert len(names(tab)) == 12

    site.answers = True
    later(tab)
    notice.wait_for(state="hidden", timeout=5000)


def test_it_rests_while_nobody_sees_it(tab: Page, site: Site) -> None:
    tab.goto(site.url)
    site.asked.clear()

    hide = "value => { Object.defineProperty(document, 'hidden', { value, configurable: true }); %s }"
    hide %= "document.dispatchEvent(new Event('visibilitychange'))"
    tab.evaluate(hide, arg=True)
    tab.clock.run_for(20 * TICK_MS)
    assert site.asked == []

    with tab.expect_response(site.url):
        tab.evaluate(hide, arg=False)


def test_an_open_page_of_an_instance_that_goes_says_so(tab: Page, site: Site) -> None:
    site.shows(instance("orders"), instance("audit"))
    tab.goto(site.url + "instances/orders")
    settled(tab.locator("h1"), "orders is fresh")

    site.shows(instance("audit"))
    later(tab)

    settled(tab.locator("h1"), "No instance is called orders")


def test_only_the_headline_is_announced_and_only_when_it_changes(tab: Page, site: Site) -> None:
    site.shows(instance("orders"), instance("audit"))
    tab.goto(site.url)
    tab.evaluate(
        """() => {
            window.announced = 0;
            const live = document.querySelector('[aria-live]');
            new MutationObserver(() => window.announced++).observe(live, { subtree: true, childList: true,
                characterData: true });
        }"""
    )
    site.shows(replace(instance("orders"), running=True), silent("audit"))
    later(tab)
    tab.locator("#i-orders .running").wait_for(timeout=5000)
    assert tab.evaluate("window.announced") == 0

    site.shows(stale("orders"), silent("audit"))
    later(tab)
    settled(tab.locator("h1"), "1 of 2 instances stale")
    assert tab.evaluate("window.announced") > 0
    assert tab.locator("[aria-live]").count() == 1


def test_a_thousand_rows_change_without_moving_anything(tab: Page, site: Site) -> None:
    """In a fraction of a second, though all of them are on one page; the layout does not shift."""
    site.status = fleet(1000)
    tab.goto(site.url + "?show=all&sort=name")
    tab.evaluate(
        """() => {
            window.shifted = 0;
            new PerformanceObserver(list => list.getEntries().forEach(entry => { window.shifted += entry.value; }))
                .observe({ type: 'layout-shift' });
        }"""
    )
    several = [
        replace(one, age_s=None if one.age_s is None else one.age_s + 60, running=True) if place % 10 == 0 else one
        for place, one in enumerate(site.status.instances)
    ]
    site.status = replace(site.status, instances=tuple(several))
    later(tab)
    tab.locator("#i-shop-00990 .running").wait_for(timeout=5000)

    assert tab.locator("tbody").count() == 1000
    assert tab.locator(".running").count() == 100
    assert tab.evaluate("window.shifted") < 0.01


def test_the_swap_of_a_page_is_linear_in_its_rows(tab: Page, site: Site) -> None:
    """Parsing, swapping, style and layout of a new page with all of them; measured in the browser's own time."""
    meter = tab.context.new_cdp_session(tab)
    meter.send("Performance.enable")

    def busy_s() -> float:
        measured = {one["name"]: one["value"] for one in meter.send("Performance.getMetrics")["metrics"]}
        return float(measured["TaskDuration"])

    def swap_s(rows: int) -> float:
        site.status = fleet(rows)
        tab.goto(site.url + "?show=all")
        before = busy_s()
        site.status = replace(site.status, now=site.status.now + timedelta(minutes=1), headline=f"{rows}, later")
        later(tab)
        settled(tab.locator("h1"), f"{rows}, later")
        return busy_s() - before

    swap_s(10)  # warm
    few, many = swap_s(100), swap_s(1000)

    assert many / few < SWAP_LIMIT


# --- without scripts --------------------------------------------------------------------------------------------------


def test_it_works_without_scripts(browser: Browser, site: Site) -> None:
    site.status = dozen(late=True)
    for tab in tabs(browser, viewport=DESK, java_script_enabled=False):
        tab.goto(site.url)
        assert tab.locator("h1").inner_text() == "2 of 13 instances stale"

        tab.locator("#q").fill("e")
        tab.locator("#q").press("Enter")
        assert "q=e" in tab.url
        tab.locator("#sort-name").click()
        assert tab.locator("thead [aria-sort]").inner_text().startswith("Instance")
        assert names(tab) == sorted(names(tab))
        assert all("e" in name for name in names(tab)[:1])

        tab.locator("#tab-stale").click()
        assert tab.locator("[aria-current]").inner_text().split() == ["stale", "2"]
        assert names(tab) == ["invoices", "ledger"]
        tab.locator("#a-ledger").click()
        assert tab.locator("h1").inner_text() == "ledger is stale"
        assert tab.locator("article").count() == 3
        tab.get_by_role("link", name="All instances").click()
        assert tab.url == site.url


def test_pages_of_a_thousand_are_walked_without_scripts(browser: Browser, site: Site) -> None:
    site.status = fleet(1000)
    for tab in tabs(browser, viewport=DESK, java_script_enabled=False):
        tab.goto(site.url + "?sort=name")
        seen = names(tab)
        while tab.locator("#next").count():
            tab.locator("#next").click()
            tab.wait_for_load_state()  # rows are shown as they come
            seen += names(tab)
        assert seen == [one.name for one in site.status.instances]


# --- keyboard and screen reader ---------------------------------------------------------------------------------------


def walked(tab: Page, steps: int) -> list[str]:
    """Return the ids of what the Tab key reaches, in order; fails where the focus cannot be seen."""
    reached = []
    for _ in range(steps):
        tab.keyboard.press("Tab")
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert tab.evaluate(f"document.activeElement === document.body ? 'solid' : {style}") == "solid"
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.className"))
    return reached


def test_the_keyboard_reaches_filter_sort_links_and_rows_in_order(tab: Page, site: Site) -> None:
    site.shows(instance("audit"), instance("orders"))
    tab.goto(site.url)
    reached = walked(tab, 20)

    expected = [
        *("skip", "brand", "tab-all", "tab-stale", "tab-new", "tab-fresh", "q"),
        *(f"sort-{name}" for name in ("state", "name", "newest", "age", "cycle", "bytes", "next")),
        *("a-audit", "a-orders"),
    ]
    assert [name for name in reached if name in expected] == expected


def test_the_skip_link_is_seen_when_it_has_the_focus_and_skips(tab: Page, site: Site) -> None:
    tab.goto(site.url)
    tab.keyboard.press("Tab")
    tab.clock.run_for(500)
    box = tab.locator(".skip").bounding_box()
    assert box is not None
    tab.keyboard.press("Enter")

    assert tab.evaluate("document.activeElement.id") == "main"


def test_a_row_is_opened_and_a_column_sorted_by_keyboard(tab: Page, site: Site) -> None:
    site.shows(instance("audit"), instance("orders"))
    tab.goto(site.url)
    tab.locator("#sort-name").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/?sort=name")
    tab.locator("#sort-name").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/?sort=name&order=reverse")
    assert names(tab) == ["orders", "audit"]
    tab.locator("#a-audit").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/instances/audit")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("path", ["", "?state=stale&q=e", "instances/ledger", "instances/orders", "instances/nobody"])
def test_axe_finds_nothing(browser: Browser, site: Site, path: str, viewport: dict[str, int], scheme: str) -> None:
    """By the rules that it runs of itself (WCAG 2.2 A and AA, best practices), and the one for targets of 24 pixels."""
    axe = needed_module("axe_playwright_python.sync_playwright").Axe()
    site.status = dozen(late=True)
    for tab in tabs(browser, viewport=viewport, color_scheme=scheme):
        tab.goto(site.url + path)
        violations = axe.run(tab, options=AXE).response["violations"]
        found = [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in violations]
        assert found == []


def test_the_table_is_one_for_a_screen_reader_also_as_cards(browser: Browser, site: Site) -> None:
    for viewport in (DESK, PHONE):
        for tab in tabs(browser, viewport=viewport):
            tab.goto(site.url)
            assert tab.get_by_role("table").get_by_role("rowheader").count() == 12
            assert tab.get_by_role("table").get_by_role("columnheader").count() == 7
            assert tab.get_by_role("meter", name="Disk used").count() == 1
            assert tab.get_by_role("progressbar").count() == 3


# --- hostile names ----------------------------------------------------------------------------------------------------


def test_hostile_names_run_nothing_and_break_nothing(tab: Page, site: Site) -> None:
    """No dialog opens, the policy has nothing to refuse, and the long ones widen no page."""
    site.status = status(
        stale(HOSTILE, why=HOSTILE, cloud=HOSTILE),
        instance("x" * 2000, new_bytes=(1,)),
        instance("good"),
        transfers=(transfer(HOSTILE),),
    )
    tab.goto(site.url)
    later(tab)
    assert tab.locator("script").count() == 1
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")

    tab.locator("th[scope=row] a", has_text="alert").click()
    assert (
        tab.locator("h1")
        .inner_text()
        .startswith("<script>alert(1)</script>\" onclick='alert(2)' ⟨U+202E⟩prod is stale")
    )


# --- how it looks -----------------------------------------------------------------------------------------------------

SHOTS = {
    "light": ("", dozen(), DESK, "light"),
    "dark": ("", dozen(), DESK, "dark"),
    "stale-light": ("", dozen(late=True), DESK, "light"),
    "stale-dark": ("", dozen(late=True), DESK, "dark"),
    "phone-light": ("", dozen(late=True), PHONE, "light"),
    "phone-dark": ("", dozen(late=True), PHONE, "dark"),
    "tablet": ("", dozen(late=True), {"width": 800, "height": 1100}, "light"),
    "narrow": ("", dozen(late=True), {"width": 320, "height": 640}, "light"),
    "readme": ("", dozen(late=True), {"width": 1280, "height": 840}, "light"),
    "thousand": ("", fleet(1000), DESK, "light"),
    "instance-light": ("instances/orders", dozen(), DESK, "light"),
    "instance-dark": ("instances/ledger", dozen(late=True), DESK, "dark"),
    "instance-phone": ("instances/ledger", dozen(late=True), PHONE, "light"),
}


@pytest.mark.parametrize(("path", "shown", "viewport", "scheme"), list(SHOTS.values()), ids=list(SHOTS))
def test_a_screenshot_shows_all_of_it(
    browser: Browser, site: Site, path: str, shown: Status, viewport: dict[str, int], scheme: str, request: Any
) -> None:
    """Nothing sticks out at the side, and the scheme is the reader's."""
    site.status = shown
    for tab in tabs(browser, viewport=viewport, color_scheme=scheme):
        tab.goto(site.url + path)
        name = request.node.callspec.id
        tab.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=name not in {"readme", "thousand"})

        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor").startswith("rgb(1")
        assert dark is (scheme == "dark")
