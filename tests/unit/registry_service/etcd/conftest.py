import pytest

from tests.fakes.etcd import fresh_prefix, shared_etcd, store_url


@pytest.fixture(scope="session")
def member():
    """One for all tests that leave it as it is."""
    with shared_etcd() as member:
        yield member


@pytest.fixture
def prefix():
    return fresh_prefix()


@pytest.fixture
def url(member, prefix):
    """An empty store in the shared member."""
    return store_url(member.address, prefix=prefix)
