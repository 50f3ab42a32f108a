"""What systemd is told of a service of `Type=notify`; nothing where there is no systemd."""

from __future__ import annotations

import os
import socket

__all__ = ["notify"]


def notify(state: str) -> bool:
    """Tells systemd, as sd_notify(3) does: "READY=1", "STOPPING=1", "STATUS=...".

    Returns:
        Whether anybody was told.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.sendto(state.encode(), address.replace("@", "\0", 1))
        except OSError:
            return False
    return True
