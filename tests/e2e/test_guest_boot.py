# SPDX-License-Identifier: Apache-2.0
"""The guest's init and agent in a real VM, spoken to as the daemon does. TCG only; a boot takes two to four seconds."""
import subprocess
import time

import pytest

from guest_vm import EXITED, FAILED, GUEST, HELLO, IDENTITY, MAGIC, SHUTDOWN, STARTED, Guest, busybox_image, frame

NETWORK = {
    "enabled": True,
    "address": "192.0.0.2",
    "prefix": 29,
    "gateway": "192.0.0.1",
    "gateway_mac": "02:00:00:00:00:01",
    "dns": ["9.9.9.9", "149.112.112.112"],
    "outer_address": "10.100.3.4",
}


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.sqfs"
    busybox_image(path)
    return path


@pytest.fixture
def boot(tmp_path, image):
    guests = []

    def start(command, name="vm", **options):
        config = {"entrypoint": [], "cmd": command, **options.pop("config", {})}
        guests.append(Guest(tmp_path / name, options.pop("image", image), config, **options))
        return guests[-1]

    yield start
    for guest in guests:
        guest.kill()


def shell(script):
    return ["sh", "-c", script]


def test_the_initramfs_is_below_a_megabyte_besides_the_modules():
    archive = (GUEST / "initramfs.cpio").read_bytes()
    at, sizes = 0, {}
    while (name := archive[at + 110 : at + 109 + int(archive[at + 94 : at + 102], 16)].decode()) != "TRAILER!!!":
        assert archive[at : at + 6] == b"070701"
        begin, length = at, int(archive[at + 54 : at + 62], 16)
        at += (110 + len(name) + 1 + 3) // 4 * 4
        at += (length + 3) // 4 * 4
        sizes[name] = at - begin
    assert sizes.pop("init") > 0
    modules = sum(size for name, size in sizes.items() if name.endswith(".ko"))
    assert modules > 0
    assert len(archive) - modules < 1 << 20, f"{len(archive) - modules} bytes"


def test_the_exit_code_comes_over_the_channel_and_is_on_the_disk(boot):
    guest = boot(["exit 3"], config={"entrypoint": ["sh", "-c"], "incarnation": 7})
    channel = guest.connect().greet()
    started = channel.expect(STARTED)
    assert started["mode"] == "exec" and abs(started["at_us"] / 1e6 - time.time()) < 60
    ended = channel.expect(EXITED)
    assert (ended["incarnation"], ended["code"], ended["signal"], ended["oom"], ended["message"]) == (7, 3, 0, False, "")
    assert guest.wait() == 0
    assert guest.record() == ended
    assert guest.output() == ""  # the log is the workload's alone


def test_a_signal_is_128_and_its_number_and_needs_no_host(boot):
    guest = boot(shell("kill -9 $$"))
    assert guest.wait() == 0
    record = guest.record()
    assert (record["code"], record["signal"], record["oom"]) == (137, 9, False)
    assert record["message"] == "killed by signal 9 (Killed)"


@pytest.mark.parametrize(
    "command, code, text",
    [
        (["no-such-program"], 127, 'cannot run "no-such-program": it is not in PATH'),
        (["/bin/no-such"], 127, 'cannot run "/bin/no-such": No such file or directory'),
        (["/etc/passwd"], 126, 'cannot run "/etc/passwd": Permission denied'),
        ([], 126, "nothing to run: there is neither an entrypoint nor a command"),
    ],
)
def test_what_cannot_be_run_is_named_and_was_never_started(boot, command, code, text):
    guest = boot(command)
    channel = guest.connect().greet()
    ended = channel.expect(EXITED)
    assert (ended["code"], ended["message"]) == (code, text)
    assert guest.wait() == 0
    assert guest.record() == ended
    assert f"hypeman: {text}" in guest.output()


