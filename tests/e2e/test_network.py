# SPDX-License-Identifier: Apache-2.0
"""Instances have an address each, from their first packet to their end."""
import re

import pytest

import harness

SERVER = 'echo "$HYPEMAN_IP $(cat /run/hypeman/address)" > /tmp/index.html; exec httpd -f -p 80 -h /tmp'
GUEST_MAC = "02:00:00:00:00:02"


def fetch(daemon, address, path="/"):
    """What a guest's web server says to the host; it may still be on its way up."""

    def once():
        try:
            with daemon.ns.connect((address, 80), 5) as s:
                s.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                data = b""
                while part := s.recv(65536):
                    data += part
                return data.decode().partition("\r\n\r\n")[2].strip() if b" 200 " in data else None
        except (ConnectionRefusedError, ConnectionResetError, TimeoutError):
            return None

    return harness.until(f"{address} answers", once)


def address_of(api, key):
    network = api.get(f"/instances/{key}")["network"]
    assert network["enabled"] and network["mac"] == GUEST_MAC
    return network["ip"]


def tap_of(daemon, address):
    words = daemon.ns.run(f"ip -o route get {address}").split()
    return words[words.index("dev") + 1]


@pytest.mark.core
def test_a_guest_serves_at_its_address_and_knows_it(daemon, api):
    one = api.run(SERVER, name="one")
    two = api.run(SERVER, name="two")
    assert one["network"]["ip"] != two["network"]["ip"]
    for row in (one, two):
        ip = row["network"]["ip"]
        assert fetch(daemon, ip) == f"{ip} {ip}"


def test_an_instance_without_a_network_has_no_device(daemon, api):
    row = api.create("ls /sys/class/net > /dev/console; sleep 1000", network={"enabled": False}, name="alone")
    assert row["network"]["ip"] is None and row["network"]["mac"] is None
    lines = [l["line"] if "line" in l else str(l) for l in api.logs(row["id"], follow=True, until=lambda l: "lo" in str(l))]
    assert not any("eth0" in one for one in lines)


def test_the_address_stays_through_stop_and_start_and_standby_and_restore(daemon, api):
    row = api.run(SERVER, name="keeper")
    ip = row["network"]["ip"]
    assert fetch(daemon, ip)
    for away, back in (("stop", "start"), ("standby", "restore")):
        api.post(f"/instances/keeper/{away}")
        assert address_of(api, "keeper") == ip
        api.post(f"/instances/keeper/{back}")
        api.wait("keeper", "Running")
        assert address_of(api, "keeper") == ip
        assert fetch(daemon, ip) == f"{ip} {ip}"


def test_an_open_connection_lives_on_through_standby_and_restore(daemon, api):
    row = api.run("exec nc -ll -p 7 -e cat", name="echo")

    def connect():
        try:
            return daemon.ns.connect((row["network"]["ip"], 7))
        except ConnectionRefusedError:
            return None

    with harness.until("it listens", connect) as s:
        s.sendall(b"before")
        assert s.recv(100) == b"before"
        api.post("/instances/echo/standby")
        api.post("/instances/echo/restore")
        s.sendall(b"after")
        assert s.recv(100) == b"after"


@pytest.mark.core
def test_forks_of_a_running_server_answer_at_once_each_at_its_own_address(daemon, api):
    source = api.run(SERVER, name="source")
    ip = source["network"]["ip"]
    assert fetch(daemon, ip)
    forks = [api.post("/instances/source/fork", {"name": name, "from_running": True}) for name in ("fork-a", "fork-b")]
    addresses = [address_of(api, one["id"]) for one in forks]
    assert len({ip, *addresses}) == 3
    for one in (ip, *addresses):
        assert fetch(daemon, one) == f"{ip} {ip}"  # the page was written before the fork


def test_the_first_packet_to_a_fork_is_answered_and_what_its_source_has_open_stays_the_sources(daemon, api):
    source = api.run("exec nc -ll -p 7 -e cat", name="source")
    connected = lambda: tries(lambda: daemon.ns.connect((source["network"]["ip"], 7)))  # noqa: E731
    with harness.until("it listens", connected) as s:
        s.sendall(b"before")
        assert s.recv(100) == b"before"
        forks = [api.post("/instances/source/fork", {"name": name, "from_running": True}) for name in ("one", "two")]
        for fork in forks:
            daemon.ns.run(f"busybox ping -c 1 -W 30 {fork['network']['ip']}")  # one, and no second
        s.sendall(b"after")
        assert s.recv(100) == b"after"
        for fork in forks:
            with daemon.ns.connect((fork["network"]["ip"], 7)) as other:
                other.sendall(b"fork")
                assert other.recv(100) == b"fork"
        s.sendall(b"still")
        assert s.recv(100) == b"still"


def tries(call):
    try:
        return call()
    except ConnectionRefusedError:
        return None


