/* SPDX-License-Identifier: Apache-2.0 */
/* Guests that lie, flood or say nothing: they cost themselves their connection, and nobody anything
 * else. */
#include "guest_fixture.h"

static int setup_alone(void **state)
{
    *state = make(false);
    return 0;
}

/* The agent: answers the greeting with this version, says what was prepared, and hangs on. */
static _Noreturn void play(int listen_fd, int version, const struct buf *what)
{
    auto_buf struct buf out = BUF(64 * 1024);
    char hello[4096];
    char answer[128];
    const char *nonce;
    ssize_t n;
    int fd;

    /* The host's end of the connection came along with the fork. */
    (void)dup2(listen_fd, STDIN_FILENO);
    (void)close_range(3, ~0U, 0);
    fd = accept4(STDIN_FILENO, NULL, NULL, SOCK_CLOEXEC);
    n = recv(fd, hello, sizeof(hello) - 1, 0);
    nonce = n > 0 ? memmem(hello, (size_t)n, "\"nonce\":\"", 9) : NULL;
    if (!nonce)
        _exit(3);
    (void)snprintf(
        answer, sizeof(answer), "{\"version\":%d,\"nonce\":\"%.32s\"}", version, nonce + 9);
    buf_append(&out, wire_magic, WIRE_MAGIC_LEN);
    frame_put(&out, FRAME_HELLO, 0, answer, strlen(answer));
    if (version > 0)
        (void)!send(fd, out.data, out.len, MSG_NOSIGNAL);
    (void)!send(fd, what->data, what->len, MSG_NOSIGNAL);
    while (recv(fd, hello, sizeof(hello), 0) > 0)
        continue;
    _exit(0);
}

/* Runs one stream (number 1) against such a guest until it has ended. */
static struct guest_end against(struct fixture *f, int version, const struct buf *what, bool copies)
{
    struct work w = work_in(f);
    struct err e = {0};

    f->agent = fork();
    if (f->agent == 0)
        play(f->listen_fd, version, what);
    close(f->listen_fd);
    w.holds = true;
    w.stream = copies ? guest_copy_out(f->row, &(struct guest_tree){.path = "/x"}, &events, &w, &e)
                      : guest_exec(f->row,
                                   &(struct guest_command){.argv = (const char *const[]){"x", NULL},
                                                           .wait_ms = 300},
                                   &events,
                                   &w,
                                   &e);
    assert_non_null(w.stream);
    run(f);
    assert_true(w.total <= GUEST_COPY_WINDOW);
    work_free(&w);
    return w.end;
}

static void assert_lost(const struct guest_end *end)
{
    assert_false(end->ok);
    assert_int_equal(end->err.code, ERR_BAD_STATE);
    assert_string_equal(end->err.msg, "the connection to the guest's agent ended");
}

static void more_than_was_granted_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(8 * 1024 * 1024);
    static const char bytes[32 * 1024];
    struct guest_end end;

    for (int i = 0; i < 9; i++)
        frame_put(&what, FRAME_DATA, 1, bytes, sizeof(bytes));
    end = against(f, WIRE_VERSION, &what, false);
    assert_lost(&end);
}

static void zeros_count_as_many_as_they_stand_for(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(1024);
    struct guest_end end;

    frame_put_u32(&what, FRAME_ZEROS, 1, UINT32_MAX);
    end = against(f, WIRE_VERSION, &what, true);
    assert_lost(&end);
}

static void more_credit_than_the_window_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(1024);
    struct guest_end end;

    frame_put_u32(&what, FRAME_CREDIT, 1, 1);
    end = against(f, WIRE_VERSION, &what, false);
    assert_lost(&end);
}

static void a_malformed_entry_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(1024);
    struct guest_end end;

    frame_put(&what, FRAME_ENTRY, 1, "no entry at all, and far too short for one", 42);
    end = against(f, WIRE_VERSION, &what, true);
    assert_lost(&end);
}

static void an_end_that_is_no_json_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(1024);
    struct guest_end end;

    frame_put(&what, FRAME_DONE, 1, "{", 1);
    end = against(f, WIRE_VERSION, &what, false);
    assert_lost(&end);
}

