/* SPDX-License-Identifier: Apache-2.0 */
#include "http/guard.h"

#include <string.h>
#include <strings.h>

#include "base/parse.h"

/* RFC 9110, 5.6.2: what names and methods are made of. */
static bool is_token(const char *s, size_t n)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < n; i++) {
        bool is_alnum = (s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'z') ||
                        (s[i] >= 'A' && s[i] <= 'Z');

        if (!is_alnum && !memchr(marks, s[i], sizeof(marks) - 1))
            return false;
    }
    return n > 0;
}

static bool has_control_byte(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return true;
    }
    return false;
}

static bool is_word(const char *s, size_t n, const char *word)
{
    return n == strlen(word) && strncasecmp(s, word, n) == 0;
}

static bool take_length(struct http_guard *g, const char *value, size_t len)
{
    char digits[24] = {0};

    if (len >= sizeof(digits))
        return false;
    memcpy(digits, value, len);
    return strlen(digits) == len && parse_u64(digits, 0, INT64_MAX, &g->content_length);
}

void http_guard_field(struct http_guard *g, const char *name, size_t name_len, const char *value,
                      size_t value_len)
{
    if (g->bad)
        return;
    if (!is_token(name, name_len))
        g->bad = "a header name holds a byte that it may not";
    else if (has_control_byte(value, value_len))
        g->bad = "a header value holds a control byte";
    else if (is_word(name, name_len, "host"))
        g->n_hosts++;
    else if (is_word(name, name_len, "content-length")) {
        g->n_lengths++;
        if (!take_length(g, value, value_len))
            g->bad = "Content-Length is not a number";
    } else if (is_word(name, name_len, "transfer-encoding")) {
        g->n_encodings++;
        if (!is_word(value, value_len, "chunked"))
            g->bad = "Transfer-Encoding is something else than chunked";
    }
}

const char *http_guard_verdict(const struct http_guard *g, bool is_http11)
{
    if (g->bad)
        return g->bad;
    if (g->n_lengths > 1)
        return "more than one Content-Length";
    if (g->n_encodings > 1)
        return "more than one Transfer-Encoding";
    if (g->n_lengths && g->n_encodings)
        return "both Content-Length and Transfer-Encoding";
    if (g->n_encodings && !is_http11)
        return "Transfer-Encoding before HTTP/1.1";
    if (g->n_hosts > 1)
        return "more than one Host";
    if (g->n_hosts == 0 && is_http11)
        return "no Host";
    return NULL;
}

bool http_guard_method(const char *method)
{
    return is_token(method, strlen(method));
}

bool http_guard_target(const char *target)
{
    for (const char *p = target; *p; p++) {
        unsigned char c = (unsigned char)*p;

        if (c <= 0x20 || c >= 0x7f)
            return false;
    }
    return *target != '\0';
}
