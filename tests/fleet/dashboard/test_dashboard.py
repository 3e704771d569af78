"""The dashboard in a real browser."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fleet.captures.test_captures import jpeg, meta, send
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
CHROMIUM = os.environ.get("EDGEC_CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}; set EDGEC_CHROMIUM"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: FleetServer) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(30_000)
    opened = context.new_page()
    broken: list[str] = []
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.goto(f"{server.url}/devices")
    field = opened.get_by_label("Access token").first
    field.fill(server.token)
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url("**/devices")
    opened.locator(".e-filters").wait_for()
    yield opened
    context.close()
    assert not broken


def test_signing_in_is_needed_and_a_wrong_token_is_refused(browser: Any, server: FleetServer) -> None:
    context = browser.new_context()
    page = context.new_page()
    for path in ("/", "/devices", "/devices/x", "/models", "/rollouts/1", "/access"):
        page.goto(server.url + path)
        assert "/login" in page.url, path
    page.get_by_label("Access token").first.fill("edgec_wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("unknown, expired or revoked").wait_for()
    page.goto(f"{server.url}/devices?state=offline&search=a%20b")
    page.get_by_label("Access token").first.fill(server.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{server.url}/devices?state=offline&search=a%20b")
    context.clear_cookies()
    page.goto(f"{server.url}/login?next=//evil.example/")
    page.get_by_label("Access token").first.fill(server.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{server.url}/")
    context.close()


def test_a_revoked_token_ends_open_pages(browser: Any, server: FleetServer) -> None:
    with server.client() as client:
        secret = client.post("/access-tokens", {"name": "leaver", "role": "operator"})["token"]
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/access")
        page.get_by_label("Access token").first.fill(secret)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Add devices").wait_for()
        client.delete("/access-tokens/leaver")
        page.wait_for_url("**/login")
        context.close()


def test_a_device_appears_changes_and_detects_without_reload(
    page: Any, server: FleetServer, device: Callable[..., SimDevice]
) -> None:
    page.goto(f"{server.url}/devices")
    page.get_by_text("No devices yet").or_(page.locator("table")).first.wait_for()
    camera = device("view-1", site="<b>lab</b>")
    row = page.locator("tr", has_text="view-1")
    row.get_by_text("online").wait_for()
    assert row.locator("b").count() == 0, "labels are text, not markup"
    row.click()
    page.wait_for_url("**/devices/view-1")
    camera.send_event("<img src=x onerror=document.title='pwned'>forklift")
    page.get_by_text("forklift").first.wait_for()
    assert page.title() != "pwned"
    camera.send_health(fps=7.7)
    page.get_by_text("7.7").first.wait_for()
    camera.stop()
    page.get_by_text("stopped").first.wait_for()


def test_a_command_for_a_device_shut_out_meanwhile_is_refused(
    page: Any, server: FleetServer, device: Callable[..., SimDevice]
) -> None:
    device("shut-out")
    page.goto(f"{server.url}/devices/shut-out")
    page.get_by_role("button", name="Command").click()
    with server.client() as client:
        client.post("/devices/shut-out/revoke")
        page.get_by_role("menuitem", name="Take a snapshot").click()
        page.get_by_text("Not accepted").first.wait_for()
        assert client.get("/devices/shut-out/jobs")["items"] == []


def test_a_rollout_is_started_and_watched(
    page: Any, server: FleetServer, device: Callable[..., SimDevice], push: Callable[..., str]
) -> None:
    push("seen")
    camera = device("view-2")
    page.goto(f"{server.url}/models/seen")
    page.get_by_role("button", name="Roll out").click()
    page.get_by_label("or one device, by name").fill("nobody")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("nobody").first.wait_for()
    page.get_by_label("or one device, by name").fill("view-2")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/rollouts/*")
    page.get_by_text("succeeded").first.wait_for()
    wait_for(lambda: camera.running["model"] == "seen")
    page.goto(f"{server.url}/models/seen/1/x86-64-v3")
    report = page.frame_locator("iframe")
    report.get_by_text("Report of seen 1").wait_for()
    assert page.locator("iframe").get_attribute("sandbox") == ""
    assert page.title().startswith("seen:1"), "the report's script did not run"


def test_search_keys_and_a_phone(page: Any, server: FleetServer, device: Callable[..., SimDevice]) -> None:
    device("view-3")
    device("view-4")
    page.goto(f"{server.url}/devices")
    page.locator("tr", has_text="view-3").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("view-4")
    page.locator("tr", has_text="view-3").wait_for(state="detached")
    page.locator("tr", has_text="view-4").wait_for()
    page.keyboard.type("zzz")
    page.get_by_text("Nothing matches").wait_for()
    page.locator("h1").click()
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/rollouts")
    page.set_viewport_size({"width": 390, "height": 844})
    for path in (
        "/",
        "/devices",
        "/devices/view-3",
        "/models",
        "/rollouts",
        "/experiments",
        "/experiments/9",
        "/captures",
        "/access",
    ):
        page.goto(server.url + path)
        page.locator("h1").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_a_sample_is_corrected_with_mouse_and_keys(page: Any, server: FleetServer) -> None:
    token = server.enroll("sampled")["registry"]["token"]
    first, second = (
        send(server, token, meta("sampled", id=f"s{n}", width=320, height=240), jpeg(320, 240, n)).json()[
            "id"
        ]
        for n in (1, 2)
    )
    page.goto(f"{server.url}/captures")
    page.locator("a.e-shot").nth(1).wait_for()
    page.locator(f'a.e-shot[href="/captures/{second}"]').click()
    page.locator("#e-items input").nth(1).wait_for()
    page.get_by_label("Remove a/../b").click()
    page.locator("#e-items input").first.fill("forklift")
    area = page.locator("#e-editor svg").bounding_box()
    page.mouse.move(area["x"] + 20, area["y"] + 20)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    page.mouse.up()
    page.locator("#e-items input").nth(1).fill("dock")
    page.locator("h1").click()
    page.keyboard.press("s")
    page.wait_for_url(f"**/captures/{first}")
    with server.client() as client:
        saved = client.get(f"/captures/{second}")
        assert (saved["state"], [one["label"] for one in saved["annotations"]]) == (
            "corrected",
            ["forklift", "dock"],
        )
        assert abs(saved["annotations"][1]["box"][2] - 160) < 2
        page.locator("#e-items input").first.wait_for()
        page.locator("h1").click()
        page.keyboard.press("c")
        page.wait_for_url("**/captures")
        assert client.get(f"/captures/{first}")["state"] == "confirmed"
    page.get_by_text("Everything is reviewed").wait_for()


def test_groups_and_tokens_are_managed_on_the_settings_page(page: Any, server: FleetServer) -> None:
    with server.client() as client:
        client.put("/groups/short-lived", {"description": "<i>goes away</i>", "selector": {"target": "rpi5"}})
        page.goto(f"{server.url}/access")
        row = page.locator("tr", has_text="<i>goes away</i>")
        row.get_by_text("short-lived").wait_for()
        page.once("dialog", lambda dialog: dialog.accept())
        row.get_by_role("button", name="Remove").click()
        row.wait_for(state="detached")
        assert "short-lived" not in [group["name"] for group in client.get("/groups")["items"]]


def test_viewers_look_and_do_not_touch(browser: Any, server: FleetServer, push: Callable[..., str]) -> None:
    push("watched")
    with server.client() as client:
        token = client.post("/access-tokens", {"name": "browser-viewer", "role": "viewer"})["token"]
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{server.url}/login")
    page.get_by_label("Access token").first.fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{server.url}/")
    page.goto(f"{server.url}/models/watched")
    page.get_by_text("verified").first.wait_for()
    assert page.get_by_role("button", name="Roll out").count() == 0
    page.goto(f"{server.url}/access")
    page.get_by_text("Not for viewers").wait_for()
    context.close()


def test_a_rollout_is_reached_and_left_by_keys_alone(
    page: Any, server: FleetServer, device: Callable[..., SimDevice], push: Callable[..., str]
) -> None:
    push("keyed")
    device("view-5")
    page.goto(f"{server.url}/devices")
    page.locator("tr", has_text="view-5").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("view-5")
    page.locator("tbody tr").nth(1).wait_for(state="detached")
    page.keyboard.press("Tab")
    page.locator(".e-search input:focus").wait_for(state="detached")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is seen"
    page.keyboard.press("Enter")
    page.wait_for_url("**/devices/view-5")
    page.goto(f"{server.url}/models/keyed")
    button = page.get_by_role("button", name="Roll out")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Roll out keyed")
    dialog.wait_for()
    page.wait_for_function("document.activeElement.closest('.q-dialog')")
    for _field in range(12):
        page.keyboard.press("Tab")
        # Between the last field and the first it is the browser's turn.
        place = (
            "document.activeElement === document.body || document.activeElement.closest('.q-dialog') !== null"
        )
        assert page.evaluate(place), "keys stay in the dialog"
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.locator("button:focus", has_text="Roll out").wait_for()


def test_a_token_is_shown_once_and_the_next_can_be_made(page: Any, server: FleetServer) -> None:
    page.goto(f"{server.url}/devices")
    shown = []
    for _time in range(2):
        page.get_by_role("button", name="Add devices").click()
        page.get_by_role("button", name="Create token").click()
        secret = page.locator("[data-token]")
        secret.wait_for()
        shown.append(secret.get_attribute("data-token"))
        page.get_by_role("button", name="Close").click()
        page.get_by_role("dialog").wait_for(state="hidden")
    assert len(set(shown)) == 2
    page.goto(f"{server.url}/access")
    page.get_by_role("button", name="New group").click()
    page.get_by_label("Name", exact=True).fill("no name/at all")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("'no name/at all' is not a valid name: letters, digits").wait_for()


def test_wrong_addresses_have_a_page_and_programs_get_json(page: Any, server: FleetServer) -> None:
    for path in ("/nonsense", "/rollouts/abc", "/captures/1/2"):
        answer = page.goto(server.url + path)
        assert answer.status == 404, path
        page.get_by_text("There is no such page").wait_for()
        page.get_by_role("link", name="To the overview").wait_for()
    for path in ("/nonsense", "/api/v1/nonsense"):
        answer = httpx.get(server.url + path, headers={"Accept": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_the_reference_of_the_api_needs_no_other_server(page: Any, server: FleetServer) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/api/docs")
    page.get_by_text("/api/v1/rollouts/{rollout_id}", exact=True).first.wait_for()
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_rollout_that_waits_for_somebody_needs_attention(
    page: Any, server: FleetServer, push: Callable[..., str]
) -> None:
    push("held")
    server.enroll("view-6")
    with server.client() as client:
        scope = {"kind": "device", "name": "view-6"}
        number = client.post("/rollouts", {"model": "held", "version": "1", "scope": scope})["id"]
        client.post(f"/rollouts/{number}/pause")
        page.goto(server.url)
        page.get_by_role("link", name="Rollout of held:1 is paused").click()
        page.wait_for_url(f"**/rollouts/{number}")
        page.get_by_text("device view-6").wait_for()
        client.post(f"/rollouts/{number}/abort")


def test_a_page_says_that_the_database_is_away_and_works_when_it_is_back(server: FleetServer) -> None:
    with (
        httpx.Client(base_url=server.url, headers={"Accept": "text/html"}) as client,
        contextlib.closing(sqlite3.connect(server.data / "fleet.db", timeout=60)) as database,
    ):
        assert client.post("/api/v1/session", json={"token": server.token}).status_code == 204
        database.execute("ALTER TABLE rollouts RENAME TO away")
        answer = client.get("/rollouts/1")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "The database does not answer" in answer.text
        database.execute("ALTER TABLE away RENAME TO rollouts")
        assert client.get("/rollouts/1").status_code == 200
