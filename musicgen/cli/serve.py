"""`musicgen serve`: the local playground, a web page to generate and edit tunes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from musicgen.cli.command_options import FOLDER, WholeNumber
from musicgen.errors import escape_unprintable

PORT: Final = 8383
DEFAULT_HOST: Final = "127.0.0.1"


@click.command()
@click.option(
    "--port",
    type=WholeNumber(0, 65535),
    default=PORT,
    show_default=True,
    help="TCP port to listen on; 0 chooses a free port.",
)
@click.option(
    "--host",
    default=DEFAULT_HOST,
    show_default=True,
    help="Address to listen on; any but a loopback address is reachable from other machines.",
)
@click.option(
    "--folder",
    type=FOLDER,
    default=Path("tunes"),
    show_default=True,
    help="Folder of saved tunes.",
)
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
@click.option("-q", "--quiet", is_flag=True, help="Print only errors and warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Also print the models and the folder.")
def serve(port: int, host: str, folder: Path, no_open: bool, quiet: bool, verbose: bool) -> None:
    """Open the playground: generate, edit, view and play tunes in a browser.

    By default only this machine can reach it, and it needs no network. Ctrl-C stops it.

    \b
    musicgen serve
    musicgen serve --folder mytunes/ --port 9000
    """  # noqa: D301 - click reads the backspace character
    from musicgen.model_folders import list_models
    from musicgen.web.app import create_app
    from musicgen.web.middleware import LOOPBACK
    from musicgen.web.server import format_url, open_socket, run

    listener = open_socket(host, port)
    url = format_url(listener, host)
    is_loopback = _is_loopback(listener.getsockname()[0])
    hosts = (*LOOPBACK, url.removeprefix("http://").rpartition(":")[0].lower())
    if not is_loopback:
        click.echo(
            f"warning: {escape_unprintable(host)} is reachable from other machines, whose users"
            " can run the playground and read the tunes in the folder",
            err=True,
        )
    app = create_app(folder, hosts=hosts, allow_ip_hosts=not is_loopback)

    def announce() -> None:
        if not quiet:
            click.echo(f"{escape_unprintable(url)} is open; Ctrl-C stops it")
        if verbose:
            models, tunes = ", ".join(list_models()), str(folder.resolve())
            click.echo(escape_unprintable(f"models: {models}; saved tunes: {tunes}"))
        if not no_open:
            _open_browser(url)

    run(app, listener, announce)


def _is_loopback(address: str) -> bool:
    from ipaddress import ip_address

    return ip_address(address.partition("%")[0]).is_loopback


def _open_browser(url: str) -> None:
    """Open a page in a graphical browser; print the address if there is none."""
    import webbrowser

    try:
        browser = webbrowser.get()
        opened = type(browser) is not webbrowser.GenericBrowser and browser.open(url)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        click.echo(f"no browser found; open {escape_unprintable(url)} yourself", err=True)
