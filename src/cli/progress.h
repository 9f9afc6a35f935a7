/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The line that moves while a command waits: on a terminal only, on standard
 * error, and only from half a second on, so that what is quick stays quiet.
 *
 * There is one terminal, so there is one line, and the state is the module's.
 * The client's waits call progress_tick(); verbs say what they wait for.
 */
#pragma once

#include <stdint.h>

void progress_begin(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Says something else of the same wait; the time goes on. */
void progress_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Wipes the line. Harmless without one. */
void progress_end(void);

/* When progress_tick() is due, on CLOCK_MONOTONIC; INT64_MAX for never. */
int64_t progress_next_ms(void);
void progress_tick(void);