def test_a_guest_does_not_reach_the_daemons_api(tmp_path, rootfs):
    d = harness.Daemon(tmp_path)
    d.listen = "0.0.0.0:0"
    d.ns.run("ip link add up0 type veth peer name up1")
    d.ns.run("ip addr add 198.51.100.1/24 dev up0")
    for name in ("up0", "up1"):
        d.ns.run(f"ip link set {name} up")
    try:
        d.start().import_image(rootfs)
        d.mark()
        port = d.tcp_address()[1]
        with d.ns.connect(("192.0.0.1", port)):
            pass  # it is there, for the host
        asks = [f"(echo GET /health HTTP/1.0; echo) | nc -w 9 {one} {port} 2>&1" for one in ("192.0.0.1", "198.51.100.1", "10.100.0.1", "127.0.0.1")]
        row = d.api.create(f"({'; '.join(asks)}; echo asked) > /dev/console; sleep 1000", name="asker")
        lines = [str(line) for line in d.api.logs(row["id"], follow=True, until=lambda l: "asked" in str(l))]
        assert not any("status" in line for line in lines), lines
        assert sum("refused" in line for line in lines) >= 2, lines
        d.assert_nothing_left()
        d.stop()
    finally:
        d.kill_all()


def test_a_fork_learns_its_new_address(daemon, api):
    api.run('ln -s /run/hypeman/address /tmp/index.html; exec httpd -f -p 80 -h /tmp', name="teller")
    fork = api.post("/instances/teller/fork", {"name": "told", "from_running": True})
    ip = address_of(api, fork["id"])
    harness.until("it was told", lambda: fetch(daemon, ip) == ip)


def test_guests_reach_one_another(daemon, api):
    one = api.run(SERVER, name="one")
    ip = one["network"]["ip"]
    assert fetch(daemon, ip)
    asker = api.create(f"wget -q -O - http://{ip}/ > /dev/console; sleep 1000", name="asker")
    api.logs(asker["id"], follow=True, until=lambda l: ip in str(l))


def test_a_deleted_instance_leaves_no_route(daemon, api):
    row = api.run(SERVER, name="gone")
    ip = row["network"]["ip"]
    tap = tap_of(daemon, ip)
    api.delete("/instances/gone", graceful_shutdown=False)
    harness.until("the route is gone", lambda: ip not in daemon.ns.run("ip route show table all"))
    assert ip not in daemon.ns.run("nft list map ip hypeman outer")
    assert tap in daemon.ns.run("ip -br link")  # to be used again


@pytest.mark.core
def test_a_restarted_daemon_finds_its_guests_in_their_places(own_daemon):
    d = own_daemon
    row = d.api.run(SERVER, name="web")
    sleeper = d.api.run(SERVER, name="sleeper")
    d.api.post("/instances/sleeper/standby")
    ip, tap = row["network"]["ip"], tap_of(d, row["network"]["ip"])
    assert fetch(d, ip)
    d.end(9)
    assert fetch(d, ip)  # without a daemon
    links = [one for one in d.ns.run("ip -br link").splitlines() if one.startswith("hm")]
    assert len(links) == 1, links  # what no VMM holds went with the daemon
    d.start()
    assert address_of(d.api, "web") == ip and tap_of(d, ip) == tap
    assert fetch(d, ip)
    d.api.post("/instances/sleeper/restore")
    assert address_of(d.api, "sleeper") == sleeper["network"]["ip"]
    assert fetch(d, sleeper["network"]["ip"])
    other = d.api.run(SERVER, name="other")
    assert other["network"]["ip"] not in (ip, sleeper["network"]["ip"])
    d.api.delete("/instances/web", graceful_shutdown=False)
    harness.until("its TAP is used again", lambda: ip not in d.ns.run(f"ip link show {tap}").split())


def test_the_last_daemon_without_guests_leaves_the_host_as_it_was(own_daemon):
    d = own_daemon
    before = d.ns.run("ip addr show lo")
    assert "192.0.0.1" in before
    d.end(15)
    assert d.ns.run("nft list ruleset").strip() == ""
    assert "192.0.0.1" not in d.ns.run("ip addr show lo")
    assert "hm" not in d.ns.run("ip -br link")
    d.start()


def test_the_network_can_be_turned_off(tmp_path, rootfs):
    d = harness.Daemon(tmp_path, settings={"NETWORK__ENABLED": "false"})
    try:
        d.start().import_image(rootfs)
        d.mark()
        assert d.api.run(name="off")["network"]["ip"] is None
        network = d.api.get("/capabilities")["network"]
        assert not network["available"] and "network.enabled" in network["unavailable_reason"]
        assert d.ns.run("nft list ruleset").strip() == ""
        d.assert_nothing_left()
        d.stop()
    finally:
        d.kill_all()


def test_a_subnet_that_the_host_uses_is_refused_with_the_setting_to_change(tmp_path):
    d = harness.Daemon(tmp_path)
    try:
        d.ns.run("ip link add corp0 type veth peer name corp1")
        d.ns.run("ip addr add 10.100.7.1/24 dev corp0")
        d.ns.run("ip link set corp0 up")
        with pytest.raises(AssertionError, match="the daemon ended with 1"):
            d.start()
        assert "10.100.7.0/24" in d.log_text() or "10.100.7.1/32" in d.log_text()
        assert "network.subnet_cidr" in d.log_text()
    finally:
        d.kill_all()
