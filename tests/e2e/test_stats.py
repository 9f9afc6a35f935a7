# SPDX-License-Identifier: Apache-2.0
"""What an instance uses, counted while it runs."""


def test_what_runs_uses_something_and_what_does_not_uses_nothing(api):
    vm = api.run("while :; do :; done", name="busy")
    first = api.get(f"/instances/{vm['id']}/stats")
    assert first["instance_id"] == vm["id"] and first["instance_name"] == "busy" and first["allocated_vcpus"] == 1
    assert 0 < first["memory_rss_bytes"] < first["memory_vms_bytes"] and first["cpu_seconds"] > 0
    assert first["memory_utilization_ratio"] > 0
    second = api.get("/instances/busy/stats")
    assert second["cpu_seconds"] >= first["cpu_seconds"]
    api.ok("POST", "/instances/busy/stop")
    stopped = api.get("/instances/busy/stats")
    assert (stopped["cpu_seconds"], stopped["memory_rss_bytes"], stopped["memory_utilization_ratio"]) == (0, 0, None)
