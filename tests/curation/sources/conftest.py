"""What tests of hosts share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from curation.sources.hosts import Endpoints


@pytest.fixture
def s3() -> Iterator[tuple[Any, Endpoints]]:
    """A client of a real S3 API on loopback, with a public bucket named ``open``, and where it answers."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("moto.moto_api._internal").moto_api_backend.reset()  # its servers share what they hold
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        ends = Endpoints(s3=f"http://{host}:{port}")
        client = boto3.client(
            "s3", endpoint_url=ends.s3, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        client.create_bucket(Bucket="open", ACL="public-read")
        yield client, ends
    finally:
        running.stop()
