"""Door: who may talk to a gateway that asks for no key.

It listens on loopback only, but a browser on the same machine carries requests there for any page that it shows. A
page of another site names itself in `Origin`; one that has bent its own name to this machine (DNS rebinding) names
itself in `Host`. A page that only shows a picture from here sends no `Origin`, but browsers say that it is from
another site (`Sec-Fetch-Site`); a link that somebody follows says so too, and is let in. Programs send neither, and
name this machine as it is.
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


def refusal(headers: Iterable[tuple[bytes, bytes]], method: str = "GET") -> Forbidden | None:
    """Why a request with these headers, names in lower case, is not let in without a key; None: it is."""
    fetched: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.startswith(b"sec-fetch-"):
            fetched[name] = value
        if name in NAMES and not _is_here(name, value.decode("latin-1")):
            return Forbidden(
                f"This gateway asks for no key and so answers its own machine only: the {name.decode().title()} header "
                "names another. Call it as 127.0.0.1 or localhost, or configure keys (`gkt keys create`)."
            )
    if fetched and fetched.get(b"sec-fetch-site") == b"cross-site" and not (method == "GET" and _followed(fetched)):
        return Forbidden(
            "This gateway asks for no key and so answers its own machine only: the Sec-Fetch-Site header says that a "
            "page of another site asks. Open the address itself, or configure keys (`gkt keys create`)."
        )
    return None


def _followed(fetched: dict[bytes, bytes]) -> bool:
    """True for an address that somebody opened in a window: not for a frame, nor anything else within a page."""
    return fetched.get(b"sec-fetch-mode") == b"navigate" and fetched.get(b"sec-fetch-dest", b"document") == b"document"


def _is_here(name: bytes, value: str) -> bool:
    try:
        host = urlsplit(value if name == b"origin" else f"//{value}").hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)
