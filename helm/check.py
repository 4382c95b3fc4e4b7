"""Checks of the chart and the Dockerfile: lint, rendering, schemas of Kubernetes, rules of the job, hadolint.

    make check-helm

Prints each check and exits with status 1 if one fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from monolith_py.config import load_job
from monolith_py.errors import ConfigError

_ROOT = Path(__file__).resolve().parents[1]
_CHART = _ROOT / "helm" / "monolith"
_BIN = Path(sys.executable).parent
_VALUE_SETS = {
    "defaults": [],
    "everything on": ["-f", str(_ROOT / "helm" / "everything_on.yaml")],
    "everything off": ["-f", str(_ROOT / "helm" / "everything_off.yaml")],
    "checkpoints in an object store": ["-f", str(_ROOT / "helm" / "object_store.yaml")],
    "the compose job": ["--set-file", f"job={_ROOT / 'deploy' / 'configs' / 'compose.toml'}"],
}
# Custom resources, of which Kubernetes has no schemas.
_CUSTOM = ("monitoring.coreos.com/v1",)
# Oldest version with all features that the chart uses, and newest version with known schemas.
_KUBERNETES_VERSIONS = ("1.28", kubernetes_validate.latest_version())


def main() -> int:
    """Run every check and return the number of failures."""
    failures = 0
    for title, problems in checks():
        print(f"{'ok  ' if not problems else 'FAIL'} {title}", *(f"     {problem}" for problem in problems), sep="\n")
        failures += bool(problems)
    print(f"{failures} of the checks failed" if failures else "the chart and the Dockerfile are sound")
    return failures


def checks() -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the problems of each check."""
    for name, arguments in _VALUE_SETS.items():
        yield f"helm lint --strict, {name}", run("helm", "lint", "--strict", str(_CHART), *arguments)
        documents, problems = render(arguments)
        yield f"helm template, {name}: {len(documents)} objects", problems
        for version in _KUBERNETES_VERSIONS:
            yield (
                f"schemas of Kubernetes {version}, strict, {name}",
                [p for document in documents for p in schema_problems(document, version)],
            )
        yield f"the job in the ConfigMap, {name}", job_problems(documents)
    for dockerfile in sorted((_ROOT / "deploy").rglob("Dockerfile")):
        yield f"hadolint {dockerfile.relative_to(_ROOT)}", run("hadolint", str(dockerfile))


def run(tool: str, *arguments: str) -> list[str]:
    """Return the output of `tool` with `arguments` if it fails, else nothing."""
    done = subprocess.run([str(_BIN / tool), *arguments], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines() if done.returncode else []


def render(arguments: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the objects rendered by `helm template` with `arguments`, and the problems."""
    command = [str(_BIN / "helm"), "template", "shop", str(_CHART), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [], done.stderr.strip().splitlines()
    return [document for document in yaml.safe_load_all(done.stdout) if document], []


def schema_problems(document: dict[str, Any], version: str) -> list[str]:
    """Return violations by `document` of the strict schemas of Kubernetes `version`."""
    name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
    if document.get("apiVersion") in _CUSTOM:
        return []
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{name}: {'.'.join(str(part) for part in error.path)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"{name}: {error.message}"]
    return []


def job_problems(documents: list[dict[str, Any]]) -> list[str]:
    """Return the errors of `load_job` on the job in the ConfigMap of `documents`."""
    texts = [document["data"]["job.toml"] for document in documents if document["kind"] == "ConfigMap"]
    if len(texts) != 1:
        return [f"expected one ConfigMap with job.toml, got {len(texts)}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.toml"
        path.write_text(texts[0])
        try:
            load_job(path)
        except ConfigError as error:
            return str(error).splitlines()
    return []


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
