"""Certificates for tests of TLS, made by the openssl program: an authority, servers and clients."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A certificate authority in a folder; `ca.pem` is its certificate."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("NO OPENSSL, so nothing is known about TLS: install Debian's openssl")
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self._key = folder / "ca.pem", folder / "ca.key"
        self._openssl("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}", "-days", "2")

    def issue(self, name: str, *addresses: str, password: str | None = None) -> tuple[Path, Path]:
        """Return the files of a new certificate and of its PKCS8 key, for `addresses` such as "IP:127.0.0.1"."""
        certificate, key, request, extensions = (self._folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr", "ext"))
        encryption = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        self._openssl("req", "-newkey", "rsa:2048", *encryption, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions.write_text(f"subjectAltName={','.join(addresses or ('DNS:none',))}\n")
        signer = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"]
        self._openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", extensions, "-out", certificate)
        return certificate, key

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=self._folder)


_NEW_KEY = ("-newkey", "rsa:2048", "-nodes")
