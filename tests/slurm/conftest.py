import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from scripts import slurm_cluster


@pytest.fixture(scope="session")
def slurm():
    """The environment variables of a Slurm that runs as long as the tests do."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the cluster is stopped then, too
    slurm_cluster.install()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with slurm_cluster.cluster(folder) as variables:
            yield variables
    finally:
        shutil.rmtree(folder)
