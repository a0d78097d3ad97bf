"""A real Docker Engine for tests, and an image that costs nothing: links into the host's own /usr."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.containers.docker_engine import connect
from harness.errors import MachineError

HOST_IMAGE = "serving-harness/hostroot:1"
PYTHON = str(Path(sys.executable).absolute())
_FOLDERS = ("dev", "etc", "models", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var/tmp")
# /sbin is no link: there Docker puts its init, which a mount over /usr would hide.
_LINKS = ("bin", "lib", "lib64")
_FILES = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache")

SERVER = """
import http.server, os, signal, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(7)
        if self.path == "/leave":
            os._exit(0)
        if self.path == "/eat":
            food = bytearray(1 << 30)
        body = os.environ.get(self.path[1:], "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

if sys.argv[2:] == ["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("token", os.environ.get("HF_TOKEN"), flush=True)
print("serving", file=sys.stderr, flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""


def require_engine() -> None:
    """Skip where no Docker Engine answers; in CI that is a failure, not a skip."""
    try:
        connect().close()
    except MachineError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the container tests (scripts/docker_engine.sh): {error.message}")
        pytest.skip(error.message)


def engine_client() -> Iterator[Any]:
    """A client of the engine, with HOST_IMAGE in place."""
    require_engine()
    with closing(connect()) as client:
        if not client.images.list(name=HOST_IMAGE):
            repository, tag = HOST_IMAGE.split(":")
            client.api.import_image_from_data(_root_archive(), repository=repository, tag=tag)
        yield client


def host_mounts(*interpreters: Path) -> dict[str, str]:
    """Mounts that make these interpreters (default: the tests' own) run inside HOST_IMAGE."""
    mounts = {"/usr": "/usr"}
    for python in interpreters or (Path(PYTHON),):
        for folder in (python.parent.parent, python.resolve().parent.parent):
            if not folder.is_relative_to("/usr"):
                mounts[str(folder)] = str(folder)
    return mounts


def _root_archive() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in _FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            tar.addfile(folder)
        for name in _LINKS:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for path in filter(os.path.exists, _FILES):
            tar.add(path, arcname=path)
    return archive.getvalue()
