"""Names and addresses of clusters that exist side by side."""

from __future__ import annotations

import ipaddress

import pytest
from e2e.cluster.handles import MissingError
from e2e.cluster.layout import Layout, chosen_name, claim, known


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path))
    return tmp_path


def test_a_cluster_keeps_its_number_and_no_other_gets_it():
    first, second = claim("one"), claim("two")
    assert (first.number, second.number) == (0, 1)
    assert claim("one") == first == known("one")
    (second.folder / "number").unlink()
    assert known("two") is None
    assert claim("three").number == 1


@pytest.mark.parametrize("ipv6", [False, True])
def test_no_two_clusters_and_no_two_nodes_share_an_address(ipv6):
    layouts = [Layout("a", 0, ipv6), Layout("b", 1, ipv6)]
    pods = [ipaddress.ip_network(layout.node(index).pods) for layout in layouts for index in (1, 2)]
    assert not any(one.overlaps(other) for one in pods for other in pods if one is not other)
    addresses = [layout.node(index).address for layout in layouts for index in (1, 2)] + [x.host for x in layouts]
    assert len(set(addresses)) == len(addresses)
    for layout in layouts:
        whole = ipaddress.ip_network(layout.pods)
        assert all(ipaddress.ip_network(layout.node(index).pods).subnet_of(whole) for index in (1, 2))
        services = ipaddress.ip_network(layout.services)
        assert all(ipaddress.ip_address(each) in services for each in (layout.api_service, layout.dns_service))


def test_a_cluster_keeps_its_family():
    assert claim("six", ipv6=True).ipv6
    assert claim("six").ipv6
    assert known("six").urls.registry == "[fd88:0::1]:5000"


def test_names_of_devices_are_short_enough():
    """Linux allows 15 characters."""
    assert len(Layout("a-name-of-thirty-two-characters-", 255).link) <= 15


@pytest.mark.parametrize("name", ["../x", "Upper", "a b", "-a", "a" * 33])
def test_a_name_that_is_no_name_is_refused(name, monkeypatch):
    monkeypatch.setenv("OCTAVO_CLUSTER", name)
    with pytest.raises(MissingError, match=r"OCTAVO_CLUSTER is .* has to be"):
        chosen_name()


def test_each_folder_with_a_kubeconfig_is_noted_once():
    """A cluster can then be removed from another checkout than the one that made it."""
    first, other = claim("octavo"), claim("other")
    assert first.hand_out().parent == other.hand_out().parent.parent
    first.hand_out()
    assert first.handed_out == [first.hand_out()]
