import pytest

from tests.integration.registry.client import Disk


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


@pytest.fixture
async def registry(disk):
    async with disk.registry() as registry:
        yield registry
