/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of vmm/ that need no hypervisor: a thread or the test itself plays QEMU. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "unit.h"
#include "vmm/accel.h"
#include "vmm/host.h"
#include "vmm/qemu.h"
#include "vmm/qmp.h"
#include "vmm/qmp_line.h"
#include "vmm/sock.h"

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}}, "            \
    "\"capabilities\": [\"oob\"]}}\r\n"

static struct op within(int64_t ms)
{
    return (struct op){.deadline_ms = clock_ms() + ms, .cancel_fd = -1};
}

/* A fresh directory, gone with the scope. */
struct place {
    char path[64];
    int fd;
};

static void place_fini(struct place *p)
{
    struct err e = {0};

    close(p->fd);
    assert_int_equal(tree_remove(AT_FDCWD, p->path, &e), 0);
}

#define auto_place __attribute__((cleanup(place_fini)))

static struct place new_place(void)
{
    struct place p = {.path = "/tmp/hypeman-vmm-XXXXXX"};

    assert_non_null(mkdtemp(p.path));
    p.fd = open(p.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(p.fd >= 0);
    return p;
}

/* ---- the command line */

static const struct vmm_host tcg_host = {
    .accel = VMM_TCG,
    .tsc_khz = 2445430,
    .kernel = "/lib/hypeman/vmlinux",
    .initramfs = "/lib/hypeman/initramfs.cpio",
    .microvm_firmware = "/usr/share/qemu/qboot.rom",
    .qemu = "/usr/bin/qemu-system-x86_64",
};

static struct vmm_boot boot_on(const struct vmm_host *host)
{
    return (struct vmm_boot){
        .host = host, .name = "web", .vcpus = 2, .memory_bytes = 256 << 20, .tap_fd = 9};
}

static void assert_pair(const struct argv *a, const char *option, const char *value)
{
    for (size_t i = 0; i + 1 < a->n; i++) {
        if (strcmp(a->v[i], option) == 0 && strcmp(a->v[i + 1], value) == 0)
            return;
    }
    fail_msg("no %s %s on the command line", option, value);
}

static size_t count_containing(const struct argv *a, const char *text)
{
    size_t n = 0;

    for (size_t i = 0; i < a->n; i++)
        n += strstr(a->v[i], text) != NULL;
    return n;
}

static void a_microvm_gets_these_arguments(void **state)
{
    auto_argv struct argv a = {0};
    struct vmm_boot boot = boot_on(&tcg_host);

    (void)state;
    qemu_argv(&a, &qemu_machine_microvm, &boot, QEMU_BOOT);
    assert_string_equal(a.v[0], "/usr/bin/qemu-system-x86_64");
    assert_pair(&a, "-name", "guest=web");
    assert_pair(
        &a, "-machine", "microvm,memory-backend=ram0,dump-guest-core=off,suppress-vmdesc=on");
    assert_pair(&a, "-accel", "tcg,tb-size=64");
    assert_pair(&a, "-cpu", "max,erms=off,fsrm=off");
    assert_pair(&a, "-smp", "2");
    assert_pair(&a, "-m", "268435456B");
    assert_pair(&a,
                "-object",
                "memory-backend-file,id=ram0,size=268435456B,mem-path=/proc/self/fd/6,share=on");
    assert_pair(&a, "-bios", "/usr/share/qemu/qboot.rom");
    assert_pair(&a, "-kernel", "/lib/hypeman/vmlinux");
    assert_pair(&a, "-initrd", "/lib/hypeman/initramfs.cpio");
    assert_pair(&a,
                "-append",
                "console=ttyS0 reboot=t panic=-1 quiet loglevel=1 no_timer_check cryptomgr.notests "
                "init_on_alloc=0 tsc=reliable tsc_early_khz=2445430");
    assert_pair(&a, "-chardev", "socket,id=api,fd=3,server=on,wait=off");
    assert_pair(&a, "-mon", "chardev=api,mode=control");
    assert_pair(&a, "-chardev", "socket,id=events,fd=4,server=on,wait=off");
    assert_pair(&a, "-mon", "chardev=events,mode=control");
    assert_pair(&a, "-chardev", "file,id=serial,path=app.log,append=on");
    assert_pair(&a,
                "-blockdev",
                "driver=raw,node-name=rootfs,file.driver=file,file.filename=rootfs.img,"
                "read-only=on");
    assert_pair(&a,
                "-blockdev",
                "driver=raw,node-name=overlay,file.driver=file,file.filename=overlay.raw,"
                "discard=unmap,detect-zeroes=unmap");
    assert_pair(&a, "-device", "virtio-blk-device,drive=config");
    assert_pair(&a, "-chardev", "socket,id=agent,fd=5,server=on,wait=off");
    assert_pair(&a, "-device", "virtserialport,chardev=agent,name=org.hypeman.agent.0,id=agp");
    assert_pair(&a, "-device", "virtio-rng-device,rng=random");
    assert_pair(&a, "-netdev", "tap,id=net0,fd=7");
    assert_pair(&a, "-device", "virtio-net-device,netdev=net0,mac=02:00:00:00:00:02");
    assert_pair(
        &a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

static void q35_differs_in_machine_and_device_names(void **state)
{
    auto_argv struct argv a = {0};
    struct vmm_boot boot = boot_on(&tcg_host);

    (void)state;
    qemu_argv(&a, &qemu_machine_q35, &boot, QEMU_BOOT);
    assert_pair(&a,
                "-machine",
                "q35,smm=off,hpet=off,vmport=off,sata=off,smbus=off,i8042=off,"
                "memory-backend=ram0,dump-guest-core=off,suppress-vmdesc=on");
    assert_pair(&a, "-device", "virtio-blk-pci,drive=rootfs");
    assert_pair(&a, "-device", "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:02,romfile=");
    assert_int_equal(count_containing(&a, "-bios"), 0);
    assert_int_equal(count_containing(&a, "virtio-blk-device"), 0);
}

static void only_binary_kernel_initrd_and_firmware_are_absolute(void **state)
{
    auto_argv struct argv a = {0};
    struct vmm_boot boot = boot_on(&tcg_host);
    size_t absolute = 0;

    (void)state;
    qemu_argv(&a, &qemu_machine_microvm, &boot, QEMU_BOOT);
    for (size_t i = 0; i < a.n; i++)
        absolute += a.v[i][0] == '/';
    assert_int_equal(absolute, 4);
    assert_int_equal(count_containing(&a, "=/"), 2); /* the RAM's fd, the random device */
    assert_int_equal(count_containing(&a, "=/proc/self/fd/6"), 1);
    assert_int_equal(count_containing(&a, "=/dev/urandom"), 1);
}

static void a_vm_without_a_tap_has_no_network_device(void **state)
{
    auto_argv struct argv a = {0};
    struct vmm_boot boot = boot_on(&tcg_host);

    (void)state;
    boot.tap_fd = -1;
    qemu_argv(&a, &qemu_machine_microvm, &boot, QEMU_BOOT);
    assert_int_equal(count_containing(&a, "net"), 0);
}

static void a_limited_disk_has_a_throttle(void **state)
{
    auto_argv struct argv a = {0};
    struct vmm_boot boot = boot_on(&tcg_host);

    (void)state;
    boot.rates.disk_bytes = 1000000;
    qemu_argv(&a, &qemu_machine_microvm, &boot, QEMU_LOAD);
    assert_pair(&a,
                "-object",
                "{\"qom-type\":\"throttle-group\",\"id\":\"rootfs-rate\",\"limits\":{"
                "\"bps-total\":1000000}}");
    assert_pair(&a,
                "-blockdev",
                "driver=throttle,throttle-group=overlay-rate,node-name=overlay,file.driver=file,"
                "file.filename=overlay.raw,discard=unmap,detect-zeroes=unmap");
    assert_int_equal(count_containing(&a, "driver=raw"), 1);
    assert_int_equal(count_containing(&a, "bps-total"), 2);
}

static void kvm_needs_no_tsc_rate(void **state)
{
    auto_argv struct argv a = {0};
    struct vmm_host host = tcg_host;
    struct vmm_boot boot = boot_on(&host);

    (void)state;
    host.accel = VMM_KVM;
    qemu_argv(&a, &qemu_machine_microvm, &boot, QEMU_BOOT);
    assert_pair(&a, "-accel", "kvm");
    assert_int_equal(count_containing(&a, "tsc_early_khz"), 0);
    assert_int_equal(count_containing(&a, "host"), 1);
}

static void a_load_maps_the_memory_private_and_needs_no_kernel(void **state)
{
    auto_argv struct argv a = {0};
    auto_argv struct argv paused = {0};
    struct vmm_boot boot = boot_on(&tcg_host);

    (void)state;
    qemu_argv(&a, &qemu_machine_microvm, &boot, QEMU_LOAD);
    assert_pair(&a,
                "-object",
                "memory-backend-file,id=ram0,size=268435456B,mem-path=/proc/self/fd/6,share=off");
    assert_pair(&a, "-incoming", "defer");
    assert_int_equal(count_containing(&a, "-kernel"), 0);
    assert_int_equal(count_containing(&a, "-append"), 0);
    qemu_argv(&paused, &qemu_machine_microvm, &boot, QEMU_LOAD_PAUSED);
    assert_int_equal(paused.n, a.n + 1);
    assert_int_equal(count_containing(&paused, "-S"), 1);
}

static void the_identity_names_what_a_snapshot_depends_on(void **state)
{
    auto_buf struct buf here = BUF(1024);
    auto_buf struct buf there = BUF(1024);
    struct vmm_host other = tcg_host;

    (void)state;
    vmm_identity(&qemu_microvm_driver, &tcg_host, &here);
    other.accel = VMM_KVM;
    vmm_identity(&qemu_microvm_driver, &other, &there);
    assert_string_not_equal(buf_str(&here), buf_str(&there));
    other = tcg_host;
    (void)snprintf(other.qemu_version, sizeof(other.qemu_version), "9.9");
    buf_reset(&there);
    vmm_identity(&qemu_microvm_driver, &other, &there);
    assert_string_not_equal(buf_str(&here), buf_str(&there));
    buf_reset(&there);
    vmm_identity(&qemu_q35_driver, &tcg_host, &there);
    assert_string_not_equal(buf_str(&here), buf_str(&there));
}

/* ---- the QMP client, against a thread that follows a script */

struct step {
    enum { SAY, HEAR, SAY_FOREVER, HOLD } what;
    const char *text; /* to say, where $ID is the last id heard; or what must be heard */
};

struct actor {
    const struct step *steps; /* ends with text NULL: then the connection is closed */
    int listen_fd;
    pthread_t thread;
    char heard[4096];
    int got_fd;
};

static void hear(struct actor *a, int fd)
{
    size_t n = 0;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;

    while (n < sizeof(a->heard) - 1) {
        struct iovec iov = {.iov_base = a->heard + n, .iov_len = 1};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control)};

        if (recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) <= 0)
            break;
        if (CMSG_FIRSTHDR(&msg))
            memcpy(&a->got_fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(a->got_fd));
        if (a->heard[n++] == '\n')
            break;
    }
    a->heard[n] = '\0';
}

