/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "loop/beside.h"
#include "loop/ending.h"
#include "loop/jobs.h"
#include "loop/loop.h"
#include "loop/proc.h"
#include "unit.h"

enum { SLOW, QUICK };

static const struct job_limit limits[] = {
    [SLOW] = {"slow", 4, 100},
    [QUICK] = {"quick", 2, 4},
};

struct fixture {
    struct loop *loop;
    struct jobs *jobs;
    int left; /* callbacks still expected; the last one stops the loop */
    size_t fds;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct err e = {0};

    f->fds = open_fds();
    f->loop = loop_new(&e);
    f->jobs = jobs_new(f->loop, limits, 2);
    *state = f;
    return f->loop ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    jobs_stop(f->jobs);
    loop_drain(f->loop);
    jobs_free(f->jobs);
    loop_free(f->loop);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static void one_done(struct fixture *f)
{
    if (--f->left == 0)
        loop_stop(f->loop);
}

static void run(struct fixture *f)
{
    struct err e = {0};

    assert_int_equal(loop_run(f->loop, &e), 0);
    assert_int_equal(f->left, 0);
}

/* A job that waits on a pipe nobody writes to, so only its limits can end it. */
struct stuck_job {
    struct job job;
    struct fixture *f;
    enum err_code want;
};

static atomic_int n_stuck;

static void stuck_run(struct job *job)
{
    int fds[2];

    atomic_fetch_add(&n_stuck, 1);
    if (pipe(fds) != 0)
        abort();
    op_wait(&job->op, fds[0], POLLIN, &job->err);
    close(fds[0]);
    close(fds[1]);
}

static void stuck_done(struct job *job)
{
    struct stuck_job *s = container_of(job, struct stuck_job, job);

    assert_int_equal(job->err.code, s->want);
    one_done(s->f);
    free(s);
}

static struct stuck_job *submit_stuck(struct fixture *f, int64_t timeout_ms, enum err_code want)
{
    struct stuck_job *s = mem_new(struct stuck_job);
    struct err e = {0};

    s->job.run = stuck_run;
    s->job.done = stuck_done;
    s->job.timeout_ms = timeout_ms;
    s->job.kind = SLOW;
    s->f = f;
    s->want = want;
    f->left++;
    assert_int_equal(jobs_submit(f->jobs, &s->job, &e), 0);
    return s;
}

static void jobs_end_at_their_deadline(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 100; i++)
        (void)submit_stuck(f, i % 3, ERR_TIMEOUT);
    run(f);
}

static void shutdown_cancels_running_and_waiting_jobs(void **state)
{
    struct fixture *f = *state;

    atomic_store(&n_stuck, 0);
    for (int i = 0; i < 20; i++)
        (void)submit_stuck(f, 60000, ERR_CANCELLED);
    while (atomic_load(&n_stuck) < 4) /* all four workers are busy, sixteen jobs wait */
        sched_yield();
    jobs_stop(f->jobs);
    loop_drain(f->loop);
    assert_int_equal(f->left, 0);
}

/* One cancelled job ends; its neighbours of the same kind go on. */
static void cancelling_ends_one_job_and_no_other(void **state)
{
    struct fixture *f = *state;
    struct stuck_job *running;
    struct stuck_job *waiting;

    for (int i = 0; i < 3; i++)
        (void)submit_stuck(f, 100, ERR_TIMEOUT);
    running = submit_stuck(f, 60000, ERR_CANCELLED);
    waiting = submit_stuck(f, 60000, ERR_CANCELLED);
    assert_int_equal(jobs_waiting(f->jobs, SLOW), 1);
    job_cancel(&running->job);
    job_cancel(&running->job); /* twice is once */
    job_cancel(&waiting->job);
    assert_int_equal(jobs_waiting(f->jobs, SLOW), 0);
    run(f);
}

struct quick_job {
    struct job job;
    struct fixture *f;
};

static void quick_run(struct job *job)
{
    (void)job;
}

static void quick_done(struct job *job)
{
    struct quick_job *q = container_of(job, struct quick_job, job);

    assert_int_equal(jobs_running(q->f->jobs, SLOW), 4);
    loop_stop(q->f->loop);
    free(q);
}

static struct quick_job *quick_new(struct fixture *f)
{
    struct quick_job *q = mem_new(struct quick_job);

    q->job.run = quick_run;
    q->job.done = quick_done;
    q->job.timeout_ms = 1000;
    q->job.kind = QUICK;
    q->f = f;
    return q;
}

