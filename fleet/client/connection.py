"""A client of the API, for the command line and scripts. Its errors carry messages for people."""

from __future__ import annotations

import json
import os
import re
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from edgec.fleet.client.authority import authority_for, trusting
from edgec.fleet.errors import FleetError, RefusedByServer, ServerUnreachable, ServerUnverified
from edgec.fleet.store.files import replace_file

SERVER_ENV = "EDGEC_SERVER"
TOKEN_ENV = "EDGEC_TOKEN"
DEFAULT_SERVER = "http://127.0.0.1:8600"


def config_file() -> Path:
    """The file in which `edgec fleet login` saves server and token."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "edgec" / "fleet.toml"


def save_login(server: str, token: str, ca: str | None = None) -> Path:
    """Save server, token and, if this machine does not know it, the server's authority (PEM) for later commands,
    readable by this user only."""
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = {"server": server, "token": token} | ({"ca": ca} if ca else {})
    replace_file(path, "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()).encode())
    return path


def _saved() -> dict[str, Any]:
    path = config_file()
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise FleetError(f"{path} cannot be read ({error}); run 'edgec fleet login' again") from error


def resolve(server: str | None, token: str | None) -> tuple[str, str | None]:
    """Server and token from flags, else the environment, else the login file.

    A saved token is only ever sent to the server it was saved for.

    Raises:
        FleetError: the login file cannot be read.
    """
    saved = _saved()
    address = server or os.environ.get(SERVER_ENV) or saved.get("server") or DEFAULT_SERVER
    if "://" not in address:
        address = f"http://{address}"
    secret = token or os.environ.get(TOKEN_ENV)
    if not secret and str(saved.get("server", "")).rstrip("/") == address.rstrip("/"):
        secret = saved.get("token")
    return address.rstrip("/"), secret


class FleetClient:
    """Calls one fleet server. Use as a context manager."""

    def __init__(
        self, server: str, token: str | None, timeout_s: float = 30.0, ca: str | None = None
    ) -> None:
        """`ca` is the authority (PEM) of an https server; otherwise `--ca`, or the one saved for this server.

        Raises:
            FleetError: the authority cannot be read.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.server = server
        # Without authorities: reading those of the system takes 20 ms, and http needs none.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not server.startswith("http:"):
            saved = _saved()
            mine = saved.get("ca") if str(saved.get("server", "")).rstrip("/") == server.rstrip("/") else None
            verify = trusting(ca or authority_for(mine))
        self.http = httpx.Client(
            base_url=server, headers=headers, timeout=timeout_s, follow_redirects=False, verify=verify
        )

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self.http.close()

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own
        """Send a request and return the response, unless it is an error.

        Raises:
            ServerUnreachable: nothing answers at the address.
            RefusedByServer: the server refused; the message is its own.
        """
        try:
            answer = self.http.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ServerUnverified(
                    f"{self.server} answers, but its certificate is not to be trusted ({_why(error)}): give the "
                    "authority that issued it with --ca, or keep it with 'edgec fleet login ADDRESS --ca ca.pem'"
                ) from error
            raise ServerUnreachable(
                f"no fleet server answers at {self.server} ({type(error).__name__}: {error}); start one with "
                "'edgec fleet serve' or give its address with --server"
            ) from error
        if answer.status_code >= 400:
            raise RefusedByServer(_sentence(answer), answer.status_code)
        return answer

    def get(self, path: str, **params: Any) -> Any:  # noqa: ANN401 - JSON
        """GET below `/api/v1`."""
        wanted = {key: value for key, value in params.items() if value not in (None, "")}
        return self.send("GET", f"/api/v1{path}", params=wanted).json()

    def post(self, path: str, body: Any = None, **params: Any) -> Any:  # noqa: ANN401 - JSON
        """POST below `/api/v1`."""
        answer = self.send("POST", f"/api/v1{path}", json=body, params=params)
        return answer.json() if answer.content else None

    def put(self, path: str, body: Any) -> Any:  # noqa: ANN401 - JSON
        """PUT below `/api/v1`."""
        return self.send("PUT", f"/api/v1{path}", json=body).json()

    def delete(self, path: str) -> None:
        """DELETE below `/api/v1`."""
        self.send("DELETE", f"/api/v1{path}")

    def download(self, path: str, output: Path, **params: Any) -> int:  # noqa: ANN401 - JSON
        """GET below `/api/v1` into a file, which appears only once complete; returns its size in bytes.

        Raises:
            FleetError: the file cannot be written, or as `send`.
        """
        wanted = {key: value for key, value in params.items() if value not in (None, "")}
        partial = output.with_name(output.name + ".partial")
        try:
            with self.http.stream("GET", f"/api/v1{path}", params=wanted) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise RefusedByServer(_sentence(answer), answer.status_code)
                with partial.open("wb") as stream:
                    for piece in answer.iter_bytes():
                        stream.write(piece)
            partial.replace(output)
        except httpx.HTTPError as error:
            partial.unlink(missing_ok=True)
            raise ServerUnreachable(
                f"the download from {self.server} was interrupted ({type(error).__name__})"
            ) from error
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise FleetError(f"{output} cannot be written: {error.strerror}") from error
        return output.stat().st_size

    def pages(self, path: str, **params: Any) -> Iterator[Any]:  # noqa: ANN401 - JSON
        """Iterate over all items of a list, page by page."""
        cursor = ""
        while True:
            answer = self.get(path, cursor=cursor, **params)
            yield from answer["items"]
            cursor = answer["next"] or ""
            if not cursor:
                return


def _why(error: Exception) -> str:
    found = re.search(r"certificate verify failed: (.*?)(?: \(_ssl|$)", str(error))
    return found[1] if found else str(error)


def part(name: str) -> str:
    """Quote a name for use as one segment of a path."""
    return quote(name, safe="")


def _sentence(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.status_code == 401:
        return "the server wants a token: use --token, EDGEC_TOKEN, or 'edgec fleet login'"
    if answer.status_code == 403 and not answer.content:
        return f"DENIED: this token has no access to {answer.request.url.path}"
    if isinstance(body, dict) and (errors := body.get("errors")) and "title" not in body:
        return f"{errors[0].get('code')}: {errors[0].get('message')}"
    if isinstance(body, dict) and "title" in body:
        return f"{body['title']}: {body['detail']}" if body.get("detail") else str(body["title"])
    return f"{answer.request.method} {answer.request.url} answered {answer.status_code}"