static void say(const struct actor *a, int fd, const char *text)
{
    const char *id = strstr(a->heard, "\"id\":");
    const char *at = strstr(text, "$ID");
    char line[4096];
    int n;

    if (at && id)
        n = snprintf(line,
                     sizeof(line),
                     "%.*s%.*s%s",
                     (int)(at - text),
                     text,
                     (int)strspn(id + 5, "0123456789"),
                     id + 5,
                     at + 3);
    else
        n = snprintf(line, sizeof(line), "%s", text);
    (void)!send(fd, line, (size_t)n, MSG_NOSIGNAL);
}

static void *act(void *arg)
{
    struct actor *a = arg;
    int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    char byte;

    for (const struct step *s = a->steps; s->text; s++) {
        if (s->what == SAY)
            say(a, fd, s->text);
        else if (s->what == HEAR) {
            hear(a, fd);
            if (!strstr(a->heard, s->text))
                abort();
        } else if (s->what == SAY_FOREVER) {
            while (send(fd, s->text, strlen(s->text), MSG_NOSIGNAL) > 0)
                ;
        } else {
            while (read(fd, &byte, 1) > 0)
                ;
        }
    }
    close(fd);
    return NULL;
}

static void start_actor(struct actor *a, const struct place *p, const struct step *steps)
{
    struct err e = {0};

    *a = (struct actor){.steps = steps, .got_fd = -1};
    a->listen_fd = sock_listen(p->fd, VMM_API_SOCKET, &e);
    assert_true(a->listen_fd >= 0);
    assert_int_equal(pthread_create(&a->thread, NULL, act, a), 0);
}

