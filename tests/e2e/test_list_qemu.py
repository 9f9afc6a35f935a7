# SPDX-License-Identifier: Apache-2.0
"""Twenty real VMs whose VMMs are all stopped: a list does not wait for one of them."""
import os
import signal
import time

import harness

VMS = 20
BOUND = 0.5  # of a question to one VMM: a list that waited for a single one would take that long


def lists(api, n):
    """Seconds of each, and the rows of the last."""
    took = []
    for _ in range(n):
        began = time.monotonic()
        rows = api.get("/instances")
        took.append(time.monotonic() - began)
    return took, rows


def test_a_list_waits_for_none_of_twenty_stopped_vmms_and_each_heals(daemon, api):
    first = api.run("while :; do sleep 1; done", name="vm-0")["id"]
    api.post(f"/instances/{first}/standby")
    for i in range(1, VMS):
        api.post(f"/instances/{first}/fork", {"name": f"vm-{i}", "target_state": "Running"})
    api.post(f"/instances/{first}/restore")
    pids = list(daemon.vm_processes())
    assert len(pids) == VMS
    _, rows = lists(api, 5)
    assert {row["state"] for row in rows} == {"Running"}
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(5.1)  # nothing is fresh any more: each list has every VMM asked
        took, rows = lists(api, 40)
        assert len(rows) == VMS and max(took) < BOUND, sorted(took)[-3:]
        harness.until("all are known to be silent", lambda: {r["state"] for r in api.get("/instances", fresh=True)} == {"Unknown"})
        took, rows = lists(api, 40)
        assert len(rows) == VMS and max(took) < BOUND, sorted(took)[-3:]
        assert all(row["state_error"] for row in rows)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    harness.until("all have healed", lambda: {r["state"] for r in api.get("/instances", fresh=True)} == {"Running"})
