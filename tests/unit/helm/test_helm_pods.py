"""Pods of the chart: commands, probes, security context, secrets, volumes, placement."""

from __future__ import annotations

import pytest

from monolith_py.pb import ranking_pb2

WORKLOADS = {
    "joiner": ("StatefulSet", "shop-monolith-joiner"),
    "trainer": ("StatefulSet", "shop-monolith-trainer"),
    "serving": ("Deployment", "shop-monolith-serving"),
}
EACH = pytest.mark.parametrize("component", WORKLOADS)


def pod(objects, component):
    return objects[WORKLOADS[component]]["spec"]["template"]


def container(objects, component):
    (only,) = pod(objects, component)["spec"]["containers"]
    return only


@pytest.mark.parametrize(("component", "command"), [("joiner", "join"), ("trainer", "train"), ("serving", "serve")])
def test_each_component_runs_its_command_after_the_topics_are_there(defaults, component, command):
    (topics,) = pod(defaults, component)["spec"]["initContainers"]
    assert topics["args"] == ["topics", "--config", "/etc/monolith/job.toml"]
    assert container(defaults, component)["args"] == [command, "--config", "/etc/monolith/job.toml"]


def test_a_replica_is_ready_when_the_ranking_service_says_so(defaults):
    service = ranking_pb2.DESCRIPTOR.services_by_name["Ranking"].full_name
    assert container(defaults, "serving")["readinessProbe"]["grpc"] == {"port": 50051, "service": service}


