/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { QUIET_MS = 500, TICK_MS = 125 };

static struct {
    bool is_on;
    bool is_drawn;
    int64_t began_ms;
    int64_t next_ms;
    char what[120];
} line;

static void __attribute__((format(printf, 1, 0))) set_text(const char *fmt, va_list ap)
{
    (void)vsnprintf(line.what, sizeof(line.what), fmt, ap);
}

void progress_begin(const char *fmt, ...)
{
    const char *term = getenv("TERM");
    va_list ap;

    progress_end();
    if (!isatty(STDERR_FILENO) || (term && strcmp(term, "dumb") == 0))
        return;
    line.is_on = true;
    line.began_ms = clock_ms();
    line.next_ms = line.began_ms + QUIET_MS;
    va_start(ap, fmt);
    set_text(fmt, ap);
    va_end(ap);
}

void progress_note(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_text(fmt, ap);
    va_end(ap);
}

void progress_end(void)
{
    if (line.is_drawn)
        fputs("\r\033[K", stderr);
    line.is_on = false;
    line.is_drawn = false;
}

int64_t progress_next_ms(void)
{
    return line.is_on ? line.next_ms : INT64_MAX;
}

void progress_tick(void)
{
    static const char wheel[] = "|/-\\";
    int64_t now = clock_ms();

    if (!line.is_on || now < line.next_ms)
        return;
    fprintf(stderr,
            "\r%c %s %" PRId64 "s\033[K",
            wheel[(now - line.began_ms) / TICK_MS % 4],
            line.what,
            (now - line.began_ms) / 1000);
    fflush(stderr);
    line.is_drawn = true;
    line.next_ms = now + TICK_MS;
}
