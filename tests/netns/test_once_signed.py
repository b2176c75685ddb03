"""`--once` in a signed request: one connection through a door that opens for any number otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from doorward.lab.topology import Lab
from doorward.signed.message import CLOSE, ONCE
from tests.netns.test_signed import Site
from tests.support.signed import Signer

pytestmark = pytest.mark.netns("nft", "knock")


@pytest.fixture(scope="module")
def standing_site(module_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    module_lab.server.start_greeter(22)
    site = Site(module_lab, tmp_path_factory.mktemp("gate"))
    site.text += '\n[doors.dns]\nopens = ["53/udp"]\n[doors.mosh]\nopens = ["22/tcp", "60000-61000/udp"]\n'
    with site.running():
        yield site


@pytest.fixture
def site(standing_site: Site) -> Site:
    standing_site.renew()
    return standing_site


@pytest.mark.parametrize("version", [4, 6])
def test_one_connection_by_a_signed_knock(site: Site, version: int) -> None:
    guest = site.visitors.fresh(version)
    site.knock(guest, flags=ONCE)
    site.daemon.event("opened", address=str(guest), by="key laptop")
    with guest.connect() as connection:
        port = connection.getsockname()[1]
        site.daemon.event("closed", address=str(guest), by=f"use from port {port}")
        assert not guest.gets_in()
    site.knock(guest)  # without --once, for any number
    site.daemon.event("opened", address=str(guest))
    assert guest.gets_in()
    assert guest.gets_in()


def test_holders_of_one_opening(site: Site) -> None:
    """A connection uses up what two keys opened for one; what a third holds open for more stays."""
    guest, others = site.visitors.fresh(4), [Signer("ada"), Signer("bob")]
    site.files.authorize(*(signer.line for signer in (*others, site.laptop)))
    site.daemon.message("accepting signed knocks")
    site.knock(guest, flags=ONCE)
    site.daemon.event("opened", address=str(guest))
    site.send(guest, others[0].packet(site.files.server, flags=ONCE))
    site.daemon.event("prolonged", address=str(guest), by="key ada")
    site.send(guest, others[1].packet(site.files.server))
    site.daemon.event("prolonged", address=str(guest), by="key bob")
    guest.connect().close()
    released = site.daemon.event("released", address=str(guest))
    assert released["still"] == "key bob"
    guest.connect().close()
    site.send(guest, others[1].packet(site.files.server, flags=CLOSE))
    site.daemon.event("closed", address=str(guest), by="key bob")
    assert not guest.gets_in()
    assert site.daemon.elements() == {}


def test_close_of_a_used_opening_and_of_one_that_is_not(site: Site) -> None:
    guest = site.visitors.fresh(4)
    site.knock(guest, flags=ONCE)
    site.daemon.event("opened", address=str(guest))
    site.knock(guest, flags=CLOSE)
    site.daemon.event("closed", address=str(guest), by="key laptop")
    assert not guest.gets_in()
    site.knock(guest, flags=ONCE)
    site.daemon.event("opened", address=str(guest))
    with guest.connect() as connection:
        site.daemon.event("closed", address=str(guest), by=f"use from port {connection.getsockname()[1]}")
    site.knock(guest, flags=CLOSE)
    site.daemon.event("not_open", address=str(guest))
    assert not guest.gets_in()


def test_what_cannot_open_for_one_connection(site: Site) -> None:
    guest = site.visitors.fresh(4)
    site.files.authorize(f'addresses="10.1.0.0/16" {site.laptop.line}')
    site.daemon.message("accepting signed knocks")
    site.knock(guest, "dns", flags=ONCE)
    assert "door dns does not open TCP ports alone" in site.refusal(guest)
    site.knock(guest, "mosh", flags=ONCE)
    assert "door mosh does not open TCP ports alone" in site.refusal(guest)
    site.knock(guest, flags=ONCE, asked=ip_network("10.1.0.0/24"))
    reason = site.daemon.event("refused", address="10.1.0.0/24")["reason"]
    assert "not to the network 10.1.0.0/24" in reason
    assert site.daemon.ask("status")["signed"]["refused"] == {"once-unsupported": 3}
    assert site.daemon.elements() == {}
