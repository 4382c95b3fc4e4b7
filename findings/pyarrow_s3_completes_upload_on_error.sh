#!/usr/bin/env bash
# pyarrow 26.0.1, S3FileSystem: an upload that is left by an exception is completed, so a part of the data replaces the old object.
#
# An object store shows an object whole or not at all, and a multipart upload can be given up. With `open_output_stream` in a `with` block
# an exception of the writer (its source fails, a value cannot be encoded, the process is interrupted) closes the stream, and closing
# completes the upload: the object under the final key is then what was written so far, and the version before is gone. Small and multipart
# uploads do the same. The stream has no method to give the upload up. Write to a key that no reader knows, or write a manifest last, as a
# checkpoint needs; or use `boto3.upload_fileobj`, which gives it up.
#
# Output seen, 2026-11-30, with moto 5.2.5 as the server:
#   before:                                  3,000 bytes, b"old"
#   pyarrow, error after 2 MiB of 20:        2,097,152 bytes, b"new"
#   pyarrow, error after 12 MiB of 20:       12,582,912 bytes, b"new"
#   boto3, error after 12 MiB of 20:         3,000 bytes, b"old"
#   methods to give the stream up: none
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q pyarrow==26.0.1 moto==5.2.5 flask==3.1.3 flask-cors==6.0.5 boto3==1.44.8
cd "$work"
port=$(python3 -c 'import socket
with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    print(one.getsockname()[1])')
"$work/venv/bin/python" -m moto.server -H 127.0.0.1 -p "$port" > server.log 2>&1 &
server=$!
"$work/venv/bin/python" - "$port" <<'PYTHON'
import io
import socket
import sys
import time

import boto3
from pyarrow.fs import S3FileSystem

MIB, KEY = 1 << 20, "models/tower"
address = ("127.0.0.1", int(sys.argv[1]))
for _ in range(300):
    try:
        socket.create_connection(address).close()
        break
    except OSError:
        time.sleep(0.1)
keys = {"access_key": "key", "secret_key": "secret"}
objects = S3FileSystem(**keys, endpoint_override=f"127.0.0.1:{address[1]}", scheme="http", region="us-east-1", allow_bucket_creation=True)
objects.create_dir("models")


class SourceError(Exception):
    """The source of the data failed."""


def reset() -> None:
    with objects.open_output_stream(KEY) as stream:
        stream.write(b"old" * 1000)


def show(title: str) -> tuple[int, bytes]:
    size = objects.get_file_info(KEY).size
    with objects.open_input_stream(KEY) as stream:
        start = stream.read(3)
    print(f"{title:40s} {size:,} bytes, b\"{start.decode()}\"")
    return size, start


def write(num_mib: int) -> None:
    with objects.open_output_stream(KEY) as stream:
        for number in range(20):
            if number == num_mib:
                raise SourceError
            stream.write(b"new!" * (MIB // 4))


class FailingSource(io.RawIOBase):
    """A source of 20 MiB that fails after 12."""

    given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if self.given >= 12 * MIB:
            raise SourceError
        size = min(len(buffer), MIB)
        buffer[:size] = (b"new!" * (size // 4 + 1))[:size]
        self.given += size
        return size


reset()
before = show("before:")
for num_mib in (2, 12):
    reset()
    try:
        write(num_mib)
    except SourceError:
        pass
    else:
        raise AssertionError("the error reaches the caller")
    assert show(f"pyarrow, error after {num_mib} MiB of 20:") == (num_mib * MIB, b"new"), "a part of the data is the object"
reset()
client = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{address[1]}", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
)
try:
    client.upload_fileobj(FailingSource(), "models", "tower")
except Exception as error:
    assert "SourceError" in repr(error), error
else:
    raise AssertionError("the error reaches the caller")
assert show("boto3, error after 12 MiB of 20:") == before, "the former object stays"
stream = objects.open_output_stream("models/other")
names = [name for name in ("abort", "cancel", "discard") if hasattr(stream, name)]
stream.close()
print("methods to give the stream up:", ", ".join(names) or "none")
assert not names
PYTHON
