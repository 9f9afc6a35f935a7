# SPDX-License-Identifier: Apache-2.0
"""At the edge of the guests' network: rates, published ports, names."""
import errno
import os
import pathlib
import signal
import socket
import struct

import pytest

import doubled
import harness
from test_network import SERVER, fetch, tap_of

LIMITS = {"bandwidth_download": "80Mbps", "bandwidth_upload": "5MB/s"}


def limits_of(daemon, tap):
    """What the kernel limits of one TAP: (to the guest, from it), None for nothing."""

    def rate(device):
        shown = daemon.ns.run(f"tc qdisc show dev {device}", check=False).stdout
        return shown.split(" rate ")[1].split()[0] if " rate " in shown else None

    return rate(tap), rate("up-" + tap)


def test_the_rates_of_an_instance_are_the_kernels_and_change_while_it_runs(daemon, api):
    row = api.run(SERVER, name="slow", network=LIMITS)
    ip, tap = row["network"]["ip"], tap_of(daemon, row["network"]["ip"])
    assert (row["network"]["bandwidth_download"], row["network"]["bandwidth_upload"]) == ("9.5 MB/s", "5.0 MB/s")
    assert limits_of(daemon, tap) == ("80Mbit", "41943Kbit")
    assert fetch(daemon, ip) == f"{ip} {ip}"
    changed = api.ok("PATCH", "/instances/slow", {"network": {"bandwidth_upload": "8Mbps", "bandwidth_download": "0"}})
    assert "bandwidth_download" not in changed["network"]
    assert changed["network"]["bandwidth_upload"] == "976.6 KB/s"
    assert limits_of(daemon, tap) == (None, "8Mbit")
    assert fetch(daemon, ip)
    api.fails(400, "invalid_bandwidth_upload", "PATCH", "/instances/slow", {"network": {"bandwidth_upload": "fast"}})
    api.fails(501, "not_implemented", "PATCH", "/instances/slow", {"ttl": "5m"})
    assert limits_of(daemon, tap) == (None, "8Mbit")


def test_the_rates_stay_the_instances_and_never_its_taps(daemon, api):
    row = api.run(SERVER, name="slow", network=LIMITS)
    ip, tap = row["network"]["ip"], tap_of(daemon, row["network"]["ip"])
    api.post("/instances/slow/standby")
    harness.until("the TAP is free of limits", lambda: limits_of(daemon, tap) == (None, None))
    api.ok("PATCH", "/instances/slow", {"network": {"bandwidth_upload": "16Mbps"}})
    assert limits_of(daemon, tap) == (None, None)
    api.post("/instances/slow/restore")
    assert limits_of(daemon, tap_of(daemon, ip)) == ("80Mbit", "16Mbit")
    free = api.run(SERVER, name="free")
    assert limits_of(daemon, tap_of(daemon, free["network"]["ip"])) == (None, None)
    fork = api.post("/instances/slow/fork", {"name": "slow-too", "from_running": True})
    assert limits_of(daemon, tap_of(daemon, fork["network"]["ip"])) == ("80Mbit", "16Mbit")


def test_the_rates_live_through_a_restart_of_the_daemon(own_daemon):
    d = own_daemon
    row = d.api.run(SERVER, name="slow", network=LIMITS)
    tap = tap_of(d, row["network"]["ip"])
    d.end(9)
    d.ns.run(f"tc qdisc del dev {tap} root")
    d.start()
    assert limits_of(d, tap) == ("80Mbit", "41943Kbit")
    d.api.delete("/instances/slow", graceful_shutdown=False)
    harness.until("the TAP is free of limits", lambda: limits_of(d, tap) == (None, None))
    assert "up-" not in d.ns.run("ip -br link")


