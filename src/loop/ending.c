/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/ending.h"

#include <sys/epoll.h>

enum { AGAIN_MS = 10, TRIES = 100 };

static void reap(struct ending *ending)
{
    struct proc_exit how;

    if (!proc_reap(ending->pidfd, &how) && ++ending->tries < TRIES) {
        loop_timer_start(ending->loop, &ending->again, AGAIN_MS);
        return;
    }
    ending->is_awaited = false;
    ending->fn(ending, &how);
}

static void reap_again(struct timer *t)
{
    reap(container_of(t, struct ending, again));
}

static void process_gone(struct watch *w, uint32_t events)
{
    struct ending *ending = container_of(w, struct ending, gone);

    (void)events;
    loop_unwatch(ending->loop, w);
    reap(ending);
}

int ending_await(struct loop *loop, struct ending *ending, int pidfd, struct err *e)
{
    ending->loop = loop;
    ending->pidfd = pidfd;
    ending->tries = 0;
    ending->gone.fn = process_gone;
    ending->again.fn = reap_again;
    ending->is_awaited = loop_watch(loop, &ending->gone, pidfd, EPOLLIN, e) == 0;
    return ending->is_awaited ? 0 : -1;
}

void ending_forget(struct ending *ending)
{
    if (!ending->is_awaited)
        return;
    ending->is_awaited = false;
    if (ending->gone.fd >= 0)
        loop_unwatch(ending->loop, &ending->gone);
    loop_timer_stop(ending->loop, &ending->again);
}
