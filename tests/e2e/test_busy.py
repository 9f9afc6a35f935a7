# SPDX-License-Identifier: Apache-2.0
"""One operation holds an instance at a time; delete and stop are stronger than what is under way."""
import pytest

from harness import Api, Background, IMAGE, until

pytestmark = pytest.mark.core

DEAF = "trap '' TERM; echo deaf; while :; do sleep 1; done"  # a stop takes its whole grace


def deaf(api, name):
    made = api.run(DEAF, name=name)
    api.logs(name, until=lambda line: "deaf" in line, follow=True)
    return made["id"]


def begin(api, method, path, body=None):
    """The operation is under way: its request is sent and waits for the answer."""
    return Background(Api(api.address, api.token).request, method, path, body)


def busy_with(api, path):
    """Until another operation is refused because of the first."""
    refusal = None

    def refused():
        nonlocal refusal
        refusal = api.request("POST", path, {})
        return refusal.status == 409 and refusal.json()["code"] == "busy"

    until(f"{path} is refused as busy", refused, 10)
    return refusal


def test_a_second_operation_is_409_and_not_to_be_sent_again(api):
    key = deaf(api, "busy")
    stop = begin(api, "POST", f"/instances/{key}/stop")
    # While the VM still runs a start is refused for its state; once the stop holds it, for that.
    refusal = busy_with(api, f"/instances/{key}/start")
    assert refusal.headers["x-should-retry"] == "false"
    assert api.get(f"/instances/{key}")["id"] == key  # reading goes on
    assert [one["id"] for one in api.get("/instances")] == [key]
    stopped = stop.result()
    assert stopped.status == 200 and stopped.json()["state"] == "Stopped"


def test_a_delete_during_a_stop_wins(api):
    key = deaf(api, "stopping")
    stop = begin(api, "POST", f"/instances/{key}/stop")
    busy_with(api, f"/instances/{key}/start")
    api.delete(f"/instances/{key}", graceful_shutdown=False)
    assert stop.result().status in (200, 404, 409)  # 200: the delete cut its grace, and it was done first
    api.fails(404, "not_found", "GET", f"/instances/{key}")


@pytest.mark.parametrize("attempt", range(4))
def test_a_delete_during_a_start_wins(api, attempt):
    key = api.create("exit 0", name="starting")["id"]
    api.wait(key, "Stopped")
    start = begin(api, "POST", f"/instances/{key}/start", {})
    if attempt:  # once at the same moment, else when the start is seen to have begun
        until("the start begins", lambda: start.value or api.get(f"/instances/{key}")["state"] != "Stopped"
              or api.request("POST", f"/instances/{key}/start", {}).status == 409)
    api.delete(f"/instances/{key}", graceful_shutdown=False)
    assert start.result().status in (200, 404, 409)
    api.fails(404, "not_found", "GET", f"/instances/{key}")


def test_a_stop_during_a_start_wins(api):
    key = api.create("while :; do sleep 1; done", name="stopped-early")["id"]
    stopped = api.post(f"/instances/{key}/stop")  # its program has hardly begun
    assert stopped["state"] == "Stopped"
    start = begin(api, "POST", f"/instances/{key}/start", {})
    answer = None

    def stopped_again():
        nonlocal answer
        answer = api.request("POST", f"/instances/{key}/stop")
        return answer.status == 200  # refused as long as the start has not begun

    until("the stop is taken", stopped_again, 20)
    assert start.result().status in (200, 409)
    assert api.get(f"/instances/{key}")["state"] == "Stopped"


def test_two_deletes_at_once_both_end(api):
    key = deaf(api, "twice")
    both = [begin(api, "DELETE", f"/instances/{key}") for _ in range(2)]
    statuses = sorted(one.result().status for one in both)
    assert statuses[0] == 204 and statuses[1] in (204, 404, 409)
    api.fails(404, "not_found", "GET", f"/instances/{key}")


def test_of_many_creates_with_one_name_one_succeeds(api):
    body = {"name": "unique", "image": IMAGE, "size": "256MB", "overlay_size": "64MB", "vcpus": 1,
            "entrypoint": ["/bin/sh", "-c"], "cmd": ["exit 0"]}
    all_of_them = [one.result() for one in [begin(api, "POST", "/instances", body) for _ in range(8)]]
    assert sorted(one.status for one in all_of_them) == [201] + [409] * 7
    for one in all_of_them:
        if one.status == 409:
            assert one.json()["code"] == "name_conflict" and one.headers["x-should-retry"] == "false"
    assert len(api.get("/instances")) == 1


def test_a_name_is_free_again_after_delete(api):
    for _ in range(3):
        key = api.create("exit 0", name="reused")["id"]
        api.delete(f"/instances/{key}", graceful_shutdown=False)


def test_an_operation_goes_on_when_its_client_leaves(api):
    key = deaf(api, "alone")
    connection = api.connect()
    connection.request("POST", f"/instances/{key}/stop")
    busy_with(api, f"/instances/{key}/start")
    connection.close()
    api.wait(key, "Stopped")
