"""One Slurm for all tests that need it."""

from collections.abc import Iterator

import pytest

from tests.sweep.cluster import running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which sbatch and the others find it."""
    with running_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment
