# SPDX-License-Identifier: Apache-2.0
"""What is wrong is refused with a clear 4xx in the contract's form, and changes nothing."""
import json

import pytest

from harness import BAD_REQUEST, IMAGE, until

pytestmark = pytest.mark.core

GOOD = {"name": "never", "image": IMAGE}


def refused(api, status, code, body, method="POST", path="/instances"):
    before = api.get("/instances")
    answer = api.fails(status, code, method, path, body)
    after = api.get("/instances")
    assert [one["id"] for one in after] == [one["id"] for one in before]
    return answer


@pytest.mark.parametrize("body", [
    b"", b"{", b'{"name":"never","image":"x"', b"[]", b'"text"', b"null", b"1", b"{}x", b"{'name':'never'}",
    b'{"name":"never","name":"never","image":"x"}',
    b'{"name":"never","image":"x","later":{"a":1,"a":2}}',
    b"[" * 100_000,
    b'{"name":"never","image":"x","later":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"name":"nev\xff","image":"x"}',
    b'{"name":"never","image":"\xed\xa0\x80"}',
    b'{"name":"never","image":"x\\u0000y"}',
    b'{"name":"never","image":"x","vcpus":1e400}',
    b"\xef\xbb\xbf\x00\x01",
], ids=lambda body: repr(body[:44]))
def test_a_body_that_is_no_such_object(api, body):
    refused(api, 400, BAD_REQUEST + ("invalid_name",), body)


@pytest.mark.parametrize("name", [
    "", "UPPER", "-a", "a-", "a_b", "a.b", "a/b", "../x", "a b", "ä", "a" * 64, 5, None, [], {},
])
def test_a_name_outside_the_pattern(api, name):
    refused(api, 400, BAD_REQUEST, GOOD | {"name": name})


@pytest.mark.parametrize("field", ["name", "image"])
def test_a_required_field_that_is_missing(api, field):
    assert field in refused(api, 400, BAD_REQUEST, {k: v for k, v in GOOD.items() if k != field})["message"]


@pytest.mark.parametrize("field", ["size", "hotplug_size", "overlay_size"])
@pytest.mark.parametrize("value", [
    "99999999999GB", "18446744073709551616", "17179869184GB", "200TB", "9" * 4000,
    "1.5GB", "-1GB", "1XB", "GB", " 1GB", "1  GB", "0x10MB", "1e3",
], ids=lambda value: repr(value)[:30])
def test_sizes(api, field, value):
    refused(api, 400, f"invalid_{field}", GOOD | {field: value})


@pytest.mark.parametrize("field, value", [
    ("size", 5), ("size", ["1GB"]), ("overlay_size", True), ("hotplug_size", {}),
    ("vcpus", 0), ("vcpus", -1), ("vcpus", 1.5), ("vcpus", "2"), ("vcpus", 17), ("vcpus", 2**32 + 1), ("vcpus", True),
    ("vcpus", 2**63), ("vcpus", 10**30),
    ("image", ""), ("image", 5), ("image", None),
    ("env", []), ("env", {"A": 1}), ("env", {"A": None}), ("env", {"": "x"}), ("env", {"A=B": "x"}), ("env", "A=B"),
    ("env", {"A": "x\0y"}),
    ("tags", []), ("tags", {"a": 1}), ("tags", {"": "x"}), ("tags", {"a" * 129: "x"}), ("tags", {"a": "x" * 257}),
    ("tags", {"ä": "x"}), ("tags", {"a": "x;y"}), ("tags", {str(n): "x" for n in range(64)}),
    ("entrypoint", "sh"), ("entrypoint", [1]), ("entrypoint", {}), ("cmd", "ls"), ("cmd", [None]), ("cmd", ["a\0b"]),
    ("hypervisor", "xen"), ("hypervisor", 1), ("network", []), ("network", {"enabled": "yes"}),
    ("skip_guest_agent", "no"), ("skip_kernel_headers", 1),
], ids=lambda value: repr(value)[:30])
def test_a_field_of_the_wrong_type_or_out_of_range(api, field, value):
    answer = refused(api, 400, None, GOOD | {field: value})
    named = [field, "JSON", *(value if isinstance(value, dict) else ())]
    assert any(one and one in answer["message"] for one in named), answer


