"""Secrets come from the environment or a file that it names, and never into an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monolith_py.errors import ConfigError
from monolith_py.io.secret import LOG_PASSWORD, read_secret

ROOT = Path(__file__).parents[3]


def test_a_secret_is_the_variable_or_the_content_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a b\n\n")
    assert read_secret(LOG_PASSWORD, {}) is None
    assert read_secret(LOG_PASSWORD, {LOG_PASSWORD: " a "}) == " a "
    assert read_secret(LOG_PASSWORD, {f"{LOG_PASSWORD}_FILE": str(tmp_path / "secret")}) == "a b\n"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {LOG_PASSWORD: "hunter2", f"{LOG_PASSWORD}_FILE": "/absent"},
            "must not be set together with MONOLITH_LOG_PASSWORD_FILE",
        ),
        ({f"{LOG_PASSWORD}_FILE": "/absent"}, "'/absent', must be readable, got No such file or directory"),
        ({f"{LOG_PASSWORD}_FILE": "{folder}/latin1"}, "must be readable, got not UTF-8"),
        ({f"{LOG_PASSWORD}_FILE": "{folder}/empty"}, "must not be empty"),
        ({f"{LOG_PASSWORD}_FILE": "{folder}/long"}, "must hold a secret of at most 65536 bytes"),
        ({LOG_PASSWORD: ""}, "MONOLITH_LOG_PASSWORD must not be empty"),
    ],
)
def test_a_secret_that_cannot_be_read_is_an_error_without_it(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    (tmp_path / "latin1").write_bytes(b"hunter2\xff")
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "long").write_bytes(b"x" * 70_000)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_secret(LOG_PASSWORD, {name: value.format(folder=tmp_path) for name, value in variables.items()})
    assert "hunter2" not in str(caught.value)


def test_every_process_opens_log_and_store_with_the_access_of_its_job() -> None:
    """`open_log(job.log.url)` would leave out `log.security`."""
    sources = [path for folder in ("monolith_py", "streaming", "serving") for path in (ROOT / folder).rglob("*.py")]
    careless = [path.name for path in sources if re.search(r"open_(log|kv)\([\w.]*\.url\)", path.read_text())]
    assert careless == []