static void numbers_of_an_end_are_brought_into_range(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(4096);
    static const char done[] = "{\"code\":-7,\"signal\":9999,\"bytes\":-1,\"errno\":1e9}";
    struct guest_end end;

    frame_put(&what, FRAME_DATA, 77, "of no stream", 12);
    frame_put(&what, 99, 1, "of no type", 10);
    frame_put(&what, FRAME_DONE, 1, done, sizeof(done) - 1);
    frame_put(&what, FRAME_DONE, 1, done, sizeof(done) - 1);
    end = against(f, WIRE_VERSION, &what, false);
    assert_true(end.ok);
    assert_int_equal(end.code, 0);
    assert_int_equal(end.signal, 64);
    assert_int_equal(end.bytes, 0);
}

static void an_agent_of_an_older_snapshot_is_told_apart(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(64);
    struct guest_end end = against(f, 1, &what, false);
    struct err e = {0};

    assert_false(end.ok);
    assert_int_equal(end.err.code, ERR_UNSUPPORTED);
    assert_null(guest_stat(f->row, "/", false, &events, NULL, &e));
    assert_int_equal(e.code, ERR_UNSUPPORTED);
}

/* Of the first version with streams: they work as ever, and what came later is refused here. */
static void an_agent_without_hard_links_does_all_the_rest(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(4096);
    static const char done[] = "{\"code\":7,\"signal\":0,\"timed_out\":false,\"oom\":false}";
    struct guest_end end;

    frame_put(&what, FRAME_DATA, 1, "said", 4);
    frame_put(&what, FRAME_DONE, 1, done, sizeof(done) - 1);
    end = against(f, WIRE_STREAMS, &what, false);
    assert_true(end.ok);
    assert_int_equal(end.code, 7);
}

static void put_hard_link(void *owner)
{
    struct work *w = owner;

    assert_false(guest_put_entry(
        w->stream,
        &(struct guest_entry){.kind = GUEST_HARD_LINK, .path = "b", .link_target = "a"}));
}

static void a_hard_link_is_refused_where_the_agent_is_too_old(void **state)
{
    static const struct guest_events linking = {NULL, NULL, put_hard_link, on_end};
    struct fixture *f = *state;
    auto_buf struct buf nothing = BUF(64);
    struct work w = work_in(f);
    struct err e = {0};

    f->agent = fork();
    if (f->agent == 0)
        play(f->listen_fd, WIRE_HARD_LINKS - 1, &nothing);
    close(f->listen_fd);
    w.stream = guest_copy_in(f->row, "/x", &linking, &w, &e);
    assert_non_null(w.stream);
    put_hard_link(&w); /* there is no room before it has greeted */
    run(f);
    assert_false(w.end.ok);
    assert_int_equal(w.end.err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(w.end.err.msg, "--hard-dereference"));
    work_free(&w);
}

static void an_agent_that_does_not_greet_is_waited_for_so_long(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf what = BUF(64);
    struct guest_end end = against(f, 0, &what, false);

    assert_false(end.ok);
    assert_int_equal(end.err.code, ERR_TIMEOUT);
}

int main(void)
{
#define hostile_test(name) cmocka_unit_test_setup_teardown(name, setup_alone, teardown)
    static const struct CMUnitTest tests[] = {
        hostile_test(more_than_was_granted_ends_the_connection),
        hostile_test(zeros_count_as_many_as_they_stand_for),
        hostile_test(more_credit_than_the_window_ends_the_connection),
        hostile_test(a_malformed_entry_ends_the_connection),
        hostile_test(an_end_that_is_no_json_ends_the_connection),
        hostile_test(numbers_of_an_end_are_brought_into_range),
        hostile_test(an_agent_of_an_older_snapshot_is_told_apart),
        hostile_test(an_agent_without_hard_links_does_all_the_rest),
        hostile_test(a_hard_link_is_refused_where_the_agent_is_too_old),
        hostile_test(an_agent_that_does_not_greet_is_waited_for_so_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
