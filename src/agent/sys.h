/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that every part of the agent needs. All may block for a moment; PID 1 has no other
 * work. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

/* A line on the console, for whoever reads the VM's log. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Reads what there is, up to out's ceiling; false (and maybe something in out) when that fails. */
bool slurp(const char *path, struct buf *out);

/* Into a file of the kernel's that is there already. */
bool write_text(const char *path, const char *text);

/* A file of the image's /etc or of /run: made anew beside the old one, so a link there is not
 * followed. */
bool replace_text(const char *path, const char *text);

/* mkdir -p with mode 0755. */
int make_dirs(const char *path, struct err *e);

/*
 * For good, or no longer: who is woken does not take the processor from who runs. Under a
 * translator a change of processes is a tenth of a millisecond.
 */
void give_way(bool on);

int hex_digit(char c); /* -1 when it is none */

/* Waits for a path to appear, in small steps. */
bool wait_for(const char *path, int64_t timeout_ms);
void pause_ms(int ms);