def test_a_guest_whose_tap_somebody_removed_says_so_and_has_another_after_its_sleep(daemon, api):
    ip = api.run(SERVER, name="web")["network"]["ip"]
    assert fetch(daemon, ip)
    daemon.ns.run(f"ip link del {tap_of(daemon, ip)}")
    harness.until("it is said", lambda: f"the guest at {ip} has no network" in daemon.log_text())
    usage = api.get("/instances/web/stats")
    assert usage["network_rx_bytes"] == usage["network_tx_bytes"] == 0
    refusal = api.fails(409, None, "PATCH", "/instances/web", {"network": {"bandwidth_upload": "8Mbps"}})
    assert "restart" in refusal["message"]
    api.post("/instances/web/standby")
    api.post("/instances/web/restore")
    assert fetch(daemon, ip) == f"{ip} {ip}"


def test_the_rates_of_a_stopped_instance_are_those_of_its_next_start(daemon, api):
    ip = api.run(SERVER, name="web")["network"]["ip"]
    api.post("/instances/web/stop")
    api.ok("PATCH", "/instances/web", {"network": {"bandwidth_upload": "8Mbps"}})
    api.post("/instances/web/start", {})
    api.wait("web", "Running")
    assert limits_of(daemon, tap_of(daemon, ip)) == (None, "8Mbit")


def test_an_instance_without_a_network_has_no_rates_to_change(api):
    made = api.create("sleep 1000", name="alone", network={"enabled": False, "bandwidth_upload": "80Mbps"})
    for rate in "bandwidth_upload", "bandwidth_download":
        refusal = api.fails(409, "invalid_state", "PATCH", "/instances/alone", {"network": {rate: "8Mbps"}})
        assert "network.enabled" in refusal["message"] and refusal["message"].startswith("update alone: ")
    assert api.ok("PATCH", "/instances/alone", {"network": {}})["network"] == made["network"], "nothing is asked for"
    lifted = api.ok("PATCH", "/instances/alone", {"network": {"bandwidth_upload": "0"}})
    assert "bandwidth_upload" not in lifted["network"]


PORTS = [{"host_port": 8080, "guest_port": 80}]


def fetch_at(daemon, address, port):
    """What answers at a port; None while nobody does."""
    try:
        with daemon.ns.connect((address, port), 5) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            while part := s.recv(65536):
                data += part
            return data.decode().partition("\r\n\r\n")[2].strip()
    except (ConnectionRefusedError, ConnectionResetError, TimeoutError):
        return None


def published(daemon, address="127.0.0.1", port=8080):
    return harness.until(f"{address}:{port} answers", lambda: fetch_at(daemon, address, port))


def refused(daemon, address="127.0.0.1", port=8080):
    """A TAP goes back a moment after its VMM's end was answered; who connects in between waits in vain."""
    def is_refused():
        try:
            daemon.ns.connect((address, port), 1).close()
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
        return False
    harness.until(f"{address}:{port} refuses", is_refused)


def test_a_published_port_is_its_instances_from_start_to_stop(daemon, api):
    row = api.run(SERVER, name="web", ports=PORTS)
    ip = row["network"]["ip"]
    assert row["ports"] == [{"host_ip": "0.0.0.0", "host_port": 8080, "guest_port": 80, "protocol": "tcp"}]
    assert published(daemon) == f"{ip} {ip}"
    usage = api.get("/instances/web/stats")
    assert 0 < usage["network_rx_bytes"] < 1 << 20 and 0 < usage["network_tx_bytes"] < 1 << 20
    refusal = api.fails(409, "conflict", "POST", "/instances", {"name": "late", "image": harness.IMAGE, "ports": PORTS})
    assert "8080/tcp" in refusal["message"] and "web" in refusal["message"]
    assert [one["name"] for one in api.get("/instances")] == ["web"]
    api.post("/instances/web/standby")
    refused(daemon)
    api.fails(409, "conflict", "POST", "/instances", {"name": "late", "image": harness.IMAGE, "ports": PORTS})
    api.post("/instances/web/restore")
    assert published(daemon) == f"{ip} {ip}"
    api.post("/instances/web/stop")
    assert api.get("/instances/web/stats")["network_rx_bytes"] == 0
    other = api.run(SERVER, name="other", ports=PORTS)
    assert published(daemon).startswith(other["network"]["ip"])
    assert "other" in api.fails(409, "conflict", "POST", "/instances/web/start", {})["message"]
    assert api.get("/instances/web")["state"] == "Stopped"
    api.delete("/instances/other", graceful_shutdown=False)
    api.post("/instances/web/start", {})
    api.wait("web", "Running")
    assert published(daemon) == f"{ip} {ip}"


