"""Channel and listener options, each chosen on purpose; docs/operations.md gives the numbers behind them.

Two kinds of listener: the public one faces clients nobody has vetted, the internal ones face our own processes,
where a limit of 100 streams a connection would lose calls.
"""

from typing import Final

import grpc

Options = tuple[tuple[str, int | str], ...]

MESSAGE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one message from a client."""

_WINDOW: Final[Options] = (
    # Without these a stream's window grows with the bandwidth, and so does what a client that does not read costs.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
)

_COMMON: Final[Options] = (
    ("grpc.so_reuseport", 0),  # or a port that is taken is never noticed, and two meshes share its traffic
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 2),
)

PUBLIC_LISTENER: Final[Options] = (
    *_COMMON,
    *_WINDOW,
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)

INTERNAL_LISTENER: Final[Options] = (
    *_COMMON,
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT + 64 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
)

INTERNAL_CHANNEL: Final[Options] = (
    *_WINDOW,
    ("grpc.max_receive_message_length", -1),  # what a service sends is the service's business
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    ("grpc.keepalive_time_ms", 5_000),  # with the two timeouts a frozen peer is noticed within 8 s
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long connecting may take; it delays no attempt
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # the gateway decides what is retried; C-core repeats what was never sent
    ("grpc.use_local_subchannel_pool", 1),  # two channels to one address fail apart
)

CLIENT_CHANNEL: Final[Options] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),  # gRPC's own is two minutes: too long for a gateway that is back
    ("grpc.use_local_subchannel_pool", 1),  # a second client is a second connection, with room for as many streams
)


def internal_channel(address: str) -> grpc.aio.Channel:
    """A channel to another process of the mesh. The caller closes it."""
    return grpc.aio.insecure_channel(address, options=INTERNAL_CHANNEL)


def registry_channel(addresses: str) -> grpc.aio.Channel:
    """A channel to the registry's replicas, whichever answer: `registry.address` of the configuration."""
    several = "," in addresses
    target = f"{'ipv6' if '[' in addresses else 'ipv4'}:{addresses}" if several else addresses
    options = (*INTERNAL_CHANNEL, ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'))
    return grpc.aio.insecure_channel(target, options=options)
