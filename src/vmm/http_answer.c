/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/http_answer.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/parse.h"

enum { HEAD_MAX = 4096, BODY_MAX = 60 * 1024 };

static int refuse(struct err *e)
{
    return err_set(e, ERR_INVALID, "what came is not an HTTP answer");
}

static const char version[] = "HTTP/1.1 ";

/* "HTTP/1.1 200 OK" */
static bool take_status(const char *line, size_t n, int *out)
{
    char digits[4] = "";
    uint64_t status;

    if (n < sizeof(version) + 2 || memcmp(line, version, sizeof(version) - 1) != 0)
        return false;
    memcpy(digits, line + sizeof(version) - 1, 3);
    if (!parse_u64(digits, 100, 599, &status))
        return false;
    *out = (int)status;
    return true;
}

/* False when the line is a length that cannot be. */
static bool take_length(const char *line, size_t n, size_t *out)
{
    static const char name[] = "content-length:";
    char digits[24];
    uint64_t length;

    if (n < sizeof(name) || strncasecmp(line, name, sizeof(name) - 1) != 0)
        return true;
    line += sizeof(name) - 1;
    n -= sizeof(name) - 1;
    while (n > 0 && *line == ' ')
        line++, n--;
    if (n == 0 || n >= sizeof(digits))
        return false;
    (void)snprintf(digits, sizeof(digits), "%.*s", (int)n, line);
    if (!parse_u64(digits, 0, BODY_MAX, &length))
        return false;
    *out = (size_t)length;
    return true;
}

int http_answer_parse(const char *text, size_t len, struct http_answer *out, struct err *e)
{
    const char *head_end = memmem(text, len, "\r\n\r\n", 4);
    const char *line = text;
    struct http_answer a = {0};
    bool is_first = true;

    if (len >= sizeof(version) - 1 && memcmp(text, version, sizeof(version) - 1) != 0)
        return refuse(e);
    if (!head_end)
        return len > HEAD_MAX ? refuse(e) : 0;
    while (line <= head_end) {
        const char *end = memmem(line, (size_t)(head_end + 2 - line), "\r\n", 2);
        size_t n = (size_t)(end - line);

        if (is_first ? !take_status(line, n, &a.status) : !take_length(line, n, &a.body_len))
            return refuse(e);
        is_first = false;
        line = end + 2;
    }
    a.body = head_end + 4;
    a.len = (size_t)(a.body - text) + a.body_len;
    if (len < a.len)
        return 0;
    *out = a;
    return 1;
}
