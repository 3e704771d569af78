"""The frame of every page: sign-in check, header, navigation, theme, keys, live refresh."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from nicegui import run, ui
from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edgec.fleet.access.identity import Identity
from edgec.fleet.access.sessions import COOKIE
from edgec.fleet.dashboard.parts import count, empty, esc
from edgec.fleet.dashboard.theme import CSS, LOGO, THEME
from edgec.fleet.problems import Problem
from edgec.fleet.services import Services

NAV = (
    ("/", "Overview"),
    ("/devices", "Devices"),
    ("/models", "Models"),
    ("/rollouts", "Rollouts"),
    ("/experiments", "Experiments"),
    ("/captures", "Captures"),
    ("/access", "Settings"),
)
SESSION_CHECK_S = 3.0
KEYS = """
<script>
document.addEventListener('click', async e => {
  const call = e.target.closest('[data-call]');
  if (call) {
    e.preventDefault();
    if (call.dataset.ask && !confirm(call.dataset.ask)) return;
    const [method, path] = call.dataset.call.split(' ');
    const body = call.dataset.body;
    call.disabled = true;
    const send = () => fetch(path, {method, body, headers: body ? {'content-type': 'application/json'} : {}});
    let answer = await send();
    let p = answer.ok ? {} : await answer.json().catch(() => ({}));
    if (p.type === 'confirm') {
      emitEvent('edgec-confirm', {});
      await new Promise(done => addEventListener('edgec-confirmed', done, {once: true}));
      answer = await send();
      p = answer.ok ? {} : await answer.json().catch(() => ({}));
    }
    call.disabled = false;
    if (!answer.ok) alert(p.detail || p.title || answer.statusText);
    else emitEvent('edgec-called', {});
    return;
  }
  const row = e.target.closest('tr[data-href]');
  if (row && !e.target.closest('a,button') && !getSelection().toString()) location.href = row.dataset.href;
});
let edgecSeen = Date.now();
for (const kind of ['pointerdown', 'keydown']) addEventListener(kind, () => {
  // What happens over the WebSocket is no request: tell the server that someone is here.
  if (Date.now() - edgecSeen < 60000) return;
  edgecSeen = Date.now();
  fetch('/api/v1/session/active', {method: 'POST'});
}, {capture: true});
let edgecG = false;
document.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || /INPUT|TEXTAREA|SELECT/.test(e.target.tagName)) return;
  if (e.key === '/') { const s = document.querySelector('.e-search input'); if (s) { s.focus(); e.preventDefault(); }
    else location.href = '/devices#search'; }
  const step = {j: 1, k: -1}[e.key];
  if (step) { const rows = [...document.querySelectorAll('tr[data-href] a.main, a.e-shot')];
    const at = rows.indexOf(document.activeElement); rows[Math.max(0, Math.min(rows.length - 1, at + step))]?.focus(); }
  const turn = {ArrowRight: 'Next page', ArrowLeft: 'Page before'}[e.key];
  if (turn) document.querySelector(`button[aria-label="${turn}"]:not([disabled])`)?.click();
  if (edgecG) { edgecG = false; const to = {o:'/', d:'/devices', m:'/models', r:'/rollouts', c:'/captures', e:'/experiments', a:'/access'}[e.key];
    if (to) location.href = to; }
  else if (e.key === 'g') { edgecG = true; setTimeout(() => edgecG = false, 1200); }
  else if (e.key === '?') document.querySelector('.e-help')?.click();
});
if (location.hash === '#search') addEventListener('load', () => setTimeout(() =>
  document.querySelector('.e-search input')?.focus(), 400));
