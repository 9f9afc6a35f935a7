/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces to a collector: OTLP over HTTP with JSON bodies, as OTEL_* variables say.
 *
 *   OTEL_EXPORTER_OTLP_TRACES_ENDPOINT  the whole URL; else
 *   OTEL_EXPORTER_OTLP_ENDPOINT         the base, to which /v1/traces is added
 *   OTEL_EXPORTER_OTLP_HEADERS          "key=value,key=value", values with %XX
 *   OTEL_EXPORTER_OTLP_TIMEOUT          milliseconds for one request; 10000
 *   OTEL_SERVICE_NAME                   "hypeman"
 *   OTEL_TRACES_SAMPLER_ARG             the share of successful reads that is sent; 0.1, as
 * upstream OTEL_SDK_DISABLED                   "true": nothing is sent
 *
 * Nothing is sent without an endpoint. A thread of its own sends what has gathered,
 * a batch a request. Whoever hands a trace over only copies it into a queue of fixed
 * length; when the collector is slow or away the queue is full, and what does not fit
 * is dropped and counted. Operations and failures are always queued, reads by share.
 *
 * trace_export() belongs to the loop thread and never waits; the counts may be read by
 * any thread.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "trace/trace.h"

struct trace_exporter;

/* NULL with e unset when nothing is configured; NULL with e when it is and cannot be. */
struct trace_exporter *trace_exporter_new(struct err *e);
void trace_exporter_free(struct trace_exporter *x); /* ends a request under way; NULL is fine */

/* is_read: sampled. x may be NULL. */
void trace_export(struct trace_exporter *x, const struct trace *t, bool is_read);

struct trace_export_counts {
    uint64_t sent;
    uint64_t dropped;
};
struct trace_export_counts trace_export_counts(const struct trace_exporter *x);

/* For tests: the body of a request with these traces. */
struct buf;
void trace_export_write(struct buf *out, const char *service, const struct trace *traces, size_t n);
