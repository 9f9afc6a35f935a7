/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "api/handlers.h"
#include "api/view.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/parse.h"

/*
 * GET /instances/{id}/wait: an answer when the state is reached, when it cannot be
 * any more, or when the time is up (200 with timed_out, which SDKs do not retry).
 * Rides on the table's own changes; nothing polls.
 */

enum { DEFAULT_MS = 60000, CAP_MS = 5 * 60000 };

struct waiting {
    struct instance_waiter waiter;
    struct timer timer;
    struct call *call;
    struct loop *loop;
    enum vm_state target;
    enum vm_state last;
    char why[200]; /* it is Unknown */
};

static void finish(struct waiting *w, bool timed_out)
{
    struct call *c = w->call;
    struct buf json = BUF(512);
    struct jout j = JOUT(&json);

    jout_open(&j, NULL, '{');
    jout_str(&j, "state", vm_state_name(w->last));
    jout_str(&j, "state_error", *w->why ? w->why : NULL);
    jout_bool(&j, "timed_out", timed_out);
    jout_close(&j, '}');
    http_on_gone(c->http, NULL, NULL);
    loop_timer_stop(w->loop, &w->timer);
    instance_unwait(&w->waiter);
    free(w);
    call_reply(c, 200, &json);
}

/* Stopped, Standby and Unknown do not change by themselves: waiting for another state would be
 * vain. */
static bool is_over(const struct waiting *w, const struct instance *row)
{
    enum vm_state s = row->run.state;

    return s == w->target ||
           ((s == VM_STOPPED || s == VM_STANDBY || s == VM_UNKNOWN) && !row->holder);
}

static void saw(struct waiting *w, const struct instance *row)
{
    w->last = row->run.state;
    if (!instance_state_error(row, w->why, sizeof(w->why)))
        w->why[0] = '\0';
}

static void told(struct instance_waiter *waiter, const struct instance *row)
{
    struct waiting *w = container_of(waiter, struct waiting, waiter);
    struct call *c = w->call;

    if (row) {
        saw(w, row);
        if (is_over(w, row))
            finish(w, false);
        return;
    }
    http_on_gone(c->http, NULL, NULL);
    loop_timer_stop(w->loop, &w->timer);
    instance_unwait(waiter);
    free(w);
    call_fail_with(c, ERR_NOT_FOUND, NULL, "instance was deleted while waiting");
}

static void time_is_up(struct timer *t)
{
    finish(container_of(t, struct waiting, timer), true);
}

static void client_gone(void *arg)
{
    finish(arg, true); /* sends nothing; lets go of everything */
}

static int decode(struct call *c, struct waiting *w, int64_t *ms, struct err *e)
{
    const char *state = http_query(c->http, "state");
    const char *timeout = http_query(c->http, "timeout");

    if (!state || !vm_state_parse(state, &w->target) || w->target == VM_UNKNOWN) {
        err_set(e, ERR_INVALID, "state must be one of the instance states, but not Unknown");
        return err_slug(e, "invalid_state");
    }
    *ms = DEFAULT_MS;
    if (timeout && *timeout && !parse_duration_ms(timeout, ms)) {
        err_set(e, ERR_INVALID, "timeout \"%.40s\" is not a duration such as 30s or 5m", timeout);
        return err_slug(e, "invalid_timeout");
    }
    if (*ms > CAP_MS)
        *ms = CAP_MS;
    return 0;
}

void api_instances_wait(struct call *c)
{
    struct waiting *w = mem_new(struct waiting);
    struct err e = {0};
    int64_t ms;

    if (decode(c, w, &ms, &e) < 0) {
        free(w);
        call_fail(c, &e);
        return;
    }
    w->call = c;
    w->loop = c->api->world->loop;
    saw(w, c->row);
    w->waiter.fn = told;
    w->timer.fn = time_is_up;
    instance_wait(c->row, &w->waiter);
    if (is_over(w, c->row)) {
        finish(w, false);
        return;
    }
    loop_timer_start(w->loop, &w->timer, ms);
    http_on_gone(c->http, client_gone, w);
}