@EACH
def test_a_process_is_alive_while_it_serves_its_metrics(defaults, component):
    """Replicas included: one without a checkpoint or without a trainer must not be killed."""
    probes = container(defaults, component)
    assert probes["livenessProbe"]["httpGet"] == probes["startupProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}


@EACH
def test_no_container_runs_as_root_or_writes_to_its_root_file_system(defaults, component):
    spec = pod(defaults, component)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["automountServiceAccountToken"] is False
    for one in [*spec["initContainers"], *spec["containers"]]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_user_and_group_come_from_the_values(render):
    context = pod(render({"securityContext": {"runAsUser": 2000, "fsGroup": 3000}}), "trainer")["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (2000, 2000, 3000)


def test_replicas_read_the_checkpoints_that_the_trainer_writes(defaults):
    mounts = {
        component: {mount["name"]: mount for mount in container(defaults, component)["volumeMounts"]}.get("checkpoints")
        for component in WORKLOADS
    }
    assert mounts["trainer"] == {"name": "checkpoints", "mountPath": "/checkpoints/shop"}
    assert mounts["serving"] == {"name": "checkpoints", "mountPath": "/checkpoints/shop"}, "a replica writes its lease there"
    assert mounts["joiner"] is None


@EACH
def test_every_mount_has_its_volume(defaults, component):
    spec = pod(defaults, component)["spec"]
    for one in [*spec["initContainers"], *spec["containers"]]:
        assert {mount["name"] for mount in one["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


@EACH
def test_the_redis_password_comes_from_an_existing_secret(render, defaults, component):
    assert "env" not in container(defaults, component)
    objects = render({"kvPassword": {"existingSecret": "redis", "key": "auth"}})
    assert not any(kind == "Secret" for kind, _ in objects)
    assert container(objects, component)["env"] == [
        {"name": "MONOLITH_KV_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "auth"}}}
    ]


def test_more_environment_variables_follow_the_password(render):
    extra = {"name": "OMP_NUM_THREADS", "value": "2"}
    assert container(render({"env": [extra]}), "trainer")["env"] == [extra]
    objects = render({"env": [extra], "kvPassword": {"existingSecret": "redis"}})
    assert [one["name"] for one in container(objects, "trainer")["env"]] == ["MONOLITH_KV_PASSWORD", "OMP_NUM_THREADS"]


@pytest.mark.parametrize(("component", "port"), [("joiner", "9101"), ("trainer", "9102"), ("serving", "9103")])
def test_annotations_tell_prometheus_the_port_of_the_job(render, defaults, component, port):
    annotations = pod(defaults, component)["metadata"]["annotations"]
    assert {key: value for key, value in annotations.items() if key.startswith("prometheus.io/")} == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port,
        "prometheus.io/path": "/metrics",
    }
    silent = pod(render({"scrapeAnnotations": False}), component)["metadata"]["annotations"]
    assert list(silent) == ["checksum/job"]


@EACH
def test_placing_and_annotations_come_from_the_values_of_the_component(render, defaults, component):
    placing = {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    }
    spec = pod(render({component: {**placing, "podAnnotations": {"team": "ranking"}}}), component)
    assert {key: spec["spec"][key] for key in placing} == placing
    assert spec["metadata"]["annotations"]["team"] == "ranking"
    assert not placing.keys() & pod(defaults, component)["spec"].keys()


@EACH
def test_resources_come_from_the_values_of_the_component(render, component):
    objects = render({component: {"resources": {"limits": {"memory": "3Gi"}}}})
    assert container(objects, component)["resources"]["limits"] == {"memory": "3Gi"}


@EACH
def test_the_image_is_the_charts_version_unless_values_say_another(render, defaults, component):
    assert container(defaults, component)["image"] == "monolith-py:0.1.0"
    assert "imagePullSecrets" not in pod(defaults, component)["spec"]
    values = {"repository": "registry.example/m", "tag": "9", "pullPolicy": "Always", "pullSecrets": [{"name": "key"}]}
    objects = render({"image": values})
    assert (container(objects, component)["image"], container(objects, component)["imagePullPolicy"]) == ("registry.example/m:9", "Always")
    assert pod(objects, component)["spec"]["imagePullSecrets"] == [{"name": "key"}]


def test_a_replica_drains_before_it_stops_unless_told_not_to(render, defaults):
    assert container(defaults, "serving")["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert pod(defaults, "serving")["spec"]["terminationGracePeriodSeconds"] == 35
    hurried = render({"serving": {"drainSeconds": 0}})
    assert "lifecycle" not in container(hurried, "serving")
    assert pod(hurried, "serving")["spec"]["terminationGracePeriodSeconds"] == 30


def test_the_trainer_gets_time_for_its_last_checkpoint(render, defaults):
    assert pod(defaults, "trainer")["spec"]["terminationGracePeriodSeconds"] == 120
    assert pod(render({"trainer": {"terminationGracePeriodSeconds": 7}}), "trainer")["spec"]["terminationGracePeriodSeconds"] == 7


SECURE = """
[log.security]
protocol = "SASL_SSL"
sasl_mechanism = "PLAIN"
username = "shop"
ca_file = "/etc/monolith-tls/log/ca.crt"
"""
SECRETS = {"logPassword": {"existingSecret": "kafka", "key": "auth"}, "logTls": {"existingSecret": "kafka-ca"}}


@EACH
def test_access_to_kafka_comes_from_existing_secrets(render, default_values, component):
    job = default_values["job"] + SECURE
    objects = render({"job": job} | SECRETS)
    assert container(objects, component)["env"] == [
        {"name": "MONOLITH_LOG_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "auth"}}}
    ]
    mounts = [one for one in container(objects, component)["volumeMounts"] if one["name"] == "log-tls"]
    assert mounts == [{"name": "log-tls", "mountPath": "/etc/monolith-tls/log", "readOnly": True}]
    volumes = [one for one in pod(objects, component)["spec"]["volumes"] if one["name"] == "log-tls"]
    assert volumes == [{"name": "log-tls", "secret": {"secretName": "kafka-ca", "defaultMode": 0o440}}]
    assert not any(kind == "Secret" for kind, _ in objects)


@pytest.mark.parametrize(
    ("secured", "values", "message"),
    [
        (True, {"logTls": {"existingSecret": "ca"}}, "log.security.protocol SASL_SSL needs a password: set logPassword.existingSecret"),
        (True, {"logPassword": {"existingSecret": "kafka"}}, "log.security.ca_file is in /etc/monolith-tls/log: set logTls.existingSecret"),
        (False, {"logPassword": {"existingSecret": "kafka"}}, "logPassword.existingSecret must come with log.security.protocol"),
    ],
)
def test_access_that_is_set_by_half_is_refused(refusal, default_values, secured, values, message):
    assert message in refusal({"job": default_values["job"] + SECURE * secured} | values)
