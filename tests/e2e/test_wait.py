# SPDX-License-Identifier: Apache-2.0
"""GET /instances/{id}/wait: ends with an event, not by asking."""
import select

import pytest

from harness import Api, Background


@pytest.fixture(scope="module")
def running(daemon):
    """One VM for all tests that only look."""
    made = daemon.api.run(name="watched")
    daemon.mark(made["id"])
    return made["id"]


def test_what_is_there_is_answered_at_once(api, running):
    answer = api.get(f"/instances/{running}/wait", state="Running", timeout="5m")
    assert answer == {"state": "Running", "state_error": None, "timed_out": False}
    assert api.get("/instances/watched/wait", state="Running")["timed_out"] is False


@pytest.mark.parametrize("timeout", ["0", "0s", "1ms", "300ms"])
def test_what_does_not_come_is_answered_in_time(api, running, timeout):
    answer = api.get(f"/instances/{running}/wait", state="Stopped", timeout=timeout)
    assert answer == {"state": "Running", "state_error": None, "timed_out": True}


def waiting(api, running, n):
    """Connections that wait for what does not come."""
    connections = [api.connect() for _ in range(n)]
    for connection in connections:
        connection.request("GET", f"/instances/{running}/wait?state=Standby&timeout=5m")
    return connections


def test_many_wait_while_others_are_served_and_are_forgotten_when_they_leave(api, running):
    connections = waiting(api, running, 40)
    assert api.get("/instances/watched/wait", state="Standby", timeout="300ms")["timed_out"] is True
    assert api.get("/instances")
    assert select.select([one.sock for one in connections], [], [], 0)[0] == [], "they waited longer than those"
    for connection in connections:
        connection.close()
    # nothing_is_left then sees that the daemon has closed its side


def test_more_than_five_minutes_is_taken_as_five(api, running):
    connection = api.connect(timeout=2)
    connection.request("GET", f"/instances/{running}/wait?state=Stopped&timeout=900h")
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()


@pytest.mark.core
def test_all_who_wait_are_told_of_the_end(api):
    api.create("sleep 1; exit 6", name="ends")
    waiters = [Background(Api(api.address).get, "/instances/ends/wait?state=Stopped&timeout=5m") for _ in range(10)]
    for one in waiters:
        assert one.result() == {"state": "Stopped", "state_error": None, "timed_out": False}
    assert api.get("/instances/ends")["exit_code"] == 6
    # It is a dead end for every other state.
    for state in ("Running", "Initializing", "Standby", "Paused"):
        answer = api.get("/instances/ends/wait", state=state, timeout="5m")
        assert answer == {"state": "Stopped", "state_error": None, "timed_out": False}


@pytest.mark.core
def test_a_delete_ends_a_wait_with_404(api):
    key = api.run(name="deleted")["id"]
    connection = api.connect()
    connection.request("GET", f"/instances/{key}/wait?state=Stopped&timeout=5m")
    api.delete(f"/instances/{key}", graceful_shutdown=False)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    # Either it sees the stop that is part of the deletion, or the deletion.
    assert response.status in (200, 404)
    if response.status == 404:
        assert b"instance was deleted while waiting" in body


def test_an_unknown_instance_is_404(api):
    api.fails(404, "not_found", "GET", "/instances/none/wait?state=Running")
