"""Compose file and image: their parts fit each other, the job and the command line."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from monolith_py.cli import app
from monolith_py.config import JobConfig, SplitConfig, load_job
from monolith_py.pb import ranking_pb2
from monolith_serving.shadow.split import second_job

ROOT = Path(__file__).parents[3]
PROCESSES = {"topics": "topics", "joiner": "join", "trainer": "train", "replica-1": "serve", "replica-2": "serve"}


@pytest.fixture(scope="module")
def services(deploy: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]
    return found


@pytest.fixture(scope="module")
def job(deploy: Path) -> JobConfig:
    return load_job(deploy / "configs" / "compose.toml")


def published(service: dict[str, Any]) -> dict[int, int]:
    """Return the published ports by the ports inside, the first of a range; all must be bound to 127.0.0.1."""
    parts = [port.split(":") for port in service["ports"]]
    assert all(address == "127.0.0.1" for address, _, _ in parts)
    return {int(inside): int(outside.split("-")[0]) for _, outside, inside in parts}


@pytest.mark.parametrize(("service", "command"), PROCESSES.items())
def test_each_process_runs_a_command_that_exists_on_the_job_that_is_mounted(services: dict[str, Any], service: str, command: str) -> None:
    assert services[service]["command"] == [command, "--config", "/etc/monolith/job.toml"]
    assert command in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert "./configs/compose.toml:/etc/monolith/job.toml:ro" in services[service]["volumes"]


def test_the_archiver_runs_on_request_on_a_volume_of_its_own(services: dict[str, Any], job: JobConfig) -> None:
    archiver = services["archiver"]
    assert archiver["profiles"] == ["archive"]
    assert archiver["command"] == ["archive", "--config", "/etc/monolith/job.toml", "--follow", "/archive"]
    assert "archive:/archive" in archiver["volumes"]
    assert published(archiver) == {job.observe.archiver_port: 9105}
    assert (archiver["image"], archiver["read_only"]) == (services["joiner"]["image"], True)


def test_the_guard_runs_on_request_beside_the_checkpoints(services: dict[str, Any], job: JobConfig) -> None:
    guard = services["guard"]
    assert guard["profiles"] == ["guard"]
    assert guard["command"] == ["guard", "--config", "/etc/monolith/job.toml"]
    assert guard["volumes"] == services["trainer"]["volumes"]
    assert published(guard) == {job.observe.guard_port: 9106}
    assert (guard["image"], guard["read_only"]) == (services["joiner"]["image"], True)


def test_a_second_model_is_trained_and_scores_on_request(services: dict[str, Any], job: JobConfig, deploy: Path) -> None:
    wide = load_job(deploy / "configs" / "compose-wide.toml")
    second_job(
        job.model_copy(
            update={"serving": job.serving.model_copy(update={"split": SplitConfig(job=str(deploy / "configs" / "compose-wide.toml"))})}
        )
    )
    commands = {"shadow-topics": "topics", "shadow-trainer": "train", "shadow": "shadow"}
    for name, command in commands.items():
        assert services[name]["profiles"] == ["shadow"]
        assert services[name]["command"] == [command, "--config", "/etc/monolith/wide.toml"]
        assert "./configs/compose-wide.toml:/etc/monolith/wide.toml:ro" in services[name]["volumes"]
        assert (services[name]["image"], services[name]["read_only"]) == (services["joiner"]["image"], True)
    assert published(services["shadow-trainer"]) == {wide.observe.trainer_port: 9107}
    assert published(services["shadow"]) == {wide.observe.shadow_port: 9108}
    assert "checkpoints:/checkpoints" in services["shadow"]["volumes"]
    assert wide.trainer.checkpoint_dir != job.trainer.checkpoint_dir and wide.trainer.checkpoint_dir.startswith("/checkpoints/")


def test_published_ports_differ(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in (published(service) if "ports" in service else {}).values()]
    assert len(ports) == len(set(ports)) > 8


def test_the_job_finds_kafka_and_redis_by_their_names(services: dict[str, Any], job: JobConfig) -> None:
    assert job.log.url == "kafka://kafka:9092"
    assert "PLAINTEXT://kafka:9092" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert job.kv.url == "redis://redis:6379/0"
    assert {"kafka", "redis"} <= set(services)


def test_the_broker_is_of_the_version_that_tests_run_against(services: dict[str, Any], deploy: Path) -> None:
    pom = (deploy / "demo" / "driver" / "pom.xml").read_text()
    version = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)<", pom)
    assert version is not None
    assert services["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_redis_keeps_every_acknowledged_write(services: dict[str, Any]) -> None:
    assert services["redis"]["command"] == ["redis-server", "--appendonly", "yes", "--appendfsync", "always"]


def test_published_ports_are_those_of_the_job(services: dict[str, Any], job: JobConfig) -> None:
    assert published(services["joiner"]) == {job.observe.joiner_port: 9111}
    assert published(services["trainer"]) == {job.observe.trainer_port: 9102}
    assert published(services["replica-1"]) == {job.serving.port: 50051, job.observe.serving_port: 9103}
    assert published(services["replica-2"]) == {job.serving.port: 50052, job.observe.serving_port: 9104}
    assert job.serving.host == "0.0.0.0"


def test_replicas_read_the_checkpoints_that_the_trainer_writes(services: dict[str, Any], job: JobConfig) -> None:
    assert job.trainer.checkpoint_dir.startswith("/checkpoints/")
    assert "checkpoints:/checkpoints" in services["trainer"]["volumes"]
    for name in ("replica-1", "replica-2"):
        assert "checkpoints:/checkpoints" in services[name]["volumes"], "a replica writes its lease there"


def test_a_replica_is_healthy_when_the_ranking_service_says_so(services: dict[str, Any], job: JobConfig) -> None:
    code = services["replica-1"]["healthcheck"]["test"][-1]
    compile(code, "healthcheck", "exec")
    assert ranking_pb2.DESCRIPTOR.services_by_name["Ranking"].full_name in code
    assert f"127.0.0.1:{job.serving.port}" in code


@pytest.mark.parametrize("service", PROCESSES)
def test_processes_run_the_image_of_this_version_confined(services: dict[str, Any], service: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert services[service]["image"] == f"monolith-py:{version}"
    assert services[service]["read_only"] is True
    assert services[service]["cap_drop"] == ["ALL"]


def test_the_chart_installs_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "helm" / "monolith" / "Chart.yaml").read_text())["appVersion"] == version


def test_the_image_copies_what_exists_and_what_its_context_lets_through(deploy: Path) -> None:
    text = (deploy / "Dockerfile").read_text()
    copied = [source for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for source in line.split()[:-1]]
    allowed = re.findall(r"^!(.*)$", (deploy / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert {"pyproject.toml", "protos", "monolith_py", "streaming", "serving"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


def test_the_image_does_not_run_as_root(deploy: Path) -> None:
    assert re.findall(r"^USER (.*)$", (deploy / "Dockerfile").read_text(), re.MULTILINE)[-1] == "10001:10001"
