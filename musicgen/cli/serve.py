"""`musicgen serve`: the playground, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from musicgen.cli.param_types import FOLDER, WholeNumber
from musicgen.errors import escape_unprintable

PORT: Final = 8383
DEFAULT_HOST: Final = "127.0.0.1"


@click.command()
@click.option(
    "--port",
    type=WholeNumber(0, 65535),
    default=PORT,
    show_default=True,
    help="Where it listens; 0: wherever is free.",
)
@click.option(
    "--host",
    default=DEFAULT_HOST,
    show_default=True,
    help="The address to listen on. Any but this machine's own lets others in.",
)
@click.option(
    "--folder",
    type=FOLDER,
    default=Path("tunes"),
    show_default=True,
    help="Where the tunes that you keep are written, and found again.",
)
@click.option("--no-open", is_flag=True, help="Open no browser.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors and warnings.")
@click.option("-v", "--verbose", is_flag=True, help="Tell the models and the folder too.")
def serve(port: int, host: str, folder: Path, no_open: bool, quiet: bool, verbose: bool) -> None:
    """Open the playground: make tunes, change them, see and hear them, in a browser.

    Nothing is loaded from elsewhere, and nobody else can reach it. Ctrl-C ends it.

    \b
    musicgen serve
    musicgen serve --folder mytunes/ --port 9000
    """  # noqa: D301 - click wants the character itself
    from musicgen.model_folders import list_models
    from musicgen.web.app import create_app
    from musicgen.web.middleware import LOOPBACK as HERE
    from musicgen.web.server import format_url, open_socket, run

    found = open_socket(host, port)
    address = format_url(found, host)
    is_here = _is_loopback(found.getsockname()[0])
    hosts = (*HERE, address.removeprefix("http://").rpartition(":")[0].lower())
    if not is_here:
        click.echo(
            f"warning: {escape_unprintable(host)} is open to others: whoever can reach this machine"
            " can use it, and read the tunes in the folder",
            err=True,
        )
    app = create_app(folder, hosts=hosts, allow_ip_hosts=not is_here)

    def ready() -> None:
        if not quiet:
            click.echo(f"{escape_unprintable(address)} is open; Ctrl-C ends it")
        if verbose:
            click.echo(f"models: {escape_unprintable(', '.join(list_models()))}; tunes are kept in"
                       f" {escape_unprintable(str(folder.resolve()))}")  # fmt: skip
        if not no_open:
            _open_browser(address)

    run(app, found, ready)


def _is_loopback(address: str) -> bool:
    from ipaddress import ip_address

    return ip_address(address.partition("%")[0]).is_loopback


def _open_browser(address: str) -> None:
    """Open a browser beside the server; say so where there is none that has windows."""
    import webbrowser

    try:
        browser = webbrowser.get()
        opened = type(browser) is not webbrowser.GenericBrowser and browser.open(address)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        click.echo(
            f"no browser was found here: open {escape_unprintable(address)} in one", err=True
        )
