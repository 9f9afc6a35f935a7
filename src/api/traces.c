/* SPDX-License-Identifier: Apache-2.0 */
#include "api/handlers.h"
#include "base/clock.h"
#include "base/jout.h"

enum { TRACES_MAX = 1 << 20 };

static void put_trace(struct jout *j, const struct trace *t)
{
    char text[TIME_TEXT_SIZE];

    jout_open(j, NULL, '{');
    jout_str(j, "name", t->spans[0].name);
    jout_str(j, "instance_id", t->subject);
    jout_str(j, "began_at", time_text(t->began_wall_us, text));
    jout_bool(j, "failed", t->failed);
    jout_open(j, "spans", '[');
    for (int i = 0; i < t->n; i++) {
        const struct span *s = &t->spans[i];

        jout_open(j, NULL, '{');
        jout_str(j, "name", s->name);
        jout_int(j, "parent", s->parent);
        jout_int(j, "start_us", s->start_us - t->spans[0].start_us);
        jout_int(j, "duration_us", s->end_us - s->start_us);
        jout_close(j, '}');
    }
    jout_close(j, ']');
    jout_close(j, '}');
}

/* The last operations, newest first: where their time went. */
void api_debug_traces(struct call *c)
{
    struct buf json = BUF(TRACES_MAX);
    struct jout j = JOUT(&json);
    const struct trace *t;

    jout_open(&j, NULL, '[');
    for (size_t i = 0; (t = trace_at(&c->api->world->traces, i)) != NULL; i++)
        put_trace(&j, t);
    jout_close(&j, ']');
    call_reply(c, 200, &json);
}
