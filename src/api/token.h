/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bearer tokens of the API: JSON Web Tokens signed with a shared secret (HMAC).
 *
 * Signing makes HS256. Verifying takes HS256, HS384 and HS512, as upstream
 * does, and no other algorithm, so there is none to confuse; the signature is
 * compared in constant time, before any claim is read. A token says what its
 * holder may do with a set of scopes.
 *
 * Any thread may call. Nothing blocks but token_secret_read(). Times are
 * seconds since 1970. A failed verification is ERR_UNAUTHORIZED with the text
 * that the API's clients know; why exactly is nobody's business.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum token_scope {
    SCOPE_INSTANCE_READ = 1 << 0,
    SCOPE_INSTANCE_WRITE = 1 << 1,
    SCOPE_INSTANCE_DELETE = 1 << 2,
    SCOPE_IMAGE_READ = 1 << 3,
    SCOPE_IMAGE_WRITE = 1 << 4,
    SCOPE_IMAGE_DELETE = 1 << 5,
    SCOPE_VOLUME_READ = 1 << 6,
    SCOPE_VOLUME_WRITE = 1 << 7,
    SCOPE_VOLUME_DELETE = 1 << 8,
    SCOPE_SNAPSHOT_READ = 1 << 9,
    SCOPE_SNAPSHOT_WRITE = 1 << 10,
    SCOPE_SNAPSHOT_DELETE = 1 << 11,
    SCOPE_BUILD_READ = 1 << 12,
    SCOPE_BUILD_WRITE = 1 << 13,
    SCOPE_BUILD_DELETE = 1 << 14,
    SCOPE_DEVICE_READ = 1 << 15,
    SCOPE_DEVICE_WRITE = 1 << 16,
    SCOPE_DEVICE_DELETE = 1 << 17,
    SCOPE_INGRESS_READ = 1 << 18,
    SCOPE_INGRESS_WRITE = 1 << 19,
    SCOPE_INGRESS_DELETE = 1 << 20,
    SCOPE_RESOURCE_READ = 1 << 21,
    SCOPE_UNLIMITED = 1 << 22, /* no list of the others grants it */
    SCOPE_ALL = (1 << 23) - 1, /* "*", and a token without the claim */
};

enum { TOKEN_SUBJECT_SIZE = 128, TOKEN_MAX = 8192 };

struct token_claims {
    char subject[TOKEN_SUBJECT_SIZE]; /* "" if absent */
    int64_t issued_at;                /* 0 if absent, also the next one */
    int64_t expires_at;
    uint32_t scopes; /* of enum token_scope */
};

/* "instance:write" or "*". False for a word that is no scope. */
bool token_scope_parse(const char *word, uint32_t *out);
const char *token_scope_name(uint32_t one_scope); /* NULL unless exactly one */

/* Appends the token. The claim "permissions" is written unless scopes is SCOPE_ALL. */
int token_sign(const struct token_claims *claims, const char *secret, struct buf *out,
               struct err *e);

/* An empty secret refuses every token. */
int token_verify(const char *text, const char *secret, int64_t now, struct token_claims *out,
                 struct err *e);

/* The token within an Authorization header (NULL if there was none), or NULL with *e set. */
const char *token_from_header(const char *value, struct err *e);

/*
 * Reads a secret file, without the line end at its end. The daemon and
 * "hypeman token" must agree on every byte, so both use this. Blocks on the disk.
 */
int token_secret_read(const char *path, struct buf *out, struct err *e);
