/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A row whose guest is the agent's double (tests/unit/agent_double.h), and pieces of
 * work in it that keep what comes back.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "unit.h"

#include "agent_double.h"
#include "base/clock.h"
#include "base/mem.h"
#include "vm/guest.h"
#include "vm/live.h"

static const struct vmm_driver driver = {.name = "double"};

struct fixture {
    size_t fds;
    char root[64];
    int dir_fd;
    struct loop *loop;
    struct vm_world world;
    struct instance *row;
    pid_t agent;   /* 0: the test is the agent, */
    int listen_fd; /* here */
    struct timer patience;
    int running; /* streams that have not ended; the last one ends run() */
};

struct work {
    struct fixture *f;
    struct guest_stream *stream;
    struct buf out;
    struct buf errors;
    struct buf names;  /* "kind path[ -> target]\n" */
    bool holds;        /* gives nothing back */
    bool closes;       /* at the first data */
    int signal;        /* sends it then */
    const char *input; /* NULL: writable() is of no interest */
    size_t input_len;
    bool ends_input;
    uint64_t total;
    bool has_ended;
    struct guest_end end;
};

static inline void too_late(struct timer *t)
{
    (void)t;
    fail_msg("nothing ended within the time");
}

static inline void run(struct fixture *f)
{
    struct err e = {0};

    loop_timer_start(f->loop, &f->patience, 20000);
    assert_int_equal(loop_run(f->loop, &e), 0);
    loop_timer_stop(f->loop, &f->patience);
}

static inline void one_less(struct fixture *f)
{
    if (--f->running == 0)
        loop_stop(f->loop);
}

static inline void feed(struct work *w)
{
    size_t n = guest_write(w->stream, w->input, w->input_len);

    w->input += n;
    w->input_len -= n;
    if (w->input_len == 0 && w->ends_input)
        guest_end_input(w->stream);
}

static inline void on_data(void *owner, enum guest_channel from, const void *data, size_t len)
{
    struct work *w = owner;

    w->total += len;
    if (w->closes) {
        guest_close(w->stream);
        w->stream = NULL;
        one_less(w->f);
        return;
    }
    if (w->signal)
        guest_signal(w->stream, w->signal);
    buf_append(from == GUEST_STDERR ? &w->errors : &w->out, data, len);
    if (!w->holds)
        guest_consumed(w->stream, len);
}

static inline void on_entry(void *owner, const struct guest_entry *entry)
{
    struct work *w = owner;

    buf_printf(&w->names,
               "%c %s%s%s\n",
               "fdl?h"[entry->kind],
               entry -> path,
               entry -> link_target ? " -> " : "",
               entry->link_target ? entry->link_target : "");
    guest_consumed(w->stream, entry->cost);
}

static inline void on_writable(void *owner)
{
    feed(owner);
}

static inline void on_end(void *owner, const struct guest_end *how)
{
    struct work *w = owner;

    assert_false(w->has_ended);
    w->has_ended = true;
    w->end = *how;
    one_less(w->f);
}

static const struct guest_events events = {on_data, on_entry, on_writable, on_end};

static inline struct fixture *make(bool start_agent)
{
    struct fixture *f = mem_new(struct fixture);
    struct vm_env env = {.data_fd = -1};
    struct spec *spec;
    struct err e = {0};

    f->fds = open_fds();
    (void)snprintf(f->root, sizeof(f->root), "/tmp/hypeman-guest-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    f->dir_fd = open(f->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (start_agent)
        f->agent = agent_double_start(f->dir_fd);
    else
        f->listen_fd = sock_listen(f->dir_fd, VMM_AGENT_SOCKET, &e);
    f->loop = loop_new(&e);
    f->patience.fn = too_late;
    world_init(&f->world, f->loop, &env);
    spec = spec_new();
    (void)snprintf(spec->name, sizeof(spec->name), "web");
    spec->driver = &driver;
    f->row = world_reserve(&f->world, "abcdefghijklmnopqrstuvwx", spec);
    f->row->run.state = VM_RUNNING;
    live_attach(&f->world,
                f->row,
                (int)syscall(SYS_pidfd_open, start_agent ? f->agent : getpid(), 0),
                NULL);
    live_listen(f->row, f->dir_fd);
    return f;
}

static inline int setup(void **state)
{
    *state = make(true);
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];
    int status;

    live_detach(&f->world, f->row);
    if (f->agent) {
        assert_int_equal(waitpid(f->agent, &status, 0), f->agent);
        assert_int_equal(status, 0);
    } else {
        close(f->listen_fd);
    }
    world_stop(&f->world);
    world_fini(&f->world);
    loop_free(f->loop);
    close(f->dir_fd);
    (void)snprintf(command, sizeof(command), "rm -rf %s", f->root);
    assert_int_equal(system(command), 0);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static inline struct work work_in(struct fixture *f)
{
    f->running++;
    return (struct work){
        .f = f, .out = BUF(4 * 1024 * 1024), .errors = BUF(1024 * 1024), .names = BUF(1024 * 1024)};
}

static inline void work_free(struct work *w)
{
    guest_close(w->stream);
    buf_free(&w->out);
    buf_free(&w->errors);
    buf_free(&w->names);
}

#define guest_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