def test_the_workload_has_its_user_directory_environment_and_output(boot):
    guest = boot(
        shell(
            "id; pwd; env | sort; cat /etc/hosts /etc/hostname; echo to-stderr >&2; echo again > /dev/stdout;"
            "cat; ls -ld /tmp /work /dev/fd; ps -o pid,sid,comm | grep -w sh; cat /proc/self/cgroup; cat /dev/vport0p1"
        ),
        config={"user": "app", "workdir": "/srv/deep", "env": {"FOO": "a b=c", "HOME": "/elsewhere"}, "network": {**NETWORK, "enabled": False}},
    )
    assert guest.wait() == 0
    lines = guest.output().split("\n")
    assert "uid=1000(app) gid=1001(appg) groups=44(video),50(staff)" in lines
    assert "/srv/deep" in lines
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in lines
    assert {"FOO=a b=c", "HOME=/elsewhere", "HOSTNAME=box", "HYPEMAN_IP=10.100.3.4", "to-stderr", "again"} <= set(lines)
    assert {"127.0.0.1\tlocalhost", "192.0.0.2\tbox", "box", "0::/workload"} <= set(lines)
    assert "drwxrwxrwt" in guest.output() and "\r" not in guest.output()
    pid, sid, _ = next(line.split() for line in lines if line.endswith(" sh"))
    assert pid == sid
    assert "Permission denied" in lines[-2]  # the port is the agent's


def test_a_new_connection_gets_the_reports_again_whatever_the_last_one_left(boot):
    guest = boot(["sleep", "1000"])
    first = guest.connect(junk=b"\0\xff rubbish" + MAGIC[:9]).greet()
    first.expect(STARTED)
    first.send(frame(SHUTDOWN, {"grace_ms": 0})[:15])  # lost inside a frame
    first.close()
    for junk in (b"", MAGIC + frame(HELLO, {"version": 1, "nonce": "0" * 32})[:20], frame(77, b"x" * 3000)):
        again = guest.reconnect(junk)
        again.expect(STARTED)
        again.close()
    last = guest.reconnect()
    last.expect(STARTED)
    last.send(frame(99, b"from a newer host") + frame(SHUTDOWN, {"grace_ms": 5000, "more": [1]}))
    assert last.expect(EXITED)["code"] == 143
    assert guest.wait() == 0


def test_a_magic_in_the_middle_of_a_connection_starts_it_anew(boot):
    """After a restore the guest has not seen the old connection end."""
    guest = boot(["sleep", "1000"])
    channel = guest.connect().greet()
    channel.expect(STARTED)
    for nonce in ("1" * 32, "2" * 32):
        channel.send(MAGIC + frame(HELLO, {"version": 1, "nonce": nonce}))
        channel.synchronised = False
        assert channel.expect(HELLO)["nonce"] == nonce
        channel.expect(STARTED)
    channel.send(b"\xff" * 12 + MAGIC + frame(HELLO, {"version": 1, "nonce": "3" * 32}))
    channel.synchronised = False
    assert channel.expect(HELLO)["nonce"] == "3" * 32


def test_shutdown_asks_everyone_and_kills_what_does_not_listen(boot):
    child = "(trap 'echo child asked; exit' TERM; echo child ready; while :; do sleep 1; done) &"
    guest = boot(shell(f"trap 'echo asked' TERM; {child} echo parent ready; while :; do sleep 1; done"))
    channel = guest.connect().greet()
    channel.expect(STARTED)
    guest.wait_output("child ready\n", "parent ready\n")
    began = time.monotonic()
    channel.send(frame(SHUTDOWN, {"grace_ms": 2500}))
    ended = channel.expect(EXITED)
    assert time.monotonic() - began >= 2.5
    assert (ended["code"], ended["signal"]) == (137, 9)
    assert ended["message"] == "asked to end by the host; killed by signal 9 (Killed)"
    assert guest.wait() == 0
    assert "asked\n" in guest.output() and "child asked\n" in guest.output()


