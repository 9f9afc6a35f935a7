/* SPDX-License-Identifier: Apache-2.0 */
/* The client in a thread of its own, as in a job, against our server on the loop in the main one.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "beside_loop.h"
#include "http/client.h"
#include "http/server.h"

struct fixture {
    struct beside beside;
    struct http_server *server;
    char dir[32];
    char path[64];
    size_t fds;
    struct http_request *held;
    struct timer timer; /* cancels */
    int cancel_fd;
    int n_handled;

    void (*client)(struct fixture *f, struct http_client *c);
};

static void handle(void *ctx, struct http_request *req)
{
    struct fixture *f = ctx;
    struct buf b = BUF(1 << 20);
    const char *type = http_header(req, "Content-Type");

    f->n_handled++;
    if (strcmp(http_path(req), "/silent") == 0) {
        f->held = req;
        return;
    }
    if (strcmp(http_path(req), "/cancelled") == 0) {
        f->held = req;
        loop_timer_start(f->beside.loop, &f->timer, 20);
        return;
    }
    if (strcmp(http_path(req), "/boot") == 0) {
        http_reply(req, 204, NULL, NULL);
        return;
    }
    if (strcmp(http_path(req), "/long") == 0) {
        for (int i = 0; i < 10000; i++)
            buf_puts(&b, "0123456789");
    } else if (strcmp(http_path(req), "/connection") == 0) {
        buf_printf(&b, "%p", (void *)req); /* one for each connection */
    } else
        buf_printf(&b,
                   "%s %s %s %s",
                   http_method(req),
                   http_path(req),
                   type ? type : "-",
                   buf_str(http_body(req)));
    http_reply(req, 200, "application/json", &b);
}

static size_t body_limit(void *ctx, const char *method, const char *path)
{
    (void)ctx, (void)method, (void)path;
    return 4 << 20;
}

static void on_timer(struct timer *t)
{
    struct fixture *f = container_of(t, struct fixture, timer);
    uint64_t one = 1;

    assert_int_equal(write(f->cancel_fd, &one, sizeof(one)), sizeof(one));
}

