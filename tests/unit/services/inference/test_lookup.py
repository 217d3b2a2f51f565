"""One model under all its names; what a name means never depends on the order of a table."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from services.inference.lookup import Listed, ModelLookup
from stackmesh.errors import AmbiguousName, MeshError, NotHosted

WHERE = "the provider"


def lookup(*models: tuple[str, set[str]]) -> ModelLookup:
    return ModelLookup(Listed(own, frozenset(aliases)) for own, aliases in models)


def answer(asked: ModelLookup, name: str, served: frozenset[str] | None) -> object:
    try:
        return asked.resolve(name, served, WHERE)
    except MeshError as error:
        return type(error), error.message, error.metadata


def test_an_id_and_all_its_aliases_are_one_model():
    asked = lookup(("vendor/a", {"a", "org/a"}), ("vendor/b", {"b"}))
    assert {asked.resolve(name, None, WHERE) for name in ("vendor/a", "a", "org/a")} == {"vendor/a"}


def test_an_id_means_itself_even_if_it_is_an_alias_of_another():
    assert lookup(("a", set()), ("b", {"a"})).resolve("a", None, WHERE) == "a"


def test_what_is_served_counts_listed_or_not():
    asked = lookup(("vendor/a", {"a"}))
    assert asked.resolve("my-own", ["my-own"], WHERE) == "my-own"
    with pytest.raises(NotHosted, match=r"the provider does not serve 'a'; there are: my-own"):
        asked.resolve("a", ["my-own"], WHERE)


def test_an_alias_of_two_models_is_an_error_that_names_them():
    asked = lookup(("two", {"x"}), ("one", {"x"}))
    with pytest.raises(AmbiguousName, match=r"x stands for 2 models of the provider: one, two; use one of") as caught:
        asked.resolve("x", None, WHERE)
    assert caught.value.metadata == {"candidates": "one, two"}


def test_an_alias_of_two_models_means_the_one_that_is_served():
    assert lookup(("two", {"x"}), ("one", {"x"})).resolve("x", ["two"], WHERE) == "two"


def test_case_matters_and_the_nearest_name_is_told():
    with pytest.raises(NotHosted, match="Llama3"):
        lookup(("Llama3", set()), ("LLAMA3", set())).resolve("llama3", None, WHERE)


NAMES = st.sampled_from("abcdef")
TABLES = st.lists(st.tuples(NAMES, st.sets(NAMES, max_size=3)), max_size=6)


@given(st.data(), TABLES, NAMES, st.none() | st.frozensets(NAMES))
def test_the_order_of_a_table_changes_no_answer(data, table, name, served):
    shuffled = data.draw(st.permutations(table))
    assert answer(lookup(*table), name, served) == answer(lookup(*shuffled), name, served)


class LastWins(ModelLookup):
    """The planted bug: an alias means the model that was listed last."""

    def __init__(self, models):
        self._ids, self._by_alias = set(), {}
        for model in models:
            self._ids.add(model.id)
            self._by_alias.update({alias: {model.id} for alias in model.aliases})


def test_the_check_of_the_order_sees_a_lookup_where_the_last_wins():
    models = [Listed("one", frozenset("x")), Listed("two", frozenset("x"))]
    assert answer(LastWins(models), "x", None) != answer(LastWins(reversed(models)), "x", None)
    assert answer(ModelLookup(models), "x", None) == answer(ModelLookup(reversed(models)), "x", None)