def test_an_identity_is_taken_on(boot):
    guest = boot(
        shell("while ! [ -s /run/hypeman/address ]; do sleep 0.05; done; hostname; cat /etc/machine-id /etc/hosts /run/hypeman/address; date +%s"),
    )
    channel = guest.connect().greet()
    channel.expect(STARTED)
    channel.send(frame(IDENTITY, {"seed": "not hex"}))
    identity = {"time_us": 2_000_000_000_000_000, "seed": "ab" * 64, "hostname": "fork-2", "machine_id": "f" * 32, "outer_address": "10.100.9.9"}
    channel.send(frame(IDENTITY, identity))
    ended = channel.expect(EXITED)
    assert ended["code"] == 0 and 0 <= ended["at_us"] - identity["time_us"] < 60e6
    guest.wait()
    lines = guest.output().split("\n")
    assert {"fork-2", "f" * 32, "127.0.1.1\tfork-2", "10.100.9.9"} <= set(lines)
    assert "random pool" not in guest.output() and "identity frame" in guest.output()


def test_the_last_line_of_much_output_is_in_the_log(boot):
    guest = boot(shell("seq 1 3000; printf 'no newline'"))
    assert guest.wait() == 0
    assert guest.output() == "".join(f"{n}\n" for n in range(1, 3001)) + "no newline"


def test_an_idle_agent_does_not_run_while_no_host_is_connected(boot):
    """The port is readable and hung up then, all the time."""
    guest = boot(shell("c() { cut -d' ' -f14,15 /proc/1/stat; }; sleep 0.5; c; sleep 2; c"))
    assert guest.wait() == 0
    before, after = (sum(map(int, line.split())) for line in guest.output().splitlines())
    assert after - before <= 5  # hundredths of a second


def test_running_out_of_memory_is_said(boot):
    guest = boot(["dd", "if=/dev/zero", "of=/dev/null", "bs=70M", "count=1"], memory=128)
    guest.wait()
    record = guest.record()
    assert (record["code"], record["oom"]) == (137, True)
    assert record["message"].startswith("out of memory")


def test_what_was_written_is_there_after_the_next_boot(boot):
    first = boot(shell("echo kept > /file; rm /etc/group; cat /proc/1/status; exit 0"))
    assert first.wait() == 0
    assert subprocess.run(["e2fsck", "-fn", str(first.overlay)], capture_output=True).returncode == 0
    second = boot(shell("cat /file; ls /etc"))
    assert second.wait() == 0
    assert "kept\n" in second.output() and "group" not in second.output().split("kept\n")[1]


@pytest.mark.parametrize("part", ["image", "config"])
def test_a_guest_that_cannot_get_to_its_workload_says_why(boot, tmp_path, part):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\0" * 65536)
    if part == "image":
        guest = boot(["true"], image=broken)
        text = "/dev/vda holds no image: not squashfs, erofs or ext4"
    else:
        guest = boot(["true"], config={"cmd": "not a list"})
        text = "the config disk's JSON is not what was agreed"
    channel = guest.connect().greet()
    assert channel.expect(FAILED) == {"message": text}
    assert channel.expect(EXITED)["code"] == 255
    assert guest.wait() == 0
    assert (guest.record()["code"], guest.record()["message"]) == (255, text)
    assert f"hypeman: {text}" in guest.output()


def test_a_q35_guest_with_an_ext4_image_and_a_network(boot, tmp_path):
    tree, image = tmp_path / "tree", tmp_path / "image.ext4"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(open("/bin/busybox", "rb").read())
    (tree / "bin/busybox").chmod(0o755)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image), "16M"], check=True)
    script = "for c in 'ip addr' 'ip route' 'arp -n' 'cat /etc/resolv.conf /run/hypeman/address /proc/sys/net/ipv6/conf/eth0/disable_ipv6'; do busybox $c; done"
    guest = boot(["busybox", "sh", "-c", script], machine="q35", image=image, net=True, config={"network": NETWORK})
    channel = guest.connect().greet()
    channel.expect(STARTED)
    assert channel.expect(EXITED)["code"] == 0
    assert guest.wait() == 0
    output = guest.output()
    assert "inet 192.0.0.2/29 brd 192.0.0.7 scope global eth0" in output and "inet 127.0.0.1/8" in output
    assert "default via 192.0.0.1 dev eth0" in output
    assert "(192.0.0.1) at 02:00:00:00:00:01 [ether] PERM on eth0" in output
    assert "nameserver 9.9.9.9\nnameserver 149.112.112.112\n10.100.3.4\n1\n" in output
