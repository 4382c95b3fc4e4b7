"""Objects of the chart: those by default and the optional ones."""

from __future__ import annotations

import pytest
import yaml

SERVING = ("Deployment", "shop-monolith-serving")


def test_the_defaults_make_one_process_of_each_kind_and_no_optional_object(defaults):
    assert set(defaults) == {
        ("ConfigMap", "shop-monolith"),
        ("ServiceAccount", "shop-monolith"),
        ("PersistentVolumeClaim", "shop-monolith-checkpoints"),
        ("StatefulSet", "shop-monolith-joiner"),
        ("StatefulSet", "shop-monolith-trainer"),
        ("Service", "shop-monolith-joiner"),
        ("Service", "shop-monolith-trainer"),
        ("Service", "shop-monolith-serving"),
        SERVING,
    }


def test_joiners_are_scaled_and_stay_stopped_while_paused(render):
    for values, expected in (({"replicas": 4}, 4), ({"replicas": 4, "paused": True}, 0)):
        spec = render({"joiner": values})["StatefulSet", "shop-monolith-joiner"]["spec"]
        assert (spec["replicas"], spec["podManagementPolicy"]) == (expected, "Parallel")


def test_there_is_one_joiner_and_one_trainer_by_default(defaults):
    assert [defaults["StatefulSet", f"shop-monolith-{name}"]["spec"]["replicas"] for name in ("joiner", "trainer")] == [1, 1]


@pytest.mark.parametrize("component", ["joiner", "trainer"])
def test_a_paused_process_has_no_pod(render, component):
    objects = render({component: {"paused": True}})
    assert objects["StatefulSet", f"shop-monolith-{component}"]["spec"]["replicas"] == 0
    other = {"joiner": "trainer", "trainer": "joiner"}[component]
    assert objects["StatefulSet", f"shop-monolith-{other}"]["spec"]["replicas"] == 1


def test_autoscaling_sets_the_replicas_in_place_of_the_deployment(render, defaults):
    assert defaults[SERVING]["spec"]["replicas"] == 2
    objects = render({"serving": {"autoscaling": {"enabled": True, "maxReplicas": 7, "targetCPUPercent": 55}}})
    assert "replicas" not in objects[SERVING]["spec"]
    spec = objects["HorizontalPodAutoscaler", "shop-monolith-serving"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 7)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop-monolith-serving"}
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 55


def test_the_disruption_budget_selects_the_replicas_alone(render):
    objects = render({"serving": {"podDisruptionBudget": {"enabled": True, "maxUnavailable": "25%"}}})
    spec = objects["PodDisruptionBudget", "shop-monolith-serving"]["spec"]
    assert spec["maxUnavailable"] == "25%"
    assert spec["selector"] == objects[SERVING]["spec"]["selector"]


def test_an_existing_claim_is_mounted_and_none_is_made(render):
    objects = render({"checkpoints": {"existingClaim": "of-last-year"}})
    assert not any(kind == "PersistentVolumeClaim" for kind, _ in objects)
    for key in (SERVING, ("StatefulSet", "shop-monolith-trainer")):
        volumes = {volume["name"]: volume for volume in objects[key]["spec"]["template"]["spec"]["volumes"]}
        assert volumes["checkpoints"]["persistentVolumeClaim"]["claimName"] == "of-last-year"


def test_the_claim_is_shared_and_outlives_the_release(defaults):
    claim = defaults["PersistentVolumeClaim", "shop-monolith-checkpoints"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "storageClassName" not in claim["spec"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_claim_takes_storage_class_access_mode_and_size_from_the_values(render):
    spec = render({"checkpoints": {"storageClass": "fast", "accessMode": "ReadWriteOnce", "size": "1Ti"}})[
        "PersistentVolumeClaim", "shop-monolith-checkpoints"
    ]["spec"]
    assert spec == {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "1Ti"}}}


@pytest.mark.parametrize(
    ("values", "made", "used"),
    [
        ({}, "shop-monolith", "shop-monolith"),
        ({"name": "ranker"}, "ranker", "ranker"),
        ({"create": False}, None, "default"),
        ({"create": False, "name": "existing"}, None, "existing"),
    ],
)
def test_pods_run_under_the_service_account_of_the_values(render, values, made, used):
    objects = render({"serviceAccount": values})
    assert [name for kind, name in objects if kind == "ServiceAccount"] == ([made] if made else [])
    for key, document in objects.items():
        if key[0] in ("Deployment", "StatefulSet"):
            assert document["spec"]["template"]["spec"]["serviceAccountName"] == used


