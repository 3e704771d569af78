"""The sign-in page."""

from __future__ import annotations

from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edgec.fleet.dashboard.parts import esc
from edgec.fleet.dashboard.shell import html, post_token, signed_in, theme
from edgec.fleet.dashboard.theme import LOGO
from edgec.fleet.services import Services

REFUSED = "This token is unknown, expired or revoked, or restricted to scopes."


def add(services: Services) -> None:
    """Add `/login`."""

    @ui.page("/login", title="Sign in · edgec fleet")
    def sign_in(request: Request, next: str = "/", refused: str = "") -> Response | None:
        # Only local paths: `//elsewhere` and `https:` would lead to other sites.
        target = next if next.startswith("/") and not next.startswith(("//", "/\\")) else "/"
        if signed_in(services, request):
            return RedirectResponse(target)
        theme(request)
        with (
            ui.element("div").classes("e-sign"),
            ui.element("div").classes("e-card").style("width:380px;padding:28px"),
        ):
            html(f'<div class="e-brand" style="font-size:19px">{LOGO}<span>edgec fleet</span></div>')
            html('<p class="e-sub" style="margin:10px 0 16px">Sign in with an access token.</p>')
            token = ui.input("Access token", password=True, password_toggle_button=True).props(
                "outlined autofocus"
            )
            token.classes("w-full").props('autocomplete=current-password aria-label="Access token"')
            error = html("", "e-small").style("color:var(--bad);min-height:20px;margin:6px 2px")

            async def submit() -> None:
                status = await post_token("/api/v1/session", token.value)
                if status == 204:
                    ui.navigate.to(target)
                elif status == 429:
                    error.set_content("Too many failed attempts from this address; try again later.")
                else:
                    error.set_content(REFUSED)

            token.on("keydown.enter", submit)
            ui.button("Sign in", on_click=submit).props("unelevated").classes("w-full").style("height:42px")
            if refused:
                error.set_content(f"Not signed in: {esc(refused[:300])}.")
            if services.oidc is not None:
                start = f"/api/v1/oidc/start?next={quote(target)}"
                ui.button(
                    f"Sign in with {services.settings.oidc_name}", on_click=lambda: ui.navigate.to(start)
                ).props("outline icon=login").classes("w-full").style("height:42px;margin-top:10px")
            html(
                '<p class="e-small e-faint" style="margin-top:16px">The first access token was printed when the server was started '
                "for the first time, and is kept in <span class=e-mono>admin-token</span> in its data folder.</p>"
            )
        return None
