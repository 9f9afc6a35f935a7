/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>

#include "api/handlers.h"
#include "base/clock.h"
#include "base/jout.h"
#include "trace/export.h"

enum { TRACES_MAX = 1 << 20 };

static void put_trace(struct jout *j, const struct trace *t)
{
    char text[TIME_TEXT_SIZE];

    jout_open(j, NULL, '{');
    jout_str(j, "name", t->spans[0].name);
    jout_str(j, "instance_id", t->subject);
    jout_str(j, "began_at", time_text(t->began_wall_us, text));
    jout_bool(j, "failed", t->failed);
    if (t->n_counts + t->n_texts > 0) {
        jout_open(j, "attributes", '{');
        for (int i = 0; i < t->n_counts; i++)
            jout_int(j, t->counts[i].name, t->counts[i].value);
        for (int i = 0; i < t->n_texts; i++)
            jout_str(j, t->texts[i].name, t->texts[i].value);
        jout_close(j, '}');
    }
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

/* The newest that is left of several rings, of which so many were taken; NULL: none is. */
static const struct trace *newest(const struct trace_ring *const rings[], size_t taken[], size_t n)
{
    const struct trace *best = NULL;
    size_t from = 0;

    for (size_t i = 0; i < n; i++) {
        const struct trace *t = trace_at(rings[i], taken[i]);

        if (t && (!best || t->began_wall_us > best->began_wall_us)) {
            best = t;
            from = i;
        }
    }
    taken[from] += best != NULL;
    return best;
}

/* Where the time of the last operations, sessions and reads went, newest first. */
void api_debug_traces(struct call *c)
{
    const struct vm_world *w = c->api->world;
    struct buf json = BUF(TRACES_MAX);
    struct jout j = JOUT(&json);
    const struct trace_ring *const rings[] = {&w->traces, &w->sessions, &w->reads};
    size_t taken[3] = {0};
    const struct trace *t;
    struct trace_export_counts counts = trace_export_counts(w->traces.exporter);
    char number[24];

    jout_open(&j, NULL, '[');
    while ((t = newest(rings, taken, 3)))
        put_trace(&j, t);
    jout_close(&j, ']');
    (void)snprintf(number, sizeof(number), "%" PRIu64, counts.sent);
    http_add_header(c->http, "x-hypeman-traces-exported", number);
    (void)snprintf(number, sizeof(number), "%" PRIu64, counts.dropped);
    http_add_header(c->http, "x-hypeman-traces-dropped", number);
    call_reply(c, 200, &json);
}
