"""ProvidersService: the providers of the mesh, as the YAML and the instances have named them."""

from __future__ import annotations

from typing import Any, Final

from registry_service import records
from registry_service.pages import Listing, read_page
from registry_service.store import Store
from stackmesh import names
from stackmesh.errors import InvalidField, ProviderNotFound
from stackmesh.nearest import hint
from stackmesh.registry.v1 import providers_service_pb2 as pb
from stackmesh.registry.v1.providers_service_pb2_grpc import ProvidersServiceServicer
from stackmesh.routes import Api

_LISTING: Final = Listing("providers", records.PROVIDERS)


class Providers(ProvidersServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetProvider(self, request: pb.GetProviderRequest, context: Any) -> pb.GetProviderResponse:
        names.check_id("provider_id", request.provider_id)
        if request.api not in Api.values() or request.api == Api.API_UNSPECIFIED:
            raise InvalidField("api", "is not one of the APIs")
        row = await self._store.get(records.provider_key(request.api, request.provider_id))
        if row is not None:
            return pb.GetProviderResponse(provider=records.provider(row))
        rows, _ = await records.read(self._store, records.PROVIDERS, records.provider)
        known = [row.provider_id for row in rows if row.api == request.api]
        api = records.api_name(request.api)
        raise ProviderNotFound(
            f"no {api} provider is called {request.provider_id}; {hint(request.provider_id, known)}",
            metadata={"api": api},
        )

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Any) -> pb.ListProvidersResponse:
        page = await read_page(self._store, _LISTING, request.page_size, request.page_token)
        providers = [records.provider(row) for row in page.rows]
        return pb.ListProvidersResponse(providers=providers, next_page_token=page.next_token, revision=page.revision)
