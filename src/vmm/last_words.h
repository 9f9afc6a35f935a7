/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM that we started wrote before it gave up, and how it ended: the reason
 * behind "the connection broke". last_words_explain() waits a moment for the
 * process to end, so a job only.
 */
#pragma once

#include <sys/types.h>

#include "base/err.h"
#include "loop/op.h"

enum { LAST_WORDS_SIZE = 320 };

/* Of a log, from that offset on: its end as one line; "" if nothing was written. */
void last_words(int log_fd, off_t from, char out[LAST_WORDS_SIZE]);

struct last_words_source {
    const char *program; /* "QEMU" */
    int *pidfd;          /* closed and -1 once the process was reaped */
    int log_fd;
    off_t log_from;
    const char *(*meaning)(int exit_code); /* optional; NULL from it: none */
};

/*
 * e says that the connection to the process broke or never came. If the process
 * has ended, or does so within two seconds, e becomes how, and why. Returns -1.
 */
int last_words_explain(const struct last_words_source *s, struct err *e);
