"""Reaching MLflow: finding out soon whether it is there, quietly, and quick to give up."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from stabfw.errors import RunError

_CONNECT_S = 2.0
# MLflow's own defaults keep a run waiting for four minutes when nobody answers.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def need_mlflow() -> None:
    """Refuse to go on without MLflow; it is not imported.

    Raises:
        RunError: If it is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise RunError("MLflow is not installed: install it with `pip install 'stabfw[mlflow]'`")


def check(uri: str) -> None:
    """Refuse a tracking URI that cannot be reached or written.

    Args:
        uri: Of MLflow; kinds other than http and sqlite are left to MLflow.

    Raises:
        RunError: If nobody answers, or the database cannot be written.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), _CONNECT_S).close()
        except OSError as error:
            raise RunError(f"MLflow at {uri} does not answer ({error})") from error
    elif (path := database(uri)) is not None:
        _check_writable(path)


def database(uri: str) -> Path | None:
    """Return the file that a sqlite URI names, None for any other URI."""
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        return None
    return Path(unquote(uri.removeprefix(prefix).split("?")[0])).absolute()


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Let MLflow be used at an address, and turn whatever it raises into one error.

    Args:
        uri: Tracking URI.

    Raises:
        RunError: If MLflow is not installed, cannot be reached or refuses.
    """
    need_mlflow()
    check(uri)
    with _patience():
        try:
            yield
        except RunError:
            raise
        except Exception as error:
            # MLflow lets errors of its HTTP and database libraries through.
            line = (str(error).strip() or "no message").splitlines()[0]
            raise RunError(f"MLflow at {uri} refused: {type(error).__name__}: {line}") from error


@contextmanager
def _patience() -> Iterator[None]:
    """Switch telemetry off for good, and waiting down unless the user has set it."""
    os.environ.update(QUIET)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    ours = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def experiment_id(client: Any, uri: str, name: str) -> str:
    """Return the id of the experiment of a name, made or restored if need be.

    Args:
        client: An MlflowClient.
        uri: Its tracking URI.
        name: The experiment's name.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        path = database(uri)
        where = None if path is None else (path.parent / "mlartifacts").as_uri()
        return str(client.create_experiment(name, artifact_location=where))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opening for appending creates a missing file, which sqlite takes as an empty database.
        with path.open("ab"):
            pass
    except OSError as error:
        raise RunError(f"cannot write the MLflow database {path}: {error.strerror}") from error