@pytest.mark.parametrize("fields, code", [
    ({"volumes": {}}, None), ({"volumes": [{}]}, None), ({"devices": "gpu"}, None), ({"gpu": []}, None),
    ({"credentials": []}, None), ({"network": {"egress": 1}}, None),
    ({"ttl": "soon"}, "invalid_ttl"), ({"ttl": "-5s"}, "invalid_ttl"), ({"ttl": 5}, None),
    ({"expires_at": "2001-01-01T00:00:00Z"}, "invalid_expires_at"), ({"expires_at": "tomorrow"}, None),
    ({"ttl": "5m", "expires_at": "2099-01-01T00:00:00Z"}, None),
    ({"platform": "windows/amd64"}, "invalid_platform"), ({"platform": "linux"}, "invalid_platform"),
    ({"disk_io_bps": "fast"}, "invalid_disk_io_bps"), ({"disk_io_bps": "2PB/s"}, "invalid_disk_io_bps"), ({"disk_io_bps": 5}, None),
    ({"network": {"bandwidth_download": "x"}}, "invalid_bandwidth_download"),
    ({"network": {"bandwidth_upload": "-1bps"}}, "invalid_bandwidth_upload"),
    ({"auto_standby": []}, None), ({"auto_standby": {"idle_timeout": "x"}}, None),
    ({"health_check": {"type": "magic"}}, None), ({"restart_policy": {"policy": "sometimes"}}, None),
    ({"snapshot_policy": {"compression": 1}}, None),
], ids=lambda value: repr(value)[:50])
def test_a_policy_or_limit_that_makes_no_sense(api, fields, code):
    before = api.get("/instances")
    answer = api.request("POST", "/instances", GOOD | fields)
    # 501 where none of it can be had yet: refused as well, and never left out silently.
    assert answer.status in (400, 501), answer
    assert answer.status == 501 or code in (None, answer.json()["code"]), answer
    assert api.get("/instances") == before


def test_images_that_are_not_there_or_no_reference(api):
    refused(api, 404, "not_found", GOOD | {"image": "docker.io/library/unknown:latest"})
    refused(api, 404, "not_found", GOOD | {"image": "unknown"})
    for image in ("Not An Image", "../../etc/passwd", "a:b:c:d", "x" * 5000, "/", "http://x/y"):
        refused(api, 400, BAD_REQUEST + ("invalid_name",), GOOD | {"image": image})
        api.fails(400, "invalid_name", "GET", "/images/" + "%2F".join(image.replace(" ", "%20").split("/"))[:2000])
    api.fails(404, "not_found", "GET", "/images/docker.io%2Flibrary%2Funknown%3Alatest")
    api.fails(404, "not_found", "DELETE", "/images/unknown")


def test_a_hypervisor_that_this_host_has_not(api):
    for name in ("vz", "firecracker", "cloud-hypervisor"):
        runtimes = {one["name"]: one["available"] for one in api.get("/capabilities")["runtimes"]}
        if not runtimes.get(name):
            answer = refused(api, 501, ("not_supported", "not_implemented"), GOOD | {"hypervisor": name})
            assert name in answer["message"]


@pytest.mark.parametrize("fields", [
    {"volumes": [{"volume_id": "none", "mount_path": "/data"}]}, {"devices": ["none"]}, {"gpu": {"profile": "none"}},
], ids=lambda fields: next(iter(fields)))
def test_what_cannot_be_attached_is_refused_rather_than_left_out(api, fields):
    answer = api.request("POST", "/instances", GOOD | fields)
    assert answer.status in (400, 404, 501), answer
    assert api.get("/instances") == []


def test_a_body_over_the_limit(api):
    refused(api, 413, "Request Entity Too Large", json.dumps(GOOD | {"later": "x" * (4 << 20)}))
    refused(api, 413, "Request Entity Too Large", json.dumps({"cmd": ["x" * (4 << 20)]}), path="/instances/none/start")


@pytest.mark.parametrize("query", ["state=Bogus", "state=running", "state=Running%00"])
def test_a_list_by_a_state_that_is_none(api, query):
    api.fails(400, BAD_REQUEST, "GET", f"/instances?{query}")


@pytest.fixture(scope="module")
def kept(daemon):
    """A stopped VM, for what needs one to be there."""
    made = daemon.api.create("exit 0", name="kept")
    daemon.api.wait("kept", "Stopped")
    daemon.mark(made["id"])
    return made["id"]


