# SPDX-License-Identifier: Apache-2.0
import pytest

import world


@pytest.fixture
def bare():
    """A host on which nothing was started."""
    host = world.Host()
    yield host
    host.close()


@pytest.fixture
def host():
    host = world.Host()
    yield host.start()
    host.close()


@pytest.fixture(params=["0", "1", "2"], ids=["rp_filter=0", "rp_filter=1", "rp_filter=2"])
def filtering_host(request):
    host = world.Host()
    for one in ("all", "default"):
        host.ns.write(f"/proc/sys/net/ipv4/conf/{one}/rp_filter", request.param)
    yield host.start()
    host.close()
