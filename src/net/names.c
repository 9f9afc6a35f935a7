/* SPDX-License-Identifier: Apache-2.0 */
#include "net/names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/jobs.h"
#include "net/resolver.h"

enum { CHANGE_MS = 10000, TEXT_MAX = 4096 };

struct names {
    struct loop *loop;
    struct jobs *jobs; /* one thread: changes keep their order */
    char *program;
    char dir[80]; /* of its own for each network namespace, as the network is */
    int hosts_fd;
    struct resolver *resolver;
};

/* One file, written or removed. */
struct change {
    struct job job;
    int hosts_fd;
    char id[ID_SIZE];
    struct buf text; /* empty: no such instance any more */
};

static const struct job_limit limits[] = {{"names", 1, 65536}};

/* --- the files --- */

/* dnsmasq, which has no rights, reads them; it passes over what begins with a dot. */
static int write_file(const struct change *c, struct err *e)
{
    auto_close int fd =
        openat(c->hosts_fd, ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

    if (fd < 0 || fchmod(fd, 0644) < 0)
        return err_errno(e, "write an instance's name");
    if (file_write_all(fd, c->text.data, c->text.len, e) < 0)
        return -1;
    return renameat(c->hosts_fd, ".new", c->hosts_fd, c->id) < 0
               ? err_errno(e, "rename an instance's name")
               : 0;
}

static void run(struct job *job)
{
    struct change *c = container_of(job, struct change, job);

    if (c->text.len > 0)
        (void)write_file(c, &job->err);
    else if (unlinkat(c->hosts_fd, c->id, 0) < 0 && errno != ENOENT)
        err_errno(&job->err, "remove an instance's name");
}

static void done(struct job *job)
{
    struct change *c = container_of(job, struct change, job);

    if (job->err.code != ERR_NONE && job->err.code != ERR_CANCELLED)
        log_warn("network: instance %s: %s", c->id, job->err.msg);
    buf_free(&c->text);
    free(c);
}

static void submit(const struct names *n, struct change *c, const char *id)
{
    struct err e = {0};

    (void)snprintf(c->id, sizeof(c->id), "%s", id);
    c->hosts_fd = n->hosts_fd;
    c->job.run = run;
    c->job.done = done;
    c->job.timeout_ms = CHANGE_MS;
    if (jobs_submit_soon(n->jobs, &c->job, &e) < 0) {
        c->job.err = e;
        done(&c->job);
    }
}

void names_set(struct names *n, const char *id, const char *name, uint32_t address)
{
    struct change *c = mem_new(struct change);
    char text[ADDRESS_TEXT_SIZE];

    c->text = BUF(TEXT_MAX);
    buf_printf(&c->text, "%s %s." NET_DOMAIN, address_text(address, text), name);
    for (size_t i = NAMES_PREFIX_MIN; i <= strlen(id); i++)
        buf_printf(&c->text, " %.*s." NET_DOMAIN, (int)i, id);
    buf_puts(&c->text, "\n");
    submit(n, c, id);
}

void names_remove(struct names *n, const char *id)
{
    struct change *c = mem_new(struct change);

    c->text = BUF(TEXT_MAX);
    submit(n, c, id);
}

/* --- coming up, going down --- */

static int find_program(const char *wanted, char **out, struct err *e)
{
    static const char *const usual[] = {
        "/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq", "/sbin/dnsmasq"};

    for (size_t i = 0; *wanted == '\0' && i < sizeof(usual) / sizeof(usual[0]); i++) {
        if (access(usual[i], X_OK) == 0)
            wanted = usual[i];
    }
    if (*wanted == '\0')
        return err_set(e, ERR_UNSUPPORTED, "dnsmasq is not installed");
    if (access(wanted, X_OK) < 0)
        return err_errno(e, "%s", wanted);
    *out = mem_strdup(wanted);
    return 0;
}

static int make_dir(struct names *n, struct err *e)
{
    auto_close int dir_fd = -1;
    struct stat st;

    if (stat("/proc/self/ns/net", &st) < 0)
        return err_errno(e, "look at the network namespace");
    (void)snprintf(
        n->dir, sizeof(n->dir), "/run/hypeman-names-%llu", (unsigned long long)st.st_ino);
    if (dir_ensure(AT_FDCWD, n->dir, 0755, e) < 0)
        return -1;
    dir_fd = dir_open(AT_FDCWD, n->dir, e);
    if (dir_fd < 0 || tree_remove(dir_fd, "hosts", e) < 0 ||
        dir_ensure(dir_fd, "hosts", 0755, e) < 0)
        return -1;
    n->hosts_fd = dir_open(dir_fd, "hosts", e);
    if (n->hosts_fd < 0)
        return -1;
    if (fchmod(dir_fd, 0755) < 0 || fchmod(n->hosts_fd, 0755) < 0)
        return err_errno(e, "open %s to all", n->dir);
    return 0;
}

struct names *names_new(struct loop *loop, const struct net_plan *plan, const char *program,
                        struct err *e)
{
    struct names *n = mem_new(struct names);

    n->loop = loop;
    n->hosts_fd = -1;
    n->jobs = jobs_new(loop, limits, 1);
    if (find_program(program, &n->program, e) == 0 && make_dir(n, e) == 0)
        n->resolver = resolver_new(loop, plan, n->program, n->dir, e);
    if (n->resolver)
        return n;
    names_free(n);
    return NULL;
}

void names_free(struct names *n)
{
    struct err e = {0};

    if (!n)
        return;
    jobs_stop(n->jobs);
    loop_drain(n->loop);
    jobs_free(n->jobs);
    resolver_free(n->resolver);
    if (n->hosts_fd >= 0)
        close(n->hosts_fd);
    if (n->dir[0] && tree_remove(AT_FDCWD, n->dir, &e) < 0)
        log_warn("network: %s", e.msg);
    free(n->program);
    free(n);
}