static void end_actor(struct actor *a)
{
    pthread_join(a->thread, NULL);
    close(a->listen_fd);
}

#define SHAKE_HANDS                                                                                \
    {SAY, GREETING}, {HEAR, "qmp_capabilities"},                                                   \
    {                                                                                              \
        SAY, "{\"return\": {}, \"id\": $ID}\r\n"                                                   \
    }

static void open_qmp(const struct place *p, struct qmp *q)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    assert_int_equal(qmp_open(&op, p->fd, VMM_API_SOCKET, q, &e), 0);
}

static void a_line_may_come_in_pieces_and_events_in_between(void **state)
{
    static const struct step steps[] = {
        {SAY, "{\"event\": \"EARLY\"}\n"},
        SHAKE_HANDS,
        {HEAR, "\"execute\":\"query-status\""},
        {SAY, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1}}\r\n{\"event\": \"MIGR"},
        {SAY, "ATION\", \"data\": {\"status\": \"setup\"}}\n{\"event\": \"MIGRATION\","},
        {SAY,
         "\"data\": {\"status\": \"active\"}}\n{\"return\": {\"status\": \"old\"}, \"id\": 1}\n"},
        {SAY, "{\"return\": {\"status\": \"running\"}, \"id\": $ID}\n"},
        {HOLD, ""},
        {SAY, NULL},
    };
    auto_place struct place p = new_place();
    struct op op = within(PATIENCE_MS);
    struct actor a;
    struct err e = {0};

    (void)state;
    start_actor(&a, &p, steps);
    {
        auto_qmp struct qmp q = QMP_CLOSED;
        json_auto_t *value = NULL;
        json_auto_t *event = NULL;

        open_qmp(&p, &q);
        qmp_want(&q, "MIGRATION");
        value = qmp_call(&op, &q, "query-status", NULL, &e);
        assert_non_null(value);
        assert_string_equal(qmp_text(value, "status"), "running");
        event = qmp_next_event(&op, &q, &e);
        assert_string_equal(qmp_text(event, "status"), "active");
    }
    end_actor(&a);
}

