"""TLS and SASL to Kafka, on a genuine broker whose listeners demand them."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_demo.driver.ports import free_ports
from monolith_py.clock import SystemClock
from monolith_py.config import LogConfig
from monolith_py.config.security import LogSecurityConfig
from monolith_py.errors import ConfigError, LogDenied, LogError, TopicMissing
from monolith_py.io import Log, open_log
from monolith_py.io.log.kafka import KafkaLog
from monolith_py.io.log.kafka_access import access_settings
from monolith_py.io.retrying import RetryingLog, RetryPolicy
from tests.certificates import Authority

pytestmark = pytest.mark.needs_kafka

PASSWORD, WRONG = "correct horse battery staple", "hunter2-hunter2"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PROPERTIES = """
listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_PLAINTEXT://127.0.0.1:{sasl},SASL_SSL://127.0.0.1:{sasl_ssl},SSL://127.0.0.1:{ssl},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_PLAINTEXT://127.0.0.1:{sasl},SASL_SSL://127.0.0.1:{sasl_ssl},SSL://127.0.0.1:{ssl},CONTROLLER://127.0.0.1:{{controller_port}}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_plaintext.plain.sasl.jaas.config={plain} user_shop="{password}" user_guest="{password}";
listener.name.sasl_ssl.plain.sasl.jaas.config={plain} user_shop="{password}" user_guest="{password}";
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={scram};
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={scram};
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram};
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram};
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.ssl.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:shop;User:CN=shop
"""


@dataclasses.dataclass
class Cluster:
    """A broker with a listener for each protocol, and the certificates to reach it."""

    sasl: int
    sasl_ssl: int
    ssl: int
    authority: Authority
    stranger: Authority

    def section(self, protocol: str, port: int | None = None, **security: Any) -> LogConfig:
        """Return the section of a job at the listener of `protocol`, by default as user shop."""
        given: dict[str, Any] = {"protocol": protocol}
        if protocol.startswith("SASL"):
            given |= {"sasl_mechanism": "PLAIN", "username": "shop"}
        if protocol.endswith("SSL"):
            given["ca_file"] = str(self.authority.certificate)
        port = port or getattr(self, {"SASL_PLAINTEXT": "sasl"}.get(protocol, protocol.lower()))
        return LogConfig(url=f"kafka://127.0.0.1:{port}", security=LogSecurityConfig(**(given | security)))


@pytest.fixture(scope="module")
def cluster(kafka_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A broker of this module's own; `kafka_url` skips the tests without Kafka."""
    folder = tmp_path_factory.mktemp("secure-kafka")
    authority = Authority(folder / "ca")
    certificate, key = authority.issue("broker", "IP:127.0.0.1")
    keystore = folder / "broker.pem"
    keystore.write_text(key.read_text() + certificate.read_text() + authority.certificate.read_text())
    sasl, sasl_ssl, ssl = free_ports(3)
    ports = {"sasl": sasl, "sasl_ssl": sasl_ssl, "ssl": ssl}
    texts = {"plain": PLAIN, "scram": SCRAM, "password": PASSWORD, "keystore": keystore, "truststore": authority.certificate}
    with KafkaBroker(folder / "broker", PROPERTIES.format(**ports, **texts)) as broker:
        server = broker.url.removeprefix("kafka://")
        with closing(KafkaAdminClient(bootstrap_servers=[server])) as admin:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                admin.alter_user_scram_credentials([UserScramCredentialUpsertion("shop", mechanism, PASSWORD, iterations=4096)])
            one = {"num_partitions": 1, "replication_factor": 1}
            admin.create_topics({"actions": one, "described": one}, wait_for_metadata=True)
            resource = ResourcePattern(ResourceType.TOPIC, "described")
            admin.create_acls([ACL("User:guest", "*", ACLOperation.DESCRIBE, ACLPermissionType.ALLOW, resource)])
        yield Cluster(sasl, sasl_ssl, ssl, authority, Authority(folder / "stranger", "another authority"))
        broker.kill()


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOLITH_LOG_PASSWORD", PASSWORD)


