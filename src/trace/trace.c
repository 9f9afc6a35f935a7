/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/trace.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "trace/export.h"

struct span_scope span_begin(struct trace *t, const char *name)
{
    int8_t index;

    if (!t)
        return (struct span_scope){0};
    if (t->n == TRACE_SPANS) {
        t->dropped++;
        return (struct span_scope){0};
    }
    index = (int8_t)t->n++;
    t->spans[index] = (struct span){.name = name, .start_us = clock_us(), .parent = t->open};
    t->open = index;
    return (struct span_scope){t, index};
}

void span_end(struct span_scope *s)
{
    struct trace *t = s->trace;

    if (!t || t->spans[s->index].end_us)
        return;
    t->spans[s->index].end_us = clock_us();
    t->open = t->spans[s->index].parent;
    s->trace = NULL;
}

void span_put(struct trace *t, const char *name, int64_t start_us, int64_t end_us)
{
    struct span_scope s = span_begin(t, name);

    if (!s.trace)
        return;
    t->open = t->spans[s.index].parent;
    t->spans[s.index].start_us = start_us;
    t->spans[s.index].end_us = end_us;
}

void trace_begin(struct trace *t, const char *name, const char *subject)
{
    *t = (struct trace){.began_wall_us = wall_us(), .open = -1};
    memcpy(t->subject, subject, strnlen(subject, ID_LEN));
    (void)span_begin(t, name);
}

void trace_backdate(struct trace *t, int64_t us)
{
    t->began_wall_us -= us;
    t->spans[0].start_us -= us;
}

void trace_count(struct trace *t, const char *name, int64_t value)
{
    assert(t->n_counts < TRACE_COUNTS);
    t->counts[t->n_counts].name = name;
    t->counts[t->n_counts++].value = value;
}

void trace_text(struct trace *t, const char *name, const char *value)
{
    assert(t->n_texts < TRACE_TEXTS);
    t->texts[t->n_texts].name = name;
    (void)snprintf(t->texts[t->n_texts++].value, TRACE_TEXT_SIZE, "%s", value);
}

void trace_finish(struct trace_ring *ring, struct trace *t, bool failed)
{
    int64_t now = clock_us();

    if (t->n == 0)
        return;
    for (int i = 0; i < t->n; i++) {
        if (t->spans[i].end_us == 0)
            t->spans[i].end_us = now;
    }
    t->failed = failed;
    if (!ring->traces)
        ring->traces = mem_zalloc(TRACE_RING, sizeof(*ring->traces));
    ring->traces[ring->n++ % TRACE_RING] = *t;
    trace_export(ring->exporter, t, ring->is_of_reads);
}

const struct trace *trace_at(const struct trace_ring *ring, size_t back)
{
    if (back >= ring->n || back >= TRACE_RING)
        return NULL;
    return &ring->traces[(ring->n - 1 - back) % TRACE_RING];
}

void trace_ring_free(struct trace_ring *ring)
{
    free(ring->traces);
    *ring = (struct trace_ring){0};
}
