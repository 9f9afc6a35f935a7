/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/jread.h"
#include "base/cleanup.h"
#include "base/jout.h"

struct request {
    char *path;
    bool follow;
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
static _Noreturn void child(enum frame_type type, const struct request *r,
                            const struct child_ends *ends)
{
    (void)dup2(ends->fd[0], STDIN_FILENO);
    (void)dup2(ends->fd[1], STDOUT_FILENO);
    (void)syscall(SYS_close_range, 3U, ~0U, 0U);
    (void)setsid();
    (void)umask(0);
    if (type == FRAME_COPY_IN)
        copy_in(STDIN_FILENO, STDOUT_FILENO, r->path);
    else if (type == FRAME_COPY_OUT)
        copy_out(STDOUT_FILENO, r->path, r->follow);
    else
        stat_path(STDOUT_FILENO, r->path, r->follow);
    _exit(0);
}

int worker_start(struct stream *st, const char *json, size_t len, struct err *e)
{
    struct request r = {0};
    auto_child_ends struct child_ends ends = CHILD_ENDS;
    pid_t pid = -1;

    if (read_request(&r, json, len, e) == 0 && stream_pipes(st, 2, &ends, e) == 0) {
        pid = fork();
        if (pid == 0)
            child(st->type, &r, &ends);
        if (pid < 0)
            err_errno(e, "fork");
    }
    free(r.path);
    if (pid < 0)
        return -1;
    stream_started(st, pid, -1);
    return 0;
}

bool worker_write(int out_fd, const void *data, size_t len)
{
    const char *at = data;

    while (len > 0) {
        ssize_t n = write(out_fd, at, len);

        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            at += n;
            len -= (size_t)n;
        }
    }
    return true;
}

void worker_done(int out_fd, uint64_t bytes, int error, const struct err *e)
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
    (void)worker_write(out_fd, frame.data, frame.len);
}
