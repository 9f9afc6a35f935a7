/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int http_status;
    bool transient;
} codes[] = {
    [ERR_NONE] = {"none", 200, false},
    [ERR_INVALID] = {"invalid_request", 400, false},
    [ERR_UNAUTHORIZED] = {"Unauthorized", 401, false},
    [ERR_DENIED] = {"Forbidden", 403, false},
    [ERR_NOT_FOUND] = {"not_found", 404, false},
    [ERR_EXISTS] = {"already_exists", 409, false},
    [ERR_BAD_STATE] = {"invalid_state", 409, false},
    [ERR_BUSY] = {"busy", 409, false},
    [ERR_PREEMPTED] = {"conflict", 409, false},
    [ERR_TOO_LARGE] = {"body_too_large", 413, false},
    [ERR_LIMIT] = {"too_many_requests", 429, true},
    [ERR_UNSUPPORTED] = {"not_implemented", 501, false},
    [ERR_CANCELLED] = {"shutting_down", 503, true},
    [ERR_TIMEOUT] = {"timeout", 504, false},
    [ERR_NO_SPACE] = {"insufficient_storage", 507, false},
    [ERR_INTERNAL] = {"internal_error", 500, false},
};
static_assert(sizeof(codes) / sizeof(codes[0]) == ERR_INTERNAL + 1, "codes[] misses an err_code");

static enum err_code code_of_errno(int sys)
{
    switch (sys) {
    case ETIMEDOUT:
        return ERR_TIMEOUT;
    case EMFILE:
    case ENFILE:
        return ERR_LIMIT;
    case ENOSPC:
    case EDQUOT:
        return ERR_NO_SPACE;
    default:
        return ERR_INTERNAL;
    }
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    va_list ap;

    assert(code != ERR_NONE);
    assert(e->code == ERR_NONE && "an earlier error was neither handled nor returned");
    e->code = code;
    va_start(ap, fmt);
    (void)vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    return -1;
}

int err_errno(struct err *e, const char *fmt, ...)
{
    int sys = errno;
    va_list ap;
    int n;

    assert(e->code == ERR_NONE && "an earlier error was neither handled nor returned");
    e->code = code_of_errno(sys);
    va_start(ap, fmt);
    n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(e->msg)) {
        errno = sys;
        (void)snprintf(e->msg + n, sizeof(e->msg) - (size_t)n, ": %m");
    }
    errno = sys;
    return -1;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    char inner[sizeof(e->msg)];
    va_list ap;
    size_t room;
    int n;

    assert(e->code != ERR_NONE && "err_wrap() needs an error to wrap");
    memcpy(inner, e->msg, sizeof(inner));
    va_start(ap, fmt);
    n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n + sizeof(": ") < sizeof(e->msg)) {
        memcpy(e->msg + n, ": ", 2);
        room = sizeof(e->msg) - (size_t)n - 2;
        memcpy(e->msg + n + 2, inner, room); /* a long cause loses its end */
        e->msg[sizeof(e->msg) - 1] = '\0';
    }
    return -1;
}

int err_slug(struct err *e, const char *slug)
{
    assert(e->code != ERR_NONE && "err_slug() needs an error to name");
    e->slug = slug;
    return -1;
}

void err_clear(struct err *e)
{
    e->code = ERR_NONE;
    e->slug = NULL;
    e->msg[0] = '\0';
}

const char *err_name(const struct err *e)
{
    return e->slug ? e->slug : codes[e->code].name;
}

int err_http_status(enum err_code code)
{
    return codes[code].http_status;
}

bool err_is_transient(enum err_code code)
{
    return codes[code].transient;
}
