"""ProvidersService: the providers of the mesh, as the YAML and the instances have named them."""

from __future__ import annotations

from typing import Any, Final

from registry_service import records
from registry_service.lists.pages import Listing, read_page
from registry_service.mirror.mirror import Mirror
from registry_service.store import Store
from stackmesh import choices, names
from stackmesh.errors import ProviderNotFound
from stackmesh.nearest import hint
from stackmesh.registry.v1 import providers_service_pb2 as pb
from stackmesh.registry.v1.providers_service_pb2_grpc import ProvidersServiceServicer
from stackmesh.resources import api_word
from stackmesh.routes import Api

_LISTING: Final = Listing("providers", records.PROVIDERS)


class Providers(ProvidersServiceServicer):
    def __init__(self, store: Store, mirror: Mirror) -> None:
        self._store = store
        self._mirror = mirror

    async def GetProvider(self, request: pb.GetProviderRequest, context: Any) -> pb.GetProviderResponse:
        wanted = names.check_id("provider_id", request.provider_id)
        choices.check("api", request.api, Api)
        known = await self._mirror.current()
        if (found := known.provider(request.api, wanted)) is None:
            others = [provider.provider_id for provider in known.providers(request.api)]
            api = api_word(request.api)
            raise ProviderNotFound(
                f"no {api} provider is called {wanted}; {hint(wanted, others)}", metadata={"api": api}
            )
        return pb.GetProviderResponse(provider=found)

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Any) -> pb.ListProvidersResponse:
        page = await read_page(self._store, _LISTING, request.page_size, request.page_token)
        providers = records.readable(page.rows, records.provider)
        return pb.ListProvidersResponse(providers=providers, next_page_token=page.next_token, revision=page.revision)
