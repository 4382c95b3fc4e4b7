"""gRPC channels to replicas: addresses, balancing, retries, keepalive, TLS; and the options of the server that agree with them."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from monolith_py.errors import ConfigError

Options = list[tuple[str, int | str]]

# Pings on idle connections detect a lost replica and keep the connection open in balancers. A server ends a connection with pings more
# frequent than it allows (GOAWAY "too_many_pings"); gRPC's default allows one in two hours without a call.
PING_INTERVAL_MS = 30_000
ALLOWED_PING_INTERVAL_MS = 10_000
_PING_TIMEOUT_MS = 5_000
# A replica that stops, starts or is overloaded: another one, or a later try, may answer. gRPC makes at most 5 tries.
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.02s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
# Tries stop while more than half of the last calls fail, so that they are no further load.
_THROTTLING = {"maxTokens": 100, "tokenRatio": 1.0}

SERVER_OPTIONS: Options = [
    ("grpc.http2.min_ping_interval_without_data_ms", ALLOWED_PING_INTERVAL_MS),
    ("grpc.keepalive_permit_without_calls", 1),
]


@dataclass(frozen=True)
class ClientSecurity:
    """Access to replicas: TLS, the client's certificate and a token."""

    tls: bool = False
    ca_file: str | None = None  # PEM; None: the authorities that gRPC brings
    certificate_file: str | None = None  # PEM, of the client
    key_file: str | None = None
    server_name: str | None = None  # name in the replicas' certificate, if it is not the host of the address
    token: str | None = None

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """Return the metadata of each call."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel with TLS.

        Raises:
            ConfigError: a file cannot be read, or a certificate comes without its key.
        """
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigError("certificate_file and key_file of a client must come together, got one of them")
        return grpc.ssl_channel_credentials(*(_content(path) for path in (self.ca_file, self.key_file, self.certificate_file)))


def open_channel(addresses: str | Sequence[str], security: ClientSecurity) -> grpc.Channel:
    """Return a channel to replicas at `addresses`, each host:port; calls go to them in turn.

    A single host name is looked up again when replicas change, and may have many addresses. The names of several are looked up once.

    Raises:
        ConfigError: there is no address, one has no port, a host is unknown, or a file of `security` cannot be used.
    """
    policy = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": [{}], "retryPolicy": _RETRY}],
        "retryThrottling": _THROTTLING,
    }
    options: Options = [
        ("grpc.keepalive_time_ms", PING_INTERVAL_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.service_config", json.dumps(policy)),
    ]
    if security.server_name is not None:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    target = target_of([addresses] if isinstance(addresses, str) else addresses)
    if security.tls:
        return grpc.secure_channel(target, security.credentials(), options=options)
    return grpc.insecure_channel(target, options=options)


def target_of(addresses: Sequence[str]) -> str:
    """Return gRPC's name for some replicas.

    Raises:
        ConfigError: there is no address, one has no port, or one of several hosts is unknown.

    >>> target_of(["10.0.0.7:50051", "10.0.0.8:50051"])
    'ipv4:10.0.0.7:50051,10.0.0.8:50051'
    """
    if len(addresses) == 1:
        return addresses[0]
    found = sorted({one for address in addresses for one in _looked_up(address)})
    families = {family for family, _ in found}
    if len(families) != 1:
        raise ConfigError(f"addresses must be replicas of one family of IP, got {list(addresses)}")
    return f"{families.pop()}:{','.join(text for _, text in found)}"


def _looked_up(address: str) -> list[tuple[str, str]]:
    """Return the IP addresses of host:port, each with its family."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"addresses must be host:port, got {address!r}")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"addresses must be known hosts, got {address!r}: {error.strerror}") from None
    ips = [ipaddress.ip_address(one[4][0]) for one in found]
    four = [ip for ip in ips if ip.version == 4]
    return [("ipv4", f"{ip}:{port}") for ip in four] or [("ipv6", f"[{ip}]:{port}") for ip in ips]


def _content(path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"a certificate or key must be a readable PEM file, got {path!r}: {error.strerror}") from None
