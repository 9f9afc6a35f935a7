/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/exec.h"

#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>

#include "agent/jread.h"
#include "base/cleanup.h"
#include "base/mem.h"

enum { ROWS = 24, COLUMNS = 80 };

struct request {
    struct argv argv;
    struct argv env;
    char *cwd;
    char *user;
    bool is_terminal;
    bool is_merged;
    int64_t rows;
    int64_t columns;
    int64_t timeout_ms;
    int64_t grace_ms;
};

#define auto_request __attribute__((cleanup(request_free)))

static void request_free(struct request *r)
{
    argv_free(&r->argv);
    argv_free(&r->env);
    free(r->cwd);
    free(r->user);
}

static void read_member(struct jread *j, const char *key, struct request *r)
{
    if (strcmp(key, "argv") == 0)
        jread_list(j, &r->argv);
    else if (strcmp(key, "env") == 0)
        jread_list(j, &r->env);
    else if (strcmp(key, "cwd") == 0)
        jread_text(j, &r->cwd);
    else if (strcmp(key, "user") == 0)
        jread_text(j, &r->user);
    else if (strcmp(key, "tty") == 0)
        r->is_terminal = jread_bool(j);
    else if (strcmp(key, "merge") == 0)
        r->is_merged = jread_bool(j);
    else if (strcmp(key, "rows") == 0)
        r->rows = jread_int(j);
    else if (strcmp(key, "cols") == 0)
        r->columns = jread_int(j);
    else if (strcmp(key, "timeout_ms") == 0)
        r->timeout_ms = jread_int(j);
    else if (strcmp(key, "grace_ms") == 0)
        r->grace_ms = jread_int(j);
    else
        jread_skip(j);
}

static int read_request(struct request *r, const char *json, size_t len, struct err *e)
{
    struct jread j = JREAD(json, len);

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key))
        read_member(&j, key, r);
    if (!jread_done(&j) || r->argv.n == 0 || r->grace_ms < 0)
        return err_set(e, ERR_INVALID, "the command's description is malformed");
    return 0;
}

static void fill_launch(struct launch *l, struct request *r, const struct guest_config *c)
{
    const char *cwd = r->cwd && *r->cwd ? r->cwd : c->workdir;

    l->command = r->argv;
    r->argv = (struct argv){0};
    l->workdir = mem_strdup(cwd && *cwd ? cwd : "/");
    launch_env(l, c);
    for (size_t i = 0; i < r->env.n; i++)
        launch_setenv(l, r->env.v[i]);
    if (r->is_terminal)
        launch_setenv_default(l, "TERM", "xterm");
}

static uint16_t size_or(int64_t v, uint16_t otherwise)
{
    return v > 0 && v <= UINT16_MAX ? (uint16_t)v : otherwise;
}

static int make_ends(struct stream *st, const struct request *r, struct child_ends *ends,
                     struct launch *l, struct err *e)
{
    int rc =
        r->is_terminal
            ? stream_terminal(st, size_or(r->rows, ROWS), size_or(r->columns, COLUMNS), ends, e)
            : stream_pipes(st, r->is_merged ? 2 : 3, ends, e);

    l->is_terminal = r->is_terminal;
    l->stdio[0] = ends->fd[0];
    l->stdio[1] = r->is_terminal ? ends->fd[0] : ends->fd[1];
    l->stdio[2] = r->is_terminal || r->is_merged ? l->stdio[1] : ends->fd[2];
    return rc;
}

int exec_start(struct stream *st, const char *json, size_t len, int *code_out, struct err *e)
{
    auto_request struct request r = {0};
    auto_launch struct launch l = LAUNCH;
    auto_child_ends struct child_ends ends = CHILD_ENDS;
    int report_fd;
    pid_t pid;

    *code_out = CODE_NOT_EXECUTABLE;
    if (read_request(&r, json, len, e) < 0 || launch_user(&l, r.user, e) < 0 ||
        make_ends(st, &r, &ends, &l, e) < 0)
        return -1;
    fill_launch(&l, &r, st->of->config);
    l.cgroup_fd = st->of->cgroup_fd;
    pid = launch_begin(&l, &report_fd, e);
    if (pid < 0)
        return -1;
    st->program = mem_strdup(l.command.v[0]);
    st->grace_ms = r.grace_ms;
    stream_set_timeout(st, r.timeout_ms);
    stream_started(st, pid, report_fd);
    return 0;
}

void exec_resize(struct stream *st, uint32_t rows, uint32_t cols)
{
    struct winsize size = {.ws_row = size_or(rows, ROWS), .ws_col = size_or(cols, COLUMNS)};

    if (st->is_terminal && st->out[0].fd >= 0)
        (void)ioctl(st->out[0].fd, TIOCSWINSZ, &size);
}
