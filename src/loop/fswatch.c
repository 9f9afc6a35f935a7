/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/fswatch.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/mem.h"

/* One watched inode; inotify gives the same descriptor for every watch on it. */
struct fsfile {
    struct map_link link;
    char key[12]; /* the descriptor as text */
    int wd;
    unsigned n_watches; /* also while tell() has them on a list of its own */
    struct list watches;
};

struct fswatcher {
    struct loop *loop;
    int fd;
    struct watch watch;
    struct map files;
};

static void key_of(int wd, char out[12])
{
    (void)snprintf(out, 12, "%d", wd);
}

static struct fsfile *file_of(struct fswatcher *fw, int wd)
{
    char key[12];
    struct map_link *l;

    key_of(wd, key);
    l = map_find(&fw->files, key);
    return l ? container_of(l, struct fsfile, link) : NULL;
}

static void forget(struct fswatcher *fw, struct fsfile *file)
{
    map_remove(&fw->files, &file->link);
    free(file);
}

/* Each that was there is told once; a callback may remove any of them, or the file with the last.
 */
static void tell(struct fswatcher *fw, int wd)
{
    struct fsfile *file = file_of(fw, wd);
    struct list due;

    if (!file)
        return;
    list_init(&due);
    while (!list_empty(&file->watches)) {
        struct list *l = file->watches.next;

        list_remove(l);
        list_append(&due, l);
    }
    while (!list_empty(&due)) {
        struct fswatch *w = container_of(due.next, struct fswatch, link);

        list_remove(&w->link);
        list_append(&w->file->watches, &w->link);
        w->fn(w);
    }
}

static void inotify_ready(struct watch *watch, uint32_t events)
{
    struct fswatcher *fw = container_of(watch, struct fswatcher, watch);
    _Alignas(struct inotify_event) char buffer[4096];
    ssize_t n = read(fw->fd, buffer, sizeof(buffer));

    (void)events;
    for (ssize_t at = 0; at < n;) {
        const struct inotify_event *event =
            (const struct inotify_event *)(const void *)(buffer + at);

        at += (ssize_t)(sizeof(*event) + event->len);
        if (event->mask & IN_IGNORED)
            continue; /* ours to remove, or the file is gone: its watches just stay silent */
        tell(fw, event->wd);
    }
}

static struct fswatcher *fswatcher_new(struct loop *loop, struct err *e)
{
    struct fswatcher *fw = mem_new(struct fswatcher);

    fw->loop = loop;
    fw->watch.fn = inotify_ready;
    fw->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fw->fd < 0) {
        err_errno(e, "watch files");
        free(fw);
        return NULL;
    }
    if (loop_watch(loop, &fw->watch, fw->fd, EPOLLIN, e) < 0) {
        close(fw->fd);
        free(fw);
        return NULL;
    }
    return fw;
}

struct fswatcher *fswatcher_of(struct loop *loop, struct err *e)
{
    struct fswatcher **kept = loop_fswatcher(loop);

    if (!*kept)
        *kept = fswatcher_new(loop, e);
    return *kept;
}

void fswatcher_free(struct fswatcher *fw)
{
    if (!fw)
        return;
    assert(fw->files.n == 0);
    loop_unwatch(fw->loop, &fw->watch);
    close(fw->fd);
    map_free(&fw->files);
    free(fw);
}

int fswatch_add(struct fswatcher *fw, struct fswatch *w, int fd, struct err *e)
{
    struct fsfile *file;
    char path[32];
    int wd;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    wd = inotify_add_watch(fw->fd, path, IN_MODIFY);
    if (wd < 0)
        return err_errno(e, "watch a file");
    file = file_of(fw, wd);
    if (!file) {
        file = mem_new(struct fsfile);
        file->wd = wd;
        list_init(&file->watches);
        key_of(wd, file->key);
        map_put(&fw->files, &file->link, file->key);
    }
    w->file = file;
    list_append(&file->watches, &w->link);
    file->n_watches++;
    return 0;
}

void fswatch_remove(struct fswatcher *fw, struct fswatch *w)
{
    struct fsfile *file = w->file;

    if (!file)
        return;
    w->file = NULL;
    list_remove(&w->link);
    if (--file->n_watches > 0)
        return;
    (void)inotify_rm_watch(fw->fd, file->wd);
    forget(fw, file);
}
