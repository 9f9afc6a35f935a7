/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's WebSockets on a loop in the main thread, clients with plain
 * sockets in another; every frame that a client sends is made by hand here, the
 * wrong ones too.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "beside_loop.h"
#include "http/private.h"
#include "http/websocket.h"

enum { FLOOD = 8 << 20, PART = 16 << 10 };

struct fixture {
    struct beside beside;
    struct http_server *server;
    int port;
    char dir[32];
    char path[64];
    size_t fds;

    /* The loop's: what the last socket's owner has seen. */
    struct websocket *w;
    bool is_mute; /* does not echo */
    size_t n_sent;
    size_t n_got;
    size_t n_bad; /* bytes that are not what they should be */
    int n_full;
    int n_drained;
    int n_empty;
    int n_texts;
    int n_hangups;
    int n_opened;
    int n_closed;
};

static char pattern(size_t at)
{
    return (char)('a' + at % 23);
}

static void on_binary(void *owner, const void *data, size_t len)
{
    struct fixture *f = owner;
    const char *bytes = data;

    f->n_empty += len == 0;
    for (size_t i = 0; i < len; i++)
        f->n_bad += bytes[i] != pattern(f->n_got + i);
    f->n_got += len;
    if (!f->is_mute)
        websocket_send(f->w, WS_BINARY, data, len);
}

static void on_text(void *owner, const char *text, size_t len)
{
    struct fixture *f = owner;

    f->n_texts++;
    if (len == 5 && memcmp(text, "close", 5) == 0) {
        websocket_close(f->w, WS_NORMAL);
        f->w = NULL;
    } else if (len == 5 && memcmp(text, "pause", 5) == 0) {
        websocket_pause(f->w);
    } else {
        websocket_send(f->w, WS_TEXT, text, len);
    }
}

static void flood(void *owner)
{
    struct fixture *f = owner;
    char part[PART];

    f->n_drained += f->n_sent > 0;
    while (f->n_sent < FLOOD) {
        for (size_t i = 0; i < PART; i++)
            part[i] = pattern(f->n_sent + i);
        f->n_sent += PART;
        if (!websocket_send(f->w, WS_BINARY, part, PART)) {
            f->n_full++;
            return;
        }
    }
}

static void on_hangup(void *owner)
{
    struct fixture *f = owner;

    f->n_hangups++;
    websocket_close(f->w, WS_GOING_AWAY);
    f->w = NULL;
}

static void on_closed(void *owner)
{
    struct fixture *f = owner;

    f->n_closed++;
    websocket_close(f->w, WS_NORMAL);
    f->w = NULL;
}

static const struct websocket_events events = {
    .binary = on_binary,
    .text = on_text,
    .drained = flood,
    .hangup = on_hangup,
    .closed = on_closed,
};

static void handle(void *ctx, struct http_request *req)
{
    struct fixture *f = ctx;
    struct err e = {0};
    bool is_flood = strcmp(http_path(req), "/flood") == 0;
    struct buf b = BUF(1024);

    f->w = websocket_accept(req, &events, f, &e);
    if (!f->w) {
        buf_puts(&b, e.msg);
        http_reply(req, 400, "text/plain", &b);
        return;
    }
    f->n_opened++;
    f->n_sent = f->n_got = 0;
    f->is_mute = strcmp(http_path(req), "/mute") == 0;
    if (is_flood)
        flood(f);
}

