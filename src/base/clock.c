/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t now_us(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_ms(void)
{
    return now_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_us(void)
{
    return now_us(CLOCK_MONOTONIC);
}

int64_t wall_us(void)
{
    return now_us(CLOCK_REALTIME);
}

const char *time_text(int64_t at_wall_us, char out[TIME_TEXT_SIZE])
{
    time_t seconds = (time_t)(at_wall_us / 1000000);
    int micros = (int)(at_wall_us % 1000000);
    struct tm tm;

    if (micros < 0) {
        micros += 1000000;
        seconds--;
    }
    out[0] = '\0'; /* a year beyond four digits has no RFC 3339 form */
    if (gmtime_r(&seconds, &tm) && tm.tm_year <= 9999 - 1900 && tm.tm_year >= -1900)
        (void)snprintf(out,
                       TIME_TEXT_SIZE,
                       "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
                       tm.tm_year + 1900,
                       tm.tm_mon + 1,
                       tm.tm_mday,
                       tm.tm_hour,
                       tm.tm_min,
                       tm.tm_sec,
                       micros);
    return out;
}

/* Reads exactly n digits. */
static bool digits(const char **s, int n, int *out)
{
    int v = 0;

    for (int i = 0; i < n; i++, (*s)++) {
        if (**s < '0' || **s > '9')
            return false;
        v = v * 10 + (**s - '0');
    }
    *out = v;
    return true;
}

static bool literal(const char **s, char c)
{
    if (**s != c)
        return false;
    (*s)++;
    return true;
}

/* ".123456789" as microseconds; no fraction is none. */
static bool fraction(const char **s, int64_t *micros)
{
    int64_t scale = 100000;

    *micros = 0;
    if (**s != '.')
        return true;
    (*s)++;
    if (**s < '0' || **s > '9')
        return false;
    for (int i = 0; **s >= '0' && **s <= '9'; (*s)++, i++) {
        if (i >= 9)
            return false;
        *micros += (**s - '0') * scale;
        scale /= 10;
    }
    return true;
}

static bool offset(const char **s, int *seconds)
{
    int sign = **s == '-' ? -1 : 1;
    int hours;
    int minutes;

    *seconds = 0;
    if (**s == 'Z' || **s == 'z') {
        (*s)++;
        return true;
    }
    if (**s != '+' && **s != '-')
        return false;
    (*s)++;
    if (!digits(s, 2, &hours) || !literal(s, ':') || !digits(s, 2, &minutes) || hours > 23 ||
        minutes > 59)
        return false;
    *seconds = sign * (hours * 3600 + minutes * 60);
    return true;
}

bool time_parse(const char *s, int64_t *out_wall_us)
{
    struct tm tm = {0};
    int64_t micros;
    int east;
    time_t at;

    if (!digits(&s, 4, &tm.tm_year) || !literal(&s, '-') || !digits(&s, 2, &tm.tm_mon) ||
        !literal(&s, '-') || !digits(&s, 2, &tm.tm_mday))
        return false;
    if (*s != 'T' && *s != 't' && *s != ' ')
        return false;
    s++;
    if (!digits(&s, 2, &tm.tm_hour) || !literal(&s, ':') || !digits(&s, 2, &tm.tm_min) ||
        !literal(&s, ':') || !digits(&s, 2, &tm.tm_sec) || !fraction(&s, &micros) ||
        !offset(&s, &east) || *s)
        return false;
    if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 ||
        tm.tm_min > 59 || tm.tm_sec > 60)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    at = timegm(&tm);
    *out_wall_us = ((int64_t)at - east) * 1000000 + micros;
    return true;
}
