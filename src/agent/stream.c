/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/stream.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/exec.h"
#include "agent/sys.h"
#include "agent/worker.h"
#include "agent/workload.h"
#include "base/jout.h"
#include "base/mem.h"

enum {
    INPUT_MAX = 16 * 1024 * 1024, /* never reached: a window's worth in the smallest frames */
    PIPE_SIZE = 64 * 1024, /* what can be in a pipe, or in a terminal, when the child is gone */
    TERM_AFTER_MS = 100,   /* for a command to end because its stdin has */
    TIMED_OUT = 124,       /* as timeout(1) reports it */
};

static bool is_framed(const struct stream *st)
{
    return st->type != FRAME_EXEC;
}

static struct stream *find(struct streams *s, uint32_t id)
{
    for (struct list *l = s->all.next; l != &s->all; l = l->next) {
        struct stream *st = container_of(l, struct stream, link);

        if (st->id == id)
            return st;
    }
    return NULL;
}

static void stream_free(struct stream *st)
{
    struct poller *p = st->of->poller;

    list_remove(&st->link);
    alarm_stop(&st->alarm);
    if (is_framed(st) && st->pid > 0 && --st->of->n_workers == 0)
        give_way(false);
    if (st->report_fd >= 0)
        (void)close(st->report_fd);
    source_close(p, &st->in);
    source_close(p, &st->out[0]);
    source_close(p, &st->out[1]);
    ring_free(&st->to_worker);
    ring_free(&st->from_worker);
    buf_free(&st->request);
    buf_free(&st->input);
    free(st->program);
    free(st);
}

/* --- the end --- */

struct done {
    int code;
    int signal;
    bool oom;
    const char *error; /* NULL: it went well */
    int number;        /* errno, where there is one */
};

static void report_done(struct stream *st, const struct done *d)
{
    auto_buf struct buf text = BUF(8192);
    struct jout j = JOUT(&text);

    if (st->id == 0)
        return;
    jout_open(&j, NULL, '{');
    jout_int(&j, "code", d->code);
    jout_int(&j, "signal", d->signal);
    jout_bool(&j, "timed_out", st->timed_out);
    jout_bool(&j, "oom", d->oom);
    if (d->number)
        jout_int(&j, "errno", d->number);
    if (d->error)
        jout_str(&j, "error", d->error);
    jout_close(&j, '}');
    channel_put(st->of->channel, FRAME_DONE, st->id, &text);
    st->id = 0;
}

static void refuse(struct stream *st, int code, const struct err *e)
{
    report_done(st,
                &(struct done){
                    .code = code, .error = e->msg, .number = code == CODE_NOT_FOUND ? ENOENT : 0});
    stream_free(st);
}

static void report_command(struct stream *st)
{
    struct done d = {.signal = WIFSIGNALED(st->status) ? WTERMSIG(st->status) : 0};
    struct launch_failure failure;
    struct err e = {0};

    d.code = d.signal ? 128 + d.signal : WEXITSTATUS(st->status);
    if (st->timed_out)
        d.code = TIMED_OUT;
    else
        d.oom = d.signal == SIGKILL && workload_oom_kills(st->of->cgroup_fd) > st->oom_kills;
    if (read(st->report_fd, &failure, sizeof(failure)) == sizeof(failure)) {
        (void)launch_explain(&failure, st->program, &d.code, &e);
        d.error = e.msg;
        d.number = failure.error;
    }
    report_done(st, &d);
}

static bool has_unsent(const struct stream *st)
{
    size_t have = 0;

    if (!is_framed(st))
        return st->out[0].fd >= 0 || st->out[1].fd >= 0;
    if (st->id != 0)
        (void)ring_bytes(&st->from_worker, &have);
    return have > 0;
}

/* When the child and all that it wrote are gone. */
static void finish_if_over(struct stream *st)
{
    if (!st->has_exited || has_unsent(st))
        return;
    if (!is_framed(st))
        report_command(st);
    else
        report_done(st, &(struct done){.error = "the copy broke off in the guest"});
    stream_free(st);
}

/* --- from the host to the child --- */

