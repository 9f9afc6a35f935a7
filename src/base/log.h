/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's own log: one line an event, on standard error.
 *
 * Any thread may call. A line is written whole or not at all and never blocks:
 * if standard error is a pipe that nobody empties, lines are dropped and the
 * next one that passes says how many. Under journald the level becomes the
 * line's priority. Control bytes are escaped, so a guest's text cannot forge a
 * line. errno is preserved. Whoever handles an error logs it, once.
 */
#pragma once

enum log_level { LOG_DEBUG_, LOG_INFO_, LOG_WARN_, LOG_ERROR_ };

void log_init(enum log_level lowest); /* before the first thread */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_DEBUG_, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO_, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN_, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR_, __VA_ARGS__)
