"""Secrets of the process, from the environment or from files that it names: no job's TOML and no ConfigMap holds one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from monolith_py.config import JobConfig
from monolith_py.errors import ConfigError

# Passwords of the Redis server and of Kafka's SASL user, and of encrypted keys of client certificates.
KV_PASSWORD = "MONOLITH_KV_PASSWORD"
LOG_PASSWORD = "MONOLITH_LOG_PASSWORD"
KV_KEY_PASSWORD = "MONOLITH_KV_KEY_PASSWORD"
LOG_KEY_PASSWORD = "MONOLITH_LOG_KEY_PASSWORD"
# Tokens that a replica takes, separated by white space; a client sends the first.
SERVING_TOKENS = "MONOLITH_SERVING_TOKENS"
_SHORTEST_TOKEN = 16
_LARGEST_BYTES = 64 << 10


def read_secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the secret in the environment variable `name`, or in the file that `name`_FILE names; None if neither is set.

    A line break at the end of the file is no part of the secret. `environ` is by default that of the process.

    Raises:
        ConfigError: both variables are set, one is empty, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    value, path = environ.get(name), environ.get(f"{name}_FILE")
    if value is not None and path is not None:
        raise ConfigError(f"{name} must not be set together with {name}_FILE, got both")
    source = name
    if path is not None:
        source = f"the file of {name}_FILE, {path!r},"
        try:
            if Path(path).stat().st_size > _LARGEST_BYTES:
                raise ConfigError(f"{source} must hold a secret of at most {_LARGEST_BYTES} bytes, got more")
            value = Path(path).read_text().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"  # the error may quote the content
            raise ConfigError(f"{source} must be readable, got {reason}") from None
    if value == "":
        raise ConfigError(f"{source} must not be empty, got ''")
    return value


def read_tokens(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the tokens of callers of a replica, none if they are not set.

    Raises:
        ConfigError: the secret cannot be read, or a token is short or not ASCII.
    """
    tokens = (read_secret(SERVING_TOKENS, environ) or "").split()
    for place, token in enumerate(tokens, start=1):
        if len(token) < _SHORTEST_TOKEN or not (token.isascii() and token.isprintable()):
            rule = f"must hold tokens of {_SHORTEST_TOKEN} or more printable ASCII characters"
            raise ConfigError(f"{SERVING_TOKENS} {rule}, got another one as number {place}")
    return tokens


def check_secrets(job: JobConfig, environ: Mapping[str, str] | None = None) -> list[str]:
    """Check the secrets that are set against the job; return a remark for each that its processes need and that is not set.

    Raises:
        ConfigError: a secret cannot be read, or the password of the log has no effect.
    """
    needs = {
        LOG_PASSWORD: job.log.security.has_sasl,
        KV_PASSWORD: job.kv.security.username is not None,
        SERVING_TOKENS: job.serving.security.require_token,
    }
    read_tokens(environ)
    found = {name: read_secret(name, environ) for name in (*needs, LOG_KEY_PASSWORD, KV_KEY_PASSWORD)}
    if found[LOG_PASSWORD] is not None and not job.log.security.has_sasl:
        rule = "must come with log.security.protocol SASL_PLAINTEXT or SASL_SSL"
        raise ConfigError(f"{LOG_PASSWORD} {rule}, got a password with {job.log.security.protocol}")
    return [f"{name} is not set here: the processes of the job need it" for name, needed in needs.items() if needed and found[name] is None]
