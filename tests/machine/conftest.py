import pytest

from tests.ranks import command, in_ranks
from tests.shared_runs import SMALL


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Two seeds trained by two processes, in one command; what they printed."""
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    return runs_dir, in_ranks(2, command, "-m", *SMALL, "seed=0,1", f"runs_dir={runs_dir}")
