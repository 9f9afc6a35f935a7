/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line from QEMU, understood. A compromised VMM writes what it likes, so
 * everything is checked here and only here: the client (qmp.h) and the loop's
 * monitor (qemu_monitor.c) act on the result. Pure.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "vmm/monitor.h"

enum qmp_kind { QMP_GREETING, QMP_EVENT, QMP_RETURN, QMP_ERROR };

struct qmp_line {
    enum qmp_kind kind;
    int64_t id;         /* of the command, with RETURN and ERROR; 0 if there was none */
    const char *event;  /* its name */
    const json_t *data; /* an event's data (may be NULL), a RETURN's value */
    const char *desc;   /* why, with ERROR */
    json_t *root;       /* owns all of the above */
};

#define auto_qmp_line __attribute__((cleanup(qmp_line_fini)))

/* ERR_INVALID when it is none of the four. */
int qmp_line_parse(const char *text, size_t len, struct qmp_line *out, struct err *e);
void qmp_line_fini(struct qmp_line *line);

/* What a string member of an event's data or a return value says; "" if it says nothing. */
const char *qmp_text(const json_t *data, const char *member);

/* The answer to query-status. */
enum vmm_status qmp_status(const json_t *value);
