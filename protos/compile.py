"""Compile the protos into a flat Python package: compile.py PROTO_ROOT OUT_DIR PACKAGE."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from grpc_tools import protoc


def main() -> None:
    """Write `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` of every proto under PROTO_ROOT into OUT_DIR."""
    root, out, package = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    staging = out / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    protos = sorted(str(path) for path in root.rglob("*.proto"))
    arguments = [f"--{kind}_out={staging}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{root}", *arguments, *protos]) != 0:
        raise SystemExit("protoc failed")
    for path in sorted(staging.rglob("*_pb2*.py*")):
        text = re.sub(r"^from monolith\.v1 import", f"from {package} import", path.read_text(), flags=re.M)
        (out / path.name).write_text(text)
    (out / "__init__.py").write_text('"""Messages and services compiled from protos/."""\n')


main()