static void give_credit(struct stream *st)
{
    size_t untaken = st->input.len + stream_untaken(st);
    uint32_t kept = (uint32_t)(untaken < st->owed ? untaken : st->owed);
    uint32_t due = st->owed - kept;

    if (st->id == 0 ||
        due < window_to_guest(st->type) / 4) /* not for every key: the host has the rest */
        return;
    st->owed -= due;
    frame_put_u32(&st->of->channel->out, FRAME_CREDIT, st->id, due);
}

static void write_pipe(struct stream *st)
{
    while (st->in.fd >= 0 && st->input.len > 0) {
        ssize_t n = write(st->in.fd, st->input.data, st->input.len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0)
            source_close(st->of->poller, &st->in); /* it does not read any more */
        else
            buf_consume(&st->input, (size_t)n);
    }
    if (st->input_is_over && st->input.len == 0 && !st->is_terminal)
        source_close(st->of->poller, &st->in);
    source_want(st->of->poller, &st->in, st->input.len > 0 ? EPOLLOUT : 0);
}

static void write_input(struct stream *st)
{
    if (is_framed(st))
        stream_feed(st);
    else
        write_pipe(st);
    if (st->in.fd < 0 || st->input.len == 0)
        buf_free(&st->input); /* one that waits keeps no buffer */
    give_credit(st);
}

static void input_ready(struct source *src, uint32_t events)
{
    struct stream *st = container_of(src, struct stream, in);

    (void)events;
    write_input(st);
    streams_settle(st->of);
}

/* Straight to the child as long as nothing waits; what it does not take is kept. */
static void pass_on(struct stream *st, const void *data, size_t len)
{
    ssize_t n = 0;

    if (st->in.fd < 0)
        return;
    if (st->input.len == 0)
        n = is_framed(st) ? (ssize_t)ring_write(&st->to_worker, data, len)
                          : write(st->in.fd, data, len);
    if (n < 0)
        n = 0;
    buf_append(&st->input, (const char *)data + n, len - (size_t)n);
}

static void take_input(struct stream *st, const struct frame *f)
{
    auto_buf struct buf head = BUF(64);

    if (is_framed(st) && !st->to_worker.state)
        return; /* it wants nothing to be told */
    if (is_framed(st)) {
        frame_put_head(&head, (struct frame_head){.type = f->type, .len = (uint32_t)f->len});
        pass_on(st, head.data, head.len);
        st->unsaid += head.len + f->len;
    }
    if (is_framed(st) || f->type == FRAME_DATA)
        pass_on(st, f->data, f->len);
    st->owed += frame_cost(f);
    st->input_is_over |= f->type == FRAME_END_INPUT;
    write_input(st);
}

/* --- from the child to the host --- */

/* Whatever waits only for a moment may be woken by a hang-up as well: so not watched at all. */
static void watch_output(struct stream *st)
{
    bool is_full = channel_is_full(st->of->channel);
    bool can_send = st->id == 0 || (st->credit > 0 && !is_full);

    st->of->is_blocked |= is_full;
    if (is_framed(st)) { /* its bells are few, and of what the ring holds we need none */
        source_want(st->of->poller, &st->out[0], EPOLLIN);
        return;
    }
    for (size_t i = 0; i < 2; i++)
        source_want(st->of->poller, &st->out[i], can_send && !st->has_exited ? EPOLLIN : 0);
}

/* Straight into the channel's buffer, behind the room for a header. */
static ssize_t read_bytes(struct stream *st, size_t i, size_t room)
{
    struct buf *to = &st->of->channel->out;
    size_t start = to->len;
    ssize_t n;

    frame_put_head(
        to,
        (struct frame_head){.type = FRAME_DATA, .flags = i ? FRAME_STDERR : 0, .stream = st->id});
    n = read(st->out[i].fd, buf_space(to, room), room);
    if (n <= 0) {
        int why = errno;

        to->len = start;
        errno = why;
        return n;
    }
    buf_added(to, (size_t)n);
    frame_set_len(to, start, (uint32_t)n);
    st->credit -= (uint32_t)n;
    return n;
}