static void an_error_carries_qemus_words(void **state)
{
    static const struct step steps[] = {
        SHAKE_HANDS,
        {HEAR, "{\"execute\":\"cont\",\"arguments\":{\"a\":1},\"id\":"},
        {SAY, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}, \"id\": $ID}\n"},
        {SAY, NULL},
    };
    auto_place struct place p = new_place();
    struct op op = within(PATIENCE_MS);
    struct actor a;
    struct err e = {0};

    (void)state;
    start_actor(&a, &p, steps);
    {
        auto_qmp struct qmp q = QMP_CLOSED;

        open_qmp(&p, &q);
        assert_int_equal(qmp_do(&op, &q, "cont", "{\"a\":1}", &e), -1);
        assert_string_equal(e.msg, "cont: not now");
    }
    end_actor(&a);
}

static void an_fd_travels_with_its_command(void **state)
{
    static const struct step steps[] = {
        SHAKE_HANDS,
        {HEAR, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}"},
        {SAY, "{\"return\": {}, \"id\": $ID}\n"},
        {SAY, NULL},
    };
    auto_place struct place p = new_place();
    struct op op = within(PATIENCE_MS);
    struct actor a;
    struct err e = {0};
    struct stat mine;
    struct stat theirs;

    (void)state;
    start_actor(&a, &p, steps);
    {
        auto_qmp struct qmp q = QMP_CLOSED;
        json_t *value;

        open_qmp(&p, &q);
        value = qmp_call_fd(&op, &q, "getfd", "{\"fdname\":\"state\"}", p.fd, &e);
        assert_non_null(value);
        json_decref(value);
    }
    end_actor(&a);
    assert_int_equal(fstat(p.fd, &mine), 0);
    assert_int_equal(fstat(a.got_fd, &theirs), 0);
    assert_int_equal(mine.st_ino, theirs.st_ino);
    close(a.got_fd);
}

static void expect_failure(const struct step *steps, int64_t ms, enum err_code code,
                           const char *text)
{
    auto_place struct place p = new_place();
    struct op op = within(ms);
    struct actor a;
    struct err e = {0};

    start_actor(&a, &p, steps);
    {
        auto_qmp struct qmp q = QMP_CLOSED;

        if (qmp_open(&op, p.fd, VMM_API_SOCKET, &q, &e) == 0)
            assert_int_equal(qmp_do(&op, &q, "stop", NULL, &e), -1);
    }
    end_actor(&a);
    assert_int_equal(e.code, code);
    assert_non_null(strstr(e.msg, text));
}

static void a_peer_that_misbehaves_is_an_error(void **state)
{
    static const struct step garbage[] = {
        SHAKE_HANDS, {HEAR, "stop"}, {SAY, "hello\n"}, {SAY, NULL}};
    static const struct step foreign[] = {SHAKE_HANDS, {HEAR, "stop"}, {SAY, "[1]\n"}, {SAY, NULL}};
    static const struct step eof[] = {SHAKE_HANDS, {HEAR, "stop"}, {SAY, NULL}};
    static const struct step early_eof[] = {{SAY, NULL}};
    static const struct step silence[] = {SHAKE_HANDS, {HEAR, "stop"}, {HOLD, ""}, {SAY, NULL}};
    static const struct step mute[] = {{HOLD, ""}, {SAY, NULL}};
    static const struct step flood[] = {
        SHAKE_HANDS, {SAY_FOREVER, "xxxxxxxxxxxxxxxx"}, {SAY, NULL}};
    static const struct step chatter[] = {
        SHAKE_HANDS, {SAY_FOREVER, "{\"event\": \"A\"}\n"}, {SAY, NULL}};

    (void)state;
    expect_failure(garbage, 5000, ERR_INTERNAL, "not QMP");
    expect_failure(foreign, 5000, ERR_INTERNAL, "not QMP");
    expect_failure(eof, 5000, ERR_NOT_FOUND, "closed the connection");
    expect_failure(early_eof, 5000, ERR_NOT_FOUND, "greeting");
    expect_failure(silence, 100, ERR_TIMEOUT, "stop: deadline passed");
    expect_failure(mute, 100, ERR_TIMEOUT, "greeting: deadline passed");
    expect_failure(flood, 5000, ERR_INTERNAL, "a line of more than");
    expect_failure(chatter, 100, ERR_TIMEOUT, "deadline passed");
}

