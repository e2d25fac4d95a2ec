import pytest
from drawn import Drawn, draw


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    return draw(60, perturbations=("clean", "typos"), control=True, failure=True)
