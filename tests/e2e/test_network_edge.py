# SPDX-License-Identifier: Apache-2.0
"""At the edge of the guests' network: rates, published ports, names."""
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
