"""This host: its name, and the addresses by which it reaches itself."""

from __future__ import annotations

import os


def host_name() -> str:
    """Return what ``socket.gethostname`` does, without its import where the system has it. May raise ``OSError``."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket

    return socket.gethostname()


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port and brackets, is this machine's loopback."""
    if host.lower().rstrip(".") == "localhost":
        return True
    import ipaddress  # not for a command that asks for the name alone

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
