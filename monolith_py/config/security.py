"""Settings of access to log, store and replica. Passwords and tokens come from the environment (io/secret.py), never from here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import FilePath, Settings

UserName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]


class LogSecurityConfig(Settings):
    """Access to Kafka. The environment has the password: MONOLITH_LOG_PASSWORD, or MONOLITH_LOG_PASSWORD_FILE with the name of a file."""

    # Protocol of the listener, by Kafka's names: SSL is TLS.
    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    # Way to authenticate; only with SASL_PLAINTEXT or SASL_SSL, and then required.
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    # User of SASL; required with it.
    username: UserName | None = None
    # PEM file with the certificates of authorities that may sign the brokers' certificates; left out: those of the system.
    ca_file: FilePath | None = None
    # PEM file with the client's certificate, where brokers ask for one. Needs `key_file`.
    certificate_file: FilePath | None = None
    # PEM file with the key of the client's certificate; MONOLITH_LOG_KEY_PASSWORD decrypts it.
    key_file: FilePath | None = None

    @property
    def has_sasl(self) -> bool:
        """Return whether the client authenticates by SASL."""
        return self.protocol.startswith("SASL_")

    @property
    def has_tls(self) -> bool:
        """Return whether connections are encrypted."""
        return self.protocol.endswith("SSL")

    @model_validator(mode="after")
    def _check_is_whole(self) -> LogSecurityConfig:
        for name in ("sasl_mechanism", "username"):
            value = getattr(self, name)
            if self.has_sasl and value is None:
                raise ValueError(f"log.security.{name} must be set with protocol {self.protocol}, got no value")
            if not self.has_sasl and value is not None:
                rule = "must come with protocol SASL_PLAINTEXT or SASL_SSL"
                raise ValueError(f"log.security.{name} {rule}, got {value!r} with {self.protocol}")
        for name in ("ca_file", "certificate_file", "key_file"):
            if not self.has_tls and (value := getattr(self, name)) is not None:
                raise ValueError(f"log.security.{name} must come with protocol SSL or SASL_SSL, got {value!r} with {self.protocol}")
        _check_pair("log", self.certificate_file, self.key_file)
        return self


class KvSecurityConfig(Settings):
    """Access to Redis. The environment has the password: MONOLITH_KV_PASSWORD, or MONOLITH_KV_PASSWORD_FILE with the name of a file."""

    # ACL user; left out: the default user.
    username: UserName | None = None
    # PEM file with the certificates of authorities that may sign the server's certificate; left out: those of the system. TLS is rediss://.
    ca_file: FilePath | None = None
    # PEM file with the client's certificate, where the server asks for one. Needs `key_file`.
    certificate_file: FilePath | None = None
    # PEM file with the key of the client's certificate; MONOLITH_KV_KEY_PASSWORD decrypts it.
    key_file: FilePath | None = None

    @model_validator(mode="after")
    def _check_is_whole(self) -> KvSecurityConfig:
        _check_pair("kv", self.certificate_file, self.key_file)
        return self


class ServingSecurityConfig(Settings):
    """Access to a replica. The environment has the tokens: MONOLITH_SERVING_TOKENS, or MONOLITH_SERVING_TOKENS_FILE with a file's name."""

    # PEM file with the replica's certificate and those between it and the authority; left out: no TLS. Needs `key_file`. The files are read
    # again when they have changed.
    certificate_file: FilePath | None = None
    # PEM file with the key of that certificate, not encrypted.
    key_file: FilePath | None = None
    # PEM file with the certificates of authorities that may sign clients' certificates; with it a client must have one (mTLS).
    client_ca_file: FilePath | None = None
    # Refuse calls without a token as UNAUTHENTICATED, except health checks.
    require_token: bool = False

    @model_validator(mode="after")
    def _check_is_whole(self) -> ServingSecurityConfig:
        _check_pair("serving", self.certificate_file, self.key_file)
        if self.client_ca_file is not None and self.certificate_file is None:
            raise ValueError(f"serving.security.client_ca_file must come with certificate_file, got {self.client_ca_file!r} without")
        return self


def _check_pair(section: str, certificate_file: str | None, key_file: str | None) -> None:
    if (certificate_file is None) != (key_file is None):
        given, absent = ("certificate_file", "key_file") if key_file is None else ("key_file", "certificate_file")
        raise ValueError(f"{section}.security.{absent} must be set with {section}.security.{given}, got no value")