</script>
"""


def signed_in(services: Services, request: Request, *, active: bool = True) -> Identity | None:
    """The person signed in with this browser; `active` when that person opened the page just now."""
    cookie = request.cookies.get(COOKIE)
    return services.auth.by_cookie(cookie, active=active) if cookie else None


def to_sign_in(request: Request) -> Response:
    """Redirect to the sign-in page, and back here afterwards."""
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"/login?next={quote(request.url.path + query)}")


def theme(request: Request) -> ui.dark_mode:
    """Apply colours and style sheet, dark or light as last chosen in this browser."""
    chosen = {"dark": True, "light": False}.get(request.cookies.get(THEME, ""))
    mode = ui.dark_mode(chosen)
    ui.add_css(CSS)
    ui.colors(primary="#0b6bcb", positive="#12805c", negative="#c4321f", warning="#e7b549")
    return mode


@contextmanager
def frame(
    services: Services, request: Request, identity: Identity, title: str, subtitle: str = ""
) -> Iterator[Any]:
    """The frame around a page's content; yields a slot for actions beside the title."""
    mode = theme(request)
    _watch_session(services, request, identity)
    ui.on(
        "edgec-confirm",
        lambda: confirm_person(
            services, identity, lambda: ui.run_javascript("dispatchEvent(new Event('edgec-confirmed'))")
        ),
    )
    ui.page_title(f"{title} · edgec fleet")
    ui.add_body_html(KEYS)
    path = request.url.path
    items = [item for item in NAV if item[0] != "/access" or identity.may("operator")]
    on = next((href for href, _n in reversed(items) if href != "/" and path.startswith(href)), "")
    on = "/" if path == "/" else on
    links = "".join(
        f'<a href="{href}"{" class=on aria-current=page" if href == on else ""}>{name}</a>'
        for href, name in items
    )
    with ui.header().classes("e-head"):
        with (
            ui.button(icon="menu").props("flat dense color=quiet aria-label=Menu").classes("e-burger"),
            ui.menu(),
        ):
            for href, name in items:
                ui.menu_item(name, lambda href=href: ui.navigate.to(href)).props("role=menuitem")
        ui.html(f'<a href="/" class="e-brand">{LOGO}<span>edgec fleet</span></a>', sanitize=False)
        ui.html(f'<nav class="e-nav" aria-label="Pages">{links}</nav>', sanitize=False)
        ui.html('<div class="e-spacer"></div>', sanitize=False).classes("e-spacer")
        ui.html(f'<span class="e-who">{esc(identity.name)} · {identity.role}</span>', sanitize=False)
        _help()
        _theme_button(mode)
        ui.button(icon="logout", on_click=_sign_out).props(
            "flat dense round color=quiet aria-label='Sign out'"
        ).tooltip("Sign out")
    with ui.element("div").classes("e-main"):
        with ui.element("div").classes("e-top"):
            sub = f'<div class="e-sub">{subtitle}</div>' if subtitle else ""
            ui.html(f'<h1 class="e-title">{esc(title)}</h1>{sub}', sanitize=False)
            actions = ui.element("div").classes("e-actions")
        yield actions


def _watch_session(services: Services, request: Request, identity: Identity) -> None:
    """Leave the page soon after its session ended: its buttons act with the identity that opened it."""

    async def check() -> None:
        try:
            # In a tuple, as NiceGUI returns None instead of a result while the page is being left.
            found: tuple[Identity | None] | None = await run.io_bound(
                lambda: (signed_in(services, request, active=False),)
            )
        except OperationalError:
            return
        if found is not None and (found[0] is None or found[0].role != identity.role):
            ui.navigate.to("/login")

    ui.timer(SESSION_CHECK_S, check, immediate=False)


def _help() -> None:
    with dialog_card("Keyboard", 360) as dialog:
        keys = {
            "/": "search devices",
            "g o": "overview",
            "g d": "devices",
            "g m": "models",
            "g r": "rollouts",
            "g e": "experiments",
            "g c": "captures",
            "g a": "settings",
            "j k": "down and up a list, Enter opens",
            "← →": "page before, next page",
            "?": "this help",
        }
        rows = "".join(f'<dt class="e-mono">{k}</dt><dd>{v}</dd>' for k, v in keys.items())
        ui.html(f'<dl class="e-kv">{rows}</dl>', sanitize=False)
    ui.button(icon="keyboard", on_click=dialog.open).props(
        "flat dense round color=quiet aria-label=Keys"
    ).classes("e-help max-[760px]:hidden")


def _theme_button(mode: ui.dark_mode) -> None:
    async def toggle() -> None:
        dark = await ui.run_javascript("document.body.classList.contains('body--dark')")
        mode.value = not dark
        name = "light" if dark else "dark"
        ui.run_javascript(
            f"document.cookie='{THEME}={name};path=/;max-age=31536000;samesite=lax'; dispatchEvent(new Event('resize'))"
        )

    ui.button(icon="contrast", on_click=toggle).props(
        "flat dense round color=quiet aria-label='Dark or light'"
    ).tooltip("Dark or light")


async def _sign_out() -> None:
    await ui.run_javascript("await fetch('/api/v1/session', {method:'DELETE'}); location.href='/login'")


def live(
    load: Callable[[], Any],
    show: Callable[[Any], object],
    pace_s: float = 1.5,
    *,
    first: Any = None,  # noqa: ANN401
) -> Callable[[], Awaitable[None]]:
    """Call `load` in a thread and `show` with its result, now and every `pace_s` seconds; only changes are shown.

    `first` is shown with the page itself, when it has been loaded already.

    While the database is unavailable the page says so, and continues as soon as it is back.
    """
    last: list[Any] = [first]
    if first is not None:
        show(first)
    warning = ui.html("", sanitize=False)

    async def refresh() -> None:
        try:
            # NiceGUI returns None instead of a result while the page is being left.
            answer: tuple[Any] | None = await run.io_bound(lambda: (load(),))
        except OperationalError:
            warning.set_content(
                '<div class="e-card">' + empty("The database does not answer", "Trying again.") + "</div>"
            )
            return
        if answer is None:
            return
        warning.set_content("")
        if answer[0] != last[0]:
            last[0] = answer[0]
            show(answer[0])

    ui.timer(pace_s, refresh, immediate=True)
    ui.on("edgec-called", refresh)
    return refresh


