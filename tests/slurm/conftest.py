import shutil
import tempfile
from pathlib import Path

import pytest

from scripts import slurm_cluster


@pytest.fixture(scope="session")
def slurm():
    """The environment variables of a Slurm that runs as long as the tests do."""
    slurm_cluster.install()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with slurm_cluster.cluster(folder) as variables:
            yield variables
    finally:
        shutil.rmtree(folder)
