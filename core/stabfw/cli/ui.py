"""`stabfw ui`: MLflow's interface on this machine, opened on the right page."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO, Any

import click

from stabfw.errors import Exit, RunError
from stabfw.tracking.links import Published, links
from stabfw.tracking.reach import QUIET, check, database, need_mlflow

_HOST = "127.0.0.1"
_START_S = 180.0
_STOP_S = 10.0
_LAST_LINES = 12


@click.command("ui", epilog="Example: stabfw ui --port 5001")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--uri", default="sqlite:///mlflow.db", show_default=True, help="Tracking URI of MLflow."
)
@click.option("--no-browser", is_flag=True, help="Only print the addresses.")
def command(port: int, uri: str, no_browser: bool) -> None:
    """Show published results in MLflow.

    Starts MLflow's server for this machine only and prints the pages worth opening; Ctrl-C stops
    it. With the URI of a server that runs already, only the pages are printed.
    """
    if uri.startswith(("http://", "https://")):
        check(uri)
        _show(uri.rstrip("/"), browser=not no_browser)
        return
    need_mlflow()
    path = database(uri)
    if path is not None and not path.is_file():
        raise RunError(
            f"there is no MLflow database at {path}; run `stabfw run` first, or name another "
            "one with --uri sqlite:///PATH"
        )
    _check_free(port)
    base = f"http://{_HOST}:{port}"
    click.echo("Starting MLflow, this takes a while …", err=True)
    with TemporaryFile() as said, _server(uri, port, said) as process:
        _wait(process, base, said)
        _show(base, browser=not no_browser)
        click.echo("Ctrl-C stops it.", err=True)
        process.wait()
        raise _ended(process, said)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise RunError(
                f"port {port} is not free ({error.strerror}); stop what runs there, or choose "
                f"another one with --port {port + 1 if port < 65535 else port - 1}"
            ) from error


@contextmanager
def _server(uri: str, port: int, said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server, and end it with all its processes whatever ends us."""
    arguments = ["server", "--backend-store-uri", uri, "--host", _HOST, "--port", str(port)]
    # One worker and no job runner need a quarter of the memory and start thrice as fast.
    environment = os.environ | QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *arguments, "--workers", "1"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        start_new_session=True,
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield process
    except KeyboardInterrupt:
        click.echo("\nStopped.", err=True)
        raise SystemExit(Exit.OK) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(process)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], base: str, said: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _ended(process, said)
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RunError(f"MLflow's server did not answer within {_START_S:.0f} s")


def _ended(process: subprocess.Popen[bytes], said: IO[bytes]) -> RunError:
    said.seek(0)
    last = b"\n".join(said.read().splitlines()[-_LAST_LINES:]).decode(errors="replace")
    return RunError(f"MLflow's server ended with exit code {process.returncode}:\n{last}")


def _show(base: str, *, browser: bool) -> None:
    found = _published(base)
    first = base
    for published in found:
        click.echo(f"{published.name}:")
        for text, address in links(published, base):
            click.echo(f"  {text}\n    {address}")
    if found:
        first = links(found[0], base)[0][1]
    else:
        click.echo(f"{base}\n  No results of stabfw are in there yet; run `stabfw run`.")
    if browser:
        webbrowser.open(first)


def _published(base: str) -> list[Published]:
    """Ask the server for what stabfw published, the latest first."""
    experiments = _ask(base, "experiments/search", {"max_results": 1000}).get("experiments", [])
    query = {
        "experiment_ids": [e["experiment_id"] for e in experiments],
        "filter": "tags.\"stabfw.kind\" = 'experiment'",
        "order_by": ["attributes.start_time DESC"],
        "max_results": 10,
    }
    found: dict[str, Published] = {}
    for run in _ask(base, "runs/search", query).get("runs", []):
        tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
        with suppress(KeyError, ValueError):
            published = Published.parse(tags["stabfw.published"])
            # Of an experiment that changed, only the latest state has a saved view.
            found.setdefault(published.experiment_id, published)
    return list(found.values())


def _ask(base: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{base}/api/2.0/mlflow/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise RunError(
            f"MLflow at {base} does not answer as it should: {error}. A server on another "
            'machine must allow the name that you call it by: `mlflow server --allowed-hosts "…"`'
        ) from error
    return found
