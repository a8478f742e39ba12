"""Where reports may go: addresses told apart by their networks, names by what they stand for."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import labelers.hosts
from labelers import UsageError
from labelers.hosts import allowed_addresses, is_private

PRIVATE = ["127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.7", "::1", "fd00::1", "fc00::1"]
PUBLIC = [
    "8.8.8.8",
    "172.32.0.1",
    "100.64.0.1",  # shared by the customers of a provider (RFC 6598)
    "169.254.169.254",  # link-local: where a cloud's machines ask for their secrets
    "fe80::1",
    "fe80::1%eth0",
    "0.0.0.0",
    "::",
    "192.0.2.1",  # documentation; ipaddress calls it private
    "198.18.0.1",
    "203.0.113.9",
    "2001:db8::1",
    "2606:4700::1111",
    "255.255.255.255",
    "224.0.0.1",
    "64:ff9b::7f00:1",  # an IPv4 address behind a translator
    "2002:7f00:1::",
    "::127.0.0.1",
]
NO_ADDRESS = ["", "localhost", "hospital.example", "127.1", "0x7f000001", "127.0.0.1 ", "[::1]", "١٢٧.0.0.1"]


@pytest.mark.parametrize("address", [*PRIVATE, "::ffff:10.0.0.1", "::ffff:127.0.0.1"])
def test_private(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize("address", [*PUBLIC, *NO_ADDRESS, "::ffff:8.8.8.8", "::ffff:169.254.169.254"])
def test_not_private(address: str) -> None:
    assert not is_private(address)


def test_the_machine_s_own_address_is_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.9", 9))
        except OSError:
            pytest.skip("this machine has no network")
        own = probe.getsockname()[0]
    monkeypatch.setattr(labelers.hosts, "_PRIVATE", ())
    assert is_private(own)
    assert is_private(f"::ffff:{own}")
    assert is_private("127.0.0.1")
    assert not is_private("10.77.66.55"), "without the list of networks"


@pytest.fixture
def lookup(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A name service of the test: name -> addresses."""
    names: dict[str, list[str]] = {}

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def test_a_name_stands_for_its_addresses(lookup: dict[str, list[str]]) -> None:
    lookup["gpu.hospital.example"] = ["10.0.0.5", "10.0.0.5", "fd00::5"]
    assert allowed_addresses("gpu.hospital.example", 8000, (), "--x ") == ("10.0.0.5", "fd00::5")


@pytest.mark.parametrize("addresses", [["93.184.216.34"], ["10.0.0.5", "93.184.216.34"], ["169.254.169.254"]])
def test_one_address_outside_is_enough(lookup: dict[str, list[str]], addresses: list[str]) -> None:
    lookup["api.example"] = addresses
    with pytest.raises(UsageError) as error:
        allowed_addresses("api.example", 443, ("other.example", "example", "pi.example"), "--set allow_host=")
    assert "'api.example' is at " + addresses[-1] in str(error.value)
    assert str(error.value).endswith("--set allow_host=api.example")


@pytest.mark.parametrize("allowed", ["api.example", "API.Example", "api.example."])
def test_a_host_is_allowed_by_name(lookup: dict[str, list[str]], allowed: str) -> None:
    lookup["api.example"] = ["93.184.216.34"]
    assert allowed_addresses("api.example", 443, [allowed], "--x ") == ("93.184.216.34",)


def test_an_unknown_name(lookup: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match=r"'nowhere\.example' is unknown"):
        allowed_addresses("nowhere.example", 80, ["nowhere.example"], "--x ")


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "..", "a..b"])
def test_a_name_that_is_none(host: str) -> None:
    with pytest.raises(UsageError, match="is unknown"):
        allowed_addresses(host, 80, (), "--x ")


@pytest.mark.parametrize(("host", "address"), [("127.1", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")])
def test_numbers_in_other_forms_are_looked_up(host: str, address: str) -> None:
    assert allowed_addresses(host, 80, (), "--x ") == (address,)


def test_a_public_address_in_another_form_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'134744072' is at 8\.8\.8\.8,"):
        allowed_addresses("134744072", 80, (), "--x ")
