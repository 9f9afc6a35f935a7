/* SPDX-License-Identifier: Apache-2.0 */
/* What of the client has no socket; the rest is tests/e2e/test_cli.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/names.h"
#include "cli/response.h"
#include "cli/sse.h"
#include "cli/text.h"
#include "unit.h"

static int collect(void *ctx, const char *data, size_t len, struct err *e)
{
    (void)e;
    buf_append(ctx, data, len);
    return 0;
}

/* Feeds in pieces of that size. Returns the status, or -1. */
static int parse(const char *raw, size_t piece, struct buf *body)
{
    struct response r;
    const struct response_sink sink = {collect, body};
    struct err e = {0};
    size_t used = 0;
    int status = -1;

    response_init(&r);
    while (used < strlen(raw) && !r.is_done) {
        size_t left = strlen(raw) - used;
        ssize_t n = response_feed(&r, raw + used, left < piece ? left : piece, &sink, &e);

        if (n < 0)
            break;
        used += (size_t)n;
    }
    if (!e.code && response_eof(&r, &e) == 0)
        status = r.status;
    response_fini(&r);
    return status;
}

static void an_answer_is_the_same_however_it_is_cut(void **state)
{
    static const struct {
        const char *raw;
        int status;
        const char *body;
    } rows[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""},
        {"HTTP/1.1 204 X\r\n\r\n", 204, ""},
        {"HTTP/1.0 500\r\n\r\nto the end", 500, "to the end"},
        {"HTTP/1.1 100 X\r\n\r\nHTTP/1.1 201 X\r\nTRANSFER-ENCODING:  chunked \r\n\r\n"
         "3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nA: b\r\n\r\n",
         201,
         "hello"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", -1, "hello"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", -1, ""},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 x\r\nhello\r\n", -1, "hello"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", -1, ""},
        {"HTTP/1.1 101 X\r\n\r\n", -1, ""},
        {"HTTP/1.1 099 X\r\n\r\n", -1, ""},
        {"HTTP/1.1 20\r\n\r\n", -1, ""},
        {"HTTP/2 200 OK\r\n\r\n", -1, ""},
        {"HTTP/1.1 200 OK\r\n: x\r\n\r\n", -1, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t piece = 1; piece <= strlen(rows[i].raw); piece++) {
            auto_buf struct buf body = BUF(1000);

            assert_int_equal(parse(rows[i].raw, piece, &body), rows[i].status);
            assert_string_equal(buf_str(&body), rows[i].body);
        }
    }
}

static int collect_event(void *ctx, const char *data, size_t len, struct err *e)
{
    collect(ctx, data, len, e);
    buf_puts(ctx, "|");
    return 0;
}

static void events_are_the_same_however_they_are_cut(void **state)
{
    static const char raw[] = ": alive\n\nevent: x\ndata: one\n\n\ndata:two\r\ndata:  2\r\n\r\n"
                              "data\nid: 3\n\ndata: not ended";

    (void)state;
    for (size_t piece = 1; piece < sizeof(raw); piece++) {
        auto_buf struct buf events = BUF(1000);
        struct err e = {0};
        struct sse s;

        sse_init(&s, collect_event, &events);
        for (size_t at = 0; at < strlen(raw); at += piece) {
            size_t left = strlen(raw) - at;

            assert_int_equal(sse_feed(&s, raw + at, left < piece ? left : piece, &e), 0);
        }
        assert_string_equal(buf_str(&events), "one|two\n 2|");
        sse_fini(&s);
    }
}

static void an_event_has_a_ceiling(void **state)
{
    auto_buf struct buf events = BUF(1000);
    struct err e = {0};
    struct sse s;
    int rc = 0;

    (void)state;
    sse_init(&s, collect_event, &events);
    for (int i = 0; i < SSE_EVENT_MAX / 8 + 1 && rc == 0; i++)
        rc = sse_feed(&s, "data: x\n", 8, &e);
    for (int i = 0; i < SSE_EVENT_MAX && rc == 0; i++)
        rc = sse_feed(&s, "data: x\n", 8, &e);
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_int_equal(events.len, 0);
    sse_fini(&s);
}

static void words_are_json_or_split_at_blanks(void **state)
{
    static const struct {
        const char *text;
        const char *json; /* NULL: refused */
    } rows[] = {
        {"/bin/sh -c", "[\"/bin/sh\",\"-c\"]"},
        {"  a\tb \n", "[\"a\",\"b\"]"},
        {"", "[]"},
        {"[\"a b\", \"\"]", "[\"a b\",\"\"]"},
        {"[]", "[]"},
        {"[1]", NULL},
        {"[\"a\"", NULL},
        {"a \xff", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_auto_t *words = words_parse(rows[i].text);
        auto_free char *text = words ? json_dumps(words, JSON_COMPACT) : NULL;

        assert_true(!text == !rows[i].json);
        if (text)
            assert_string_equal(text, rows[i].json);
    }
}

static void ages_are_as_long_as_a_person_needs(void **state)
{
    static const struct {
        int64_t seconds;
        const char *text;
    } rows[] = {{-5, "0s"},
                {0, "0s"},
                {119, "119s"},
                {120, "2m"},
                {7199, "119m"},
                {7200, "2h"},
                {48 * 3600 - 1, "47h"},
                {48 * 3600, "2d"},
                {400 * 86400LL, "400d"}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char at[TIME_TEXT_SIZE];
        char age[AGE_SIZE];

        time_text(wall_us() - rows[i].seconds * 1000000 - 1000, at);
        assert_string_equal(age_text(at, age), rows[i].text);
        assert_string_equal(age_text("yesterday", age), "");
    }
}

static void invented_names_are_names(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) {
        char name[NAME_SIZE];

        name_invent(i % 2, name);
        assert_true(name_is_valid(name));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(an_answer_is_the_same_however_it_is_cut),
        checked_test(events_are_the_same_however_they_are_cut),
        checked_test(an_event_has_a_ceiling),
        checked_test(words_are_json_or_split_at_blanks),
        checked_test(ages_are_as_long_as_a_person_needs),
        checked_test(invented_names_are_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
