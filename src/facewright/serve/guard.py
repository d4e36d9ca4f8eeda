"""What every request passes before its route, and every answer after it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect

from .logs import LOG, unexpected
from .problems import MEDIA_TYPE, Problem, problem_of

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .metrics import Metrics
    from .settings import ServeOptions
    from .tokens import Tokens

OPEN = ("/healthz", "/readyz")
"""What is answered without a token, beside the page itself."""
GUARDED = ("/v1", "/metrics")
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE = ("GET", "HEAD", "OPTIONS")

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class Guard:
    """Outermost layer: names and origins, tokens, safe headers, one line of log a request, no traceback for anybody.

    The owner of the token stands in `scope["state"]["owner"]`; "" where no tokens are asked for.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions, tokens: Tokens, metrics: Metrics) -> None:
        self.app, self.options, self.tokens, self.metrics = app, options, tokens, metrics
        self.hosts = LOCAL_NAMES | {options.host.strip("[]")} | set(options.allow_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 499
        path = scope["path"]

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, path, cross_origin=bool(self.options.allow_origin))
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, guarded)
        except ClientDisconnect:
            pass
        except Exception as error:
            problem = problem_of(error)
            if problem.code == "internal":
                unexpected("a request", error)
            self.metrics.refused.labels(problem.code).inc()
            if status == 499:
                await _answer(problem, guarded)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            spent = time.monotonic() - start
            self.metrics.requests.labels(_method(scope), route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(spent)
            LOG.info("%s %s %d %.0f ms", _method(scope), route, status, 1000 * spent)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self.tokens and _name(host) not in self.hosts:
            # a page of another site that lets its own name point here would otherwise pass for ours
            raise Problem(421, "wrong_host", "this server does not go by that name; allow it with --allow-host")
        if scope["method"] not in _SAFE and not self._is_own(headers, host):
            raise Problem(403, "wrong_origin", "pages of other sites may not use this server")
        scope.setdefault("state", {})["owner"] = ""
        if self.tokens and scope["path"].startswith(GUARDED) and scope["method"] != "OPTIONS":
            scheme, _, token = headers.get("authorization", "").partition(" ")
            owner = self.tokens.owner(token.strip()) if scheme.lower() == "bearer" else None
            if owner is None:
                raise Problem(401, "no_token", "send a token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
            scope["state"]["owner"] = owner

    def _is_own(self, headers: MutableMapping[str, str], host: str) -> bool:
        """Whether a changing request comes from a program, from our page, or from a page that was allowed."""
        origin = headers.get("origin")
        if origin is not None:
            return origin in self.options.allow_origin or urlsplit(origin).netloc == host
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"


def _add_headers(message: Message, path: str, *, cross_origin: bool) -> None:
    is_page = not path.startswith((*GUARDED, *OPEN))
    given = {name.lower() for name, _ in message["headers"]}
    wanted = {
        **_HEADERS,
        "content-security-policy": _PAGE_POLICY if is_page else _DATA_POLICY,
        "cross-origin-resource-policy": "cross-origin" if cross_origin and not is_page else "same-origin",
        "cache-control": "no-cache" if is_page else "no-store",
    }
    new = [(k.encode(), v.encode()) for k, v in wanted.items() if k.encode() not in given]
    message["headers"] = [*message["headers"], *new]


async def _answer(problem: Problem, send: Send) -> None:
    content = json.dumps(problem.document()).encode()
    headers: list[Any] = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(content)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
