/* SPDX-License-Identifier: Apache-2.0 */
/* The streams of vm/guest.h against the real agent's (tests/unit/agent_double.h), without a VM. */
#include "guest_fixture.h"

static void begin(struct work *w, const struct guest_command *c)
{
    struct err e = {0};

    w->stream = guest_exec(w->f->row, c, &events, w, &e);
    assert_non_null(w->stream);
}

/* sh -c, with its ends as they come. */
static void begin_sh(struct work *w, const char *script)
{
    begin(w, &(struct guest_command){.argv = (const char *const[]){"/bin/sh", "-c", script, NULL}});
}

static void a_command_gives_its_output_and_code(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);

    begin_sh(&w, "echo out; echo err >&2; exit 3");
    run(f);
    assert_true(w.end.ok);
    assert_int_equal(w.end.code, 3);
    assert_string_equal(buf_str(&w.out), "out\n");
    assert_string_equal(buf_str(&w.errors), "err\n");
    work_free(&w);
}

static void merged_output_keeps_its_order(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);

    begin(&w,
          &(struct guest_command){
              .argv =
                  (const char *const[]){
                      "sh", "-c", "for i in 1 2 3; do echo o$i; echo e$i >&2; done", NULL},
              .merge_stderr = true});
    run(f);
    assert_string_equal(buf_str(&w.out), "o1\ne1\no2\ne2\no3\ne3\n");
    work_free(&w);
}

static void what_cannot_start_says_why(void **state)
{
    struct fixture *f = *state;
    struct work none = work_in(f);
    struct work denied = work_in(f);
    struct work nowhere = work_in(f);
    struct work nobody = work_in(f);

    begin(&none, &(struct guest_command){.argv = (const char *const[]){"no-such-program", NULL}});
    begin(&denied, &(struct guest_command){.argv = (const char *const[]){"/etc/passwd", NULL}});
    begin(&nowhere,
          &(struct guest_command){.argv = (const char *const[]){"true", NULL}, .cwd = "/no/where"});
    begin(&nobody,
          &(struct guest_command){.argv = (const char *const[]){"true", NULL},
                                  .user = "nobody-here"});
    run(f);
    assert_false(none.end.ok);
    assert_int_equal(none.end.code, 127);
    assert_int_equal(none.end.err.code, ERR_NOT_FOUND);
    assert_string_equal(none.end.err.msg, "cannot run \"no-such-program\": it is not in PATH");
    assert_false(denied.end.ok);
    assert_int_equal(denied.end.code, 126);
    assert_false(nowhere.end.ok);
    assert_non_null(strstr(nowhere.end.err.msg, "working directory /no/where: No such file"));
    assert_non_null(strstr(nobody.end.err.msg, "nobody-here"));
    work_free(&none);
    work_free(&denied);
    work_free(&nowhere);
    work_free(&nobody);
}

static void the_environment_is_the_requests_over_the_workloads(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);

    begin(&w,
          &(struct guest_command){
              .argv = (const char *const[]){"/bin/sh", "-c", "echo $A$B; pwd; echo $PATH", NULL},
              .env = (const char *const[]){"A=1", "B=2 3", "A=4", "PATH=/x:/bin", NULL},
              .cwd = "/usr"});
    run(f);
    assert_string_equal(buf_str(&w.out), "42 3\n/usr\n/x:/bin\n");
    work_free(&w);
}

static void input_goes_in_and_ends(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);
    auto_free char *big = mem_zalloc(1, 1000000);

    for (size_t i = 0; i < 1000000; i++)
        big[i] = (char)('a' + i % 17);
    w.input = big;
    w.input_len = 1000000;
    w.ends_input = true;
    begin_sh(&w, "cat; echo end");
    feed(&w);
    run(f);
    assert_int_equal(w.out.len, 1000004);
    assert_memory_equal(w.out.data, big, 1000000);
    assert_string_equal(w.out.data + 1000000, "end\n");
    work_free(&w);
}

static void a_signal_is_128_and_its_number(void **state)
{
    struct fixture *f = *state;
    struct work killed = work_in(f);
    struct work asked = work_in(f);

    begin_sh(&killed, "kill -9 $$");
    begin_sh(&asked, "echo; exec sleep 60");
    asked.signal = SIGUSR1;
    run(f);
    assert_int_equal(killed.end.code, 137);
    assert_int_equal(killed.end.signal, 9);
    assert_int_equal(asked.end.code, 128 + SIGUSR1);
    work_free(&killed);
    work_free(&asked);
}

