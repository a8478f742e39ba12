"""Where reports may be sent: to loopback and private addresses, and to hosts that the user allows by name."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from labelers.errors import UsageError

__all__ = ["allowed_addresses", "is_private"]

_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
"""Loopback (RFC 1122, RFC 4291) and what no router of the internet passes on (RFC 1918, RFC 4193). Not ``is_private`` of
``ipaddress``: that also holds link-local addresses, where a cloud's own services listen, and 0.0.0.0."""


def is_private(address: str) -> bool:
    """Whether an address in digits is loopback, private or this machine's own; an IPv4 address inside an IPv6 one counts as itself.

    Args:
        address: An IPv4 or IPv6 address; a name is never private.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    inner = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(inner.version == network.version and inner in network for network in _PRIVATE) or _is_own(str(inner))


def _is_own(address: str) -> bool:
    """Whether an address is one of this machine's: what is sent there stays here, and is sent from that address itself."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # of a datagram socket: nothing is sent
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False


def allowed_addresses(host: str, port: int, allowed: Collection[str], option: str) -> tuple[str, ...]:
    """Look up a host once and return its addresses, each of them private or the host allowed.

    Who connects must use these addresses and not the name, which may stand for another one a moment later.

    Args:
        host: A name or an address in digits.
        port: The port.
        allowed: Hosts, by name as ``host`` has it, that may be anywhere.
        option: How the user allows one, up to the name.

    Raises:
        UsageError: The host is unknown, or one of its addresses is neither private nor allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # UnicodeError: a label of more than 63 characters
        raise UsageError(f"the host '{host}' is unknown (no address was found); correct its name, or give an address") from None
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    if _plain(host) not in map(_plain, allowed):
        for address in addresses:
            if not is_private(address):
                where = f"the host '{host}' is" if address == host else f"the host '{host}' is at {address},"
                raise UsageError(
                    f"{where} outside loopback and private ranges, where reports are not sent; "
                    f"if it may have them, say so by {option}{host}"
                )
    return addresses


def _plain(host: str) -> str:
    return host.lower().rstrip(".").strip("[]")
