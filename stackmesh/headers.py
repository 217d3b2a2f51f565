"""The metadata keys the mesh gives a meaning to. Everything else passes through untouched."""

from typing import Final

PROVIDER_DATA: Final = "x-stackmesh-provider-data"
"""Set by the client: JSON, at most `PROVIDER_DATA_LIMIT` bytes, per-request credentials."""

PROVIDER_DATA_ALIASES: Final = ("x-llamastack-provider-data", "x-llamastack-providerdata")
"""What Llama Stack called it. They mean the same; two that differ are refused."""

PROVIDER_DATA_LIMIT: Final = 4096

ROUTE: Final = "x-stackmesh-route"
"""Set by the client, optional: `model=NAME`, percent-encoded; routes without reading the body (AIP-4222)."""

PROVIDER_ID: Final = "x-stackmesh-provider-id"
PROVIDER_RESOURCE_ID: Final = "x-stackmesh-provider-resource-id"
RESOURCE: Final = "x-stackmesh-resource"

INSTANCE_ID: Final = "x-stackmesh-instance-id"
"""Whom the call is for: another process at the instance's former address refuses it."""

ROUTED: Final = (PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE, INSTANCE_ID)
"""The resolved route. Set by the gateway alone: any value from a client is removed."""

REQUEST_ID: Final = "x-request-id"
TRACEPARENT: Final = "traceparent"

SERVED_BY: Final = "x-stackmesh-served-by"
"""The instance that served the call: in a stream's initial metadata, in a unary answer's trailing metadata."""

REVISION: Final = "x-stackmesh-revision"
"""The registry revision the call was routed by, beside `SERVED_BY`."""
