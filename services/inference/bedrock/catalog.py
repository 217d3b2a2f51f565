"""Which models an account can have, and what each of Bedrock's and of Llama's names stands for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.inference.bedrock.names import is_arn, is_id, is_near, parted
from services.inference.lookup import Listed, ModelLookup


@dataclass(frozen=True, slots=True)
class Catalog:
    """What may be listed, of an account in a region. None: that list is not for this account to see."""

    region: str
    models: frozenset[str] | None = None
    """Ids that can be called as they are."""
    profiles: Mapping[str, str] | None = None
    """Inference profiles: the id of the model behind each. Those of an application go by their ARNs."""
    near: Mapping[str, str] = field(init=False)
    """Of `profiles`, those that stand for their model here: it cannot be had otherwise, and what is sent stays in this
    region's geography."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "near", dict(self._near()))

    def _near(self) -> Iterator[tuple[str, str]]:
        for profile, model in (self.profiles or {}).items():
            geography, _ = parted(profile)
            if geography and is_near(geography, self.region) and model not in (self.models or ()):
                yield profile, model

    def names(self, table: Collection[str], loaded: Collection[str]) -> Sequence[str]:
        """What can be called, as far as that can be known.

        `table` is what AWS is known to have: it stands in for what may not be listed, with what was `loaded`. An ARN
        that was loaded is there in any case: Bedrock has more kinds of them than it lists.
        """
        found = {*(self.models or ()), *(self.profiles or ())}
        unlisted = {*_here(table, self.region), *loaded}
        found.update(name for name in unlisted if self._is_unlisted(name))
        found.update(filter(is_arn, loaded))
        return sorted(found)

    def resolve(self, name: str, table: Mapping[str, frozenset[str]], loaded: Collection[str], where: str) -> str:
        """The name to call a model by. Raises NotHosted or AmbiguousName.

        `table` has what else Bedrock's models are called.
        """
        if is_arn(name) or (is_id(name) and self._is_unlisted(name) and name not in self.near.values()):
            return name
        served = self.names(table, loaded)
        return ModelLookup(self._listed(served, table)).resolve(name, served, where)

    def _is_unlisted(self, name: str) -> bool:
        """Whether it belongs into a list that may not be seen."""
        geography, _ = parted(name)
        return (self.profiles if geography else self.models) is None

    def _listed(self, served: Sequence[str], table: Mapping[str, frozenset[str]]) -> Iterator[Listed]:
        for name in served:
            model = self.near.get(name)
            if model is None:
                yield Listed(name, table.get(name, frozenset()))
            else:
                yield Listed(name, table.get(model, frozenset()) | {model} | table.get(name, frozenset()))

    def model_of(self, name: str) -> str:
        """The id of the model behind a name, as far as it is known."""
        return (self.profiles or {}).get(name, name)


def _here(table: Collection[str], region: str) -> Iterator[str]:
    """Of the table's names, those that may be called from a region."""
    for name in table:
        geography, _ = parted(name)
        if not geography or is_near(geography, region):
            yield name
