#!/usr/bin/env bash
# grpcio 1.85.3: ServicerContext.time_remaining() of a call without a deadline is 9.2e18 seconds, not None.
#
# The docstring promises "None if no deadline was specified for the RPC". The deadline of such a call is the largest int64, and the result
# is that less the present time. A server that asks `if context.time_remaining() is None` to choose its own default therefore never does,
# and clients of all languages send no deadline unless told. The number is a float, but no usable timeout: threading.Lock.acquire and
# Event.wait raise OverflowError for it, in the middle of the handler.
#
# Output seen, 2026-11-30:
#   deadline of 5 s: 5.0 s left
#   no deadline:     9.223372035058757e+18 s left
#   Lock.acquire:    OverflowError: timestamp out of range for platform time_t
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q grpcio==1.85.3
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

left_s: list[float | None] = []


def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
    left_s.append(context.time_remaining())
    return request


handler = grpc.method_handlers_generic_handler("test.Echo", {"Call": grpc.unary_unary_rpc_method_handler(answer)})
server = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    call = channel.unary_unary("/test.Echo/Call")
    call(b"x", timeout=5.0)
    call(b"x")
server.stop(None).wait()
with_deadline, without = left_s
print(f"deadline of 5 s: {with_deadline:.1f} s left")
print(f"no deadline:     {without} s left")
assert with_deadline is not None and 0 < with_deadline <= 5
assert without is not None and without > 9e18
try:
    threading.Lock().acquire(timeout=without)
except OverflowError as error:
    print(f"Lock.acquire:    OverflowError: {error}")
else:
    raise AssertionError("Lock.acquire took the number")
PYTHON
