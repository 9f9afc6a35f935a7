/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/jread.h"

#include <string.h>

#include "agent/sys.h"
#include "base/ckd.h"
#include "base/cleanup.h"
#include "base/jout.h"
#include "base/mem.h"

static void fail(struct jread *j)
{
    j->bad = true;
    j->p = j->end;
}

static void blanks(struct jread *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\r' || *j->p == '\n'))
        j->p++;
}

static bool take(struct jread *j, char c)
{
    blanks(j);
    if (j->p == j->end || *j->p != c)
        return false;
    j->p++;
    return true;
}

static bool take_word(struct jread *j, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(j->end - j->p) < n || memcmp(j->p, word, n) != 0)
        return false;
    j->p += n;
    return true;
}

static void open_bracket(struct jread *j, char c)
{
    if (!take(j, c) || ++j->depth > JREAD_DEPTH)
        fail(j);
    j->first = true;
}

/* Moves to the next member or element; false behind the last one. */
static bool next(struct jread *j, char closing)
{
    if (take(j, closing)) {
        j->depth--;
        j->first = false;
        return false;
    }
    if (!j->first && !take(j, ','))
        fail(j);
    j->first = false;
    return !j->bad;
}

void jread_object(struct jread *j)
{
    open_bracket(j, '{');
}

void jread_array(struct jread *j)
{
    open_bracket(j, '[');
}

bool jread_item(struct jread *j)
{
    return next(j, ']');
}

char *jread_key(struct jread *j)
{
    auto_free char *key = next(j, '}') ? jread_str(j) : NULL;

    if (!key)
        return NULL;
    if (!take(j, ':')) {
        fail(j);
        return NULL;
    }
    return take_ptr(&key);
}

static unsigned hex4(struct jread *j)
{
    unsigned v = 0;

    for (int i = 0; i < 4; i++) {
        int digit = j->p < j->end ? hex_digit(*j->p) : -1;

        if (digit < 0) {
            fail(j);
            return 0;
        }
        v = v * 16 + (unsigned)digit;
        j->p++;
    }
    return v;
}

static void put_code_point(struct buf *b, unsigned c)
{
    char out[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(n == 1 ? c : (0xf00U >> n & 0xf0) | c);
    buf_append(b, out, n);
}

static void escape(struct jread *j, struct buf *b)
{
    const char *from = "\"\\/bfnrt";
    const char *to = "\"\\/\b\f\n\r\t";
    const char *at = j->p < j->end && *j->p ? strchr(from, *j->p) : NULL;
    unsigned c;

    if (at) {
        buf_append(b, to + (at - from), 1);
        j->p++;
        return;
    }
    if (!take_word(j, "u")) {
        fail(j);
        return;
    }
    c = hex4(j);
    if (c >= 0xd800 && c < 0xdc00 && take_word(j, "\\u")) {
        unsigned low = hex4(j);

        c = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : 0;
    } else if (c >= 0xd800 && c < 0xe000)
        c = 0;
    if (c == 0)
        fail(j);
    else
        put_code_point(b, c);
}

char *jread_str(struct jread *j)
{
    auto_buf struct buf b = BUF((size_t)(j->end - j->p));

    if (!take(j, '"')) {
        fail(j);
        return NULL;
    }
    while (j->p < j->end && *j->p != '"') {
        const unsigned char *p = (const unsigned char *)j->p;
        size_t n = utf8_len(p, (size_t)(j->end - j->p));

        if (*p < 0x20 || n == 0) {
            fail(j);
        } else if (*p == '\\') {
            j->p++;
            escape(j, &b);
        } else {
            buf_append(&b, p, n);
            j->p += n;
        }
    }
    if (!take_word(j, "\"")) {
        fail(j);
        return NULL;
    }
    return mem_strdup(buf_str(&b));
}

void jread_text(struct jread *j, char **slot)
{
    free(*slot);
    *slot = jread_str(j);
}

int64_t jread_int(struct jread *j)
{
    bool negative = take(j, '-');
    const char *from = j->p;
    int64_t v = 0;

    for (; j->p < j->end && *j->p >= '0' && *j->p <= '9'; j->p++) {
        int digit = *j->p - '0';

        if (ckd_mul(&v, v, 10) || ckd_add(&v, v, negative ? -digit : digit)) {
            fail(j);
            return 0;
        }
    }
    if (j->p == from || (*from == '0' && j->p > from + 1)) {
        fail(j);
        return 0;
    }
    return v;
}

bool jread_bool(struct jread *j)
{
    blanks(j);
    if (take_word(j, "true"))
        return true;
    if (!take_word(j, "false"))
        fail(j);
    return false;
}

static void skip_scalar(struct jread *j, char c)
{
    switch (c) {
    case '"':
        free(jread_str(j));
        break;
    case 't':
    case 'f':
        (void)jread_bool(j);
        break;
    case 'n':
        if (!take_word(j, "null"))
            fail(j);
        break;
    default:
        (void)jread_int(j);
    }
}

/* NOLINTNEXTLINE(misc-no-recursion): JREAD_DEPTH bounds it */
void jread_skip(struct jread *j)
{
    char c = '\0';

    blanks(j);
    if (j->p < j->end)
        c = *j->p;
    if (c == '{') {
        jread_object(j);
        for (char *key; (key = jread_key(j)); free(key))
            jread_skip(j);
    } else if (c == '[') {
        jread_array(j);
        while (jread_item(j))
            jread_skip(j);
    } else
        skip_scalar(j, c);
}

void jread_list(struct jread *j, struct argv *to)
{
    jread_array(j);
    while (jread_item(j)) {
        auto_free char *s = jread_str(j);

        if (s)
            argv_push(to, s);
    }
}

bool jread_done(struct jread *j)
{
    blanks(j);
    return !j->bad && j->p == j->end;
}