/* It waits for its time also when its workers are free, and for the end when that comes first. */
static void a_job_that_can_wait_starts_soon_and_not_at_once(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct quick_job *q;

    for (int i = 0; i < 4; i++)
        (void)submit_stuck(f, 60000, ERR_CANCELLED);
    q = quick_new(f);
    assert_int_equal(jobs_submit_soon(f->jobs, &q->job, &e), 0);
    assert_int_equal(jobs_waiting(f->jobs, QUICK), 1);
    assert_int_equal(jobs_running(f->jobs, QUICK), 0);
    assert_int_equal(loop_run(f->loop, &e), 0); /* ended by quick_done() */
    q = quick_new(f);
    assert_int_equal(jobs_submit_soon(f->jobs, &q->job, &e), 0);
    jobs_stop(f->jobs);
    assert_int_equal(jobs_waiting(f->jobs, QUICK), 0);
    loop_drain(f->loop); /* done() was called for each */
    assert_int_equal(f->left, 0);
}

/* All threads of one kind are stuck and its queue is full: another kind runs at once. */
static void a_kind_waits_only_for_its_own(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct quick_job *q;

    for (int i = 0; i < 104; i++)
        (void)submit_stuck(f, 60000, ERR_CANCELLED);
    q = quick_new(f);
    q->job.kind = SLOW;
    assert_int_equal(jobs_submit(f->jobs, &q->job, &e), -1);
    assert_int_equal(e.code, ERR_LIMIT);
    err_clear(&e);
    q->job.kind = QUICK;
    assert_int_equal(jobs_submit(f->jobs, &q->job, &e), 0);
    assert_int_equal(loop_run(f->loop, &e), 0); /* ended by quick_done() */
    jobs_stop(f->jobs);
    loop_drain(f->loop);
    assert_int_equal(f->left, 0);
}

/* Two watches that are ready together; whichever runs first removes the other. */
struct rival {
    struct watch watch;
    struct rival *other;
    struct fixture *f;
    int fds[2];
};

static void rival_ready(struct watch *w, uint32_t events)
{
    struct rival *r = container_of(w, struct rival, watch);

    assert_true(events & EPOLLIN);
    loop_unwatch(r->f->loop, &r->other->watch);
    memset(r->other, 0xee, sizeof(*r->other)); /* as if freed */
    loop_unwatch(r->f->loop, w);
    one_done(r->f);
}

static void a_callback_may_remove_a_ready_watch(void **state)
{
    struct fixture *f = *state;
    struct rival a = {.f = f, .other = NULL};
    struct rival b = {.f = f, .other = &a};
    struct rival *both[] = {&a, &b};
    int fds[4];
    struct err e = {0};

    a.other = &b;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(pipe(both[i]->fds), 0);
        memcpy(fds + 2 * i, both[i]->fds, sizeof(both[i]->fds));
        assert_int_equal(write(both[i]->fds[1], "x", 1), 1);
        both[i]->watch.fn = rival_ready;
        assert_int_equal(loop_watch(f->loop, &both[i]->watch, both[i]->fds[0], EPOLLIN, &e), 0);
    }
    f->left = 1;
    run(f);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}

struct numbered_timer {
    struct timer timer;
    struct fixture *f;
    int number;
};

static int fired[4];
static int n_fired;

static void timer_due(struct timer *t)
{
    struct numbered_timer *n = container_of(t, struct numbered_timer, timer);

    fired[n_fired++] = n->number;
    one_done(n->f);
}

static void timers_fire_in_order(void **state)
{
    struct fixture *f = *state;
    struct numbered_timer t[4] = {0};
    static const int64_t delay[] = {30, 10, 20, 10};

    n_fired = 0;
    for (int i = 0; i < 4; i++) {
        t[i] = (struct numbered_timer){.timer.fn = timer_due, .f = f, .number = i};
        loop_timer_start(f->loop, &t[i].timer, delay[i]);
    }
    loop_timer_stop(f->loop, &t[2].timer);
    loop_timer_stop(f->loop, &t[2].timer); /* a second time does nothing */
    f->left = 3;
    run(f);
    assert_int_equal(fired[0], 1);
    assert_int_equal(fired[1], 3);
    assert_int_equal(fired[2], 0);
}

struct child {
    struct ending ending;
    struct fixture *f;
    int pidfd;
    int code; /* that it is to end with */
};

static void child_exited(struct ending *ending, const struct proc_exit *how)
{
    struct child *c = container_of(ending, struct child, ending);

    assert_true(how->known);
    assert_int_equal(how->code, c->code);
    close(c->pidfd);
    one_done(c->f);
}

