"""Job in the ConfigMap: unchanged, accepted by the processes, refused if a cluster cannot run it."""

from __future__ import annotations

import pytest

from monolith_py.config import load_job


def shipped(objects):
    return objects["ConfigMap", "shop-monolith"]["data"]["job.toml"]


def test_the_shipped_job_is_the_text_of_the_values(render, defaults, default_values):
    assert shipped(defaults).strip() == default_values["job"].strip()
    # YAML-like lines, quotes, leading blanks and comments stay unchanged.
    text = "  # key: value\n\n" + default_values["job"] + "\n# - 'quoted' \"twice\" {{ braces }}\n"
    assert shipped(render({"job": text})).strip("\n") == text.strip("\n")


def test_the_processes_accept_the_default_job(defaults, tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(shipped(defaults))
    job = load_job(path)
    assert (job.name, job.serving.port, job.observe.trainer_port, job.features[1].ttl_s) == ("shop", 50051, 9102, 2592000)


def test_ports_and_folders_are_those_of_the_job(render, default_values):
    text = default_values["job"].replace("50051", "6000").replace("9103", "7003").replace("9102", "7002").replace("9101", "7001")
    objects = render({"job": text.replace("/checkpoints/shop", "/data/models")})
    (replica,) = objects["Deployment", "shop-monolith-serving"]["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in replica["ports"]] == [6000, 7003]
    assert replica["readinessProbe"]["grpc"]["port"] == 6000
    assert replica["volumeMounts"][-1]["mountPath"] == "/data/models"
    assert objects["Service", "shop-monolith-serving"]["spec"]["ports"][0]["port"] == 6000
    for component, port in (("joiner", 7001), ("trainer", 7002)):
        pod = objects["StatefulSet", f"shop-monolith-{component}"]["spec"]["template"]
        assert pod["spec"]["containers"][0]["ports"][0]["containerPort"] == port
        assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port)


def test_a_changed_job_restarts_every_pod(render, defaults, default_values):
    changed = render({"job": default_values["job"] + "\n[sync]\nsparse_interval_s = 2.0\n"})
    for key, document in defaults.items():
        if key[0] in ("Deployment", "StatefulSet"):
            before, after = (one["spec"]["template"]["metadata"]["annotations"]["checksum/job"] for one in (document, changed[key]))
            assert before != after


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "shop"', 'name = = "shop"', "job must be a TOML document: "),
        ("kafka://kafka:9092", "sqlite:///log", 'log.url must begin with kafka:// on a cluster, got "sqlite:///log"'),
        ("redis://redis:6379/0", "memory:", 'kv.url must begin with redis:// or rediss:// on a cluster, got "memory:"'),
        ("redis://redis:6379/0", "redis://:hunter2@redis:6379/0", "kv.url must hold no password"),
        ("redis://redis:6379/0", "redis://:hun/ter2@redis:6379/0", "kv.url must hold no password"),
        ("redis://redis:6379/0", "redis://:hunter2@x@redis:6379/0", "kv.url must hold no password"),
        ('"/checkpoints/shop"', '"/"', "trainer.checkpoint_dir must be"),
        ('"/checkpoints/shop"', '"/tmp"', "trainer.checkpoint_dir must be a folder of its own without"),
        ('"/checkpoints/shop"', '"/etc/monolith/shop"', "trainer.checkpoint_dir must be a folder of its own without"),
        ('"/checkpoints/shop"', '"/data/a:b"', "trainer.checkpoint_dir must be a folder of its own without"),
        ('"/checkpoints/shop"', '"/data/../tmp"', "trainer.checkpoint_dir must be a folder of its own without"),
        ("port = 50051", "port = 80", "serving.port must be in 1024..65535, processes run without root, got 80"),
        ("port = 50051", "port = 70000", "serving.port must be in 1024..65535, processes run without root, got 70000"),
        ("trainer_port = 9102", "trainer_port = 9101", "observe.trainer_port must differ from observe.joiner_port, got 9101 for both"),
        (
            '"/checkpoints/shop"',
            '"checkpoints"',
            'trainer.checkpoint_dir must be an absolute folder, the volume is mounted there, got "checkpoints"',
        ),
        ('host = "0.0.0.0"', "", 'serving.host must be "0.0.0.0" or "[::]" in a pod, got ""'),
        ("port = 50051", "", "serving.port must be a port, probes need it, got 0"),
        ("joiner_port = 9101", "", "observe.joiner_port must be a port, probes need it, got 0"),
        ("trainer_port = 9102", "trainer_port = 0", "observe.trainer_port must be a port, probes need it, got 0"),
        ("serving_port = 9103", "", "observe.serving_port must be a port, probes need it, got 0"),
        ("serving_port = 9103", "serving_port = 50051", "observe.serving_port must differ from serving.port, got 50051 for both"),
    ],
)
def test_a_job_that_cannot_run_on_a_cluster_is_refused(refusal, default_values, old, new, message):
    text = default_values["job"].replace(old, new)
    assert text != default_values["job"]
    said = refusal({"job": text})
    assert message in said
    assert "hunter2" not in said


def test_a_headless_service_of_another_type_is_refused(refusal):
    said = refusal({"serving": {"service": {"headless": True, "type": "NodePort"}}})
    assert 'serving.service.headless needs serving.service.type ClusterIP, got "NodePort"' in said


def test_an_autoscaler_whose_bounds_cross_is_refused(refusal):
    said = refusal({"serving": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 3}}})
    assert "serving.autoscaling.minReplicas must be <= maxReplicas 3, got 5" in said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fullnameOverride": "9shop"}, "fullnameOverride"),
        ({"nameOverride": "Shop_1"}, "nameOverride"),
        ({"image": {"tag": "not a tag"}}, "tag"),
        ({"image": {"repository": "Registry/Monolith"}}, "repository"),
        ({"image": {"pullSecrets": [{"name": "Under_Score"}]}}, "name"),
        ({"kvPassword": {"existingSecret": "Redis Credentials"}}, "existingSecret"),
        ({"kvPassword": {"key": "a b"}}, "key"),
        ({"env": [{"name": "1A", "value": "x"}]}, "name"),
        ({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}, "env"),
        ({"env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]}, "env must name each variable once, got A twice"),
        (
            {"env": [{"name": "MONOLITH_KV_PASSWORD", "value": "x"}], "kvPassword": {"existingSecret": "redis"}},
            "env must name each variable once, got MONOLITH_KV_PASSWORD twice",
        ),
        ({"checkpoints": {"existingClaim": "My Claim"}}, "existingClaim"),
        ({"securityContext": {"runAsUser": 3_000_000_000}}, "runAsUser"),
        ({"trainer": {"resources": {"limits": {"memory": "8 GB"}}}}, "memory"),
        ({"serving": {"podDisruptionBudget": {"enabled": True, "maxUnavailable": "150%"}}}, "maxUnavailable"),
        ({"serving": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}}, "needs serving.resources.requests.cpu"),
        ({"networkPolicy": {"enabled": True, "clients": [{}]}}, "clients"),
        (
            {"joiner": {"podAnnotations": {"prometheus.io/port": "1"}}},
            "joiner.podAnnotations must not have prometheus.io/port, the chart sets it",
        ),
        ({"job": "#" * 1_000_001}, "job must be at most 1000000 bytes, a ConfigMap takes no more, got 1000001"),
    ],
)
def test_values_that_a_cluster_would_refuse_are_refused(refusal, values, message):
    assert message in refusal(values)
