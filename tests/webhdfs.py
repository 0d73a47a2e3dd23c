"""A WebHDFS server on loopback over a local folder: a real network protocol with Hadoop's semantics, for tests.

As Hadoop's it redirects where content flows, renames to free names only (and says ``false`` otherwise, not an error)
and moves a folder into one that stands at its target.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PREFIX = "/webhdfs/v1"


class Handler(BaseHTTPRequestHandler):
    """Answers the operations that fsspec's and Hadoop's clients send."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and content of an answer leave together, or each waits for an acknowledgement
    disable_nagle_algorithm = True

    def __init__(self, root: Path, *arguments: Any) -> None:
        self.root = root
        super().__init__(*arguments)

    def do_GET(self) -> None:
        operation, path, options = self._parse()
        if operation == "GETFILESTATUS" and path.exists():
            self._json({"FileStatus": self._status(path, "")})
        elif operation == "LISTSTATUS" and path.exists():
            entries = sorted(path.iterdir()) if path.is_dir() else [path]
            found = [self._status(entry, entry.name if path.is_dir() else "") for entry in entries]
            self._json({"FileStatuses": {"FileStatus": found}})
        elif operation == "OPEN" and path.is_file():
            if "at" not in options:
                return self._redirect()
            with path.open("rb") as stream:
                stream.seek(int(options.get("offset", 0)))
                self._answer(200, stream.read(int(options.get("length", -1))))
        elif operation in ("GETFILEBLOCKLOCATIONS", "GET_BLOCK_LOCATIONS") and path.is_file():
            self._json({"BlockLocations": {"BlockLocation": []}} if operation[3] == "F" else {"LocatedBlocks": {}})
        else:
            self._missing(operation, path)
        return None

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        operation, path, options = self._parse()
        if operation == "MKDIRS":
            path.mkdir(parents=True, exist_ok=True)
            self._json({"boolean": True})
        elif operation == "CREATE":
            if "at" not in options:
                return self._redirect()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content or self._chunks())
            self._answer(201)
        elif operation == "RENAME":
            self._json({"boolean": self._rename(path, self._local(options["destination"]))})
        else:
            self._json({"boolean": True})  # SETPERMISSION and the like
        return None

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _, path, options = self._parse()
        if "at" not in options:
            return self._redirect()
        with path.open("ab") as stream:
            stream.write(content or self._chunks())
        self._answer(200)
        return None

    def do_DELETE(self) -> None:
        _, path, options = self._parse()
        if path.is_dir() and options.get("recursive") == "true":
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            return self._json({"boolean": False})
        self._json({"boolean": True})
        return None

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""

    @staticmethod
    def _rename(source: Path, target: Path) -> bool:
        if target.is_dir():
            target = target / source.name
        if not source.exists() or target.exists() or not target.parent.is_dir():
            return False
        source.rename(target)
        return True

    def _parse(self) -> tuple[str, Path, dict[str, str]]:
        url = urlsplit(self.path)
        options = {key.lower(): values[0] for key, values in parse_qs(url.query).items()}
        return options["op"].upper(), self._local(unquote(url.path).removeprefix(PREFIX)), options

    def _local(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _chunks(self) -> bytes:
        content = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return content

    @staticmethod
    def _status(path: Path, suffix: str) -> dict[str, Any]:
        found = path.stat()
        return {
            "pathSuffix": suffix, "type": "DIRECTORY" if path.is_dir() else "FILE",
            "length": 0 if path.is_dir() else found.st_size, "modificationTime": int(found.st_mtime * 1000),
            "accessTime": int(found.st_mtime * 1000), "owner": "test", "group": "test", "permission": "755",
            "replication": 1, "blockSize": 128 << 20, "fileId": found.st_ino, "childrenNum": 0, "storagePolicy": 0,
        }  # fmt: skip

    def _missing(self, operation: str, path: Path) -> None:
        reason = {"exception": "FileNotFoundException", "javaClassName": "java.io.FileNotFoundException"}
        self._json({"RemoteException": {**reason, "message": f"{operation}: no such file {path.name}"}}, 404)

    def _redirect(self) -> None:
        self._answer(307, location=f"http://{self.headers['Host']}{self.path}&at=node")

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), "application/json")

    def _answer(self, status: int, content: bytes = b"", kind: str = "application/octet", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve a folder while the block runs; yields its URL (``webhdfs://127.0.0.1:port``)."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, root)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"webhdfs://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