static size_t body_limit(void *ctx, const char *method, const char *path)
{
    (void)ctx, (void)method, (void)path;
    return 0;
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct http_handler handler = {handle, body_limit, f};
    struct err e = {0};

    f->fds = open_fds();
    beside_init(f);
    f->server = http_server_new(f->beside.loop, &handler);
    snprintf(f->dir, sizeof(f->dir), "/tmp/test-ws-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
    if (http_listen_tcp(f->server, "127.0.0.1", "0", &f->port, &e) < 0 ||
        http_listen_unix(f->server, f->path, 0660, NULL, &e) < 0)
        return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    http_server_free(f->server);
    assert_null(f->w);
    assert_int_equal(rmdir(f->dir), 0);
    beside_free(f);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static struct fixture seen; /* what look() has found */

static void look(struct fixture *f)
{
    seen = *f;
}

/* Until a counter has a value, or has passed it; at most ten seconds, which nothing here takes. */
static bool becomes(struct fixture *f, const int *counter, int wanted)
{
    size_t at = (size_t)((const char *)counter - (const char *)f);

    for (int64_t until = clock_ms() + PATIENCE_MS; clock_ms() < until; poll(NULL, 0, 1)) {
        int now;

        on_loop(f, look);
        memcpy(&now, (const char *)&seen + at, sizeof(now));
        if (now >= wanted)
            return true;
    }
    return false;
}

/* --- a client --- */

static int connect_to(struct fixture *f, bool is_unix)
{
    return connect_client(is_unix ? f->path : NULL, f->port);
}

static bool put(int fd, const void *data, size_t len)
{
    return send(fd, data, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool take(int fd, void *to, size_t len)
{
    return len == 0 || recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

/* The answer's head. */
static bool take_head(int fd, char *head, size_t room)
{
    size_t n = 0;

    while (n + 1 < room && take(fd, head + n, 1)) {
        head[++n] = '\0';
        if (n >= 4 && memcmp(head + n - 4, "\r\n\r\n", 4) == 0)
            return true;
    }
    return false;
}

#define HELLO(path)                                                                                \
    "GET " path " HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: "             \
    "WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "                                \
    "dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

static int open_socket(struct fixture *f, bool is_unix, const char *hello)
{
    int fd = connect_to(f, is_unix);
    char head[1024];

    if (fd >= 0 && put(fd, hello, strlen(hello)) && take_head(fd, head, sizeof(head)) &&
        strstr(head, "HTTP/1.1 101 ") &&
        strstr(head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"))
        return fd;
    close(fd);
    return -1;
}

enum { FIN = 0x80, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

/* A masked frame. */
static void frame(struct buf *b, int first, const void *data, size_t len)
{
    static const unsigned char mask[4] = {0x12, 0xf4, 0x56, 0x78};
    const unsigned char *bytes = data;
    unsigned char head[14] = {(unsigned char)first};
    size_t n = 2;

    head[1] = (unsigned char)(0x80 | (len < 126 ? len : len < 65536 ? 126 : 127));
    if (len >= 126) {
        size_t wide = len < 65536 ? 2 : 8;

        for (size_t i = 0; i < wide; i++)
            head[n++] = (unsigned char)(len >> (8 * (wide - 1 - i)));
    }
    memcpy(head + n, mask, 4);
    buf_append(b, head, n + 4);
    for (size_t i = 0; i < len; i++) {
        char c = (char)(bytes[i] ^ mask[i % 4]);

        buf_append(b, &c, 1);
    }
}

static bool put_frame(int fd, int first, const void *data, size_t len)
{
    auto_buf struct buf b = BUF(32 << 20);

    frame(&b, first, data, len);
    return put(fd, b.data, b.len);
}

static bool say(int fd, const char *text)
{
    return put_frame(fd, FIN | TEXT, text, strlen(text));
}

/* The next frame from the server, which must fit; its first byte, or -1. */
static int take_frame(int fd, char *to, size_t room, size_t *len)
{
    unsigned char head[2];
    unsigned char more[8];
    size_t n;

    if (!take(fd, head, 2) || head[1] & 0x80)
        return -1;
    n = head[1];
    if (n >= 126) {
        size_t wide = n == 126 ? 2 : 8;

        if (!take(fd, more, wide))
            return -1;
        n = 0;
        for (size_t i = 0; i < wide; i++)
            n = n << 8 | more[i];
    }
    if (n >= room || !take(fd, to, n))
        return -1;
    to[n] = '\0';
    *len = n;
    return head[0];
}

static bool hears(int fd, int first, const char *text)
{
    char got[65536];
    size_t len;

    return take_frame(fd, got, sizeof(got), &len) == first && len == strlen(text) &&
           memcmp(got, text, len) == 0;
}

/* The server closes, for that reason (0: none given), and ends the connection once it is answered.
 */
static bool is_closed_with(int fd, int code)
{
    unsigned char want[2] = {(unsigned char)(code >> 8), (unsigned char)code};
    char got[65536];
    size_t len;

    if (take_frame(fd, got, sizeof(got), &len) != (FIN | CLOSE) || len != (code ? 2u : 0u) ||
        memcmp(got, want, len) != 0)
        return false;
    (void)put_frame(fd, FIN | CLOSE, want, len); /* it may have left without waiting for that */
    errno = 0;
    return recv(fd, got, 1, 0) <= 0 && errno != EAGAIN;
}

/* --- tests --- */

static void echo(struct fixture *f)
{
    for (int is_unix = 0; is_unix <= 1; is_unix++) {
        auto_close int fd = open_socket(f, is_unix, HELLO("/"));

        CHECK(fd >= 0 && say(fd, "hello") && hears(fd, FIN | TEXT, "hello"));
        CHECK(put_frame(fd, FIN | BINARY, "abc", 3) && hears(fd, FIN | BINARY, "abc"));
        CHECK(say(fd, "") && hears(fd, FIN | TEXT, ""));
        CHECK(put_frame(fd, FIN | PING, "are you there", 13));
        CHECK(hears(fd, FIN | PONG, "are you there"));
        CHECK(put_frame(fd, FIN | CLOSE, "\x03\xe8", 2) && is_closed_with(fd, 1000));
        CHECK(becomes(f, &f->n_closed, is_unix + 1));
    }
}

static void what_is_sent_comes_back(void **state)
{
    beside_run(*state, echo);
}

static void refused(struct fixture *f)
{
    static const struct {
        const char *cut;
        const char *with;
    } cases[] = {
        {"Upgrade\r\n", "close\r\n"},
        {"WebSocket", "h2c"},
        {"n: 13", "n: 8"},
        {"GET", "POST"},
        {"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""},
        {"dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="},
        {"HTTP/1.1", "HTTP/1.0"},
        {"Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Key"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *hello = HELLO("/");
        const char *at = strstr(hello, cases[i].cut);
        auto_free char *changed = mem_printf(
            "%.*s%s%s", (int)(at - hello), hello, cases[i].with, at + strlen(cases[i].cut));
        auto_close int fd = connect_to(f, false);
        char head[1024];

        CHECK(put(fd, changed, strlen(changed)) && take_head(fd, head, sizeof(head)));
        CHECK(strstr(head, " 400 ") && strstr(head, "Sec-WebSocket-Version: 13\r\n"));
    }
}

static void a_request_that_is_no_handshake_is_refused(void **state)
{
    beside_run(*state, refused);
}

static void early(struct fixture *f)
{
    for (int is_unix = 0; is_unix <= 1; is_unix++) {
        auto_buf struct buf b = BUF(1 << 20);
        auto_close int fd = connect_to(f, is_unix);
        char head[1024];

        buf_puts(&b, HELLO("/"));
        frame(&b, FIN | TEXT, "one", 3);
        frame(&b, FIN | TEXT, "two", 3);
        CHECK(put(fd, b.data, b.len) && take_head(fd, head, sizeof(head)));
        CHECK(hears(fd, FIN | TEXT, "one") && hears(fd, FIN | TEXT, "two"));
    }
}

static void frames_may_come_in_one_packet_with_the_handshake(void **state)
{
    beside_run(*state, early);
}

static void fragments(struct fixture *f)
{
    auto_close int fd = open_socket(f, false, HELLO("/"));

    CHECK(put_frame(fd, TEXT, "two ", 4) && put_frame(fd, FIN | PING, "!", 1));
    CHECK(hears(fd, FIN | PONG, "!"));
    CHECK(put_frame(fd, 0, "halves \xc3", 8) && put_frame(fd, FIN, "\xa4", 1));
    CHECK(hears(fd, FIN | TEXT, "two halves \xc3\xa4"));
    CHECK(put_frame(fd, FIN | BINARY, "", 0) && becomes(f, &f->n_empty, 1));
    CHECK(hears(fd, FIN | BINARY, ""));
    CHECK(put_frame(fd, BINARY, "", 0) && put_frame(fd, FIN, "a", 1));
    CHECK(hears(fd, FIN | BINARY, "a") && becomes(f, &f->n_empty, 1));
}

static void messages_come_in_fragments_with_pings_between_them(void **state)
{
    beside_run(*state, fragments);
}

static void hostile(struct fixture *f)
{
    static const char zeros[WEBSOCKET_TEXT_MAX + 1];
    static const struct {
        int code;
        int first;
        const char *data;
        size_t len;
        const char *raw; /* instead of a frame of ours */
    } cases[] = {
        {1002, 0, NULL, 3, "\x81\x01x"},             /* not masked */
        {1002, FIN | 0x40 | TEXT, "x", 1, NULL},     /* a bit of an extension that nobody agreed */
        {1002, FIN, "x", 1, NULL},                   /* goes on with nothing */
        {1002, FIN | 3, "x", 1, NULL},               /* a kind that does not exist */
        {0, PING, "x", 1, NULL},                     /* a ping in fragments */
        {0, FIN | PING, zeros, 126, NULL},           /* a long one */
        {1002, FIN | CLOSE, "\x03\xed", 2, NULL},    /* 1005 is never sent */
        {0, FIN | CLOSE, "x", 1, NULL},              /* half a code */
        {1007, FIN | TEXT, "\xc0\xaf", 2, NULL},     /* overlong */
        {1007, FIN | TEXT, "\xed\xa0\x80", 3, NULL}, /* half a pair */
        {1007, FIN | TEXT, "\xc3", 1, NULL},         /* cut */
        {1009, FIN | TEXT, zeros, sizeof(zeros), NULL},                       /* too long */
        {0, 0, NULL, 14, "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"}, /* 2^64-1 bytes */
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        auto_close int fd = open_socket(f, i % 2, HELLO("/"));

        CHECK(fd >= 0);
        if (cases[i].raw)
            CHECK(put(fd, cases[i].raw, cases[i].len));
        else
            CHECK(put_frame(fd, cases[i].first, cases[i].data, cases[i].len));
        CHECK(is_closed_with(fd, cases[i].code));
        CHECK(becomes(f, &f->n_closed, (int)i + 1));
    }
    on_loop(f, look);
    CHECK(seen.n_texts == 0);
}

static void what_breaks_the_protocol_is_closed_with_its_code(void **state)
{
    beside_run(*state, hostile);
}

static void slow_reader(struct fixture *f)
{
    auto_close int fd = open_socket(f, true, HELLO("/flood"));
    char got[PART + 1];
    size_t len;

    CHECK(fd >= 0 && becomes(f, &f->n_full, 1));
    poll(NULL, 0, 50);
    on_loop(f, look);
    CHECK(seen.n_sent < FLOOD / 2 && seen.n_full == seen.n_drained + 1); /* it waits */
    for (size_t at = 0; at < FLOOD; at += PART) {
        CHECK(take_frame(fd, got, sizeof(got), &len) == (FIN | BINARY) && len == PART);
        for (size_t i = 0; i < PART; i++)
            CHECK(got[i] == pattern(at + i));
    }
    on_loop(f, look);
    CHECK(seen.n_sent == FLOOD && seen.n_drained >= 1);
}

static void a_client_that_does_not_read_stops_the_sender(void **state)
{
    beside_run(*state, slow_reader);
}

static void resume(struct fixture *f)
{
    websocket_resume(f->w);
}

static void paused(struct fixture *f)
{
    auto_close int fd = open_socket(f, false, HELLO("/mute"));
    auto_buf struct buf b = BUF(2 * FLOOD);
    auto_free char *data = mem_zalloc(FLOOD, 1);
    size_t sent = 0;
    int64_t until;

    CHECK(say(fd, "pause") && becomes(f, &f->n_texts, 1));
    for (size_t i = 0; i < FLOOD; i++)
        data[i] = pattern(i);
    frame(&b, FIN | BINARY, data, FLOOD);
    until = clock_ms() + 300;
    while (clock_ms() < until) { /* what the kernel's buffers take, and no more */
        ssize_t n = send(fd, b.data + sent, b.len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        sent += n > 0 ? (size_t)n : 0;
        poll(NULL, 0, 1);
    }
    on_loop(f, look);
    CHECK(sent < b.len && seen.n_got <= WS_AFTER_PAUSE);
    on_loop(f, resume);
    CHECK(put(fd, b.data + sent, b.len - sent));
    until = clock_ms() + PATIENCE_MS;
    do
        on_loop(f, look);
    while (seen.n_got < FLOOD && clock_ms() < until);
    CHECK(seen.n_got == FLOOD && seen.n_bad == 0);
}

static void a_pause_stops_the_client_and_loses_nothing(void **state)
{
    beside_run(*state, paused);
}

static void leaves_while_paused(struct fixture *f)
{
    for (int is_unix = 0; is_unix <= 1; is_unix++) {
        int fd = open_socket(f, is_unix, HELLO("/"));

        CHECK(say(fd, "pause") && becomes(f, &f->n_texts, is_unix + 1));
        CHECK(put_frame(fd, FIN | BINARY, "abc", 3));
        close(fd);
        CHECK(becomes(f, &f->n_hangups, is_unix + 1));
    }
    on_loop(f, look);
    CHECK(seen.n_closed == 0);
}

static void a_client_that_leaves_is_noticed_also_while_paused(void **state)
{
    beside_run(*state, leaves_while_paused);
}

static void leaves(struct fixture *f)
{
    for (int i = 0; i < 40; i++) {
        int fd = connect_to(f, i % 2);
        char head[1024];

        CHECK(put(fd, HELLO("/flood"), strlen(HELLO("/flood"))));
        if (i % 4 >= 2)
            CHECK(take_head(fd, head, sizeof(head)));
        close(fd);
        if (i % 4 >= 2)
            CHECK(becomes(f, &f->n_opened, i / 4 + 1));
        do
            on_loop(f, look);
        while (seen.n_closed < seen.n_opened);
    }
}

static void a_client_may_leave_at_any_moment(void **state)
{
    beside_run(*state, leaves);
}

static void server_closes(struct fixture *f)
{
    auto_close int fd = open_socket(f, false, HELLO("/"));

    CHECK(say(fd, "last") && say(fd, "close") && say(fd, "unheard"));
    CHECK(hears(fd, FIN | TEXT, "last") && is_closed_with(fd, 1000));
    CHECK(becomes(f, &f->n_texts, 2) && seen.n_closed == 0);
}

static void the_server_closes_after_what_it_has_sent(void **state)
{
    beside_run(*state, server_closes);
}

static void silent(struct fixture *f)
{
    auto_close int fd = open_socket(f, false, HELLO("/"));

    for (int i = 0; i < 5; i++) { /* longer than silence is suffered */
        CHECK(hears(fd, FIN | PING, ""));
        CHECK(put_frame(fd, FIN | PONG, "", 0));
    }
    on_loop(f, look);
    CHECK(seen.n_closed == 0);
    CHECK(becomes(f, &f->n_closed, 1)); /* from now on it says nothing */
}

static void a_silent_client_is_pinged_and_one_that_stays_silent_is_cut(void **state)
{
    struct fixture *f = *state;

    f->server->ws_ping_ms = 50;
    f->server->ws_silence_ms = 200;
    beside_run(f, silent);
}

static void not_reading(struct fixture *f)
{
    auto_close int fd = open_socket(f, true, HELLO("/flood"));

    CHECK(fd >= 0 && becomes(f, &f->n_full, 1));
    poll(NULL, 0, 500); /* several times what silence may take */
    on_loop(f, look);
    CHECK(seen.n_closed == 0 && seen.w);
}

static void a_client_that_merely_does_not_read_is_left_alone(void **state)
{
    struct fixture *f = *state;

    f->server->ws_ping_ms = 20;
    f->server->ws_silence_ms = 100;
    beside_run(f, not_reading);
}

static void ping_flood(struct fixture *f)
{
    auto_close int fd = open_socket(f, true, HELLO("/"));
    auto_buf struct buf b = BUF(1 << 20);
    static const char zeros[125];
    size_t total = 0;
    int64_t until = clock_ms() + 300;

    for (int i = 0; i < 100; i++)
        frame(&b, FIN | PING, zeros, sizeof(zeros));
    while (clock_ms() < until) {
        ssize_t n = send(fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n != (ssize_t)b.len)
            break;
        total += (size_t)n;
    }
    on_loop(f, look);
    CHECK(total < 16 << 20 && seen.n_closed == 0); /* it was made to wait */
}

static void pings_without_end_are_not_kept(void **state)
{
    beside_run(*state, ping_flood);
}

static int left_fd;

static void stays(struct fixture *f)
{
    left_fd = open_socket(f, false, HELLO("/"));
    CHECK(left_fd >= 0 && say(left_fd, "hello") && hears(left_fd, FIN | TEXT, "hello"));
}

static void a_server_that_ends_says_so(void **state)
{
    struct fixture *f = *state;

    beside_run(f, stays);
    http_server_free(f->server);
    f->server = NULL;
    assert_int_equal(f->n_closed, 1);
    assert_true(is_closed_with(left_fd, 1001));
    close(left_fd);
}

#define served(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        served(what_is_sent_comes_back),
        served(a_request_that_is_no_handshake_is_refused),
        served(frames_may_come_in_one_packet_with_the_handshake),
        served(messages_come_in_fragments_with_pings_between_them),
        served(what_breaks_the_protocol_is_closed_with_its_code),
        served(a_client_that_does_not_read_stops_the_sender),
        served(a_pause_stops_the_client_and_loses_nothing),
        served(a_client_that_leaves_is_noticed_also_while_paused),
        served(a_client_may_leave_at_any_moment),
        served(the_server_closes_after_what_it_has_sent),
        served(a_silent_client_is_pinged_and_one_that_stays_silent_is_cut),
        served(a_client_that_merely_does_not_read_is_left_alone),
        served(pings_without_end_are_not_kept),
        served(a_server_that_ends_says_so),
    };

    return cmocka_run_group_tests_name("websocket", tests, NULL, NULL);
}
