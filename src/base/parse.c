/* SPDX-License-Identifier: Apache-2.0 */
#include "base/parse.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/ckd.h"

bool parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;

    if (*s == '\0')
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || ckd_mul(&v, v, 10U) || ckd_add(&v, v, (uint64_t)(*s - '0')))
            return false;
    }
    if (v < min || v > max)
        return false;
    *out = v;
    return true;
}

static const char units[] = "KMGTPE";

bool parse_size(const char *s, uint64_t *out_bytes)
{
    size_t n = strspn(s, "0123456789");
    char number[24];
    const char *unit = s + n;
    uint64_t v;
    const char *found;

    if (n == 0 || n >= sizeof(number))
        return false;
    memcpy(number, s, n);
    number[n] = '\0';
    if (!parse_u64(number, 0, UINT64_MAX, &v))
        return false;
    if (*unit == ' ')
        unit++;
    if (*unit && strcasecmp(unit, "B") != 0) {
        found = memchr(units, *unit & ~0x20, sizeof(units) - 1);
        if (!found || (unit[1] && strcasecmp(unit + 1, "B") != 0) ||
            ckd_mul(&v, v, 1ULL << (10 * (found - units + 1))))
            return false;
    }
    *out_bytes = v;
    return true;
}

/* "100M" of bits: decimal multiples, whole numbers. */
static bool parse_bits(const char *s, size_t len, uint64_t *out)
{
    char number[24];
    uint64_t scale = 1;
    uint64_t v;
    const char *found;

    if (len == 0 || len >= sizeof(number))
        return false;
    memcpy(number, s, len);
    number[len] = '\0';
    found = memchr(units, number[len - 1] & ~0x20, 4); /* K M G T */
    if (found) {
        number[len - 1] = '\0';
        for (const char *u = units; u <= found; u++)
            scale *= 1000;
    }
    return parse_u64(number, 0, UINT64_MAX, &v) && !ckd_mul(out, v, scale);
}

bool parse_byte_rate(const char *s, uint64_t *out_bytes_per_s)
{
    size_t n = strlen(s);
    char size[24];

    if (n > 2 && (strcasecmp(s + n - 2, "/s") == 0 || strcasecmp(s + n - 2, "ps") == 0))
        n -= 2;
    if (n >= sizeof(size))
        return false;
    memcpy(size, s, n);
    size[n] = '\0';
    return parse_size(size, out_bytes_per_s);
}

bool parse_bandwidth(const char *s, uint64_t *out_bytes_per_s)
{
    size_t n = strlen(s);
    uint64_t bits;

    if (n <= 3 || strcasecmp(s + n - 3, "bps") != 0)
        return parse_byte_rate(s, out_bytes_per_s);
    if (!parse_bits(s, n - 3, &bits))
        return false;
    *out_bytes_per_s = bits / 8;
    return true;
}

const char *size_text(uint64_t bytes, char out[SIZE_TEXT_SIZE])
{
    for (int i = (int)sizeof(units) - 2; i >= 0; i--) {
        uint64_t unit = 1ULL << (10 * (i + 1));

        if (bytes > unit) {
            (void)snprintf(out, SIZE_TEXT_SIZE, "%.1f %cB", (double)bytes / (double)unit, units[i]);
            return out;
        }
    }
    (void)snprintf(out, SIZE_TEXT_SIZE, "%u B", (unsigned)bytes);
    return out;
}

static const struct {
    const char *name;
    int64_t ns;
} time_units[] = {
    {"ns", 1},
    {"us", 1000},
    {"\xc2\xb5s", 1000},
    {"ms", 1000000},
    {"s", 1000000000},
    {"m", 60LL * 1000000000},
    {"h", 3600LL * 1000000000},
};

/* One "12.5ms" of a duration; moves *s behind it. */
static bool duration_term(const char **s, int64_t *ns)
{
    size_t whole = strspn(*s, "0123456789");
    const char *rest = *s + whole + (*(*s + whole) == '.');
    size_t part = rest == *s + whole ? 0 : strspn(rest, "0123456789");
    size_t unit_len = strcspn(rest + part, "0123456789.");
    int64_t v = 0;

    if (whole + part == 0)
        return false;
    for (size_t i = 0; i < sizeof(time_units) / sizeof(time_units[0]); i++) {
        int64_t scale = time_units[i].ns;

        if (strlen(time_units[i].name) != unit_len ||
            memcmp(rest + part, time_units[i].name, unit_len) != 0)
            continue;
        for (size_t d = 0; d < whole; d++) {
            if (ckd_mul(&v, v, 10) || ckd_add(&v, v, (*s)[d] - '0'))
                return false;
        }
        if (ckd_mul(&v, v, scale))
            return false;
        for (size_t d = 0; d < part && scale >= 10; d++) {
            scale /= 10;
            if (ckd_add(&v, v, (rest[d] - '0') * scale))
                return false;
        }
        *s = rest + part + unit_len;
        return !ckd_add(ns, *ns, v);
    }
    return false;
}

bool parse_duration_ms(const char *s, int64_t *out_ms)
{
    int64_t ns = 0;

    if (strcmp(s, "0") == 0) {
        *out_ms = 0;
        return true;
    }
    if (*s == '\0')
        return false;
    while (*s) {
        if (!duration_term(&s, &ns))
            return false;
    }
    *out_ms = ns / 1000000;
    return true;
}