def round_trip(log: Log) -> bytes:
    with closing(log.writer("actions", 0, "test")) as writer:
        writer.append([b"transaction"], time_ms=1)
    end = log.append("actions", [b"click"], time_ms=1)
    return log.read("actions", 0, end - 1, 10, timeout_s=5.0)[-1].value


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_log_authenticates_by_every_mechanism(cluster: Cluster, protocol: str, mechanism: str) -> None:
    with closing(open_log(cluster.section(protocol, sasl_mechanism=mechanism))) as log:
        assert round_trip(log) == b"click"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_is_an_error_at_once_without_the_password(
    cluster: Cluster, mechanism: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MONOLITH_LOG_PASSWORD", WRONG)
    caplog.set_level(logging.DEBUG)
    attempts = []

    def open_it() -> Log:
        attempts.append(1)
        return open_log(cluster.section("SASL_PLAINTEXT", sasl_mechanism=mechanism))

    with pytest.raises(LogDenied, match="Authentication failed") as caught:
        RetryPolicy(SystemClock()).run(open_it)
    assert len(attempts) == 1, "no attempt helps"
    assert WRONG not in str(caught.value)
    assert WRONG not in caplog.text
    assert "kafka" in caplog.text


@pytest.mark.parametrize(("password", "status"), [(WRONG, 1), (PASSWORD, 0)])
def test_a_process_with_debug_logging_writes_no_password(cluster: Cluster, tmp_path: Path, password: str, status: int) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        f"""
        name = "shop"
        kv = {{ url = "sqlite:///{tmp_path}/kv.db" }}
        features = [{{ name = "user", source = "user_id" }}]
        tasks = [{{ name = "is_click", action = "click" }}]
        trainer = {{ checkpoint_dir = "{tmp_path}/checkpoints" }}
        observe = {{ log_level = "DEBUG", joiner_port = 0, trainer_port = 0, serving_port = 0 }}
        [log]
        url = "{cluster.section("SASL_SSL").url}"
        topic_prefix = "debug."
        [log.security]
        protocol = "SASL_SSL"
        sasl_mechanism = "PLAIN"
        username = "shop"
        ca_file = "{cluster.authority.certificate}"
        """
    )
    environ = os.environ | {"MONOLITH_LOG_PASSWORD": password}
    for command in (["topics"], ["join", "--stop-at-end"]):
        done = subprocess.run(
            [sys.executable, "-m", "monolith_py.cli", *command, "--config", job], env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert password not in done.stdout + done.stderr
    if status:
        assert "LogDenied: kafka://" in done.stderr and "Authentication failed" in done.stderr


def test_a_client_certificate_is_the_user_where_the_listener_demands_one(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONOLITH_LOG_PASSWORD")
    certificate, key = cluster.authority.issue("shop")
    with closing(open_log(cluster.section("SSL", certificate_file=str(certificate), key_file=str(key)))) as log:
        assert round_trip(log) == b"click"
    monkeypatch.setenv("MONOLITH_LOG_KEY_PASSWORD", PASSWORD)
    certificate, key = cluster.authority.issue("encrypted", password=PASSWORD)
    settings = access_settings(cluster.section("SSL", certificate_file=str(certificate), key_file=str(key)).security)
    assert settings["ssl_context"].get_ca_certs()
    monkeypatch.delenv("MONOLITH_LOG_KEY_PASSWORD")
    with pytest.raises(ConfigError, match="MONOLITH_LOG_KEY_PASSWORD") as caught:
        access_settings(cluster.section("SSL", certificate_file=str(certificate), key_file=str(key)).security)
    assert PASSWORD not in str(caught.value)


def test_a_listener_that_demands_a_certificate_says_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONOLITH_LOG_PASSWORD")
    section = cluster.section("SSL")
    with pytest.raises(LogDenied, match=r"127\.0\.0\.1:\d+: TLS fails: .*certificate"):
        KafkaLog([section.url.removeprefix("kafka://")], timeout_s=2.0, security=section.security)


def test_a_broker_with_a_certificate_of_another_authority_is_refused(cluster: Cluster) -> None:
    with pytest.raises(LogDenied, match="its certificate is refused: "):
        open_log(cluster.section("SASL_SSL", ca_file=str(cluster.stranger.certificate)))


@pytest.mark.parametrize(("protocol", "listener"), [("PLAINTEXT", "sasl"), ("SASL_PLAINTEXT", "sasl_ssl")])
def test_the_protocol_of_another_listener_is_named(cluster: Cluster, protocol: str, listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if protocol == "PLAINTEXT":
        monkeypatch.delenv("MONOLITH_LOG_PASSWORD")
    section = cluster.section(protocol, port=getattr(cluster, listener))
    with pytest.raises(LogError, match=f"does not answer {protocol}: compare log.security with the listener"):
        KafkaLog([section.url.removeprefix("kafka://")], timeout_s=2.0, security=section.security)


def test_a_permission_that_is_missing_is_an_error_at_once(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Kafka hides a topic from a user without any permission on it; one that the user may describe refuses."""
    with closing(open_log(cluster.section("SASL_PLAINTEXT", username="guest"))) as log:
        retrying = RetryingLog(log, RetryPolicy(SystemClock()))
        with pytest.raises(TopicMissing):
            retrying.num_partitions("actions")
        assert retrying.num_partitions("described") == 1
        with pytest.raises(LogDenied, match="AuthorizationFailedError"):
            log.append("described", [b"click"], time_ms=1)
    assert "next attempt" not in caplog.text


def test_a_password_is_needed_and_must_have_an_effect(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="must come with log"):
        open_log(cluster.section("SSL"))
    monkeypatch.delenv("MONOLITH_LOG_PASSWORD")
    with pytest.raises(ConfigError, match="MONOLITH_LOG_PASSWORD or MONOLITH_LOG_PASSWORD_FILE must be set"):
        open_log(cluster.section("SASL_SSL"))


@pytest.mark.parametrize("name", ["ca_file", "certificate_file", "key_file"])
def test_a_file_that_is_missing_or_of_another_kind_is_named(cluster: Cluster, tmp_path: Path, name: str) -> None:
    files = dict(zip(("certificate_file", "key_file"), map(str, cluster.authority.issue("client")), strict=True))
    with pytest.raises(ConfigError, match=rf"log\.security\.{name} must be a readable PEM file, got '/absent': No such file"):
        access_settings(cluster.section("SASL_SSL", **(files | {name: "/absent"})).security)
    (tmp_path / "text").write_text("no PEM")
    with pytest.raises(ConfigError, match=r"log\.security\..*(PEM|key)"):
        access_settings(cluster.section("SASL_SSL", **(files | {name: str(tmp_path / "text")})).security)