static void a_command_that_takes_too_long_is_ended(void **state)
{
    struct fixture *f = *state;
    struct work soft = work_in(f);
    struct work hard = work_in(f);
    struct work deaf = work_in(f);

    begin(&soft,
          &(struct guest_command){
              .argv =
                  (const char *const[]){
                      "sh", "-c", "trap 'echo bye; exit 0' TERM; sleep 60 & wait", NULL},
              .timeout_ms = 200,
              .grace_ms = 10000});
    begin(&hard,
          &(struct guest_command){.argv = (const char *const[]){"sleep", "60", NULL},
                                  .timeout_ms = 100});
    begin(&deaf,
          &(struct guest_command){
              .argv = (const char *const[]){"sh", "-c", "trap '' TERM; sleep 60", NULL},
              .timeout_ms = 100,
              .grace_ms = 100});
    run(f);
    assert_string_equal(buf_str(&soft.out), "bye\n");
    assert_int_equal(soft.end.code, 124);
    assert_true(soft.end.timed_out);
    assert_int_equal(hard.end.code, 124);
    assert_int_equal(deaf.end.code, 124);
    work_free(&soft);
    work_free(&hard);
    work_free(&deaf);
}

static void a_terminal_has_a_size_and_an_owner(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);

    begin(&w,
          &(struct guest_command){
              .argv =
                  (const char *const[]){
                      "sh", "-c", "tty -s && echo $TERM && test -t 2 && read x && stty size", NULL},
              .is_terminal = true,
              .rows = 33,
              .cols = 101});
    w.input = "go\n";
    w.input_len = 3;
    guest_resize(w.stream, 44, 55); /* while it waits for the agent */
    feed(&w);
    run(f);
    assert_int_equal(w.end.code, 0);
    assert_non_null(strstr(buf_str(&w.out), "44 55\r\n"));
    work_free(&w);
}

static void one_that_reads_nothing_stops_no_other(void **state)
{
    struct fixture *f = *state;
    struct work silent = work_in(f);
    struct work w = work_in(f);

    silent.holds = true;
    begin_sh(&silent, "yes");
    begin_sh(&w, "head -c 3000000 /dev/zero");
    f->running--; /* the silent one does not end */
    run(f);
    assert_int_equal(w.total, 3000000);
    assert_true(silent.total <= GUEST_WINDOW);
    assert_false(silent.has_ended);
    work_free(&silent);
    work_free(&w);
}

static void a_hundred_run_at_once(void **state)
{
    struct fixture *f = *state;
    static struct work w[100];
    char want[16];

    for (int i = 0; i < 100; i++) {
        w[i] = work_in(f);
        (void)snprintf(want, sizeof(want), "echo %d", i);
        begin_sh(&w[i], want);
    }
    run(f);
    for (int i = 0; i < 100; i++) {
        (void)snprintf(want, sizeof(want), "%d\n", i);
        assert_string_equal(buf_str(&w[i].out), want);
        work_free(&w[i]);
    }
}

/* Teardown waits for the agent, which waits for its commands. */
static void a_client_that_goes_ends_its_command(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);
    struct work deaf = work_in(f);
    struct work terminal = work_in(f);

    w.closes = deaf.closes = terminal.closes = true;
    begin(
        &w,
        &(struct guest_command){.argv = (const char *const[]){"sh", "-c", "echo; sleep 600", NULL},
                                .grace_ms = 5000});
    begin(&deaf,
          &(struct guest_command){
              .argv =
                  (const char *const[]){
                      "sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done", NULL},
              .grace_ms = 50});
    begin(
        &terminal,
        &(struct guest_command){.argv = (const char *const[]){"sh", "-c", "echo; sleep 600", NULL},
                                .is_terminal = true});
    run(f);
    work_free(&w);
    work_free(&deaf);
    work_free(&terminal);
}

static void work_ends_with_the_vm(void **state)
{
    struct fixture *f = *state;
    struct work w = work_in(f);

    begin_sh(&w, "sleep 600");
    f->row->run.state = VM_STANDBY;
    live_detach(&f->world, f->row);
    assert_true(w.has_ended);
    assert_false(w.end.ok);
    assert_int_equal(w.end.err.code, ERR_BAD_STATE);
    assert_string_equal(w.end.err.msg, "the instance is Standby");
    work_free(&w);
    f->running = 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        guest_test(a_command_gives_its_output_and_code),
        guest_test(merged_output_keeps_its_order),
        guest_test(what_cannot_start_says_why),
        guest_test(the_environment_is_the_requests_over_the_workloads),
        guest_test(input_goes_in_and_ends),
        guest_test(a_signal_is_128_and_its_number),
        guest_test(a_command_that_takes_too_long_is_ended),
        guest_test(a_terminal_has_a_size_and_an_owner),
        guest_test(one_that_reads_nothing_stops_no_other),
        guest_test(a_hundred_run_at_once),
        guest_test(a_client_that_goes_ends_its_command),
        guest_test(work_ends_with_the_vm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