def connections_of(api, key):
    usage = api.get(f"/instances/{key}/stats")
    return usage["active_inbound_connections"], usage["active_outbound_connections"]


def test_open_connections_are_counted_until_they_close_and_end_with_their_instance(own_daemon):
    d, api = own_daemon, own_daemon.api
    row = api.run("exec nc -ll -p 9 -e cat", name="busy", ports=[{"host_port": 8080, "guest_port": 9}])
    ip = row["network"]["ip"]
    harness.until("it answers", lambda: tries(d, ip, 9))
    harness.until("nothing is open", lambda: connections_of(api, "busy") == (0, 0))
    held = [d.ns.connect(("127.0.0.1", 8080), 5), d.ns.connect((ip, 9), 5)]
    harness.until("two are open", lambda: connections_of(api, "busy") == (2, 0))
    d.end(9)
    d.start()
    harness.until("two are open still", lambda: connections_of(api, "busy") == (2, 0))
    held.pop().close()
    harness.until("one is open", lambda: connections_of(api, "busy") == (1, 0))
    api.post("/instances/busy/standby")
    assert connections_of(api, "busy") == (1, 0)  # it goes on when the guest does
    api.post("/instances/busy/restore")
    held[0].sendall(b"x")
    assert held[0].recv(1) == b"x"
    api.post("/instances/busy/stop")
    harness.until("they ended with it", lambda: connections_of(api, "busy") == (0, 0))
    alone = api.create("sleep 1000", network={"enabled": False}, name="alone")
    assert connections_of(api, alone["id"]) == (None, None)


def tries(daemon, ip, port):
    try:
        daemon.ns.connect((ip, port), 5).close()
        return True
    except OSError:
        return False


def test_who_asks_as_a_guest_falls_asleep_is_told_soon(daemon, api):
    """Also by the TAP of a VMM that is gone, before it goes back."""
    api.run(SERVER, name="web", ports=PORTS)
    assert published(daemon)
    for _ in range(3):
        api.post("/instances/web/standby")
        with pytest.raises(OSError) as error:
            daemon.ns.connect(("127.0.0.1", 8080), 30)
        assert error.value.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH), error.value
        api.post("/instances/web/restore")
        assert published(daemon)


def test_a_port_that_a_program_of_the_host_has_is_refused_and_a_fork_takes_none(daemon, api):
    listening = daemon.ns.listen(8081, lambda c: c.sendall(b"the host"))
    ports = [{"host_port": 8081, "guest_port": 80, "protocol": "tcp"}]
    refusal = api.fails(409, "conflict", "POST", "/instances", {"name": "web", "image": harness.IMAGE, "ports": ports})
    assert "8081/tcp" in refusal["message"] and "program" in refusal["message"]
    listening.close()
    api.run(SERVER, name="web", ports=ports)
    fork = api.post("/instances/web/fork", {"name": "fork", "from_running": True})
    assert "ports" not in fork and fork["state"] == "Running"


def test_ports_that_make_no_sense(api):
    for ports in ([1], [{}], [{"host_port": 80}], [{"host_port": 0, "guest_port": 1}], [{"host_port": 1, "guest_port": 65536}],
                  [{"host_port": 1, "guest_port": 1, "protocol": "icmp"}], [{"host_port": 1, "guest_port": 1, "host_ip": "x"}],
                  [{"host_port": 9, "guest_port": 1}] * 65):
        api.fails(400, ("invalid_ports", "Bad Request"), "POST", "/instances", {"name": "x", "image": harness.IMAGE, "ports": ports})
    for ip in ("::1", "::", "224.0.0.1", "255.255.255.255", "0.0.0.1"):
        api.fails(400, "invalid_ports", "POST", "/instances",
                  {"name": "x", "image": harness.IMAGE, "ports": [{"host_ip": ip, "host_port": 9, "guest_port": 1}]})
    api.fails(409, "conflict", "POST", "/instances", {"name": "x", "image": harness.IMAGE, "ports": [{"host_port": 9, "guest_port": 1}] * 2})
    api.fails(400, "invalid_ports", "POST", "/instances",
              {"name": "x", "image": harness.IMAGE, "network": {"enabled": False}, "ports": PORTS})
    api.fails(400, "invalid_request", "POST", "/instances",
              {"name": "x", "image": harness.IMAGE, "ports": [{"host_ip": "8.8.8.8", "host_port": 9, "guest_port": 1}]})


