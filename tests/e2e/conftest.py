# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: one daemon a module, and the check that nothing is left after each test."""
import pytest

import harness


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory):
    return harness.make_rootfs(tmp_path_factory.mktemp("rootfs"))


def _serve(root, rootfs, data=None):
    daemon = harness.Daemon(root, data)
    try:
        daemon.start()
        if rootfs:
            daemon.import_image(rootfs)
        daemon.mark()
        yield daemon
        daemon.kept.clear()
        daemon.fds_before = None  # taken with kept instances
        daemon.assert_nothing_left()
        daemon.stop()
    finally:
        daemon.kill_all()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, rootfs):
    """With the test image, for all tests of a module."""
    yield from _serve(tmp_path_factory.mktemp("daemon"), rootfs)


@pytest.fixture
def own_daemon(tmp_path, rootfs):
    """The same for one test, which may restart it."""
    yield from _serve(tmp_path, rootfs)


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """After each test on a shared daemon: every instance that was not kept is deleted, and nothing of it remains."""
    if "daemon" not in request.fixturenames:
        yield
        return
    daemon = request.getfixturevalue("daemon")
    yield
    daemon.assert_nothing_left()


@pytest.fixture
def api(daemon):
    return daemon.api


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    if not report.failed:
        return
    for daemon in item.funcargs.values():
        if not isinstance(daemon, harness.Daemon):
            continue
        if daemon.process and daemon.process.poll() is not None:
            report.longrepr.addsection("the daemon", f"it ended with {daemon.process.returncode}")
        said = [("the daemon's log", daemon.log_tail())]
        for log in sorted(daemon.data.glob("instances/*/*.log")):
            said.append((f"{log.parent.name}/{log.name}", log.read_text(errors="replace")[-2000:]))
        for title, text in said:  # into the report itself: a section beside it is not in the XML
            report.longrepr.addsection(title, text)
