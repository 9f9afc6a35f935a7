# SPDX-License-Identifier: Apache-2.0
"""Where the time went: the ring, the collector, and the command line's view of both and of the changes."""
import http.server
import json
import queue
import re
import signal
import subprocess
import threading

import pytest

import doubles
import harness


class Collector:
    """OTLP over HTTP. deaf: takes requests and never answers."""

    def __init__(self, deaf=False):
        self.bodies, self.headers, self.release = queue.Queue(), None, threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler):
                body = handler.rfile.read(int(handler.headers["content-length"]))
                self.headers = dict(handler.headers)
                self.bodies.put((handler.path, json.loads(body)))
                if deaf:
                    self.release.wait(harness.PATIENCE)
                    return
                handler.send_response(200)
                handler.send_header("Content-Length", "2")
                handler.end_headers()
                handler.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.handler, self.server = Handler, None

    def settings_in(self, ns):
        """Listens where the daemon is, which is in a network namespace of its own."""
        self.server = ns.inside(lambda: http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b,x-other=1",
            "OTEL_SERVICE_NAME": "e2e",
            "OTEL_TRACES_SAMPLER_ARG": "1",
        }

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector(request):
    one = Collector(deaf=getattr(request, "param", False))
    yield one
    one.close()


@pytest.mark.core
def test_traces_reach_a_collector(tmp_path, rootfs, collector):
    for daemon in doubles.serve(tmp_path, rootfs, collector.settings_in):
        vm = doubles.create(daemon, "traced")
        daemon.api.get("/instances")
        names, by_name = set(), {}
        while not {"instances.create", "instances.list"} <= names:
            path, body = collector.bodies.get(timeout=harness.PATIENCE)
            assert path == "/v1/traces" and collector.headers["x-tenant"] == "a b" and collector.headers["x-other"] == "1"
            (resource,) = body["resourceSpans"]
            assert {"key": "service.name", "value": {"stringValue": "e2e"}} in resource["resource"]["attributes"]
            for span in resource["scopeSpans"][0]["spans"]:
                names.add(span["name"])
                by_name.setdefault(span["name"], span)
                assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"])
                assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        create = by_name["instances.create"]
        assert {"key": "instance_id", "value": {"stringValue": vm["id"]}} in create["attributes"] and create["status"]["code"] == 1
        children = [s for s in by_name.values() if s.get("parentSpanId") == create["spanId"]]
        assert children and all(s["traceId"] == create["traceId"] for s in children)
        keys = {a["key"] for a in by_name["instances.list"]["attributes"]}
        assert {"hypervisor_state.cache_hit", "hypervisor_state.cache_miss", "count"} <= keys
        harness.until("it is counted", lambda: int(daemon.api.request("GET", "/debug/traces").headers["x-hypeman-traces-exported"]) >= 2)


@pytest.mark.parametrize("collector", [True], indirect=True, ids=["deaf"])
def test_a_deaf_collector_delays_nobody_and_what_is_dropped_is_counted(tmp_path, rootfs, collector):
    for daemon in doubles.serve(tmp_path, rootfs, collector.settings_in):
        for _ in range(700):  # more than the queue holds
            daemon.api.get("/instances")
        counts = daemon.api.request("GET", "/debug/traces").headers
        assert int(counts["x-hypeman-traces-dropped"]) > 50 and int(counts["x-hypeman-traces-exported"]) == 0


def test_the_waterfall_shows_the_spans_of_one_instance(tmp_path, rootfs):
    for daemon in doubles.serve(tmp_path, rootfs):
        vm = doubles.create(daemon, "fall")
        doubles.create(daemon, "other")
        text = daemon.cli("trace", "--name", "instances.create", "fall").stdout
        assert text.count("instances.create") == 1 and vm["id"] in text and "##" in text
        assert re.search(r"^    queue +#", text, re.M) and re.search(r"\d\.\d{3} ms$", text, re.M)
        assert len(json.loads(daemon.cli("trace", "--format", "json", "-n", "3").stdout)) == 3
        assert daemon.cli("trace", "nobody").stdout == ""
        assert daemon.cli("trace", "-n", "x", check=False).returncode == 2


@pytest.mark.core
def test_ps_watch_prints_the_table_and_then_what_changes(tmp_path, rootfs):
    for daemon in doubles.serve(tmp_path, rootfs):
        doubles.create(daemon, "one")
        watch = subprocess.Popen([harness.HYPEMAN, "--socket", daemon.socket, "ps", "--watch"], stdout=subprocess.PIPE, text=True)
        assert watch.stdout.readline().startswith("NAME")
        assert watch.stdout.readline().startswith("one ")
        daemon.api.post("/instances/one/stop")
        assert watch.stdout.readline() == "one updated Stopped\n" or watch.stdout.readline() == "one updated Stopped\n"
        daemon.api.delete("/instances/one")
        lines = [watch.stdout.readline()]
        while " deleted " not in lines[-1]:
            lines.append(watch.stdout.readline())
        watch.send_signal(signal.SIGINT)
        assert watch.wait(harness.PATIENCE) == 130
        assert daemon.cli("ps", "--watch", "-q", check=False).returncode == 2
