# SPDX-License-Identifier: Apache-2.0
"""What is counted of a guest's traffic."""
from test_packets import digest_of_upload, upload

MIB = 1 << 20


def counted(host, guest):
    return tuple(map(int, host.tell(f"stats {guest.tap}")))


def test_bytes_are_counted_each_way_and_by_guest(host):
    one, two = host.guest(), host.guest()
    one.ns.listen(9, digest_of_upload)
    upload(host.ns, one.address, bytes(4 * MIB))
    to_guest, from_guest = counted(host, one)
    assert 4 * MIB <= to_guest < 5 * MIB and 0 < from_guest < MIB
    assert max(counted(host, two)) < MIB // 16


def test_a_tap_that_is_used_again_counts_from_its_new_guest_on(host):
    host.settle()
    seen = set()
    for _ in range(12):  # until a TAP comes round
        guest = host.guest()
        assert counted(host, guest)[0] < MIB // 2
        if guest.tap in seen:
            break
        seen.add(guest.tap)
        guest.ns.listen(9, digest_of_upload)
        upload(host.ns, guest.address, bytes(MIB))
        assert counted(host, guest)[0] >= MIB
        guest.end()
        host.settle()
    else:
        raise AssertionError("no TAP was used again")
