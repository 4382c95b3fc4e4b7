"""Access of the clients to Kafka: TLS and SASL, and the reason why a cluster lets no client in."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient

from monolith_py.config.security import LogSecurityConfig
from monolith_py.errors import ConfigError, LogDenied, LogError
from monolith_py.io.log.kafka_errors import mapped_errors
from monolith_py.io.log.kafka_transport import hide_passwords, repair
from monolith_py.io.secret import LOG_KEY_PASSWORD, LOG_PASSWORD, read_secret
from monolith_py.io.tls import tls_context, tls_fault

_PORT = 9092
_CONNECT_S = 2.0


def access_settings(security: LogSecurityConfig, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the settings of access of kafka-python's clients, with the secrets of the environment.

    Raises:
        ConfigError: a secret is missing, has no effect or cannot be read, or a file of TLS cannot be used.
    """
    settings: dict[str, Any] = {"security_protocol": security.protocol}
    password = read_secret(LOG_PASSWORD, environ)
    if security.has_sasl:
        if password is None:
            raise ConfigError(
                f"{LOG_PASSWORD} or {LOG_PASSWORD}_FILE must be set with log.security.protocol {security.protocol}, got neither"
            )
        settings |= {"sasl_mechanism": security.sasl_mechanism, "sasl_plain_username": security.username, "sasl_plain_password": password}
    elif password is not None:
        rule = "must come with log.security.protocol SASL_PLAINTEXT or SASL_SSL"
        raise ConfigError(f"{LOG_PASSWORD} {rule}, got a password with {security.protocol}")
    if security.has_tls:
        files = security.ca_file, security.certificate_file, security.key_file
        settings["ssl_context"] = tls_context("log", *files, read_secret(LOG_KEY_PASSWORD, environ))
    return settings


def open_admin(name: str, settings: Mapping[str, Any]) -> KafkaAdminClient:
    """Return the admin client of the cluster `name`; the first client, so it finds out whether the cluster lets it in.

    kafka-python tells a wrong password at once. A refused certificate, or a listener of another protocol, it retries until
    its bootstrap times out, and names no reason.

    Raises:
        LogDenied: the cluster refuses the user, the password or a certificate, or has a certificate of an unknown authority.
        LogError: no server answers.
    """
    if fault := _tls_fault(settings, waits=False):
        raise LogDenied(f"{name}: {fault}")
    repair()
    if "sasl_mechanism" in settings:
        hide_passwords()
    try:
        with mapped_errors(name):
            return KafkaAdminClient(**settings)
    except LogDenied:
        raise
    except LogError as error:
        if fault := _tls_fault(settings, waits=True):
            raise LogDenied(f"{name}: {fault}") from error
        if any(map(_listens, settings["bootstrap_servers"])):
            protocol = settings["security_protocol"]
            rule = f"a server listens and does not answer {protocol}: compare log.security with the listener"
            raise LogError(f"{error}; {rule}") from error
        raise


def _tls_fault(settings: Mapping[str, Any], *, waits: bool) -> str | None:
    context = settings.get("ssl_context")
    if context is None:
        return None
    for server in settings["bootstrap_servers"]:
        if (fault := tls_fault(context, *_address(server), waits=waits)) is not None:
            return f"{server}: {fault}"
    return None


def _listens(server: str) -> bool:
    try:
        socket.create_connection(_address(server), _CONNECT_S).close()
    except OSError:
        return False
    return True


def _address(server: str) -> tuple[str, int]:
    """Return host and port of a server.

    >>> _address("kafka:9093"), _address("[::1]"), _address("[::1]:9093")
    (('kafka', 9093), ('::1', 9092), ('::1', 9093))
    """
    host, colon, port = server.rpartition(":")
    if not colon or server.endswith("]"):
        host, port = server, str(_PORT)
    return host.strip("[]"), int(port)