class Pager:
    """The pager below a list: the range shown, and two buttons."""

    def __init__(self, size: int, turn: Callable[[int], Awaitable[Any]]) -> None:
        self._size = size
        with ui.element("div").classes("e-pager") as self._bar:
            self._place = ui.label()
            self._back = ui.button(icon="chevron_left", on_click=lambda: turn(-1)).props(
                "flat dense round color=quiet aria-label='Page before'"
            )
            self._forth = ui.button(icon="chevron_right", on_click=lambda: turn(1)).props(
                "flat dense round color=quiet aria-label='Next page'"
            )
        self._bar.set_visibility(False)

    def show(self, page: int, total: int) -> None:
        """Show that `page`, counted from 0, of `total` items is displayed."""
        first = page * self._size + 1 if total else 0
        last = min(first + self._size - 1, total)
        several = total > self._size
        self._place.set_text(
            f"{count(first)}–{count(last)} of {count(total)}" if several else f"{count(total)} in all"
        )
        self._back.set_enabled(page > 0)
        self._forth.set_enabled((page + 1) * self._size < total)
        self._back.set_visibility(several)
        self._forth.set_visibility(several)
        self._bar.set_visibility(total > 0)


def html(content: str = "", classes: str = "") -> ui.html:
    """A block of HTML built from escaped parts."""
    return ui.html(content, sanitize=False).classes(classes)


async def attempt(action: Callable[[], Any], done: str) -> bool:
    """Run an operator's action in a thread and notify of the outcome."""
    try:
        await run.io_bound(action)
    except Problem as problem:
        ui.notify(f"{problem.title}: {problem.detail}", type="negative", multi_line=True)
        return False
    ui.notify(done, type="positive")
    return True


@contextmanager
def dialog_card(title: str, width: int = 520) -> Iterator[ui.dialog]:
    """A dialog with a title, which screen readers read out, around its content. Escape closes it."""
    with ui.dialog() as dialog, ui.card().style(f"width:{width}px;max-width:94vw"):
        dialog.props["aria-label"] = title
        ui.label(title).classes("text-lg font-semibold")
        yield dialog


def confirm_person(services: Services, identity: Identity, then: Callable[[], Any]) -> None:
    """Ask for the access token, or a sign-in at the identity provider, once more, and go on with `then`."""
    path = ui.context.client.request.url.path
    with dialog_card("Confirm that it is you", 448) as dialog:
        if services.auth.sessions.by_provider(identity):
            html(
                '<p class="e-soft">This needs a proof that it is you. Sign in once more, and then repeat it.</p>'
            )
            with ui.row().classes("w-full justify-end"):
                ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
                start = f"/api/v1/oidc/start?confirm=true&next={quote(path)}"
                ui.button("Sign in again", on_click=lambda: ui.navigate.to(start)).props("unelevated")
            dialog.open()
            return
        html('<p class="e-soft">This needs a proof that it is you: enter your access token once more.</p>')
        token = ui.input("Access token", password=True).props(
            'outlined autofocus autocomplete=current-password aria-label="Access token"'
        )
        token.classes("w-full")
        error = html("", "e-small").style("color:var(--bad);min-height:20px;margin:2px")

        async def submit() -> None:
            status = await post_token("/api/v1/session/confirm", token.value)
            if status == 204:
                dialog.close()
                result = then()
                if isinstance(result, Awaitable):
                    await result
                return
            locked = "Too many attempts from this address; try again later."
            error.set_content(locked if status == 429 else "This browser did not sign in with this token.")

        token.on("keydown.enter", submit)
        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")
            ui.button("Confirm", on_click=submit).props("unelevated color=negative")
    dialog.open()


async def post_token(path: str, token: str | None) -> int:
    """Send a token from the browser to a route of the API that takes one; returns the status."""
    body = json.dumps(json.dumps({"token": (token or "").strip() or " "}))
    return int(
        await ui.run_javascript(
            f"return (await fetch('{path}', {{method:'POST', headers:{{'content-type':'application/json'}}, "
            f"body:{body}}})).status",
            timeout=15,
        )
    )


async def surely(services: Services, identity: Identity, action: Callable[[], Awaitable[Any]]) -> None:
    """Run `action` once the person has proved to be there, at once if that was a moment ago."""
    if await run.io_bound(lambda: services.auth.sessions.confirmed(identity)):
        await action()
    else:
        confirm_person(services, identity, action)


def confirm(title: str, text: str, button: str, action: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
    """A confirmation dialog before something with consequences; returns the function that opens it."""
    with dialog_card(title, 448) as dialog:
        ui.label(text).classes("e-soft")
        with ui.row().classes("w-full justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat color=quiet")

            async def go() -> None:
                dialog.close()
                await action()

            ui.button(button, on_click=go).props("unelevated color=negative")
    return dialog.open