@pytest.mark.parametrize("query, code", [
    ("", None), ("state=Bogus", None), ("state=Unknown", "invalid_state"), ("state=", None),
    ("state=Running&timeout=soon", "invalid_timeout"), ("state=Running&timeout=-1s", "invalid_timeout"),
    ("state=Running&timeout=5", "invalid_timeout"),
    ("state=Running&timeout=" + "9" * 400 + "h", "invalid_timeout"),
])
def test_a_wait_that_makes_no_sense(api, kept, query, code):
    api.fails(400, code, "GET", f"/instances/{kept}/wait?{query}")


@pytest.mark.parametrize("query", [
    "tail=0", "tail=-1", "tail=x", "tail=99999999999999999999", "tail=1.5",
    "source=bogus", "source=../app", "follow=maybe",
])
def test_logs_that_make_no_sense(api, kept, query):
    api.fails(400, None, "GET", f"/instances/{kept}/logs?{query}")


@pytest.mark.parametrize("body", [
    b"{", b"[]", {"cmd": "ls"}, {"cmd": [1]}, {"entrypoint": {}}, b'{"cmd":[],"cmd":[]}',
], ids=repr)
def test_a_start_that_makes_no_sense(api, kept, body):
    refused(api, 400, BAD_REQUEST, body, path=f"/instances/{kept}/start")
    assert api.get(f"/instances/{kept}")["state"] == "Stopped"


def test_a_delete_that_makes_no_sense(api, kept):
    api.fails(400, None, "DELETE", f"/instances/{kept}?graceful_shutdown=maybe")
    assert api.get(f"/instances/{kept}")["id"] == kept


@pytest.mark.parametrize("key", [
    "%2e%2e", "..%2f..%2fetc", "a%00b", "%ff%fe", "x" * 3000, "%", "%zz", "a%2Fb", "*", "'",
], ids=lambda key: key[:20])
def test_keys_that_are_none(api, key):
    answer = api.request("GET", f"/instances/{key}")
    assert answer.status in (400, 404, 414), answer


@pytest.mark.parametrize("source", [
    "dir:relative", "dir:", "/tmp", "ftp:/x", "dir:/no/such/place", "oci:/no/such/place", "dir:/etc/passwd",
    "oci:/tmp", "dir:/x\0y", 5, None,
], ids=repr)
def test_an_import_from_what_is_no_image(api, daemon, source):
    before = {one["name"] for one in api.get("/images")}
    answer = api.request("POST", "/images/import", {"source": source, "name": "bad:1"})
    assert answer.status in (400, 404), answer
    assert {one["name"] for one in api.get("/images")} == before
    until("no half-made image is left", lambda: len(list((daemon.data / "images").iterdir())) <= len(before) + 1, 5)


def raw(api, data):
    """What comes back for bytes on the wire: the status, or None when the connection is just closed."""
    connection = api.connect()
    connection.connect()
    try:
        connection.sock.sendall(data)
        answer = b""
        while chunk := connection.sock.recv(65536):
            answer += chunk
            if b"\r\n\r\n" in answer and len(answer) > 12:
                break
        return int(answer.split(b" ")[1]) if answer else None
    except (ConnectionResetError, BrokenPipeError):
        return None
    finally:
        connection.close()


@pytest.mark.parametrize("data", [
    b"POST /instances HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
    b"POST /instances HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /instances HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /instances HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /instances HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"GET /instances HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x00\x05hello\r\n\r\n",
], ids=lambda data: repr(data[:12] + data[-20:]))
def test_framing_that_is_wrong(api, data):
    status = raw(api, data)
    assert status is None or 400 <= status < 500
    assert api.get("/instances") is not None


def test_a_client_that_stops_in_the_middle_harms_nobody(api):
    for _ in range(20):
        connection = api.connect()
        connection.connect()
        connection.sock.sendall(b"POST /instances HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        connection.close()
    assert "never" not in [one["name"] for one in api.get("/instances")]


def test_a_body_in_chunks_is_a_body(api):
    def chunks():
        yield b'{"name":"BAD",'
        yield b'"image":"x"}'

    connection = api.connect()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/instances", body=chunks(), headers=headers, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 400 and b"name" in response.read()
    connection.close()
