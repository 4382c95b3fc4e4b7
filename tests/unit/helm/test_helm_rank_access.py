"""Access to Rank in the chart: certificates and tokens reach the replicas alone, and probes need neither."""

from __future__ import annotations

import pytest

from monolith_py.config import load_job

MOUNT = "/etc/monolith-tls/serving"
SECURITY = f'\n[serving.security]\ncertificate_file = "{MOUNT}/tls.crt"\nkey_file = "{MOUNT}/tls.key"\nrequire_token = true\n'
SECRETS = {"servingTls": {"existingSecret": "replica-tls"}, "servingTokens": {"existingSecret": "callers", "key": "rank"}}


@pytest.fixture
def secured_job(default_values) -> str:
    return default_values["job"].replace("port = 50051", "port = 50051\nhealth_port = 50052") + SECURITY


def pods(objects):
    for (kind, name), document in objects.items():
        if kind in ("Deployment", "StatefulSet"):
            yield name.rpartition("-")[2], document["spec"]["template"]["spec"]


def test_certificates_and_tokens_reach_the_replicas_alone(render, secured_job):
    for component, spec in pods(render({"job": secured_job, **SECRETS})):
        (container,) = spec["containers"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        variables = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container.get("env", ())}
        secrets = {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
        is_serving = component == "serving"
        assert (MOUNT in mounts, "replica-tls" in secrets) == (is_serving, is_serving)
        assert variables == ({"MONOLITH_SERVING_TOKENS": {"name": "callers", "key": "rank"}} if is_serving else {})


def test_probes_use_the_health_port(render, secured_job):
    """Kubernetes' gRPC probes know no TLS and have no certificate."""
    ((_, spec),) = [one for one in pods(render({"job": secured_job, **SECRETS})) if one[0] == "serving"]
    (container,) = spec["containers"]
    assert container["readinessProbe"]["grpc"]["port"] == 50052
    assert {"name": "health", "containerPort": 50052} in container["ports"]


def test_the_processes_accept_the_secured_job(render, secured_job, tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(render({"job": secured_job, **SECRETS})["ConfigMap", "shop-monolith"]["data"]["job.toml"])
    assert load_job(path).serving.security.require_token


@pytest.mark.parametrize(
    ("left_out", "old", "message"),
    [
        ("servingTls", "", "job: serving.security.certificate_file is in /etc/monolith-tls/serving: set servingTls.existingSecret"),
        ("servingTokens", "", "job: serving.security.require_token needs tokens: set servingTokens.existingSecret"),
        ("", "\nhealth_port = 50052", "job: serving.health_port must be a port, probes need it, got 0"),
    ],
)
def test_access_by_half_is_refused(refusal, secured_job, left_out, old, message):
    values = {name: value for name, value in SECRETS.items() if name != left_out}
    assert message in refusal({"job": secured_job.replace(old, ""), **values})