static void a_hundred_children_are_watched_by_pidfd(void **state)
{
    struct fixture *f = *state;
    struct child children[100];
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);

    argv_push(&argv, "/bin/sh");
    argv_push(&argv, "-c");
    argv_push(&argv, "exit 7");
    for (size_t i = 0; i < 100; i++) {
        struct proc_id id;
        struct err e = {0};

        children[i] = (struct child){.ending.fn = child_exited, .f = f, .code = 7};
        children[i].pidfd = proc_spawn(&spec, &id, &e);
        assert_true(children[i].pidfd >= 0);
        assert_int_equal(ending_await(f->loop, &children[i].ending, children[i].pidfd, &e), 0);
        f->left++;
    }
    run(f);
}

static void spawn_reports_why_exec_failed(void **state)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct proc_id id;
    struct err e = {0};

    (void)state;
    argv_push(&argv, "/does/not/exist");
    assert_int_equal(proc_spawn(&spec, &id, &e), -1);
    assert_string_equal(e.msg, "run /does/not/exist: No such file or directory");
}

static void a_child_inherits_only_what_it_was_given(void **state)
{
    auto_argv struct argv argv = {0};
    int out[2];
    int passed = dup(STDOUT_FILENO); /* not CLOEXEC, must not leak under its own number */
    struct proc_spec spec = PROC_SPEC(&argv);
    struct proc_id id;
    struct err e = {0};
    char text[256] = {0};
    int pidfd;

    (void)state;
    assert_int_equal(pipe(out), 0);
    spec.pass_fds = &passed;
    spec.n_pass_fds = 1;
    spec.stdout_fd = out[1];
    argv_push(&argv, "/bin/sh");
    argv_push(&argv, "-c");
    argv_push(&argv, "ls -x /proc/$$/fd");
    pidfd = proc_spawn(&spec, &id, &e);
    close(out[1]);
    assert_true(pidfd >= 0);
    assert_true(read(out[0], text, sizeof(text) - 1) > 0);
    text[strcspn(text, "\n")] = '\0';
    assert_string_equal(text, "0  1  2  3");
    close(out[0]);
    close(passed);
    assert_int_equal(waitpid(id.pid, NULL, 0), id.pid);
    close(pidfd);
}

static int spawn_sleep(struct proc_id *id)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err e = {0};
    int pidfd;

    argv_push(&argv, "/bin/sleep");
    argv_push(&argv, "60");
    pidfd = proc_spawn(&spec, id, &e);
    assert_true(pidfd >= 0);
    return pidfd;
}

