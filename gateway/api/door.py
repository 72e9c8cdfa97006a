"""Door: who may talk to a gateway that asks for no key.

It listens on loopback only, but a browser on the same machine carries requests there for any page that it shows. A
page of another site names itself in `Origin`; one that has bent its own name to this machine (DNS rebinding) names
itself in `Host`. Programs send no `Origin`, and name this machine as it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from gateway.errors import Forbidden

NAMES = frozenset((b"host", b"origin"))


def is_loopback(host: str) -> bool:
    """True when only this machine can reach `host`: an address of its own, `localhost`, or a name under that."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


def refusal(headers: Iterable[tuple[bytes, bytes]]) -> Forbidden | None:
    """Why a request with these headers, names in lower case, is not let in without a key; None: it is."""
    for name, value in headers:
        if name in NAMES and not _is_here(name, value.decode("latin-1")):
            return Forbidden(
                f"This gateway asks for no key and so answers its own machine only: the {name.decode().title()} header "
                "names another. Call it as 127.0.0.1 or localhost, or configure keys (`gkt keys create`)."
            )
    return None


def _is_here(name: bytes, value: str) -> bool:
    try:
        host = urlsplit(value if name == b"origin" else f"//{value}").hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)
