import pytest

from services.inference.server import check
from stackmesh import limits
from stackmesh.config import ConfigError, parse


def config(count, api):
    providers = "".join(f'  - {{provider_id: p{n}, provider_type: "inline::echo"}}\n' for n in range(count))
    return parse(f"version: 1\nproviders:\n  {api}:\n{providers}", {}, "mesh.yaml")


def test_a_process_that_could_not_announce_all_its_providers_is_refused_here():
    check(config(limits.PROVIDERS, "inference"))
    check(config(limits.PROVIDERS + 1, "safety"))  # another process's
    with pytest.raises(ConfigError, match=r"^providers.inference: has 49 entries; this process .* can announce 48$"):
        check(config(limits.PROVIDERS + 1, "inference"))
