"""The command that opens the server; its options are those of `facewright.serve.settings.ServeOptions`."""

from __future__ import annotations

import importlib.util
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MissingDependencyError, UsageError
from ..tasks.declare import option_fields
from .build import option_parameter, option_value

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve_command() -> Callable[..., None]:
    """The function that typer turns into `facewright serve`."""
    from ..serve.settings import ServeOptions

    fields = option_fields(ServeOptions)

    def serve(**values: Any) -> None:
        new_token, open_page = values.pop("new_token"), values.pop("open_page")
        options = ServeOptions(**{field.name: option_value(field, values[field.name]) for field in fields})
        if new_token is not None:
            _make_token(options.tokens, new_token)
            return
        _check_installed()
        from ..serve.server import serve as run

        run(options, on_listening=lambda address: _announce(address, open_page))

    parameters = [*map(option_parameter, fields), *_OWN]
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    serve.__doc__ = "Serve a page to drop photos on, and every task as a REST API."
    return serve


def _own(name: str, kind: Any, default: Any, flag: str, help_text: str) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(flag, help=help_text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_OWN = (
    _own("new_token", str | None, None, "--new-token", "Add a token of that name to --tokens, print it, and exit."),
    _own("open_page", bool, False, "--open", "Open the page in the browser."),
)


def _check_installed() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f'{missing[0]} is not installed; pip install "facewright[web]"')


def _make_token(path: str | None, name: str) -> None:
    from ..serve.tokens import make_token

    if path is None:
        raise UsageError("say where the token's hash is kept: --tokens FILE --new-token NAME")
    typer.echo(make_token(path, name))
    typer.echo(f"{path}: its hash was added; the token itself is shown only here", err=True)


def _announce(address: str, open_page: bool) -> None:
    typer.echo(f"facewright is at {address} (Ctrl-C stops it)")
    if open_page:
        import webbrowser

        webbrowser.open(address)


def gradio_app(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve the Gradio app of every task, on this computer."""
    from ..serve.settings import ServeOptions
    from ..serve.space import create_space

    app = create_space(ServeOptions(device=device))
    app.launch(server_name="127.0.0.1", server_port=port or None, inbrowser=open_page, share=False)
