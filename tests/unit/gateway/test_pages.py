"""Inspect's lists come in pages of so many entries and bytes."""

from itertools import chain

import pytest

from gateway.pages import read_page
from stackmesh.errors import InvalidField, InvalidPageToken
from stackmesh.inspect.v1 import inspect_service_pb2 as pb
from stackmesh.pages import DEFAULT, MOST, PAGE_BYTES

KEYS = [(group, f"n{number:04}") for group in (1, 2, 4) for number in range(3)]


def route(key, size=0):
    return pb.RouteInfo(resource_type=key[0], identifier=key[1], serving_reason="x" * size)


def read(keys, *, group=0, size=0, token="", make=route):
    page, following = read_page("things", keys, group, make, pb.ListRoutesRequest(page_size=size, page_token=token))
    return [(each.resource_type, each.identifier) for each in page], following


def pages(keys, **asked):
    """The keys of every page."""
    found, token = [], ""
    while True:
        page, token = read(keys, token=token, **asked)
        found.append(page)
        if not token:
            return found


@pytest.mark.parametrize("group", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("size", range(1, 11))
def test_pages_are_full_and_in_order(group, size):
    found = pages(KEYS, group=group, size=size)
    assert [*chain(*found)] == [key for key in KEYS if group in (0, key[0])]
    assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1)
    assert found[-1] or len(found) == 1


def test_sizes_have_a_default_and_a_limit():
    many = [(1, f"n{number:04}") for number in range(1100)]
    assert len(read(many)[0]) == DEFAULT
    assert [len(page) for page in pages(many, size=5000)] == [MOST, 100]
    with pytest.raises(InvalidField, match="page_size is negative"):
        read(many, size=-1)


def test_a_page_ends_before_it_gets_too_large():
    sizes = dict.fromkeys(KEYS, PAGE_BYTES // 4 - 100) | {KEYS[-1]: 2 * PAGE_BYTES}
    found = pages(KEYS, size=MOST, make=lambda key: route(key, sizes[key]))
    assert [len(page) for page in found] == [4, 4, 1]
    assert [*chain(*found)] == KEYS


def test_nothing_is_made_that_is_on_no_page():
    made = []
    read(KEYS, size=2, make=lambda key: made.append(key) or route(key))
    assert made == KEYS[:2]


def test_a_page_goes_on_where_the_one_before_ended_whatever_came_and_went():
    first, token = read(KEYS, size=2)
    now = [(0, "new"), *KEYS[2:5], (2, "n0001-new"), *KEYS[5:]]
    assert read(now, size=MOST, token=token) == ([*KEYS[2:5], (2, "n0001-new"), *KEYS[5:]], "")
    assert first == KEYS[:2]


def test_tokens_of_another_list_are_refused():
    _, token = read(KEYS, group=1, size=1)
    for group in (0, 2):
        with pytest.raises(InvalidPageToken, match="another list"):
            read(KEYS, group=group, token=token)
    with pytest.raises(InvalidPageToken, match="another list"):
        read_page("others", KEYS, 1, route, pb.ListRoutesRequest(page_token=token))
    with pytest.raises(InvalidPageToken, match="not one that was given out"):
        read(KEYS, token="no token")
