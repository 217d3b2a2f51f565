from hypothesis import given, strategies as st

from registry_service.instances.served import merge

NAMES = st.frozensets(st.sampled_from("abcdefg"), max_size=7)


@given(reported=NAMES, names=NAMES, others=st.dictionaries(st.sampled_from("uvwxyz"), NAMES))
def test_everyone_serves_what_they_say(reported, names, others):
    merged = merge(reported, names, others)
    assert merged.names - merged.reporter_lacks == reported
    for instance, lacks in others.items():
        assert merged.names - merged.others_lack[instance] == names - lacks


@given(reported=NAMES, names=NAMES, others=st.dictionaries(st.sampled_from("uvwxyz"), NAMES))
def test_names_nobody_serves_are_dropped_and_exceptions_are_to_names(reported, names, others):
    merged = merge(reported, names, others)
    assert merged.names == reported.union(*(names - lacks for lacks in others.values()))
    for lacks in (merged.reporter_lacks, *merged.others_lack.values()):
        assert lacks <= merged.names


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), NAMES), max_size=12))
def test_reports_in_any_order_add_up(reports):
    names, lacks, said = frozenset(), {}, {}
    for instance, reported in reports:
        merged = merge(reported, names, {i: x for i, x in lacks.items() if i != instance})
        names, lacks = merged.names, {**merged.others_lack, instance: merged.reporter_lacks}
        said[instance] = reported
    assert {i: names - x for i, x in lacks.items()} == said
    assert names == frozenset().union(*said.values())


def test_the_first_report_replaces_what_was_last_known():
    merged = merge({"new"}, {"old"}, {})
    assert (merged.names, merged.reporter_lacks) == ({"new"}, frozenset())
