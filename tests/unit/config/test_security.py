"""Settings of access: a combination that is set by half is refused with the field that lacks."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.config import JobConfig, parse_job
from monolith_py.errors import ConfigError
from monolith_py.io.secret import check_secrets

KAFKA, REDIS = {"url": "kafka://k:9093"}, {"url": "rediss://r:6379/0"}
SASL = {"protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": "shop"}


def job(log: dict[str, Any] | None = None, kv: dict[str, Any] | None = None, serving: dict[str, Any] | None = None) -> JobConfig:
    return parse_job(
        {
            "name": "shop",
            "log": log or KAFKA,
            "kv": kv or REDIS,
            "serving": serving or {},
            "features": [{"name": "user", "source": "user_id"}],
            "tasks": [{"name": "is_click", "action": "click"}],
            "trainer": {"checkpoint_dir": "checkpoints"},
        }
    )


@pytest.mark.parametrize(
    ("security", "message"),
    [
        ({"protocol": "SASL_SSL", "username": "a"}, "log.security.sasl_mechanism must be set with protocol SASL_SSL, got no value"),
        ({"protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, "log.security.username must be set with protocol SASL_SSL, got no value"),
        ({"sasl_mechanism": "PLAIN"}, "log.security.sasl_mechanism must come with protocol SASL_PLAINTEXT or SASL_SSL, got 'PLAIN'"),
        (
            {"username": "a", "protocol": "SSL"},
            "log.security.username must come with protocol SASL_PLAINTEXT or SASL_SSL, got 'a'",
        ),
        ({"ca_file": "ca.pem"}, "log.security.ca_file must come with protocol SSL or SASL_SSL, got 'ca.pem' with PLAINTEXT"),
        ({"protocol": "SSL", "certificate_file": "c.pem"}, "log.security.key_file must be set with log.security.certificate_file"),
        ({"protocol": "SSL", "key_file": "k.pem"}, "log.security.certificate_file must be set with log.security.key_file"),
        ({"protocol": "TLS"}, "log.security.protocol must be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL', got 'TLS'"),
        (SASL | {"password": "hunter2"}, "log.security.password is not a setting"),
    ],
)
def test_access_to_the_log_is_whole_or_refused(security: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(log=KAFKA | {"security": security})
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("kv", "message"),
    [
        (REDIS | {"security": {"key_file": "k"}}, "kv.security.certificate_file must be set with kv.security.key_file"),
        (
            {"url": "redis://r:6379/0", "security": {"ca_file": "ca"}},
            "kv.security.ca_file must come with a kv.url that begins with rediss://",
        ),
        ({"url": "memory:", "security": {"username": "a"}}, "kv.security.username must come with a Redis as kv.url, got 'a'"),
        ({"url": "redis://b@r:6379/0", "security": {"username": "a"}}, "must not be set together with a user in kv.url"),
    ],
)
def test_access_to_the_store_is_whole_or_refused(kv: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(kv=kv)
    assert message in str(caught.value)


def test_access_has_no_effect_on_a_log_in_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"log\.security must come with a log\.url that begins with kafka://"):
        job(log={"url": "sqlite:///log", "security": {"protocol": "SSL"}})


def test_whole_access_is_taken() -> None:
    files = {"ca_file": "ca.pem", "certificate_file": "c.pem", "key_file": "k.pem"}
    whole = job(log=KAFKA | {"security": SASL | files}, kv=REDIS | {"security": {"username": "shop"} | files})
    assert whole.log.security.has_sasl and whole.log.security.has_tls


def test_secrets_that_are_missing_are_told_and_those_without_effect_refused() -> None:
    secured = job(log=KAFKA | {"security": SASL}, kv=REDIS | {"security": {"username": "shop"}})
    assert [line.split()[0] for line in check_secrets(secured, {})] == ["MONOLITH_LOG_PASSWORD", "MONOLITH_KV_PASSWORD"]
    assert check_secrets(secured, {"MONOLITH_LOG_PASSWORD": "a", "MONOLITH_KV_PASSWORD": "b"}) == []
    with pytest.raises(ConfigError, match="MONOLITH_LOG_PASSWORD must come with"):
        check_secrets(job(), {"MONOLITH_LOG_PASSWORD": "a"})


@pytest.mark.parametrize(
    ("security", "message"),
    [
        ({"certificate_file": "c.pem"}, "serving.security.key_file must be set with serving.security.certificate_file"),
        ({"key_file": "k.pem"}, "serving.security.certificate_file must be set with serving.security.key_file"),
        ({"client_ca_file": "ca.pem"}, "serving.security.client_ca_file must come with certificate_file, got 'ca.pem' without"),
    ],
)
def test_access_to_a_replica_is_whole_or_refused(security: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(serving={"security": security})
    assert message in str(caught.value)


def test_tokens_that_a_replica_needs_are_told_and_weak_ones_refused() -> None:
    secured = job(serving={"security": {"require_token": True}})
    assert [line.split()[0] for line in check_secrets(secured, {})] == ["MONOLITH_SERVING_TOKENS"]
    assert check_secrets(secured, {"MONOLITH_SERVING_TOKENS": "sixteen-or-more-1 sixteen-or-more-2"}) == []
    assert check_secrets(job(), {"MONOLITH_SERVING_TOKENS": "sixteen-or-more-1"}) == []  # a client's
    for weak in ("short", "sixteen-or-more-1 short", "sixteen-or-more-\u00e9"):
        with pytest.raises(ConfigError, match="MONOLITH_SERVING_TOKENS must hold tokens of 16 or more") as caught:
            check_secrets(job(), {"MONOLITH_SERVING_TOKENS": weak})
        assert weak.split()[-1] not in str(caught.value)
