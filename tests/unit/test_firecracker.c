/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the Firecracker driver that need no VMM: waiting for its socket, what
 * it is told, and what it may answer. The whole driver: tests/conformance.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "loop/proc.h"
#include "unit.h"
#include "vmm/firecracker.h"
#include "vmm/http_answer.h"
#include "vmm/sock.h"
#include "vmm/socket_wait.h"

static struct op within(int64_t ms)
{
    return (struct op){.deadline_ms = clock_ms() + ms, .cancel_fd = -1};
}

/* --- waiting for a socket, of a VMM that is a shell or the test itself --- */

struct wait_rig {
    char path[64];
    int dir_fd;
    int log_fd;
    int pidfd;
    struct last_words_source vmm;
    struct socket_wait wait;
};

/* The program stands in for the VMM: it lives, or it says something and ends. */
static void start_program(struct wait_rig *r, const char *program, const char *argument)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct proc_id id;
    struct err e = {0};

    argv_push(&argv, program);
    argv_push(&argv, argument);
    spec.stdout_fd = spec.stderr_fd = r->log_fd;
    r->pidfd = proc_spawn(&spec, &id, &e);
    assert_true(r->pidfd >= 0);
}

static void wait_rig_init(struct wait_rig *r)
{
    *r = (struct wait_rig){.path = "/tmp/hypeman-wait-XXXXXX", .pidfd = -1};
    assert_non_null(mkdtemp(r->path));
    r->dir_fd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r->log_fd = openat(r->dir_fd, "log", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(r->log_fd >= 0);
    r->vmm =
        (struct last_words_source){.program = "The VMM", .pidfd = &r->pidfd, .log_fd = r->log_fd};
    r->wait = (struct socket_wait){.dir_fd = r->dir_fd, .name = "api.sock", .vmm = &r->vmm};
}

static void wait_rig_end(struct wait_rig *r)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    if (r->pidfd >= 0)
        assert_int_equal(proc_kill(&op, r->pidfd, &e), 0);
    cleanup_close(&r->pidfd);
    close(r->log_fd);
    close(r->dir_fd);
    assert_int_equal(tree_remove(AT_FDCWD, r->path, &e), 0);
    socket_wait_forget();
}

struct binder {
    pthread_t thread;
    const struct wait_rig *rig;
    int before_ms;  /* until bind() */
    int between_ms; /* until listen() */
    int fd;
};

static void *bind_later(void *arg)
{
    struct binder *b = arg;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    (void)op_sleep(&op, b->before_ms, &e);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/api.sock", b->rig->path);
    b->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(b->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        abort();
    (void)op_sleep(&op, b->between_ms, &e);
    if (listen(b->fd, 4) < 0)
        abort();
    return NULL;
}

static void expect_ready(struct wait_rig *r, int before_ms, int between_ms)
{
    struct binder b = {.rig = r, .before_ms = before_ms, .between_ms = between_ms};
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    assert_int_equal(pthread_create(&b.thread, NULL, bind_later, &b), 0);
    if (socket_wait(&op, &r->wait, &e) < 0)
        fail_msg("%s", e.msg);
    pthread_join(b.thread, NULL);
    close(b.fd);
    assert_int_equal(unlinkat(r->dir_fd, "api.sock", 0), 0);
}

static void a_socket_is_there_before_between_or_after(void **state)
{
    struct wait_rig r;

    (void)state;
    wait_rig_init(&r);
    start_program(&r, "/bin/sleep", "100");
    for (int how = SOCKET_BY_EVENT; how <= SOCKET_BY_POLL_50MS; how++) {
        r.wait.how = (enum socket_readiness)how;
        expect_ready(&r, 0, 0);
        expect_ready(&r, 30, 0);
        expect_ready(&r, 0, 30); /* bound, and nobody listens yet */
    }
    wait_rig_end(&r);
}

static void without_inotify_it_is_looked_for(void **state)
{
    int held[4096];
    size_t n = 0;
    struct wait_rig r;

    (void)state;
    wait_rig_init(&r);
    start_program(&r, "/bin/sleep", "100");
    while (n < 4096 && (held[n] = inotify_init1(IN_CLOEXEC)) >= 0)
        n++;
    print_message("%zu inotify instances, then: %s\n", n, strerror(errno));
    if (n < 4096 && n < 900) /* else it is the fds that ran out */
        expect_ready(&r, 30, 10);
    while (n > 0)
        close(held[--n]);
    wait_rig_end(&r);
}

static void a_process_that_dies_ends_the_wait_with_its_last_words(void **state)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct wait_rig r;

    (void)state;
    wait_rig_init(&r);
    start_program(&r, "/bin/ls", "/nowhere-at-all");
    assert_int_equal(socket_wait(&op, &r.wait, &e), -1);
    assert_int_equal(e.code, ERR_INTERNAL);
    if (!strstr(e.msg, "The VMM ended with status 2: ") || !strstr(e.msg, "/nowhere-at-all"))
        fail_msg("%s", e.msg);
    assert_int_equal(r.pidfd, -1);
    wait_rig_end(&r);
}

