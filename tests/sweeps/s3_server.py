"""An S3 server on loopback (moto's), for tests; runs beside them as a process of its own."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

_SERVE = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Runs a server with an empty bucket named `bucket`; yields its endpoint. Skips the test where there is no moto.

    `$MOTO_PYTHON` is a Python that has moto, should this one not have it.
    """
    python = os.environ.get("MOTO_PYTHON") or (sys.executable if importlib.util.find_spec("moto") else None)
    if python is None:
        pytest.skip("needs moto, of the extra dev")
    with subprocess.Popen(
        [python, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout
        try:
            endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT"), timeout=60).close()
            yield endpoint
        finally:
            server.kill()


def credentials(endpoint: str) -> dict[str, str]:
    """Returns the environment in which this server is S3."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
