/* SPDX-License-Identifier: Apache-2.0 */
#include "api/token.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"

/* In the order of the bits of enum token_scope. */
static const char *const scope_names[] = {
    "instance:read",  "instance:write",  "instance:delete", "image:read",    "image:write",
    "image:delete",   "volume:read",     "volume:write",    "volume:delete", "snapshot:read",
    "snapshot:write", "snapshot:delete", "build:read",      "build:write",   "build:delete",
    "device:read",    "device:write",    "device:delete",   "ingress:read",  "ingress:write",
    "ingress:delete", "resource:read",
};
enum { N_SCOPES = sizeof(scope_names) / sizeof(scope_names[0]) };
_Static_assert(SCOPE_UNLIMITED == 1 << N_SCOPES, "scope_names[] misses a scope");

bool token_scope_parse(const char *word, uint32_t *out)
{
    if (strcmp(word, "*") == 0) {
        *out = SCOPE_ALL;
        return true;
    }
    for (unsigned i = 0; i < N_SCOPES; i++) {
        if (strcmp(word, scope_names[i]) == 0) {
            *out = 1U << i;
            return true;
        }
    }
    return false;
}

const char *token_scope_name(uint32_t one_scope)
{
    for (unsigned i = 0; i < N_SCOPES; i++) {
        if (one_scope == 1U << i)
            return scope_names[i];
    }
    return NULL;
}

/* --- base64url without padding, RFC 7515 --- */

static const char digits64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode64(struct buf *out, const void *data, size_t len)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t v = (uint32_t)p[i] << 16;

        if (n > 1)
            v |= (uint32_t)p[i + 1] << 8;
        if (n > 2)
            v |= p[i + 2];
        for (size_t d = 0; d <= n; d++)
            buf_append(out, &digits64[v >> (18 - 6 * d) & 63], 1);
    }
}

/* Strict: one text for each content, so a changed token never verifies. */
static bool decode64(const char *s, size_t len, struct buf *out)
{
    uint32_t v = 0;
    unsigned bits = 0;

    if (len % 4 == 1)
        return false;
    for (size_t i = 0; i < len; i++) {
        const char *d = s[i] ? strchr(digits64, s[i]) : NULL;
        unsigned char byte;

        if (!d)
            return false;
        v = v << 6 | (uint32_t)(d - digits64);
        bits += 6;
        if (bits < 8)
            continue;
        bits -= 8;
        byte = (unsigned char)(v >> bits);
        v &= (1U << bits) - 1;
        buf_append(out, &byte, 1);
    }
    return v == 0 && buf_ok(out);
}

/* --- signing --- */

static int sign_text(const EVP_MD *md, const char *secret, const void *text, size_t len,
                     unsigned char out[EVP_MAX_MD_SIZE])
{
    unsigned n = 0;
    size_t key_len = strlen(secret);

    if (key_len == 0 || key_len > INT_MAX || !HMAC(md, secret, (int)key_len, text, len, out, &n))
        return -1;
    return (int)n;
}

static void write_claims(const struct token_claims *claims, struct buf *out)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "sub", claims->subject);
    jout_int(&j, "iat", claims->issued_at);
    if (claims->expires_at)
        jout_int(&j, "exp", claims->expires_at);
    if (claims->scopes != SCOPE_ALL) {
        jout_open(&j, "permissions", '[');
        for (unsigned i = 0; i < N_SCOPES; i++) {
            if (claims->scopes & 1U << i)
                jout_str(&j, NULL, scope_names[i]);
        }
        jout_close(&j, ']');
    }
    jout_close(&j, '}');
}