static void a_deadline_and_a_cancellation_carry_the_last_words(void **state)
{
    auto_close int cancelled = eventfd(1, EFD_CLOEXEC);
    struct op op = within(30);
    struct err e = {0};
    struct wait_rig r;

    (void)state;
    wait_rig_init(&r);
    start_program(&r, "/bin/sleep", "100");
    assert_int_equal(write(r.log_fd, "still looking\nfor a disk\n", 25), 25);
    assert_int_equal(socket_wait(&op, &r.wait, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    assert_string_equal(e.msg,
                        "The VMM did not listen on api.sock; its last words: still looking for a "
                        "disk: deadline passed");
    err_clear(&e);
    op = within(PATIENCE_MS);
    op.cancel_fd = cancelled;
    assert_int_equal(socket_wait(&op, &r.wait, &e), -1);
    assert_int_equal(e.code, ERR_CANCELLED);
    wait_rig_end(&r);
}

/* --- what it is told --- */

static struct vmm_host host_of(const char *version)
{
    struct vmm_host host = {.accel = VMM_KVM, .kernel = "/k", .kvm_tells_real_time = true};

    (void)snprintf(host.firecracker, sizeof(host.firecracker), "/bin/firecracker");
    (void)snprintf(host.firecracker_version, sizeof(host.firecracker_version), "%s", version);
    return host;
}

static void expect_load(const char *version, const char *wanted)
{
    auto_buf struct buf body = BUF(4096);
    struct vmm_host host = host_of(version);
    struct vmm_load load = {
        .boot = {.host = &host, .tap_fd = -1, .tap_name = "hm7", .track_dirty = true},
        .resume = true,
    };

    firecracker_load_body(&body, &load);
    assert_string_equal(buf_str(&body), wanted);
}

#define LOAD_BEGIN                                                                                 \
    "{\"snapshot_path\":\"snapshot/state\",\"mem_backend\":{\"backend_type\":\"File\","            \
    "\"backend_path\":\"snapshot/memory\"},"
#define LOAD_NET                                                                                   \
    "\"resume_vm\":true,\"network_overrides\":[{\"iface_id\":\"eth0\",\"host_dev_name\":\"hm7\"}]"

static void a_field_is_sent_only_to_a_version_that_knows_it(void **state)
{
    (void)state;
    expect_load("1.12.1", LOAD_BEGIN "\"enable_diff_snapshots\":true," LOAD_NET "}");
    expect_load("1.15.0", LOAD_BEGIN "\"track_dirty_pages\":true," LOAD_NET "}");
    expect_load("1.16.1",
                LOAD_BEGIN "\"track_dirty_pages\":true," LOAD_NET
                           ",\"vsock_override\":{\"uds_path\":\"vsock.sock\"},"
                           "\"clock_realtime\":true}");
}

static void too_old_a_version_or_no_kvm_is_not_offered(void **state)
{
    static const char *const refused[] = {"1.11.0", "0.25.2", "", "nonsense", "1."};
    struct vmm_host host;
    struct err e = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        host = host_of(refused[i]);
        assert_int_equal(firecracker_driver.available(&host, &e), -1);
        err_clear(&e);
    }
    host = host_of("1.12.0");
    assert_int_equal(firecracker_driver.available(&host, &e), 0);
    host.accel = VMM_TCG;
    assert_int_equal(firecracker_driver.available(&host, &e), -1);
    host = host_of("2.0.0");
    assert_true(firecracker_has(&host, 16));
}

static void limits_become_buckets(void **state)
{
    static const struct vmm_rates rates = {.disk_bytes = 1000000, .disk_requests = 5};
    static const struct vmm_rates none;
    auto_buf struct buf body = BUF(4096);

    (void)state;
    firecracker_drive(&body, "overlay", "overlay.raw", false, &rates);
    assert_string_equal(
        buf_str(&body),
        "{\"drive_id\":\"overlay\",\"path_on_host\":\"overlay.raw\",\"is_root_device\":false,"
        "\"is_read_only\":false,\"cache_type\":\"Writeback\",\"rate_limiter\":{\"bandwidth\":"
        "{\"size\":100000,\"refill_time\":100},\"ops\":{\"size\":1,\"refill_time\":100}}}");
    buf_reset(&body);
    firecracker_drive(&body, "rootfs", "rootfs.img", true, &none);
    assert_null(strstr(buf_str(&body), "rate_limiter"));
}

/* --- what it may answer --- */

static void expect_answer(const char *text, int rc, int status, const char *body)
{
    struct http_answer a = {0};
    struct err e = {0};

    assert_int_equal(http_answer_parse(text, strlen(text), &a, &e), rc);
    if (rc != 1)
        return;
    assert_int_equal(a.status, status);
    assert_int_equal(a.body_len, strlen(body));
    assert_memory_equal(a.body, body, a.body_len);
}

static void an_answer_is_whole_or_not_yet_or_none(void **state)
{
    static const char whole[] = "HTTP/1.1 200 \r\nServer: Firecracker API\r\n"
                                "content-length:  5\r\n\r\n{\"a\"}";
    char part[sizeof(whole)];

    (void)state;
    expect_answer(whole, 1, 200, "{\"a\"}");
    for (size_t n = 0; n + 1 < sizeof(whole); n++) {
        (void)snprintf(part, sizeof(part), "%.*s", (int)n, whole);
        expect_answer(part, 0, 0, "");
    }
    expect_answer("HTTP/1.1 204 \r\n\r\n", 1, 204, "");
    expect_answer("HTTP/1.0 200 \r\n\r\n", -1, 0, "");
    expect_answer("HTTP/1.1 xyz \r\n\r\n", -1, 0, "");
    expect_answer("HTTP/1.1 2\r\n\r\n", -1, 0, "");
    expect_answer("HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n", -1, 0, "");
    expect_answer("HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n", -1, 0, "");
    expect_answer("HTTP/1.1 200 \r\nContent-Length: \r\n\r\n", -1, 0, "");
    expect_answer("\x16\x03\x01 something else entirely\r\n\r\n", -1, 0, "");
}

static void a_head_without_end_is_refused(void **state)
{
    char text[5000] = "HTTP/1.1 200 \r\n";
    struct http_answer a;
    struct err e = {0};

    (void)state;
    memset(text + 15, 'x', sizeof(text) - 16);
    assert_int_equal(http_answer_parse(text, sizeof(text), &a, &e), -1);
}

/* --- the monitor, and a peer that plays Firecracker --- */

struct story {
    struct loop *loop;
    struct vmm_monitor *monitor;
    struct timer late;
    int listen_fd;
    int peer_fd;
    char seen[64];
};

static void too_late(struct timer *t)
{
    loop_stop(container_of(t, struct story, late)->loop);
}

static void on_event(void *owner, const struct vmm_event *event)
{
    struct story *s = owner;
    struct err e = {0};
    size_t n = strlen(s->seen);

    s->seen[n] = event->kind == VMM_EVENT_READY    ? 'r'
                 : event->kind == VMM_EVENT_STATUS ? (char)('0' + (int)event->status)
                 : event->kind == VMM_EVENT_LOST   ? 'l'
                                                   : '?';
    if (event->kind == VMM_EVENT_READY)
        assert_int_equal(vmm_monitor_probe(s->monitor, &e), 0);
    else
        loop_stop(s->loop);
}

/* What the peer says to each question that comes, all at once. */
static void tell_story(const char *first, const char *second, const char *seen)
{
    static const char *const lines[] = {"GET / HTTP/1.1\r\n", "Host: localhost\r\n"};
    char path[64] = "/tmp/hypeman-fcmon-XXXXXX";
    struct story s = {.late.fn = too_late};
    struct err e = {0};
    char heard[512] = "";
    int dir_fd;

    assert_non_null(mkdtemp(path));
    dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    s.listen_fd = sock_listen(dir_fd, VMM_API_SOCKET, &e);
    s.loop = loop_new(&e);
    s.monitor = vmm_monitor_open(&firecracker_driver, s.loop, dir_fd, on_event, &s, &e);
    assert_non_null(s.monitor);
    assert_int_equal(vmm_monitor_probe(s.monitor, &e), -1); /* not before the handshake */
    err_clear(&e);
    s.peer_fd = accept4(s.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(recv(s.peer_fd, heard, sizeof(heard) - 1, 0) > 0);
    for (size_t i = 0; i < 2; i++)
        assert_non_null(strstr(heard, lines[i]));
    (void)!send(s.peer_fd, first, strlen(first), MSG_NOSIGNAL);
    loop_timer_start(s.loop, &s.late, 200);
    assert_int_equal(loop_run(s.loop, &e), 0);
    if (second) {
        (void)!send(s.peer_fd, second, strlen(second), MSG_NOSIGNAL);
        loop_timer_start(s.loop, &s.late, 5000);
        assert_int_equal(loop_run(s.loop, &e), 0);
    }
    assert_string_equal(s.seen, seen);
    loop_timer_stop(s.loop, &s.late);
    vmm_monitor_close(s.monitor);
    loop_free(s.loop);
    close(s.peer_fd);
    close(s.listen_fd);
    close(dir_fd);
    assert_int_equal(tree_remove(AT_FDCWD, path, &e), 0);
}

#define ANSWER(length, body) "HTTP/1.1 200 \r\nContent-Length: " length "\r\n\r\n" body

static void a_probe_is_answered_and_garbage_loses_the_monitor(void **state)
{
    static const char running[] = ANSWER("19", "{\"state\":\"Running\"}");

    (void)state;
    tell_story(running, running, "r2");
    tell_story(running, ANSWER("18", "{\"state\":\"Paused\"}"), "r3");
    tell_story(running, ANSWER("17", "{\"state\":\"Dizzy\"}"), "r0");
    tell_story(running, ANSWER("2", "[]"), "r0");
    tell_story(running, "HTTP/1.1 400 \r\n\r\n", "r0");
    tell_story(running, "no answer at all\r\n\r\n", "rl");
    tell_story(running, ANSWER("2", "{}and more"), "rl");
    tell_story("no answer at all\r\n\r\n", NULL, "l");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        checked_test(a_socket_is_there_before_between_or_after),
        checked_test(without_inotify_it_is_looked_for),
        checked_test(a_process_that_dies_ends_the_wait_with_its_last_words),
        checked_test(a_deadline_and_a_cancellation_carry_the_last_words),
        checked_test(a_field_is_sent_only_to_a_version_that_knows_it),
        checked_test(too_old_a_version_or_no_kvm_is_not_offered),
        checked_test(limits_become_buckets),
        checked_test(an_answer_is_whole_or_not_yet_or_none),
        checked_test(a_head_without_end_is_refused),
        checked_test(a_probe_is_answered_and_garbage_loses_the_monitor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