static void a_process_is_adopted_by_pid_and_start_time(void **state)
{
    struct op op = {clock_ms() + 5000, -1};
    struct proc_id id;
    struct err e = {0};
    int pidfd = spawn_sleep(&id);
    int again = proc_adopt(&id, &e);

    (void)state;
    assert_true(again >= 0);
    close(again);
    id.start_ticks++; /* as if the pid had been given to another */
    assert_int_equal(proc_adopt(&id, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    err_clear(&e);
    assert_int_equal(proc_kill(&op, pidfd, &e), 0);
    assert_int_equal(proc_signal(pidfd, SIGKILL, &e), 0); /* gone already: fine */
    close(pidfd);
}

/* A debugger of another process: it says that it holds pid, and lets go when it is told to. */
static pid_t hold_as_debugger(pid_t pid, int let_go_fd, int *held_out)
{
    int fds[2];
    char held = 'n';
    pid_t tracer;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    tracer = fork();
    assert_true(tracer >= 0);
    if (tracer == 0) {
        held = ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0 ? 'y' : 'n';
        (void)!write(fds[1], &held, 1);
        (void)!read(let_go_fd, &held, 1);
        _exit(0);
    }
    assert_int_equal(read(fds[0], &held, 1), 1);
    close(fds[0]);
    close(fds[1]);
    *held_out = held == 'y';
    return tracer;
}

struct debugger {
    struct timer patience;
    int let_go[2];
    pid_t pid;
};

static void let_go(struct timer *t)
{
    assert_int_equal(write(container_of(t, struct debugger, patience)->let_go[1], "y", 1), 1);
}

static void what_a_debugger_holds_is_reaped_when_it_lets_go(void **state)
{
    struct fixture *f = *state;
    struct op op = {clock_ms() + 20000, -1};
    struct op at_once = {clock_ms(), -1};
    struct debugger debugger = {.patience.fn = let_go};
    struct child c = {.ending.fn = child_exited, .f = f, .code = 128 + SIGKILL};
    struct err e = {0};
    struct proc_exit end;
    struct proc_id id;
    int held;

    c.pidfd = spawn_sleep(&id);
    assert_int_equal(pipe2(debugger.let_go, O_CLOEXEC), 0);
    debugger.pid = hold_as_debugger(id.pid, debugger.let_go[0], &held);
    assert_int_equal(proc_signal(c.pidfd, SIGKILL, &e), 0);
    assert_int_equal(op_wait(&op, c.pidfd, POLLIN, &e), 0);
    if (held) {
        assert_false(proc_reap(c.pidfd, &end));
        assert_int_equal(proc_kill(&at_once, c.pidfd, &e), -1);
        assert_int_equal(e.code, ERR_TIMEOUT);
    } else
        print_message("no right to trace here: only half of this is tested\n");
    assert_int_equal(ending_await(f->loop, &c.ending, c.pidfd, &e), 0);
    loop_timer_start(f->loop, &debugger.patience, 30);
    f->left++;
    run(f);
    loop_timer_stop(f->loop, &debugger.patience);
    (void)!write(debugger.let_go[1], "y", 1);
    assert_int_equal(waitpid(debugger.pid, NULL, 0), debugger.pid);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    close(debugger.let_go[0]);
    close(debugger.let_go[1]);
}

static void a_helper_program_is_run_to_its_end(void **state)
{
    auto_argv struct argv argv = {0};
    auto_buf struct buf out = BUF(64);
    struct proc_spec spec = PROC_SPEC(&argv);
    struct op op = {clock_ms() + 5000, -1};
    struct err e = {0};

    (void)state;
    argv_push(&argv, "/bin/sh");
    argv_push(&argv, "-c");
    argv_push(&argv, "echo first; echo the reason >&2; exit $0");
    argv_push(&argv, "0");
    assert_int_equal(proc_run(&op, &spec, &out, &e), 0);
    assert_string_equal(buf_str(&out), "first\nthe reason\n");
    buf_reset(&out);
    argv.v[3][0] = '3';
    assert_int_equal(proc_run(&op, &spec, &out, &e), -1);
    assert_string_equal(e.msg, "/bin/sh ended with status 3: the reason");
    err_clear(&e);

    argv_free(&argv);
    argv_push(&argv, "/bin/sleep");
    argv_push(&argv, "60");
    op.deadline_ms = clock_ms() + 20;
    assert_int_equal(proc_run(&op, &spec, &out, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
}

static int wait_for_word(void *arg, struct err *e)
{
    const int *fd = arg;
    char word = 0;

    return read(*fd, &word, 1) == 1 && word == 'y' ? 0 : err_set(e, ERR_NO_SPACE, "said %c", word);
}

static void what_goes_on_beside_is_waited_for(void **state)
{
    struct err e = {0};
    int fds[2];

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    for (int i = 0; i < 2; i++) {
        struct beside b = {.fn = wait_for_word, .arg = &fds[0]};

        beside_begin(&b); /* had it run at once, it would wait for ever */
        assert_int_equal(write(fds[1], i ? "n" : "y", 1), 1);
        assert_int_equal(beside_end(&b, &e), i ? -1 : 0);
        assert_true(b.began_us > 0 && b.ended_us >= b.began_us);
        assert_int_equal(beside_end(&b, &e), i ? -1 : 0);
    }
    assert_int_equal(e.code, ERR_NO_SPACE);
    assert_string_equal(e.msg, "said n");
    assert_int_equal(beside_end(&(struct beside){0}, &e), 0);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(jobs_end_at_their_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(
            a_job_that_can_wait_starts_soon_and_not_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(shutdown_cancels_running_and_waiting_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelling_ends_one_job_and_no_other, setup, teardown),
        cmocka_unit_test_setup_teardown(a_kind_waits_only_for_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(a_callback_may_remove_a_ready_watch, setup, teardown),
        cmocka_unit_test_setup_teardown(timers_fire_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_hundred_children_are_watched_by_pidfd, setup, teardown),
        checked_test(spawn_reports_why_exec_failed),
        checked_test(a_child_inherits_only_what_it_was_given),
        checked_test(a_process_is_adopted_by_pid_and_start_time),
        cmocka_unit_test_setup_teardown(
            what_a_debugger_holds_is_reaped_when_it_lets_go, setup, teardown),
        checked_test(a_helper_program_is_run_to_its_end),
        checked_test(what_goes_on_beside_is_waited_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
