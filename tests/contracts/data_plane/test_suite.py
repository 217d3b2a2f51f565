"""The suite itself: exemptions name tests that exist, and its checks find what they look for."""

from pathlib import Path

import grpc
import pytest

from tests.contracts.data_plane.mesh import running
from tests.contracts.data_plane.plane import PLANES, BareProxyPlane, Plane
from tests.contracts.data_plane.test_metadata import check_metadata_both_ways, check_status_details
from tests.contracts.data_plane.test_shapes import check_first_message_comes_early

SOURCES = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("known", PLANES, ids=lambda plane: plane.name)
def test_exemptions_name_tests_and_have_reasons(known: Plane):
    for test, reason in known.exempt.items():
        assert f"def {test}(" in SOURCES
        assert reason


async def test_metadata_checks_fail_on_a_plane_that_drops_trailers(tmp_path: Path):
    async with running(BareProxyPlane("drops trailers"), tmp_path) as mesh:
        for check in (check_metadata_both_ways, check_status_details):
            with pytest.raises(AssertionError):
                await check(mesh)


async def test_first_message_check_fails_on_a_plane_that_buffers(tmp_path: Path):
    async with running(BareProxyPlane("buffers"), tmp_path) as mesh:
        with pytest.raises((TimeoutError, AssertionError, grpc.aio.AioRpcError)):
            await check_first_message_comes_early(mesh)
