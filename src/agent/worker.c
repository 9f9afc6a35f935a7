/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/jread.h"
#include "agent/sys.h"
#include "base/cleanup.h"
#include "base/jout.h"

enum {
    SMALL_RING = 64 * 1024, /* for what is short */
};

struct request {
    char *path;
    bool follow;
    bool hard_links;
};

static int read_request(struct request *r, const char *json, size_t len, struct err *e)
{
    struct jread j = JREAD(json, len);

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key)) {
        if (strcmp(key, "path") == 0)
            jread_text(&j, &r->path);
        else if (strcmp(key, "follow") == 0)
            r->follow = jread_bool(&j);
        else if (strcmp(key, "hard_links") == 0)
            r->hard_links = jread_bool(&j);
        else
            jread_skip(&j);
    }
    if (!jread_done(&j) || !r->path || !*r->path)
        return err_set(e, ERR_INVALID, "the description of the copy is malformed");
    return 0;
}

/*
 * Pipes of other streams came along with the fork, and must not be held open here; what is said
 * goes to 2 as ever.
 */
static _Noreturn void child(struct stream *st, const struct request *r,
                            const struct child_ends *ends)
{
    struct worker w = {.in = st->to_worker, .out = st->from_worker};

    (void)dup2(ends->fd[0], STDIN_FILENO);
    (void)dup2(ends->fd[1], STDOUT_FILENO);
    (void)syscall(SYS_close_range, 3U, ~0U, 0U);
    (void)setsid();
    give_way(true);
    (void)umask(0);
    if (st->type == FRAME_COPY_IN)
        copy_in(&w, r->path);
    else if (st->type == FRAME_COPY_OUT)
        copy_out(&w, r->path, r->follow, r->hard_links);
    else
        stat_path(&w, r->path, r->follow);
    _exit(0);
}

static int make_rings(struct stream *st, struct err *e)
{
    bool is_in = st->type == FRAME_COPY_IN;

    if (is_in && ring_init(&st->to_worker, WINDOW_OF_COPY, e) < 0)
        return -1;
    return ring_init(&st->from_worker, st->type == FRAME_COPY_OUT ? WINDOW_OF_COPY : SMALL_RING, e);
}

int worker_start(struct stream *st, const char *json, size_t len, struct err *e)
{
    struct request r = {0};
    auto_child_ends struct child_ends ends = CHILD_ENDS;
    pid_t pid = -1;

    if (read_request(&r, json, len, e) == 0 && stream_pipes(st, 2, &ends, e) == 0 &&
        make_rings(st, e) == 0) {
        pid = fork();
        if (pid == 0)
            child(st, &r, &ends);
        if (pid < 0)
            err_errno(e, "fork");
    }
    free(r.path);
    if (pid < 0)
        return -1;
    ring_keep_from_children(&st->to_worker);
    ring_keep_from_children(&st->from_worker);
    stream_started(st, pid, -1);
    return 0;
}

/* --- the child's side --- */

static void ring_bell(void)
{
    (void)!write(STDOUT_FILENO, "", 1);
}

/* False: nobody is there any more. */
static bool wait_for_bell(void)
{
    char bells[64];
    ssize_t n;

    do
        n = read(STDIN_FILENO, bells, sizeof(bells));
    while (n < 0 && errno == EINTR);
    return n > 0;
}

int worker_next(struct worker *w, struct frame *out, struct err *e)
{
    bool is_open = true;

    ring_take(&w->in, w->in_hand);
    w->in_hand = 0;
    for (;;) {
        size_t have;
        const unsigned char *p = ring_bytes(&w->in, &have);
        int rc = frame_at(p, have, out, e);

        if (rc == 0 && !is_open)
            rc = err_set(e, ERR_INVALID, "the copy broke off");
        if (rc > 0)
            w->in_hand = FRAME_HEADER + out->len;
        if (have < RING_LOW && ring_wants_bell_for_room(&w->in))
            ring_bell();
        if (rc != 0)
            return rc;
        if (ring_ask_for_bytes(&w->in, have + 1))
            is_open = wait_for_bell();
    }
}

static void say_all(struct worker *w)
{
    w->unsaid = 0;
    if (ring_wants_bell_for_bytes(&w->out))
        ring_bell();
}

unsigned char *worker_room(struct worker *w, size_t len)
{
    for (;;) {
        size_t room;
        unsigned char *at = ring_room(&w->out, &room);

        if (room >= len)
            return at;
        say_all(w);
        if (ring_ask_for_room(&w->out, len) && !wait_for_bell())
            return NULL;
    }
}

/* Not a bell for each frame: the agent would take each by itself. */
void worker_put(struct worker *w, size_t len)
{
    ring_put(&w->out, len);
    w->unsaid += len;
    if (w->unsaid >= BYTES_A_BELL)
        say_all(w);
}

bool worker_say(struct worker *w, const struct buf *frame)
{
    unsigned char *at = buf_ok(frame) ? worker_room(w, frame->len) : NULL;

    if (!at)
        return false;
    memcpy(at, frame->data, frame->len);
    worker_put(w, frame->len);
    return true;
}

void worker_done(struct worker *w, uint64_t bytes, int error, const struct err *e)
{
    auto_buf struct buf text = BUF(8192);
    auto_buf struct buf frame = BUF(16384);
    struct jout j = JOUT(&text);

    jout_open(&j, NULL, '{');
    jout_int(&j, "bytes", (int64_t)bytes);
    if (e->code != ERR_NONE) {
        jout_int(&j, "errno", error);
        jout_str(&j, "error", e->msg);
    }
    jout_close(&j, '}');
    frame_put(&frame, FRAME_DONE, 0, text.data, text.len);
    (void)worker_say(w, &frame);
    say_all(w);
}
