"""Archiver of the chart: off by default, one pod with a volume that outlives the release."""

from __future__ import annotations

import pytest

NAME = "shop-monolith-archive"
PORT = "serving_port = 9103"


@pytest.fixture(scope="module")
def job(default_values):
    return default_values["job"].replace(PORT, f"{PORT}\n  archiver_port = 9109")


@pytest.fixture(scope="module")
def objects(render, job):
    return render({"job": job, "archiver": {"enabled": True, "intervalSeconds": 90}, "networkPolicy": {"enabled": True}})


def test_it_follows_the_log_into_its_volume(objects):
    pod = objects["StatefulSet", NAME]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["archive", "--config", "/etc/monolith/job.toml", "--follow", "--interval", "90", "/archive"]
    assert {"name": "archive", "mountPath": "/archive"} in container["volumeMounts"]
    assert {"name": "archive", "persistentVolumeClaim": {"claimName": NAME}} in pod["spec"]["volumes"]
    claim = objects["PersistentVolumeClaim", NAME]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_its_metrics_are_scraped_and_probed_at_the_port_of_the_job(objects):
    template = objects["StatefulSet", NAME]["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9109"
    assert template["spec"]["containers"][0]["ports"] == [{"name": "metrics", "containerPort": 9109}]
    service = objects["Service", NAME]["spec"]
    assert service["ports"] == [{"name": "metrics", "port": 9109, "targetPort": "metrics"}]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    policy = objects["NetworkPolicy", "shop-monolith-archiver"]["spec"]
    assert policy["ingress"] == [{"from": [{"namespaceSelector": {}}], "ports": [{"port": 9109}]}]


def test_an_existing_claim_is_used_and_none_is_made(render, job):
    objects = render({"job": job, "archiver": {"enabled": True, "existingClaim": "lake"}})
    assert ("PersistentVolumeClaim", NAME) not in objects
    volumes = objects["StatefulSet", NAME]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "archive", "persistentVolumeClaim": {"claimName": "lake"}} in volumes


def test_without_a_port_in_the_job_it_is_refused(refusal):
    assert "job: observe.archiver_port must be a port, probes need it" in refusal({"archiver": {"enabled": True}})


def test_the_longest_name_still_fits_a_label(render, job):
    objects = render({"fullnameOverride": "x" * 44, "job": job, "archiver": {"enabled": True}})
    assert max(len(name) for kind, name in objects if kind == "StatefulSet") + 11 <= 63