static void a_stream_that_never_pauses_meets_the_deadline(void **state)
{
    static const struct step steps[] = {SHAKE_HANDS,
                                        {HEAR, "go"},
                                        {SAY, "{\"event\": \"A\"}\n{\"event\": \"A\"}\n"},
                                        {HOLD, ""},
                                        {SAY, NULL}};
    auto_place struct place p = new_place();
    struct op late = within(-1);
    struct actor a;
    struct err e = {0};

    (void)state;
    start_actor(&a, &p, steps);
    {
        auto_qmp struct qmp q = QMP_CLOSED;
        struct pollfd there = {.events = POLLIN};

        open_qmp(&p, &q);
        there.fd = q.fd;
        assert_int_equal(write(q.fd, "go\n", 3), 3);
        assert_int_equal(poll(&there, 1, 5000), 1);
        qmp_want(&q, "A");
        assert_null(qmp_next_event(&late, &q, &e));
        assert_int_equal(e.code, ERR_TIMEOUT);
    }
    end_actor(&a);
}

static void a_cancelled_operation_leaves_at_once(void **state)
{
    static const struct step mute[] = {{HOLD, ""}, {SAY, NULL}};
    auto_place struct place p = new_place();
    auto_qmp struct qmp q = QMP_CLOSED;
    struct op op = within(PATIENCE_MS);
    struct actor a;
    struct err e = {0};

    (void)state;
    op.cancel_fd = eventfd(1, EFD_CLOEXEC);
    start_actor(&a, &p, mute);
    assert_int_equal(qmp_open(&op, p.fd, VMM_API_SOCKET, &q, &e), -1);
    assert_int_equal(e.code, ERR_CANCELLED);
    end_actor(&a);
    close(op.cancel_fd);
}