static void start_server(struct fixture *f)
{
    struct http_handler handler = {handle, body_limit, f};
    struct err e = {0};

    f->server = http_server_new(f->beside.loop, &handler);
    assert_int_equal(http_listen_unix(f->server, f->path, 0600, NULL, &e), 0);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->fds = open_fds();
    beside_init(f);
    f->timer.fn = on_timer;
    f->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    snprintf(f->dir, sizeof(f->dir), "/tmp/test-http-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(f->path, sizeof(f->path), "%s/api.sock", f->dir);
    start_server(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    http_server_free(f->server);
    rmdir(f->dir);
    beside_free(f);
    close(f->cancel_fd);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static void with_client(struct fixture *f)
{
    struct http_client *c = http_client_new(f->path);

    f->client(f, c);
    http_client_free(c);
}

static void run(struct fixture *f, void (*client)(struct fixture *f, struct http_client *c))
{
    f->client = client;
    beside_run(f, with_client);
}

static struct op within(int64_t ms)
{
    return (struct op){clock_ms() + ms, -1};
}

static bool answers(struct http_client *c, const char *request, const char *body, const char *want)
{
    auto_buf struct buf answer = BUF(1 << 20);
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    return http_call(&op, c, request, body, &answer, &e) == 200 &&
           strcmp(buf_str(&answer), want) == 0;
}

static void call(struct fixture *f, struct http_client *c)
{
    auto_buf struct buf answer = BUF(1 << 20);
    auto_buf struct buf first = BUF(100);
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    CHECK(answers(c, "GET /info", NULL, "GET /info - "));
    CHECK(answers(c, "PUT /a/../b?c=d", "{\"x\":1}", "PUT /a/../b application/json {\"x\":1}"));
    CHECK(answers(c, "DELETE /info", NULL, "DELETE /info - "));
    CHECK(answers(c, "POST /empty", "", "POST /empty application/json "));
    CHECK(http_call(&op, c, "PUT /boot", NULL, &answer, &e) == 204 && answer.len == 0);
    CHECK(http_call(&op, c, "GET /connection", NULL, &first, &e) == 200);
    for (int i = 0; i < 10; i++)
        CHECK(answers(c, "GET /connection", NULL, buf_str(&first)));
}

static void calls_share_one_connection(void **state)
{
    run(*state, call);
}

static void send_much(struct fixture *f, struct http_client *c)
{
    auto_free char *body = mem_zalloc((3 << 20) + 1, 1);
    auto_buf struct buf answer = BUF(4 << 20);
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    memset(body, 'x', 3 << 20);
    CHECK(http_call(&op, c, "PUT /x", body, &answer, &e) == 500); /* its echo passes our limit */
    CHECK(answers(c, "GET /info", NULL, "GET /info - "));
}

static void a_long_body_is_sent_whole(void **state)
{
    run(*state, send_much);
}

static void wait_too_long(struct fixture *f, struct http_client *c)
{
    auto_buf struct buf answer = BUF(1000);
    struct op op = within(50);
    struct err e = {0};

    CHECK(http_call(&op, c, "GET /silent", NULL, &answer, &e) == -1);
    CHECK(e.code == ERR_TIMEOUT && strcmp(e.msg, "GET /silent: deadline passed") == 0);
    CHECK(clock_ms() >= op.deadline_ms);
    err_clear(&e);
    CHECK(answers(c, "GET /info", NULL, "GET /info - ")); /* there is a connection to send on */
    op.deadline_ms--; /* at the deadline itself an answer may still be there in time */
    CHECK(http_call(&op, c, "GET /late", NULL, &answer, &e) == -1 && e.code == ERR_TIMEOUT);
    CHECK(answers(c, "GET /info", NULL, "GET /info - "));
}

static void a_call_ends_at_its_deadline(void **state)
{
    struct fixture *f = *state;

    run(f, wait_too_long);
    assert_int_equal(f->n_handled, 3); /* /late was not sent */
}

static void be_cancelled(struct fixture *f, struct http_client *c)
{
    auto_buf struct buf answer = BUF(1000);
    struct op op = {clock_ms() + 60000, f->cancel_fd};
    struct err e = {0};

    CHECK(http_call(&op, c, "GET /cancelled", NULL, &answer, &e) == -1);
    CHECK(e.code == ERR_CANCELLED);
    err_clear(&e);
    CHECK(answers(c, "GET /info", NULL, "GET /info - "));
    CHECK(http_call(&op, c, "GET /unsent", NULL, &answer, &e) == -1 && e.code == ERR_CANCELLED);
    CHECK(answers(c, "GET /info", NULL, "GET /info - "));
}

static void a_call_ends_when_it_is_cancelled(void **state)
{
    struct fixture *f = *state;

    run(f, be_cancelled);
    assert_int_equal(f->n_handled, 3);
}

static void take_too_much(struct fixture *f, struct http_client *c)
{
    auto_buf struct buf answer = BUF(99999);
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    CHECK(http_call(&op, c, "GET /long", NULL, &answer, &e) == -1 && e.code == ERR_TOO_LARGE);
    CHECK(answers(c, "GET /info", NULL, "GET /info - "));
}

static void an_answer_has_a_limit(void **state)
{
    run(*state, take_too_much);
}

static void look_for_cloexec(struct fixture *f, struct http_client *c)
{
    int n = 0;

    CHECK(answers(c, "GET /info", NULL, "GET /info - "));
    for (int fd = 3; fd < 100; fd++) {
        struct sockaddr_un peer = {0};
        socklen_t len = sizeof(peer);

        if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0 || strcmp(peer.sun_path, f->path))
            continue;
        n++;
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    CHECK(n == 1);
}

static void no_child_inherits_a_connection(void **state)
{
    run(*state, look_for_cloexec);
}

static void call_from_afar(struct fixture *f, struct http_client *c)
{
    auto_close int dir = open(f->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    auto_free char *path = mem_printf("/proc/self/fd/%d/api.sock", dir);
    struct http_client *other = http_client_new(path);
    bool is_answered = answers(other, "GET /info", NULL, "GET /info - ");

    (void)c;
    http_client_free(other);
    CHECK(is_answered);
}

static void a_peer_is_reached_through_its_directory(void **state)
{
    run(*state, call_from_afar);
}

static void restart(struct fixture *f)
{
    http_server_free(f->server);
    start_server(f);
}

static void call_a_restarted_peer(struct fixture *f, struct http_client *c)
{
    CHECK(answers(c, "PUT /x", "{}", "PUT /x application/json {}"));
    on_loop(f, restart);
    CHECK(answers(c, "PUT /x", "{}", "PUT /x application/json {}"));
}

static void a_peer_that_was_restarted_is_connected_to_again(void **state)
{
    run(*state, call_a_restarted_peer);
}

static void a_peer_that_is_not_there_is_named(void **state)
{
    struct http_client *c = http_client_new("/does/not/exist");
    auto_buf struct buf answer = BUF(1000);
    struct op op = within(1000);
    struct err e = {0};

    (void)state;
    assert_int_equal(http_call(&op, c, "GET /info", NULL, &answer, &e), -1);
    assert_int_equal(e.code, ERR_INTERNAL);
    assert_non_null(
        strstr(e.msg, "GET /info: connect to /does/not/exist: No such file or directory"));
    http_client_free(c);
}

static void an_operation_that_has_ended_sends_nothing(void **state)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    char dir[] = "/tmp/test-http-XXXXXX";
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    auto_buf struct buf answer = BUF(1000);
    struct op op = within(-1);
    struct http_client *c;
    struct err e = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(name.sun_path, sizeof(name.sun_path), "%s/sock", dir);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(fd, 1), 0);
    c = http_client_new(name.sun_path);
    assert_int_equal(http_call(&op, c, "GET /info", NULL, &answer, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    assert_int_equal(accept4(fd, NULL, NULL, SOCK_CLOEXEC), -1); /* not even connected */
    http_client_free(c);
    assert_int_equal(unlink(name.sun_path), 0);
    assert_int_equal(rmdir(dir), 0);
}

#define server_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        server_test(calls_share_one_connection),
        server_test(a_long_body_is_sent_whole),
        server_test(a_call_ends_at_its_deadline),
        server_test(a_call_ends_when_it_is_cancelled),
        server_test(an_answer_has_a_limit),
        server_test(no_child_inherits_a_connection),
        server_test(a_peer_is_reached_through_its_directory),
        server_test(a_peer_that_was_restarted_is_connected_to_again),
        checked_test(an_operation_that_has_ended_sends_nothing),
        checked_test(a_peer_that_is_not_there_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
