#!/usr/bin/env bash
# pyarrow 26.0.1, S3FileSystem: `delete_file` PUTs an empty object for the parent folder after each deletion.
#
# S3 has no folders: a key disappears and nothing stays. Arrow keeps up the picture of a file system: when a file is deleted it creates the
# "directory" that held it anew, an object of 0 bytes whose key ends with "/", even if no such object was there before and other files are
# still below. A deletion thus costs one more request, needs the right to write, and a store that makes and deletes a folder for each
# version (checkpoints, partitions by hour) collects an object for each that nobody wrote, which every later list returns. A lifecycle rule
# or `boto3.delete_object` leaves none.
#
# Output seen, 2026-11-30, with moto 5.2.5 as the server:
#   written:                        ["v1/a", "v1/b"]
#   boto3 deletes v1/a:             ["v1/b"]
#   boto3 deletes v1/b:             []
#   pyarrow deletes v2/a of a, b:   ["v2/", "v2/b"]
#   pyarrow deletes v2/b:           ["v2/"]
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
import json
import socket
import sys
import time

import boto3
from pyarrow.fs import S3FileSystem

address = ("127.0.0.1", int(sys.argv[1]))
for _ in range(300):
    try:
        socket.create_connection(address).close()
        break
    except OSError:
        time.sleep(0.1)
url = f"http://127.0.0.1:{address[1]}"
client = boto3.client("s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1")
client.create_bucket(Bucket="models")
objects = S3FileSystem(
    access_key="key", secret_key="secret", endpoint_override=f"127.0.0.1:{address[1]}", scheme="http", region="us-east-1"
)


def write(version: str) -> None:
    for name in "ab":
        client.put_object(Bucket="models", Key=f"{version}/{name}", Body=b"weights")


def keys(title: str) -> list[str]:
    found = [one["Key"] for one in client.list_objects_v2(Bucket="models").get("Contents", [])]
    print(f"{title:31s} {json.dumps(found)}")
    return found


write("v1")
assert keys("written:") == ["v1/a", "v1/b"]
client.delete_object(Bucket="models", Key="v1/a")
assert keys("boto3 deletes v1/a:") == ["v1/b"]
client.delete_object(Bucket="models", Key="v1/b")
assert keys("boto3 deletes v1/b:") == []
write("v2")
objects.delete_file("models/v2/a")
assert keys("pyarrow deletes v2/a of a, b:") == ["v2/", "v2/b"]
objects.delete_file("models/v2/b")
assert keys("pyarrow deletes v2/b:") == ["v2/"]
PYTHON
