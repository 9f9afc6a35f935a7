/* SPDX-License-Identifier: Apache-2.0 */
#include "base/jout.h"

#include <inttypes.h>
#include <string.h>

size_t utf8_len(const unsigned char *s, size_t n)
{
    size_t len = s[0] < 0x80   ? 1
                 : s[0] < 0xc2 ? 0
                 : s[0] < 0xe0 ? 2
                 : s[0] < 0xf0 ? 3
                 : s[0] < 0xf5 ? 4
                               : 0;

    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return len;
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static void put_special(struct buf *b, unsigned char c)
{
    switch (c) {
    case '"':
        buf_puts(b, "\\\"");
        break;
    case '\\':
        buf_puts(b, "\\\\");
        break;
    case '\n':
        buf_puts(b, "\\n");
        break;
    case '\r':
        buf_puts(b, "\\r");
        break;
    case '\t':
        buf_puts(b, "\\t");
        break;
    default:
        buf_printf(b, "\\u%04x", (unsigned)c);
    }
}

static void put_string(struct buf *b, const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    const unsigned char *end = p + n;

    buf_append(b, "\"", 1);
    while (p < end) {
        const unsigned char *run = p;
        size_t len;

        while (p < end && is_plain(*p))
            p++;
        buf_append(b, run, (size_t)(p - run));
        if (p == end)
            break;
        if (*p < 0x80) {
            put_special(b, *p++);
            continue;
        }
        len = utf8_len(p, (size_t)(end - p));
        if (len)
            buf_append(b, p, len);
        else
            buf_puts(b, "\xef\xbf\xbd");
        p += len ? len : 1;
    }
    buf_append(b, "\"", 1);
}

static void start_member(struct jout *j, const char *key)
{
    if (j->comma)
        buf_append(j->to, ",", 1);
    j->comma = true;
    if (key) {
        put_string(j->to, key, strlen(key));
        buf_append(j->to, ":", 1);
    }
}

void jout_open(struct jout *j, const char *key, char bracket)
{
    start_member(j, key);
    buf_append(j->to, &bracket, 1);
    j->comma = false;
}

void jout_close(struct jout *j, char bracket)
{
    buf_append(j->to, &bracket, 1);
    j->comma = true;
}

void jout_strn(struct jout *j, const char *key, const char *s, size_t n)
{
    start_member(j, key);
    put_string(j->to, s, n);
}

void jout_str(struct jout *j, const char *key, const char *s)
{
    if (s)
        jout_strn(j, key, s, strlen(s));
    else
        jout_null(j, key);
}

void jout_int(struct jout *j, const char *key, int64_t v)
{
    start_member(j, key);
    buf_printf(j->to, "%" PRId64, v);
}

void jout_bool(struct jout *j, const char *key, bool v)
{
    start_member(j, key);
    buf_puts(j->to, v ? "true" : "false");
}

void jout_null(struct jout *j, const char *key)
{
    start_member(j, key);
    buf_puts(j->to, "null");
}

void jout_raw(struct jout *j, const char *key, const char *json)
{
    start_member(j, key);
    buf_puts(j->to, json);
}
