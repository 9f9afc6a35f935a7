# SPDX-License-Identifier: Apache-2.0
"""Twenty real VMs whose VMMs are all stopped: a list does not wait for one of them."""
import os
import signal
import time

import harness

VMS = 20
LISTS = 40


def states(rows):
    return {row["state"] for row in rows}


def test_a_list_waits_for_none_of_twenty_stopped_vmms_and_each_heals(daemon, api):
    first = api.run("while :; do sleep 1; done", name="vm-0")["id"]
    api.post(f"/instances/{first}/standby")
    for i in range(1, VMS):
        api.post(f"/instances/{first}/fork", {"name": f"vm-{i}", "target_state": "Running"})
    api.post(f"/instances/{first}/restore")
    pids = list(daemon.vm_processes())
    assert len(pids) == VMS
    assert states(api.get("/instances")) == {"Running"}
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(5.1)  # nothing is fresh any more: each list has every VMM asked
        rows = api.get("/instances")
        assert len(rows) == VMS and states(rows) == {"Running"}, "it waited for what came of the questions"
        harness.until("all are known to be silent", lambda: states(api.get("/instances", fresh=True)) == {"Unknown"})
        asked = set()
        for _ in range(LISTS):
            rows = api.get("/instances")
            assert len(rows) == VMS and all(row["state_error"] for row in rows)
            asked.add(api.get(f"/instances/{first}")["last_probe"]["at"])
        assert len(asked) < LISTS, "each list had a question of its own answered first"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    harness.until("all have healed", lambda: states(api.get("/instances", fresh=True)) == {"Running"})