/* A worker has said something, has room again, or has ended. */
static void take_bells(struct stream *st)
{
    char bells[64];
    ssize_t n = read(st->out[0].fd, bells, sizeof(bells));

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        source_close(st->of->poller, &st->out[0]);
    stream_relay(st);
    write_input(st);
}

static ssize_t discard(struct stream *st, size_t i)
{
    char nowhere[4096];

    return read(st->out[i].fd, nowhere, sizeof(nowhere));
}

/* Once per call while it lives, so that streams take turns; all that is left when it is gone. */
static void pump(struct stream *st, size_t i)
{
    ssize_t n = 1;

    if (st->has_exited && st->id == 0) /* who still writes writes to nobody */
        source_close(st->of->poller, &st->out[i]);
    while (st->out[i].fd >= 0 && n > 0) {
        size_t room = st->credit < FRAME_DATA_MAX ? st->credit : FRAME_DATA_MAX;

        if (st->has_exited && st->rest[i] < room)
            room = st->rest[i];
        if (st->id != 0 && (st->credit == 0 || channel_is_full(st->of->channel)))
            break;
        n = room == 0 && st->id != 0 ? 0 : st->id == 0 ? discard(st, i) : read_bytes(st, i, room);
        if (n > 0 && st->has_exited)
            st->rest[i] -= (size_t)n < st->rest[i] ? (size_t)n : st->rest[i];
        else if (n == 0 || (n < 0 && (errno != EAGAIN || st->has_exited) && errno != EINTR))
            source_close(st->of->poller, &st->out[i]);
        if (!st->has_exited)
            break;
    }
}

static void output_ready(struct stream *st, size_t i)
{
    struct streams *s = st->of;

    if (is_framed(st))
        take_bells(st);
    else
        pump(st, i);
    channel_flush(s->channel);
    watch_output(st);
    finish_if_over(st);
    streams_settle(s);
}

static void stdout_ready(struct source *src, uint32_t events)
{
    (void)events;
    output_ready(container_of(src, struct stream, out[0]), 0);
}

static void stderr_ready(struct source *src, uint32_t events)
{
    (void)events;
    output_ready(container_of(src, struct stream, out[1]), 1);
}

/* There is credit, or room, or nobody to send to. */
static void output_again(struct stream *st)
{
    if (is_framed(st)) {
        stream_relay(st);
    } else if (st->has_exited) {
        pump(st, 0);
        pump(st, 1);
    }
    watch_output(st);
    finish_if_over(st);
}

/* --- signals and time --- */

static void signal_group(const struct stream *st, int sig)
{
    /* It is no group of its own before it has got to setsid(). */
    if (st->pid > 0 && !st->has_exited && kill(-st->pid, sig) < 0)
        (void)kill(st->pid, sig);
}

static void next_step(struct alarm *a)
{
    struct stream *st = container_of(a, struct stream, alarm);
    int sig = st->next_signal;

    if (sig == 0) { /* its time is over */
        st->timed_out = true;
        sig = st->grace_ms > 0 ? SIGTERM : SIGKILL;
    }
    signal_group(st, sig);
    if (sig == SIGTERM) {
        st->next_signal = SIGKILL;
        alarm_set(st->of->poller, a, st->grace_ms);
    }
}

void stream_set_timeout(struct stream *st, int64_t timeout_ms)
{
    if (timeout_ms > 0)
        alarm_set(st->of->poller, &st->alarm, timeout_ms);
}

/* Nobody is there any more. */
static void abandon(struct stream *st)
{
    struct poller *p = st->of->poller;

    st->id = 0;
    buf_free(&st->input);
    source_close(p, &st->in);
    if (st->pid == 0 || st->is_terminal) {
        signal_group(st, SIGHUP);
        stream_free(
            st); /* and its terminal hangs up; a shell that minds neither is no child of ours */
    } else if (is_framed(st)) {
        signal_group(st, SIGKILL);
        output_again(st);
    } else {
        if (st->next_signal == 0) { /* else it is being ended already */
            st->next_signal = st->grace_ms > 0 ? SIGTERM : SIGKILL;
            alarm_set(p, &st->alarm, TERM_AFTER_MS);
        }
        output_again(st);
    }
}

