/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the time of an operation went: spans, and a ring of the last operations.
 *
 * A trace is a plain value that travels with its operation: filled in by one
 * thread at a time (the loop, then the worker, then the loop), finished on the
 * loop, which puts it into the ring. Deep functions reach it through the op they
 * are given anyway (op->trace, which may be NULL: then nothing is recorded).
 * Names are string constants; upstream's where upstream has one.
 *
 * Recording costs two clock reads a span. Nothing depends on anybody reading it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/id.h"
#include "loop/op.h"

enum { TRACE_SPANS = 24, TRACE_RING = 128 };

struct span {
    const char *name;
    int64_t start_us; /* CLOCK_MONOTONIC */
    int64_t end_us;   /* 0: still open */
    int8_t parent;    /* index; -1 for the root */
};

enum { TRACE_COUNTS = 4, TRACE_TEXTS = 4, TRACE_TEXT_SIZE = 100 };

struct trace {
    char subject[ID_SIZE]; /* the instance; may be empty */
    int64_t began_wall_us;
    bool failed;
    uint8_t n;
    uint8_t dropped; /* spans beyond TRACE_SPANS */
    int8_t open;     /* the innermost open span; -1: none */
    struct span spans[TRACE_SPANS];
    uint8_t n_counts;
    struct {
        const char *name;
        int64_t value;
    } counts[TRACE_COUNTS]; /* attributes of the root, also the next */
    uint8_t n_texts;
    struct {
        const char *name;
        char value[TRACE_TEXT_SIZE];
    } texts[TRACE_TEXTS];
};

/* Starts a trace with its root span. */
void trace_begin(struct trace *t, const char *name, const char *subject);

/* The root span began so long ago. */
void trace_backdate(struct trace *t, int64_t us);

/* An attribute of the root. */
void trace_count(struct trace *t, const char *name, int64_t value);
void trace_text(struct trace *t, const char *name, const char *value); /* cut to its size */

/* A span below the innermost open one, until span_end(), or the end of the scope with auto_span. */
struct span_scope {
    struct trace *trace; /* NULL: nothing to end */
    int8_t index;
};
#define auto_span __attribute__((cleanup(span_end), unused)) struct span_scope
struct span_scope span_begin(struct trace *t, const char *name);
void span_end(struct span_scope *s);

/* One that is over: of what went on beside, on another thread. NULL is fine. */
void span_put(struct trace *t, const char *name, int64_t start_us, int64_t end_us);

static inline struct span_scope op_span(const struct op *op, const char *name)
{
    return span_begin(op->trace, name);
}

/* --- the ring: loop thread --- */

struct trace_exporter;

struct trace_ring {
    struct trace_exporter *exporter; /* borrowed; NULL: nobody else wants them */
    bool is_of_reads;                /* of which only a share is exported */
    struct trace *traces;            /* TRACE_RING of them, made with the first */
    uint64_t n;                      /* ever recorded */
};

/* Ends what is open, copies the trace into the ring. */
void trace_finish(struct trace_ring *ring, struct trace *t, bool failed);

/* From the newest back; NULL beyond the last that is kept. */
const struct trace *trace_at(const struct trace_ring *ring, size_t back);
void trace_ring_free(struct trace_ring *ring);