def test_service_account_annotations_are_passed_on(render, defaults):
    assert "annotations" not in defaults["ServiceAccount", "shop-monolith"]["metadata"]
    objects = render({"serviceAccount": {"annotations": {"cloud/role": "reader"}}})
    assert objects["ServiceAccount", "shop-monolith"]["metadata"]["annotations"] == {"cloud/role": "reader"}


def test_a_headless_service_has_no_address(render, defaults):
    service = ("Service", "shop-monolith-serving")
    assert "clusterIP" not in defaults[service]["spec"]
    assert render({"serving": {"service": {"headless": True}}})[service]["spec"]["clusterIP"] == "None"


def test_the_service_takes_type_and_annotations_from_the_values(render, defaults):
    service = ("Service", "shop-monolith-serving")
    assert "annotations" not in defaults[service]["metadata"]
    document = render({"serving": {"service": {"type": "LoadBalancer", "annotations": {"lb/scope": "internal"}}}})[service]
    assert document["spec"]["type"] == "LoadBalancer"
    assert document["metadata"]["annotations"] == {"lb/scope": "internal"}


def test_services_select_the_pods_of_their_component(defaults):
    for component, kind in (("joiner", "StatefulSet"), ("trainer", "StatefulSet"), ("serving", "Deployment")):
        name = f"shop-monolith-{component}"
        labels = defaults[kind, name]["spec"]["template"]["metadata"]["labels"]
        assert defaults["Service", name]["spec"]["selector"].items() <= labels.items()
        assert defaults[kind, name]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_by_default_a_network_policy_lets_the_namespace_rank_and_the_cluster_scrape(render):
    objects = render({"networkPolicy": {"enabled": True}})
    scrape, rank = objects["NetworkPolicy", "shop-monolith-serving"]["spec"]["ingress"]
    assert scrape == {"from": [{"namespaceSelector": {}}], "ports": [{"port": 9103}]}
    assert rank == {"from": [{"podSelector": {}}], "ports": [{"port": 50051}]}
    for component, port in (("joiner", 9101), ("trainer", 9102)):
        ingress = objects["NetworkPolicy", f"shop-monolith-{component}"]["spec"]["ingress"]
        assert ingress == [{"from": [{"namespaceSelector": {}}], "ports": [{"port": port}]}]


def test_a_network_policy_admits_the_named_clients_and_scrapers_alone(render):
    clients, scrapers = [{"podSelector": {"matchLabels": {"app": "feed"}}}], [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    objects = render({"networkPolicy": {"enabled": True, "clients": clients, "scrapers": scrapers}})
    ingress = objects["NetworkPolicy", "shop-monolith-serving"]["spec"]["ingress"]
    assert [rule["from"] for rule in ingress] == [scrapers, clients]


@pytest.mark.parametrize(
    ("values", "prefix"),
    [({"nameOverride": "recommender"}, "shop-recommender"), ({"fullnameOverride": "feed"}, "feed"), ({"nameOverride": "shop"}, "shop")],
)
def test_overrides_change_the_names_of_all_objects(render, values, prefix):
    objects = render(values)
    assert ("Deployment", f"{prefix}-serving") in objects
    assert all(name == prefix or name.startswith(f"{prefix}-") for _, name in objects)


def test_the_longest_name_still_fits_a_label(render):
    objects = render({"fullnameOverride": "x" * 44})
    # A StatefulSet appends "-" and a hash of ten characters to its pods' label controller-revision-hash.
    assert max(len(name) for kind, name in objects if kind == "StatefulSet") + 11 <= 63


def test_the_alerts_of_the_guide_are_a_prometheus_rule_if_wanted(render, defaults, request):
    assert not any(kind == "PrometheusRule" for kind, _ in defaults)
    objects = render({"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}})
    (rule,) = [one for (kind, _), one in objects.items() if kind == "PrometheusRule"]
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load((request.config.rootpath / "deploy" / "alerts.yaml").read_text())
