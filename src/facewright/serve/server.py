"""Listening: address, signals, patience with slow clients, and an orderly end."""

from __future__ import annotations

import ipaddress
import math
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UsageError
from ..weights.store import cache_dir
from . import logs
from .app import create_app
from .store import Store
from .tokens import VARIABLE, Tokens

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

    from fastapi import FastAPI

    from .settings import ServeOptions

WARM = ("restore",)
"""Tasks whose networks are loaded at the start."""


def serve(
    options: ServeOptions,
    *,
    source: Any = None,
    warm: tuple[str, ...] = WARM,
    on_listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Run the server until it is stopped by SIGINT or SIGTERM.

    Args:
        options: Where to listen, limits, numbers of workers.
        source: Where networks come from; a `Session` of its own without.
        warm: Verbs whose networks are loaded at the start.
        on_listening: Called with the address of the page.

    Raises:
        UsageError: The address is taken or not one of this machine, it can be reached by others and there are no
            tokens, or another server has the folder.
    """
    tokens = Tokens.load(options.tokens, os.environ.get(VARIABLE))
    if not options.is_local and not tokens:
        raise UsageError(
            f"{options.host} can be reached by other machines; give --tokens FILE (facewright serve --tokens FILE "
            "--new-token NAME makes one), or listen on 127.0.0.1"
        )
    os.umask(0o077)
    os.environ["FACEWRIGHT_OFFLINE"] = "1"  # no request makes the server fetch anything
    logs.prepare()
    listening = _listen(options)
    folder = Path(options.state) if options.state is not None else cache_dir() / "serve"
    store = Store(folder.expanduser(), options.disk_bytes)
    app = create_app(options, store, tokens=tokens, source=source, warm=warm, forget=options.state is None)
    on_listening(_address(listening))
    _Server(_config(app, options), app).run(sockets=[listening])


def _config(app: FastAPI, options: ServeOptions) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_protocol(options.patience),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=options.connections,
        timeout_keep_alive=max(1, min(5, round(options.patience))),
        timeout_graceful_shutdown=max(1, math.ceil(options.grace)),
    )


class _Server(uvicorn.Server):
    """Lets go of watchers when it is told to stop, and ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in order at the first signal, at once at the second Ctrl-C."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._app.state.server.jobs.begin_stop()


def _protocol(patience: float) -> type[asyncio.Protocol]:
    """HTTP that gives up on a connection whose request line and headers do not arrive in time (slow loris)."""

    class PatientProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """A bounded time for the next request, from the first byte that is not of the one before."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._timer is None:
                self._timer = self.loop.call_later(patience, self._give_up)

        def _unwatch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
                self.transport.abort()

    return PatientProtocol


def _listen(options: ServeOptions) -> socket.socket:
    host = "127.0.0.1" if options.host == "localhost" else options.host
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        return socket.create_server((host, options.port), family=family, backlog=256)
    except ValueError:
        raise UsageError(f"{options.host} is not an address; give one such as 127.0.0.1 or 0.0.0.0") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {options.host}, port {options.port}: {reason}; try another --port"
        ) from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
