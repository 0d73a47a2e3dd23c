"""The messages between the driver and its workers: JSON lines, each authenticated with a secret of the launch."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from typing import Any

MAX_TEXT = 20_000  # characters of one message text or traceback; the rest is cut from its start
MAX_LINE = 1 << 20  # bytes
# Seconds without a word, and between the questions after that, of which some unanswered ones end a connection: a host
# that vanishes says no good-bye.
KEEP_ALIVE = {socket.TCP_KEEPIDLE: 20, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 4}


def seal(secret: bytes, message: dict[str, Any]) -> bytes:
    """Return one line: the HMAC-SHA256 (hex) of the JSON text, a space, the text."""
    text = json.dumps(message).encode()
    return _digest(secret, text) + b" " + text + b"\n"


def unseal(secret: bytes, line: bytes) -> dict[str, Any]:
    """Return the message in a line.

    Raises
    ------
    ValueError
        If the line is torn or was not written with this secret.
    """
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if not hmac.compare_digest(digest, _digest(secret, text)):
        raise ValueError("a message without a valid authentication code")
    message: dict[str, Any] = json.loads(text)
    return message


def keep_alive(connection: socket.socket) -> None:
    """Let both ends notice within two minutes that the other one's host is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEP_ALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    # What was sent and is not acknowledged counts too; the kernel's own patience is a quarter of an hour.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)


def clip(text: str) -> str:
    """Return the last :data:`MAX_TEXT` characters, where an error's reason stands."""
    return text if len(text) <= MAX_TEXT else f"[...]{text[-MAX_TEXT:]}"


def _digest(secret: bytes, text: bytes) -> bytes:
    return hmac.new(secret, text, hashlib.sha256).hexdigest().encode()