def test_published_ports_live_through_a_restart_of_the_daemon(own_daemon):
    d = own_daemon
    row = d.api.run(SERVER, name="web", ports=PORTS)
    ip = row["network"]["ip"]
    d.api.run(SERVER, name="asleep", ports=[{"host_port": 8082, "guest_port": 80}])
    d.api.post("/instances/asleep/standby")
    assert published(d) == f"{ip} {ip}"
    d.end(9)
    assert published(d) == f"{ip} {ip}"  # without a daemon
    d.ns.run("nft delete table ip hypeman_ports")
    d.start()
    assert published(d) == f"{ip} {ip}"
    for port in (8080, 8082):
        d.api.fails(409, "conflict", "POST", "/instances",
                    {"name": "late", "image": harness.IMAGE, "ports": [{"host_port": port, "guest_port": 80}]})
    d.api.post("/instances/asleep/restore")
    assert published(d, port=8082)
    d.api.delete("/instances/web", graceful_shutdown=False)
    refused(d)


def answers(daemon, name, kind=1):
    """What the gateway says to a question for a name: (code, [(ttl, data), ...]); None for silence."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0" + struct.pack("!HH", kind, 1)
    with daemon.ns.socket(socket.SOCK_DGRAM, seconds=1) as s:
        s.connect(("192.0.0.1", 53))
        try:
            s.send(struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + question)
            got = s.recv(4096)
        except (TimeoutError, ConnectionRefusedError):
            return None
    found, at = [], 12 + len(question)
    for _ in range(struct.unpack("!H", got[6:8])[0]):
        _, _, _, ttl, size = struct.unpack("!HHHIH", got[at : at + 12])
        found.append((ttl, got[at + 12 : at + 12 + size]))
        at += 12 + size
    return got[3] & 15, found


def leads_to(daemon, name, address):
    wanted = (0, [(5, socket.inet_aton(address))]) if address else (3, [])
    harness.until(f"{name} leads to {address}", lambda: answers(daemon, name) == wanted)


def resolver_of(daemon):
    """The dnsmasq in this namespace."""
    for pid in daemon.ns.processes():
        if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "dnsmasq":
            return pid
    return None


def test_guests_find_one_another_by_name_and_by_the_beginning_of_an_id(daemon, api):
    assert api.get("/capabilities")["network"]["names"] == {"available": True, "domain": "hypeman.internal"}
    one = api.run(SERVER, name="one")
    ip = one["network"]["ip"]
    for name in ("one", one["id"], one["id"][:8], one["id"][:15]):
        leads_to(daemon, f"{name}.hypeman.internal", ip)
    leads_to(daemon, f"{one['id'][:7]}.hypeman.internal", None)
    leads_to(daemon, "two.hypeman.internal", None)
    assert fetch(daemon, ip)
    two = api.create("cat /etc/resolv.conf > /dev/console; wget -q -O - http://one.hypeman.internal/ > /dev/console; sleep 1000", name="two")
    seen = api.logs(two["id"], follow=True, until=lambda l: ip in str(l))
    assert any("nameserver 192.0.0.1" in str(line) for line in seen)
    fork = api.post("/instances/one/fork", {"name": "three", "from_running": True})
    leads_to(daemon, "three.hypeman.internal", fork["network"]["ip"])
    api.post("/instances/one/standby")
    leads_to(daemon, "one.hypeman.internal", ip)  # its address is kept
    api.delete("/instances/three", graceful_shutdown=False)
    leads_to(daemon, "three.hypeman.internal", None)


def test_a_resolver_that_ends_is_started_again_and_ends_with_the_daemon(own_daemon):
    d = own_daemon
    ip = d.api.run(SERVER, name="web")["network"]["ip"]
    leads_to(d, "web.hypeman.internal", ip)
    first = resolver_of(d)
    status = pathlib.Path(f"/proc/{first}/status").read_text()
    assert "CapEff:\t0000000000000000" in status and "Uid:\t0\t" not in status
    os.kill(first, signal.SIGKILL)
    leads_to(d, "web.hypeman.internal", ip)
    second = resolver_of(d)
    assert second != first
    assert "dnsmasq ended with status 137" in d.log_text()
    d.end(9)
    leads_to(d, "web.hypeman.internal", ip)  # guests go on
    d.start()
    harness.wait_gone(second)
    leads_to(d, "web.hypeman.internal", ip)
    third = resolver_of(d)
    d.end(15)
    harness.wait_gone(third)
    d.start()
    leads_to(d, "web.hypeman.internal", ip)


def test_without_dnsmasq_guests_ask_the_configured_servers(tmp_path, rootfs):
    d = harness.Daemon(tmp_path, settings={"NETWORK__DNSMASQ_PATH": "/nonexistent/dnsmasq", "DNS_SERVER": "9.9.9.9"})
    try:
        d.start().import_image(rootfs)
        d.mark()
        names = d.api.get("/capabilities")["network"]["names"]
        assert not names["available"] and "/nonexistent/dnsmasq" in names["unavailable_reason"]
        assert d.log_text().count("names of instances are off") == 1
        row = d.api.create("cat /etc/resolv.conf > /dev/console; sleep 1000", name="asker")
        d.api.logs(row["id"], follow=True, until=lambda l: "nameserver 9.9.9.9" in str(l))
        d.assert_nothing_left()
        d.stop()
    finally:
        d.kill_all()


WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]


@pytest.mark.parametrize("hypervisor", ["cloud-hypervisor", "firecracker"])
def test_without_rights_a_vmm_without_a_network_of_its_own_offers_none(tmp_path, rootfs, hypervisor):
    with doubled.serving(hypervisor, tmp_path, rootfs, wrapper=WITHOUT_RIGHTS) as d:
        row = d.api.run(name="alone")
        assert row["network"] == {"enabled": True, "name": "default", "ip": None, "mac": None}
        why = d.api.get("/capabilities")["network"]["unavailable_reason"]
        refusal = d.api.fails(501, "not_implemented", "POST", "/instances", {"name": "x", "image": harness.IMAGE, "ports": PORTS})
        assert refusal["message"].startswith("ports cannot be published: ") and why in refusal["message"]
        assert [one["name"] for one in d.api.get("/instances")] == ["alone"]


def test_without_rights_guests_get_out_by_qemus_own_network(tmp_path, rootfs):
    d = harness.Daemon(tmp_path)
    d.wrapper = WITHOUT_RIGHTS
    try:
        d.start().import_image(rootfs)
        d.mark()
        network = d.api.get("/capabilities")["network"]
        assert network["model"] == "user" and not network["available"] and network["unavailable_reason"]
        assert d.ns.run("nft list ruleset").strip() == ""
        d.ns.listen(7000, lambda c: c.sendall(b"the host hears\n"))
        d.ns.run("ip addr add 198.51.100.1/32 dev lo")
        row = d.api.create("nc 198.51.100.1 7000 > /dev/console; sleep 1000", name="out")
        assert row["network"] == {"enabled": True, "name": "default", "ip": None, "mac": None}
        d.api.logs(row["id"], follow=True, until=lambda l: "the host hears" in str(l))
        d.api.post("/instances/out/standby")
        d.api.post("/instances/out/restore")
        assert d.api.get("/instances/out")["state"] == "Running"
        refusal = d.api.fails(501, "not_implemented", "POST", "/instances", {"name": "x", "image": harness.IMAGE, "ports": PORTS})
        assert "published" in refusal["message"]
        d.assert_nothing_left()
        d.stop()
    finally:
        d.kill_all()
