/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of an OTLP request in its JSON form (opentelemetry-proto, trace.proto): ids
 * are hexadecimal, 64-bit numbers are strings.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/jout.h"
#include "trace/export.h"

enum { KIND_INTERNAL = 1, STATUS_OK = 1, STATUS_ERROR = 2 };

static void put_hex(char *out, const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", (unsigned)bytes[i]);
}

static void put_string_attribute(struct jout *j, const char *key, const char *value)
{
    jout_open(j, NULL, '{');
    jout_str(j, "key", key);
    jout_open(j, "value", '{');
    jout_str(j, "stringValue", value);
    jout_close(j, '}');
    jout_close(j, '}');
}

static void put_number(struct jout *j, const char *key, int64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%" PRId64, value);
    jout_str(j, key, text);
}

static void put_attributes(struct jout *j, const struct trace *t)
{
    jout_open(j, "attributes", '[');
    if (t->subject[0])
        put_string_attribute(j, "instance_id", t->subject);
    for (int i = 0; i < t->n_texts; i++)
        put_string_attribute(j, t->texts[i].name, t->texts[i].value);
    for (int i = 0; i < t->n_counts; i++) {
        jout_open(j, NULL, '{');
        jout_str(j, "key", t->counts[i].name);
        jout_open(j, "value", '{');
        put_number(j, "intValue", t->counts[i].value);
        jout_close(j, '}');
        jout_close(j, '}');
    }
    jout_close(j, ']');
}

struct span_ids {
    char trace[33];
    unsigned char seed[8]; /* a span's id is this with its index in the last byte */
};

static void put_span_id(struct jout *j, const char *key, const struct span_ids *ids, int index)
{
    unsigned char bytes[8];
    char text[17];

    memcpy(bytes, ids->seed, sizeof(bytes));
    bytes[7] = (unsigned char)(index + 1);
    put_hex(text, bytes, sizeof(bytes));
    jout_str(j, key, text);
}

static void put_span(struct jout *j, const struct trace *t, int i, const struct span_ids *ids)
{
    const struct span *s = &t->spans[i];
    int64_t base_us = t->began_wall_us - t->spans[0].start_us;

    jout_open(j, NULL, '{');
    jout_str(j, "traceId", ids->trace);
    put_span_id(j, "spanId", ids, i);
    if (s->parent >= 0)
        put_span_id(j, "parentSpanId", ids, s->parent);
    jout_str(j, "name", s->name);
    jout_int(j, "kind", KIND_INTERNAL);
    put_number(j, "startTimeUnixNano", (base_us + s->start_us) * 1000);
    put_number(j, "endTimeUnixNano", (base_us + s->end_us) * 1000);
    if (i == 0) {
        put_attributes(j, t);
        jout_open(j, "status", '{');
        jout_int(j, "code", t->failed ? STATUS_ERROR : STATUS_OK);
        jout_close(j, '}');
    }
    jout_close(j, '}');
}

static void put_trace(struct jout *j, const struct trace *t)
{
    unsigned char bytes[16];
    struct span_ids ids;

    (void)!getrandom(bytes, sizeof(bytes), 0);
    (void)!getrandom(ids.seed, sizeof(ids.seed), 0);
    put_hex(ids.trace, bytes, sizeof(bytes));
    for (int i = 0; i < t->n; i++)
        put_span(j, t, i, &ids);
}

void trace_export_write(struct buf *out, const char *service, const struct trace *traces, size_t n)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_open(&j, "resourceSpans", '[');
    jout_open(&j, NULL, '{');
    jout_open(&j, "resource", '{');
    jout_open(&j, "attributes", '[');
    put_string_attribute(&j, "service.name", service);
    jout_close(&j, ']');
    jout_close(&j, '}');
    jout_open(&j, "scopeSpans", '[');
    jout_open(&j, NULL, '{');
    jout_open(&j, "scope", '{');
    jout_str(&j, "name", "hypeman");
    jout_close(&j, '}');
    jout_open(&j, "spans", '[');
    for (size_t i = 0; i < n; i++)
        put_trace(&j, &traces[i]);
    jout_close(&j, ']');
    jout_close(&j, '}');
    jout_close(&j, ']');
    jout_close(&j, '}');
    jout_close(&j, ']');
    jout_close(&j, '}');
}
