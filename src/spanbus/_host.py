"""The name of this host, and its loopback addresses."""

from __future__ import annotations

import os


def host_name() -> str:
    """Return ``socket.gethostname()``, without importing ``socket`` if the platform has ``uname``. May raise ``OSError``."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket

    return socket.gethostname()


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port and brackets, is a loopback address."""
    if host.lower().rstrip(".") == "localhost":
        return True
    import ipaddress  # lazy: many commands need only the host name

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
