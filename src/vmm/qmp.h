/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's machine protocol, for a job: one question at a time, straight-line.
 *
 * Every function that takes an op may block, under it. Any error leaves the
 * connection in an unknown state: close it. QEMU serves one client per socket;
 * the job that holds the instance is the only one on api.sock.
 *
 * Errors carry QEMU's own words. ERR_NOT_FOUND: there is no QEMU any more.
 */
#pragma once

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "loop/op.h"

struct qmp {
    int fd;
    struct buf in;      /* what has arrived beyond the last line taken */
    size_t searched;    /* so much of it holds no end of a line */
    int64_t last_id;    /* of the last command sent */
    const char *wanted; /* the event to keep; see qmp_want() */
    json_t *event;      /* the data of the last such event, until it is taken */
};

#define QMP_CLOSED ((struct qmp){.fd = -1})
#define auto_qmp __attribute__((cleanup(qmp_close)))

/* Connects and shakes hands. */
int qmp_open(const struct op *op, int dir_fd, const char *socket, struct qmp *out, struct err *e);
void qmp_close(struct qmp *q);

/*
 * Runs a command. arguments is JSON text, or NULL for none. The value returned
 * is the caller's; qmp_do() is for those that do not care.
 */
json_t *qmp_call(const struct op *op, struct qmp *q, const char *command, const char *arguments,
                 struct err *e);
int qmp_do(const struct op *op, struct qmp *q, const char *command, const char *arguments,
           struct err *e);

/* The same with a copy of an fd, for "getfd" and "add-fd". */
json_t *qmp_call_fd(const struct op *op, struct qmp *q, const char *command, const char *arguments,
                    int fd, struct err *e);

/*
 * Events come in between. From qmp_want() on the last event of that name is
 * kept, and qmp_next_event() takes it or waits for one; all others are dropped.
 * name is borrowed. The value is the event's data (JSON null if it had none).
 */
void qmp_want(struct qmp *q, const char *name);
json_t *qmp_next_event(const struct op *op, struct qmp *q, struct err *e);
