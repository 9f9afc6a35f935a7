# SPDX-License-Identifier: Apache-2.0
"""What is refused after work was done for it: the answer, and that nothing is left."""
import pytest

import doubles
from harness import until


@pytest.fixture
def served(request, tmp_path, rootfs):
    yield from doubles.serve(tmp_path, rootfs, lambda ns: request.param)


@pytest.mark.parametrize("served", [{"SUBNET_CIDR": "10.100.0.0/29"}], indirect=True)
def test_a_fork_that_finds_no_address_after_its_capture_leaves_nothing(served):
    made = {doubles.create(served, f"vm-{i}")["id"] for i in range(5)}
    answer = served.api.request("POST", "/instances/vm-0/fork", {"name": "sixth", "from_running": True})
    assert answer.status >= 400 and "address" in answer.json()["message"], answer
    until("its directory is gone", lambda: {one.name for one in (served.data / "instances").iterdir()} == made)
    assert {one["state"] for one in served.api.get("/instances")} == {"Running"}


@pytest.mark.parametrize("served", [{"GUEST__IDENTITY": "before-run"}], indirect=True)
def test_a_guest_that_cannot_stand_still_is_saved_by_nobody(served):
    vm = doubles.create(served, "restless")
    for path, body in (("standby", None), ("fork", {"name": "none", "from_running": True})):
        refusal = served.api.fails(409, "invalid_state", "POST", f"/instances/restless/{path}", body)
        assert "the guest's agent" in refusal["message"] and f"try the {path} again" in refusal["message"]
    now = served.api.get("/instances/restless")
    assert now["state"] == "Running" and not now["has_snapshot"]
    until("nothing is left", lambda: [one.name for one in (served.data / "instances").iterdir()] == [vm["id"]])