int token_sign(const struct token_claims *claims, const char *secret, struct buf *out,
               struct err *e)
{
    static const char header[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";
    auto_buf struct buf payload = BUF(TOKEN_MAX);
    auto_buf struct buf token = BUF(TOKEN_MAX);
    unsigned char signature[EVP_MAX_MD_SIZE];
    int n;

    if (!*secret)
        return err_set(e, ERR_INVALID, "the secret is empty");
    write_claims(claims, &payload);
    encode64(&token, header, sizeof(header) - 1);
    buf_puts(&token, ".");
    encode64(&token, buf_str(&payload), payload.len);
    n = sign_text(EVP_sha256(), secret, buf_str(&token), token.len, signature);
    if (n < 0)
        return err_set(e, ERR_INTERNAL, "cannot sign a token");
    buf_puts(&token, ".");
    encode64(&token, signature, (size_t)n);
    if (!buf_ok(&token))
        return err_set(e, ERR_TOO_LARGE, "the token is longer than %d bytes", TOKEN_MAX);
    buf_append(out, token.data, token.len);
    return 0;
}

/* --- verifying --- */

struct part {
    const char *p;
    size_t len;
};

static bool split(const char *text, struct part parts[3])
{
    for (int i = 0; i < 3; i++) {
        parts[i] = (struct part){text, strcspn(text, ".")};
        text += parts[i].len;
        if (parts[i].len == 0 || (i < 2) != (*text == '.'))
            return false;
        text++;
    }
    return true;
}

static json_t *decode_object(const struct part *part)
{
    auto_buf struct buf text = BUF(TOKEN_MAX);
    struct err ignored = {0};
    json_t *doc = NULL;

    if (decode64(part->p, part->len, &text))
        doc = parse_json(buf_str(&text), text.len, &ignored);
    if (doc && !json_is_object(doc)) {
        json_decref(doc);
        doc = NULL;
    }
    return doc;
}

/* The digest that the header names, or NULL for whatever is not an HMAC that we know. */
static const EVP_MD *header_digest(const struct part *header)
{
    json_auto_t *doc = decode_object(header);
    const char *alg = json_string_value(json_object_get(doc, "alg"));

    /* "crit" lists extensions that must be understood, and there are none here. */
    if (!alg || json_object_get(doc, "crit"))
        return NULL;
    if (strcmp(alg, "HS256") == 0)
        return EVP_sha256();
    if (strcmp(alg, "HS384") == 0)
        return EVP_sha384();
    if (strcmp(alg, "HS512") == 0)
        return EVP_sha512();
    return NULL;
}

static bool signature_is_good(const char *text, const struct part parts[3], const char *secret)
{
    const EVP_MD *md = header_digest(&parts[0]);
    auto_buf struct buf given = BUF(EVP_MAX_MD_SIZE);
    unsigned char want[EVP_MAX_MD_SIZE];
    int n;

    if (!md || !decode64(parts[2].p, parts[2].len, &given))
        return false;
    n = sign_text(md, secret, text, (size_t)(parts[2].p - 1 - text), want);
    return n > 0 && given.len == (size_t)n && CRYPTO_memcmp(given.data, want, (size_t)n) == 0;
}

/* A date of JWT may carry a fraction. Absent leaves 0. */
static bool read_time(const json_t *claims, const char *key, int64_t *out)
{
    const json_t *v = json_object_get(claims, key);
    double d = json_number_value(v);

    *out = 0;
    if (!v)
        return true;
    if (!json_is_number(v) || !isfinite(d) || d < 1 || d > 253402300799.0) /* the year 9999 */
        return false;
    *out = (int64_t)d;
    return true;
}

static bool read_scopes(const json_t *claims, uint32_t *out)
{
    const json_t *list = json_object_get(claims, "permissions");
    uint32_t all = 0;
    const json_t *item;
    size_t i;

    if (!list) {
        *out = SCOPE_ALL;
        return true;
    }
    if (!json_is_array(list))
        return false;
    json_array_foreach(list, i, item)
    {
        uint32_t one = 0;

        if (!json_is_string(item))
            return false;
        if (token_scope_parse(json_string_value(item), &one)) /* an unknown one grants nothing */
            all |= one;
    }
    *out = all;
    return true;
}

static bool read_claims(const json_t *doc, int64_t now, struct token_claims *out)
{
    const json_t *subject = json_object_get(doc, "sub");
    int64_t not_before;

    if (subject && !json_is_string(subject))
        return false;
    if (subject && json_string_length(subject) >= sizeof(out->subject))
        return false;
    if (!read_time(doc, "iat", &out->issued_at) || !read_time(doc, "exp", &out->expires_at) ||
        !read_time(doc, "nbf", &not_before) || !read_scopes(doc, &out->scopes))
        return false;
    (void)snprintf(
        out->subject, sizeof(out->subject), "%s", subject ? json_string_value(subject) : "");
    return (!out->expires_at || now < out->expires_at) && now >= not_before &&
           now >= out->issued_at;
}

/* Tokens of the registry and of builders are signed with the same secret and open nothing here. */
static bool is_other_kind(const json_t *doc, const struct token_claims *claims)
{
    return json_object_get(doc, "repos") || json_object_get(doc, "repo_access") ||
           json_object_get(doc, "scope") || json_object_get(doc, "build_id") ||
           strncmp(claims->subject, "builder-", 8) == 0;
}

int token_verify(const char *text, const char *secret, int64_t now, struct token_claims *out,
                 struct err *e)
{
    json_auto_t *doc = NULL;
    struct token_claims claims = {0};
    struct part parts[3];

    if (strnlen(text, TOKEN_MAX + 1) > TOKEN_MAX || !split(text, parts) ||
        !signature_is_good(text, parts, secret))
        return err_set(e, ERR_UNAUTHORIZED, "invalid token");
    doc = decode_object(&parts[1]);
    if (!doc || !read_claims(doc, now, &claims))
        return err_set(e, ERR_UNAUTHORIZED, "invalid token");
    if (is_other_kind(doc, &claims))
        return err_set(e, ERR_UNAUTHORIZED, "invalid token type");
    *out = claims;
    return 0;
}

const char *token_from_header(const char *value, struct err *e)
{
    static const char scheme[] = "Bearer ";

    if (!value || !*value) {
        err_set(e, ERR_UNAUTHORIZED, "authorization header required");
        return NULL;
    }
    if (strncasecmp(value, scheme, sizeof(scheme) - 1) != 0 || !value[sizeof(scheme) - 1] ||
        strchr(value + sizeof(scheme) - 1, ' ')) {
        err_set(e, ERR_UNAUTHORIZED, "invalid authorization header format");
        return NULL;
    }
    return value + sizeof(scheme) - 1;
}

int token_secret_read(const char *path, struct buf *out, struct err *e)
{
    /* Where secrets are mounted they are often links, which file_read() does not follow. */
    auto_free char *real = realpath(path, NULL);
    auto_buf struct buf text = BUF(4096);
    size_t n;

    if (!real)
        return err_errno(e, "%s", path);
    if (file_read(AT_FDCWD, real, &text, e) < 0)
        return -1;
    for (n = text.len; n > 0 && (text.data[n - 1] == '\n' || text.data[n - 1] == '\r');)
        n--;
    if (n == 0 || memchr(text.data, '\0', n))
        return err_set(e, ERR_INVALID, "%s holds no secret", path);
    buf_append(out, text.data, n);
    OPENSSL_cleanse(text.data, text.len);
    return 0;
}