/* --- the beginning --- */

void stream_started(struct stream *st, pid_t pid, int report_fd)
{
    st->pid = pid;
    st->report_fd = report_fd;
    if (is_framed(st) && st->of->n_workers++ == 0)
        give_way(true);
    st->oom_kills = workload_oom_kills(st->of->cgroup_fd);
    watch_output(st);
}

static struct stream *stream_new(struct streams *s, const struct frame *f)
{
    struct stream *st = mem_new(struct stream);

    st->of = s;
    st->id = f->stream;
    st->type = (enum frame_type)f->type;
    st->request = BUF(EXEC_JSON_MAX);
    st->input = BUF(INPUT_MAX);
    st->credit = window_to_host(st->type);
    st->rest[0] = st->rest[1] = PIPE_SIZE;
    st->report_fd = -1;
    source_init(&st->in, -1, input_ready);
    source_init(&st->out[0], -1, stdout_ready);
    source_init(&st->out[1], -1, stderr_ready);
    alarm_init(&st->alarm, next_step);
    list_append(&s->all, &st->link);
    return st;
}

static void begin(struct stream *st, const struct frame *f)
{
    struct err e = {0};
    int code = 0;
    int rc;

    buf_append(&st->request, f->data, f->len);
    if (f->flags & FRAME_MORE)
        return;
    if (!buf_ok(&st->request))
        rc = err_set(&e, ERR_TOO_LARGE, "the command is too long");
    else if (is_framed(st))
        rc = worker_start(st, buf_str(&st->request), st->request.len, &e);
    else
        rc = exec_start(st, buf_str(&st->request), st->request.len, &code, &e);
    buf_free(&st->request);
    if (rc < 0)
        refuse(st, code, &e);
}

void streams_init(struct streams *s, struct poller *p, struct channel *c,
                  const struct guest_config *config)
{
    *s = (struct streams){.poller = p, .channel = c, .config = config, .cgroup_fd = -1};
    list_init(&s->all);
}

static void control(struct stream *st, const struct frame *f)
{
    switch (f->type) {
    case FRAME_CREDIT:
        st->credit += frame_u32(f, 0);
        output_again(st);
        break;
    case FRAME_RESIZE:
        exec_resize(st, frame_u32(f, 0), frame_u32(f, 1));
        break;
    case FRAME_SIGNAL:
        signal_group(st, (int)(frame_u32(f, 0) & 0x7f));
        break;
    case FRAME_CLOSE:
        abandon(st);
        break;
    default:
        take_input(st, f);
    }
}

void streams_frame(struct streams *s, const struct frame *f)
{
    struct stream *st = f->stream ? find(s, f->stream) : NULL;

    if (f->stream == 0 || f->type < FRAME_EXEC || f->type >= FRAME_DONE)
        return;
    if (f->type <= FRAME_STAT && (!st || st->request.len > 0))
        begin(st ? st : stream_new(s, f), f);
    else if (st && f->type > FRAME_STAT)
        control(st, f);
    streams_settle(s);
}

void streams_drop(struct streams *s)
{
    struct list *next;

    for (struct list *l = s->all.next; l != &s->all; l = next) {
        next = l->next;
        abandon(container_of(l, struct stream, link));
    }
}

void streams_settle(struct streams *s)
{
    channel_flush(s->channel);
    while (s->is_blocked && !channel_is_full(s->channel)) {
        struct list *next;

        s->is_blocked = false;
        for (struct list *l = s->all.next; l != &s->all; l = next) {
            next = l->next;
            output_again(container_of(l, struct stream, link));
        }
        channel_flush(s->channel);
    }
}

void streams_reaped(struct streams *s, pid_t pid, int status)
{
    for (struct list *l = s->all.next; l != &s->all; l = l->next) {
        struct stream *st = container_of(l, struct stream, link);

        if (st->pid != pid || st->has_exited)
            continue;
        st->has_exited = true;
        st->status = status;
        alarm_stop(&st->alarm);
        output_again(st);
        streams_settle(s);
        return;
    }
}
