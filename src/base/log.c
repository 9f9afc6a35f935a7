/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { MAX_LINE = 2048 };

static const struct {
    const char *name;
    const char *priority; /* as journald reads it from the head of a line */
} levels[] = {
    [LOG_DEBUG_] = {"debug", "<7>"},
    [LOG_INFO_] = {"info", "<6>"},
    [LOG_WARN_] = {"warn", "<4>"},
    [LOG_ERROR_] = {"error", "<3>"},
};

static enum log_level threshold = LOG_INFO_;
static int under_journald;
static atomic_uint dropped;

void log_init(enum log_level lowest)
{
    threshold = lowest;
    under_journald = getenv("JOURNAL_STREAM") != NULL;
}

static int head(char *out, size_t size, enum log_level level)
{
    char at[TIME_TEXT_SIZE];

    if (under_journald)
        return snprintf(out, size, "%s", levels[level].priority);
    return snprintf(out, size, "%s %-5s ", time_text(wall_us(), at), levels[level].name);
}

static void escape(char *out, size_t size, const char *in)
{
    size_t n = 0;

    for (; *in && n + 5 < size; in++) {
        unsigned char c = (unsigned char)*in;

        if (c >= 0x20 && c != 0x7f)
            out[n++] = *in;
        else
            n += (size_t)snprintf(out + n, size - n, "\\x%02x", (unsigned)c);
    }
    out[n] = '\0';
}

/* A pipe with room for PIPE_BUF reports POLLOUT, so a line of that size never blocks. */
static void emit(const char *line, size_t len)
{
    struct pollfd fd = {.fd = STDERR_FILENO, .events = POLLOUT};

    if (poll(&fd, 1, 0) < 1 || !(fd.revents & POLLOUT) || write(STDERR_FILENO, line, len) < 0)
        atomic_fetch_add(&dropped, 1);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    int saved = errno;
    char text[MAX_LINE];
    char clean[MAX_LINE];
    char line[MAX_LINE + 128];
    char lost[48] = "";
    unsigned n_lost;
    va_list ap;
    int n;

    if (level < threshold)
        return;
    errno = saved;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    escape(clean, sizeof(clean), text);
    n_lost = atomic_exchange(&dropped, 0);
    if (n_lost)
        (void)snprintf(lost, sizeof(lost), " (%u lines before this one were lost)", n_lost);
    n = head(line, sizeof(line), level);
    n += snprintf(line + n, sizeof(line) - (size_t)n, "%s%s\n", clean, lost);
    emit(line, (size_t)n);
    errno = saved;
}
