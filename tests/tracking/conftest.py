import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from stabfw.tracking.links import Published
from stabfw.tracking.publish import publish

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from drawn import Drawn, draw, write_run


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    return draw(40)


@pytest.fixture(scope="session")
def run_directory(drawn, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    write_run(drawn, directory)
    return directory


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables, which take long to make."""
    from stabfw.tracking.reach import reaching

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with reaching(f"sqlite:///{path}"):
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def published_once(drawn, run_directory, empty_database) -> Published:
    path = empty_database.parent / "published.db"
    shutil.copy(empty_database, path)
    return publish(drawn.results, run_directory, f"sqlite:///{path}", traces=0)


@pytest.fixture
def uri(empty_database, tmp_path) -> str:
    """An empty database of the test's own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def published(published_once, tmp_path) -> Published:
    """The experiment as it was published to a database of the test's own."""
    shutil.copy(published_once.uri.removeprefix("sqlite:///"), tmp_path / "published.db")
    return replace(published_once, uri=f"sqlite:///{tmp_path / 'published.db'}")
