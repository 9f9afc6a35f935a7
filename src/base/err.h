/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors are values.
 *
 * A function that can fail takes "struct err *e" as its last parameter and
 * returns -1 (or NULL) after filling it in. The text is stored inline, so an
 * error needs no freeing and may be copied to another thread.
 *
 * The code says what the API client should do about it; the text is for people
 * and grows outwards: "start vm-7: open disk /x: Permission denied".
 */
#pragma once

#include <stdbool.h>

#include <stdbool.h>

enum err_code {
    ERR_NONE = 0,
    ERR_INVALID,      /* the request is malformed              400 */
    ERR_UNAUTHORIZED, /* no valid token                        401 */
    ERR_DENIED,       /* the caller may not do this            403 */
    ERR_NOT_FOUND,    /* no such object                        404 */
    ERR_EXISTS,       /* the name is taken                     409 */
    ERR_BAD_STATE,    /* not possible in the present state     409 */
    ERR_BUSY,         /* another operation holds the instance  409 */
    ERR_PREEMPTED,    /* a stop or delete ended the operation  409 */
    ERR_TOO_LARGE,    /* the body passes its limit             413 */
    ERR_LIMIT,        /* a quota or queue is full              429 */
    ERR_UNSUPPORTED,  /* this build or hypervisor cannot do it 501 */
    ERR_CANCELLED,    /* the daemon is shutting down           503 */
    ERR_TIMEOUT,      /* the deadline passed                   504 */
    ERR_NO_SPACE,     /* the disk is full                      507 */
    ERR_INTERNAL,     /* anything else: our bug or the host    500 */
};

struct err {
    enum err_code code;
    const char *slug; /* static; the API's own word for it where the code's name is too coarse */
    char msg[500];
};

#define ERR_PRINTF(fmt, args) __attribute__((format(printf, fmt, args), nonnull(1)))

/* Both return -1, so a failing function ends with "return err_set(e, ...)". */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) ERR_PRINTF(3, 4);
int err_errno(struct err *e, const char *fmt, ...) ERR_PRINTF(2, 3); /* adds strerror(errno) */

/* Puts context in front of an error that is already set. Returns -1. */
int err_wrap(struct err *e, const char *fmt, ...) ERR_PRINTF(2, 3);

/* Names an error that is already set in the API's words ("invalid_size"). Returns -1. */
int err_slug(struct err *e, const char *slug);

/* Drops an error on purpose. Setting a second error over a first one asserts. */
void err_clear(struct err *e);

const char *err_name(const struct err *e); /* the slug, else the code's own name */
int err_http_status(enum err_code code);

/* Whether the same request may succeed if it is merely sent again. */
bool err_is_transient(enum err_code code);
