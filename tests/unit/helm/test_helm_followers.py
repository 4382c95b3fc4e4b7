"""Guard and shadow of the chart: off by default, one pod each with the checkpoints and metrics."""

from __future__ import annotations

import pytest

PORT = "serving_port = 9103"
EACH = pytest.mark.parametrize(("component", "port"), [("guard", 9110), ("shadow", 9111)])


@pytest.fixture(scope="module")
def job(default_values):
    return default_values["job"].replace(PORT, f"{PORT}\n  guard_port = 9110\n  shadow_port = 9111")


@pytest.fixture(scope="module")
def objects(render, job):
    return render({"job": job, "guard": {"enabled": True}, "shadow": {"enabled": True}, "networkPolicy": {"enabled": True}})


@EACH
def test_one_pod_runs_the_command_on_the_checkpoints(objects, component, port):
    spec = objects["StatefulSet", f"shop-monolith-{component}"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["replicas"] == 1, "two guards would contradict each other"
    assert container["args"] == [component, "--config", "/etc/monolith/job.toml"]
    assert {"name": "checkpoints", "mountPath": "/checkpoints/shop"} in container["volumeMounts"], "it writes its lease there"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@EACH
def test_its_metrics_are_scraped_and_probed_at_the_port_of_the_job(objects, component, port):
    template = objects["StatefulSet", f"shop-monolith-{component}"]["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert template["spec"]["containers"][0]["ports"] == [{"name": "metrics", "containerPort": port}]
    service = objects["Service", f"shop-monolith-{component}"]["spec"]
    assert service["ports"] == [{"name": "metrics", "port": port, "targetPort": "metrics"}]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    policy = objects["NetworkPolicy", f"shop-monolith-{component}"]["spec"]
    assert policy["ingress"] == [{"from": [{"namespaceSelector": {}}], "ports": [{"port": port}]}]


@EACH
def test_each_runs_without_the_other(render, job, component, port):
    names = {name for kind, name in render({"job": job, component: {"enabled": True}}) if kind == "StatefulSet"}
    assert names == {"shop-monolith-joiner", "shop-monolith-trainer", f"shop-monolith-{component}"}


@EACH
def test_without_a_port_in_the_job_it_is_refused(refusal, component, port):
    assert f"job: observe.{component}_port must be a port, probes need it" in refusal({component: {"enabled": True}})


def test_copies_from_an_object_store_have_a_volume(render, job):
    stored = job.replace('checkpoint_dir = "/checkpoints/shop"', 'checkpoint_dir = "s3://models/shop"')
    stored += '\n[objects]\ncache_dir = "/checkpoints"\n'
    pod = render({"job": stored, "guard": {"enabled": True}})["StatefulSet", "shop-monolith-guard"]["spec"]["template"]["spec"]
    assert {"name": "checkpoints", "emptyDir": {"sizeLimit": "20Gi"}} in pod["volumes"]