static void nobody_there_is_not_found(void **state)
{
    auto_place struct place p = new_place();
    auto_qmp struct qmp q = QMP_CLOSED;
    struct op op = within(1000);
    struct err e = {0};
    int fd = sock_listen(p.fd, VMM_API_SOCKET, &e);
    struct stat st;

    (void)state;
    assert_int_equal(fstatat(p.fd, VMM_API_SOCKET, &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    close(fd);
    assert_int_equal(qmp_open(&op, p.fd, VMM_API_SOCKET, &q, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    err_clear(&e);
    assert_int_equal(vmm_clear_sockets(p.fd, &e), 0);
    assert_int_equal(fstatat(p.fd, VMM_API_SOCKET, &st, 0), -1);
    assert_int_equal(qmp_open(&op, p.fd, VMM_API_SOCKET, &q, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
}

/* ---- the loop's monitor; drain() takes the place of a round of the loop */

struct follower {
    struct place place;
    struct loop *loop;
    struct vmm_monitor *monitor;
    int listen_fd;
    int peer_fd;
    char seen[256];  /* a letter an event */
    char reason[64]; /* of the last */
    bool close_on_event;
};

static void on_event(void *owner, const struct vmm_event *event)
{
    static const char letters[] = {[VMM_EVENT_READY] = 'r',
                                   [VMM_EVENT_STATUS] = 's',
                                   [VMM_EVENT_PAUSED] = 'P',
                                   [VMM_EVENT_RESUMED] = 'R',
                                   [VMM_EVENT_SHUTDOWN] = 'D',
                                   [VMM_EVENT_REBOOT] = 'B',
                                   [VMM_EVENT_PANIC] = '!',
                                   [VMM_EVENT_LOST] = 'L'};
    struct follower *f = owner;
    size_t n = strlen(f->seen);

    if (n + 2 < sizeof(f->seen)) {
        f->seen[n] = letters[event->kind];
        if (event->kind == VMM_EVENT_STATUS)
            f->seen[n] = (char)('0' + event->status);
    }
    (void)snprintf(f->reason, sizeof(f->reason), "%s", event->reason ? event->reason : "");
    if (f->close_on_event) {
        vmm_monitor_close(f->monitor);
        f->monitor = NULL;
    }
}

static void follow(struct follower *f)
{
    struct err e = {0};

    *f = (struct follower){.place = new_place(), .loop = loop_new(&e)};
    f->listen_fd = sock_listen(f->place.fd, VMM_EVENTS_SOCKET, &e);
    f->monitor = vmm_monitor_open(&qemu_q35_driver, f->loop, f->place.fd, on_event, f, &e);
    assert_non_null(f->monitor);
    f->peer_fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(f->peer_fd >= 0);
}

static void unfollow(struct follower *f)
{
    vmm_monitor_close(f->monitor);
    close(f->peer_fd);
    close(f->listen_fd);
    loop_free(f->loop);
    place_fini(&f->place);
}

/* The monitor hears this, then has acted on it. $ID is the id of the command it sent last. */
static void tell(struct follower *f, const char *text)
{
    struct actor a = {0};
    ssize_t n = recv(f->peer_fd, a.heard, sizeof(a.heard) - 1, MSG_DONTWAIT);

    a.heard[n > 0 ? n : 0] = '\0';
    say(&a, f->peer_fd, text);
    if (f->monitor)
        vmm_monitor_drain(f->monitor);
}

static void shake(struct follower *f)
{
    tell(f, GREETING);
    tell(f, "{\"return\": {}, \"id\": $ID}\n");
    assert_string_equal(f->seen, "r");
    f->seen[0] = '\0';
}

static void the_monitor_reports_what_happens(void **state)
{
    struct follower f;

    (void)state;
    follow(&f);
    shake(&f);
    tell(&f, "{\"event\": \"STOP\"}\n{\"event\": \"VSERPORT_CHANGE\", \"data\": {}}\n{\"event\":");
    assert_string_equal(f.seen, "P");
    tell(&f, "\"RESUME\"}\n");
    tell(&f, "{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n");
    tell(&f, "{\"event\": \"GUEST_PANICKED\", \"data\": {}}\n");
    assert_string_equal(f.seen, "PRB!");
    tell(&f,
         "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n");
    assert_string_equal(f.seen, "PRB!D");
    assert_string_equal(f.reason, "guest-reset");
    shutdown(f.peer_fd, SHUT_RDWR);
    vmm_monitor_drain(f.monitor);
    vmm_monitor_drain(f.monitor);
    assert_string_equal(f.seen, "PRB!DL");
    unfollow(&f);
}

static void a_probe_is_answered_by_a_status(void **state)
{
    struct follower f;
    struct err e = {0};
    char heard[512];

    (void)state;
    follow(&f);
    assert_int_equal(vmm_monitor_probe(f.monitor, &e), -1);
    assert_int_equal(e.code, ERR_BAD_STATE);
    err_clear(&e);
    shake(&f);
    assert_int_equal(vmm_monitor_probe(f.monitor, &e), 0);
    tell(&f, "{\"return\": {\"status\": \"postmigrate\"}, \"id\": $ID}\n");
    assert_int_equal(f.seen[0], '0' + VMM_STATUS_PAUSED);
    tell(&f, "{\"return\": {\"status\": \"running\"}, \"id\": 7}\n");
    assert_int_equal(strlen(f.seen), 1);

    assert_int_equal(vmm_monitor_probe(f.monitor, &e), 0);
    assert_true(recv(f.peer_fd, heard, sizeof(heard), MSG_DONTWAIT) > 0);
    assert_int_equal(vmm_monitor_probe(f.monitor, &e), 0); /* the first is still under way */
    assert_int_equal(recv(f.peer_fd, heard, sizeof(heard), MSG_DONTWAIT), -1);
    unfollow(&f);
}

static void expect_lost(const char *text)
{
    struct follower f;

    follow(&f);
    shake(&f);
    tell(&f, text);
    assert_string_equal(f.seen, "L");
    tell(&f, "{\"event\": \"STOP\"}\n");
    assert_string_equal(f.seen, "L");
    unfollow(&f);
}

static void garbage_loses_the_monitor_once(void **state)
{
    (void)state;
    expect_lost("hello\n{\"event\": \"STOP\"}\n");
    expect_lost("{}\n");
    expect_lost("{\"event\": 3}\n");
    expect_lost("{\"event\": \"STOP\", \"event\": \"RESUME\"}\n");
    expect_lost("\n");
    expect_lost("{\"error\": {\"desc\": \"no\"}}\n");
}

static void a_line_without_end_loses_the_monitor(void **state)
{
    struct follower f;
    char *text = mem_zalloc(1001, 1);

    (void)state;
    follow(&f);
    shake(&f);
    memset(text, 'x', 1000);
    for (int i = 0; i < 65; i++)
        tell(&f, text);
    assert_string_equal(f.seen, "");
    for (int i = 0; i < 2; i++)
        tell(&f, text);
    assert_string_equal(f.seen, "L");
    free(text);
    unfollow(&f);
}

static void the_callback_may_close_the_monitor(void **state)
{
    struct follower f;

    (void)state;
    follow(&f);
    shake(&f);
    f.close_on_event = true;
    tell(&f, "{\"event\": \"STOP\"}\n{\"event\": \"RESUME\"}\n");
    assert_string_equal(f.seen, "P");
    unfollow(&f);

    follow(&f);
    f.close_on_event = true;
    shutdown(f.peer_fd, SHUT_RDWR);
    vmm_monitor_drain(f.monitor);
    assert_string_equal(f.seen, "L");
    unfollow(&f);
}

/* ---- stopping */

static int presses;

static int count_press(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    (void)op;
    (void)vm;
    (void)e;
    presses++;
    return 0;
}

static int button_ends(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    (void)op;
    presses++;
    return proc_signal(vm->pidfd, SIGTERM, e);
}

static struct vmm_handle sleeper(const struct vmm_driver *driver, const char *seconds)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct vmm_handle vm = {.driver = driver, .name = "sleeper", .dir_fd = -1};
    struct proc_id id;
    struct err e = {0};

    argv_push(&argv, "/bin/sleep");
    argv_push(&argv, seconds);
    vm.pidfd = proc_spawn(&spec, &id, &e);
    assert_true(vm.pidfd >= 0);
    return vm;
}

static void stop(const struct vmm_handle *vm, const struct op *op, int64_t grace_ms)
{
    struct pollfd gone = {.fd = vm->pidfd, .events = POLLIN};
    struct err e = {0};

    assert_int_equal(vmm_stop(op, vm, grace_ms, NULL, &e), 0);
    assert_int_equal(poll(&gone, 1, 0), 1);
    close(vm->pidfd);
}

static void stop_waits_asks_and_kills(void **state)
{
    static const struct vmm_driver deaf = {.name = "deaf", .power_button = count_press};
    static const struct vmm_driver polite = {.name = "polite", .power_button = button_ends};
    static const struct vmm_driver plain = {.name = "plain"};
    const int64_t without_end = 3600000; /* who waits for that meets the runner's own deadline */
    struct op op = within(without_end);
    struct vmm_handle vm = sleeper(&deaf, "3600");
    int64_t until = clock_ms() + 200;

    (void)state;
    presses = 0;
    stop(&vm, &op, 200);
    assert_int_equal(presses, 1);
    assert_true(clock_ms() >= until); /* it had all of its grace */

    vm = sleeper(&polite, "3600");
    until = clock_ms() + 200;
    stop(&vm, &op, 400);
    assert_true(presses == 2 && clock_ms() >= until); /* asked after half of it */

    vm = sleeper(&plain, "0.1");
    stop(&vm, &op, without_end);

    vm = sleeper(&plain, "3600");
    op.cancel_fd = eventfd(1, EFD_CLOEXEC);
    stop(&vm, &op, without_end);
    close(op.cancel_fd);
}

static void what_a_driver_lacks_is_unsupported(void **state)
{
    static const struct vmm_driver plain = {.name = "plain"};
    struct vmm_handle vm = {.driver = &plain, .name = "x", .dir_fd = -1, .pidfd = -1};
    struct op op = within(1000);
    struct err e = {0};

    (void)state;
    assert_int_equal(vmm_pause(&op, &vm, &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_null(vmm_find("vz"));
}

static void a_default_is_chosen_in_this_order(void **state)
{
    static const char *const names[] = {"cloud-hypervisor", "firecracker", "qemu-microvm", "qemu"};
    size_t n = sizeof(names) / sizeof(names[0]);

    (void)state;
    for (size_t i = 0; i < n; i++)
        assert_ptr_equal(vmm_find(names[i]), vmm_driver_at(i));
    assert_null(vmm_driver_at(n));
}

/* ---- acceleration; main() below plays the probe */

static void decide_with(const char *probe, struct vmm_host *host)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    *host = (struct vmm_host){0};
    setenv("HYPEMAN_TEST_PROBE", probe, 1);
    assert_int_equal(accel_decide(&op, ACCEL_AUTO, host, &e), 0);
    unsetenv("HYPEMAN_TEST_PROBE");
}

static void kvm_is_used_only_when_its_loop_is_fast(void **state)
{
    struct vmm_host host;

    (void)state;
    decide_with("57", &host);
    assert_int_equal(host.accel, VMM_KVM);
    decide_with("115000", &host);
    assert_int_equal(host.accel, VMM_TCG);
    assert_string_equal(host.accel_reason,
                        "/dev/kvm interprets guest code: 100,000 loop rounds took 115 ms "
                        "(real hardware: under 1 ms)");
    decide_with("fail", &host);
    assert_int_equal(host.accel, VMM_TCG);
    assert_string_equal(host.accel_reason, "/dev/kvm cannot be used: no luck");
    decide_with("", &host);
    assert_int_equal(host.accel, VMM_TCG);
    decide_with("hang", &host);
    assert_int_equal(host.accel, VMM_TCG);
    assert_non_null(strstr(host.accel_reason, "did not finish"));
}

static void the_configuration_overrides_the_probe(void **state)
{
    struct op op = within(1000);
    struct vmm_host host = {0};
    struct err e = {0};

    (void)state;
    assert_int_equal(accel_decide(&op, ACCEL_KVM, &host, &e), 0);
    assert_int_equal(host.accel, VMM_KVM);
    assert_int_equal(accel_decide(&op, ACCEL_TCG, &host, &e), 0);
    assert_int_equal(host.accel, VMM_TCG);

    op.cancel_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(accel_decide(&op, ACCEL_AUTO, &host, &e), -1);
    assert_int_equal(e.code, ERR_CANCELLED);
    close(op.cancel_fd);
}

static void the_host_is_described(void **state)
{
    struct vmm_host_settings settings = {.kernel = "/k", .initramfs = "/i"};
    struct op op = within(PATIENCE_MS);
    struct vmm_host host;
    struct err e = {0};

    (void)state;
    assert_int_equal(vmm_host_probe(&op, &settings, &host, &e), 0);
    print_message("accelerator: %s\n", host.accel_reason);
    print_message("tsc: %lu kHz; qemu: %s %s; firmware: %s\n",
                  (unsigned long)host.tsc_khz,
                  host.qemu,
                  host.qemu_version,
                  host.microvm_firmware);
    assert_true(host.accel_reason[0] != '\0');
    assert_in_range(host.tsc_khz, 500000, 10000000);
    assert_string_equal(host.kernel, "/k");

    settings.qemu = "/nowhere/qemu";
    assert_int_equal(vmm_host_probe(&op, &settings, &host, &e), 0);
    assert_string_equal(host.qemu, "");
    assert_int_equal(vmm_driver_at(0)->available(&host, &e), -1);
    assert_int_equal(e.code, ERR_UNSUPPORTED);
}

static int play_probe(const char *part)
{
    if (strcmp(part, "hang") == 0)
        return pause();
    if (strcmp(part, "fail") == 0) {
        (void)fputs("no luck\n", stderr);
        return 1;
    }
    (void)printf("%s\n", part);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        checked_test(a_microvm_gets_these_arguments),
        checked_test(q35_differs_in_machine_and_device_names),
        checked_test(only_binary_kernel_initrd_and_firmware_are_absolute),
        checked_test(a_vm_without_a_tap_has_no_network_device),
        checked_test(a_limited_disk_has_a_throttle),
        checked_test(kvm_needs_no_tsc_rate),
        checked_test(a_load_maps_the_memory_private_and_needs_no_kernel),
        checked_test(the_identity_names_what_a_snapshot_depends_on),
        checked_test(a_line_may_come_in_pieces_and_events_in_between),
        checked_test(an_error_carries_qemus_words),
        checked_test(an_fd_travels_with_its_command),
        checked_test(a_peer_that_misbehaves_is_an_error),
        checked_test(a_stream_that_never_pauses_meets_the_deadline),
        checked_test(a_cancelled_operation_leaves_at_once),
        checked_test(nobody_there_is_not_found),
        checked_test(the_monitor_reports_what_happens),
        checked_test(a_probe_is_answered_by_a_status),
        checked_test(garbage_loses_the_monitor_once),
        checked_test(a_line_without_end_loses_the_monitor),
        checked_test(the_callback_may_close_the_monitor),
        checked_test(stop_waits_asks_and_kills),
        checked_test(what_a_driver_lacks_is_unsupported),
        checked_test(a_default_is_chosen_in_this_order),
        checked_test(kvm_is_used_only_when_its_loop_is_fast),
        checked_test(the_configuration_overrides_the_probe),
        checked_test(the_host_is_described),
    };
    const char *part = getenv("HYPEMAN_TEST_PROBE");

    if (argc == 2 && strcmp(argv[1], ACCEL_PROBE_ARGUMENT) == 0)
        return part ? play_probe(part) : accel_probe_main();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
