"""TLS contexts of the clients: authorities, client certificate, and the reason why a peer refuses a connection."""

from __future__ import annotations

import socket
import ssl

from monolith_py.errors import ConfigError

# Time for a connection and a handshake with one server.
_CONNECT_S = 5.0
# Under TLS 1.3 a server refuses a client certificate after the handshake: its alert takes a moment.
_ALERT_S = 2.0


def tls_context(
    section: str, ca_file: str | None, certificate_file: str | None, key_file: str | None, key_password: str | None
) -> ssl.SSLContext:
    """Return a context that checks the server's certificate and host name.

    Raises:
        ConfigError: a file of `section` ("log" or "kv") cannot be read or used.
    """
    with_file = {"ca_file": ca_file, "certificate_file": certificate_file, "key_file": key_file}
    for name, path in with_file.items():
        if path is not None:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ConfigError(f"{section}.security.{name} must be a readable PEM file, got {path!r}: {error.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"{section}.security.ca_file must hold certificates in PEM, got {ca_file!r} without one") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate_file is not None:
        variable = f"MONOLITH_{section.upper()}_KEY_PASSWORD"
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate_file, key_file, password=key_password or "")
        except (ssl.SSLError, ValueError):
            rule = f"must be a certificate and its key in PEM; an encrypted key needs its password in {variable}"
            raise ConfigError(
                f"{section}.security.certificate_file and key_file {rule}, got {certificate_file!r} and {key_file!r}"
            ) from None
    return context


def tls_fault(context: ssl.SSLContext, host: str, port: int, *, waits: bool = False) -> str | None:
    """Return the reason why a TLS connection to the server fails; None if it succeeds, or if no connection is possible at all.

    `waits`: wait two seconds for a server that refuses after the handshake.
    """
    try:
        with socket.create_connection((host, port), _CONNECT_S) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
            if waits:
                secure.settimeout(_ALERT_S)
                secure.recv(1)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused: {error.verify_message}"
    except ssl.SSLError as error:
        return f"TLS fails: {(error.reason or type(error).__name__).lower().replace('_', ' ')}"
    except OSError:
        return None
    return None
