"""Access to a replica: TLS with certificates that may be replaced while it runs, and tokens of callers."""

from __future__ import annotations

import hmac
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from monolith_py.config import ServingConfig, ServingSecurityConfig
from monolith_py.errors import ConfigError
from monolith_py.io.secret import SERVING_TOKENS, read_tokens
from monolith_py.observe.metrics import RANK_REQUESTS
from monolith_serving.call_threads import CallerThread
from monolith_serving.interceptors import in_threads

_logger = logging.getLogger(__name__)

HEALTH_PREFIX = "/grpc.health.v1.Health/"
_SCHEME = b"Bearer "


class Pems(NamedTuple):
    """Content of the files in PEM."""

    chain: bytes
    key: bytes
    client_authorities: bytes | None  # None: clients need no certificate


class ServerCertificates:
    """Certificate, key and authorities of clients, read again for each connection once a file has changed.

    A certificate that does not fit its key, as in the middle of a change, is not taken: connections go on with the files before.
    """

    def __init__(self, config: ServingSecurityConfig) -> None:
        """Read the files.

        Raises:
            ConfigError: one cannot be read or used.
        """
        assert config.certificate_file is not None and config.key_file is not None
        self._config = config
        self._state = self._read_state()
        self._pems = self._load()

    @property
    def pems(self) -> Pems:
        """Return the certificates in use."""
        return self._pems

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for the port of a server."""
        needs_client = self._config.client_ca_file is not None
        # The stubs do not know that None keeps the configuration.
        return grpc.dynamic_ssl_server_credentials(_configuration(self._pems), self._refresh, needs_client)  # type: ignore[arg-type]

    def _refresh(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration if a file has changed; None for the one before."""
        pems = self.reread()
        return None if pems is None else _configuration(pems)

    def reread(self) -> Pems | None:
        """Return the certificates if a file has changed and they can be used; None for those before."""
        state = self._read_state()
        if state == self._state:
            return None
        self._state = state
        try:
            self._pems = self._load()
        except ConfigError as error:
            _logger.error("the certificate before stays in use: %s", error)
            return None
        _logger.info("certificates were read again from %s", self._config.certificate_file)
        return self._pems

    def _read_state(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return inode, time and size of each file."""
        return tuple(_state_of(path) for path in self._paths)

    @property
    def _paths(self) -> list[str]:
        return [path for path in (self._config.certificate_file, self._config.key_file, self._config.client_ca_file) if path is not None]

    def _load(self) -> Pems:
        config = self._config
        contents = [_pem(name, path) for name, path in (("certificate_file", config.certificate_file), ("key_file", config.key_file))]
        assert config.certificate_file is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(config.certificate_file, config.key_file, password="")
        except (ssl.SSLError, ValueError, OSError):
            rule = "must be a certificate and its key in PEM, not encrypted"
            files = f"{config.certificate_file!r} and {config.key_file!r}"
            raise ConfigError(f"serving.security.certificate_file and key_file {rule}, got {files}") from None
        authorities = None
        if config.client_ca_file is not None:
            authorities = _pem("client_ca_file", config.client_ca_file)
            try:
                context.load_verify_locations(config.client_ca_file)
            except (ssl.SSLError, OSError):
                rule = "must hold certificates in PEM"
                raise ConfigError(f"serving.security.client_ca_file {rule}, got {config.client_ca_file!r} without one") from None
        return Pems(contents[0], contents[1], authorities)


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Ends calls without one of the tokens as UNAUTHENTICATED; health checks need none."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._expected = [_SCHEME + token.encode() for token in tokens]
        # A stream's handler runs before its messages arrive, so a refusal never waits for a client.
        self._refusal = grpc.stream_unary_rpc_method_handler(in_threads(_refuse, CallerThread()))

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of an RPC, or the refusal."""
        if details.method.startswith(HEALTH_PREFIX) or self._is_known(dict(details.invocation_metadata)):
            return continuation(details)
        return self._refusal

    def _is_known(self, metadata: Mapping[str, str | bytes]) -> bool:
        given = metadata.get("authorization", "")
        value = given.encode() if isinstance(given, str) else given
        # Each token is compared, whole and in constant time, whatever the result for another.
        return sum(hmac.compare_digest(value, expected) for expected in self._expected) > 0


def token_interceptors(config: ServingConfig) -> list[grpc.ServerInterceptor[Any, Any]]:
    """Return the interceptor that asks for tokens, if the settings want one.

    Raises:
        ConfigError: the tokens are missing or break a rule.
    """
    tokens = expected_tokens(config)
    return [TokenInterceptor(tokens)] if tokens else []


def expected_tokens(config: ServingConfig) -> list[str]:
    """Return the tokens of which a call must have one; none if the settings ask for none.

    Raises:
        ConfigError: the tokens are missing or break a rule.
    """
    if not config.security.require_token:
        return []
    tokens = read_tokens()
    if not tokens:
        raise ConfigError(f"{SERVING_TOKENS} must hold a token with serving.security.require_token, got none")
    if config.security.certificate_file is None:
        _logger.warning("tokens travel in plain text: set serving.security.certificate_file, unless a proxy brings TLS")
    return tokens


def listen(server: grpc.Server, config: ServingConfig) -> int:
    """Add the port of the settings to `server`, with TLS if they have a certificate; return its number.

    Raises:
        ConfigError: the port is taken, or a certificate cannot be used.
    """
    address = f"{config.host}:{config.port}"
    try:
        if config.security.certificate_file is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, ServerCertificates(config.security).credentials())
    except RuntimeError as error:
        raise ConfigError(f"serving.host and serving.port must be free to listen on, got {address}: {error}") from None


def _refuse(_messages: Any, context: Any) -> None:
    RANK_REQUESTS.labels(code="UNAUTHENTICATED").inc()
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "a call must have metadata authorization: Bearer TOKEN")


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], pems.client_authorities)


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _pem(name: str, path: str | None) -> bytes:
    assert path is not None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"serving.security.{name} must be a readable PEM file, got {path!r}: {error.strerror}") from None
