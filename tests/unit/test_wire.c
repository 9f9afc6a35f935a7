/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "unit.h"
#include "wire/config_disk.h"
#include "wire/frame.h"

#define NONCE "0123456789abcdef0123456789abcdef"

/* Hands over all of it, in pieces of at most step bytes, taking frames as a caller does. */
static int feed(struct frame_reader *r, const struct buf *b, size_t step, struct frame *last)
{
    struct err e = {0};
    size_t at = 0;
    int frames = 0;
    int rc;

    while (at < b->len) {
        size_t room;
        void *p = frame_reader_space(r, &room);
        size_t n = b->len - at;

        n = n < step ? n : step;
        n = n < room ? n : room;
        assert_true(n > 0);
        memcpy(p, b->data + at, n);
        frame_reader_filled(r, n);
        at += n;
        while ((rc = frame_next(r, last, &e)) == 1)
            frames++;
        if (rc < 0)
            return -1;
    }
    return frames;
}

static int feed_bytes(struct frame_reader *r, const void *data, size_t len)
{
    auto_buf struct buf b = BUF(1 << 20);
    struct frame f;

    buf_append(&b, data, len);
    return feed(r, &b, len, &f);
}

static void frames_come_out_as_they_went_in_however_they_are_cut(void **state)
{
    static const char payload[FRAME_MAX] = {1, 2, 3};
    size_t steps[] = {1, 3, 4096, 1 << 20};

    (void)state;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        auto_buf struct buf b = BUF(1 << 20);
        struct frame_reader r;
        struct frame f = {0};

        frame_reader_init(&r);
        frame_put_hello(&b, NONCE);
        frame_put(&b, FRAME_STARTED, 0, "", 0);
        frame_put(&b, 200, 7, payload, sizeof(payload));
        frame_put(&b, FRAME_SHUTDOWN, 0x80000001, "{}", 2);
        assert_true(buf_ok(&b));
        assert_int_equal(feed(&r, &b, steps[i], &f), 4);
        assert_int_equal(f.type, FRAME_SHUTDOWN);
        assert_int_equal(f.stream, 0x80000001);
        assert_int_equal(f.len, 2);
        frame_reader_free(&r);
    }
}

static void a_frames_bytes_are_the_callers_until_the_next_call(void **state)
{
    auto_buf struct buf b = BUF(1 << 20);
    struct frame_reader r;
    struct frame f;
    struct err e = {0};
    size_t room;

    (void)state;
    frame_reader_init(&r);
    frame_put_hello(&b, NONCE);
    frame_put(&b, 9, 1, "abc", 3);
    memcpy(frame_reader_space(&r, &room), b.data, b.len);
    frame_reader_filled(&r, b.len);
    assert_int_equal(frame_next(&r, &f, &e), 1);
    assert_int_equal(f.type, FRAME_HELLO);
    assert_non_null(memmem(f.data, f.len, NONCE, WIRE_NONCE_LEN));
    assert_int_equal(frame_next(&r, &f, &e), 1);
    assert_memory_equal(f.data, "abc", 3);
    assert_int_equal(frame_next(&r, &f, &e), 0);
    assert_null(r.in.data); /* thousands of idle connections */
    frame_reader_free(&r);
}

static void what_comes_before_the_magic_is_dropped(void **state)
{
    auto_buf struct buf b = BUF(1 << 20);
    struct frame_reader r;
    struct frame f;

    (void)state;
    for (size_t step = 1; step < 40; step++) {
        frame_reader_init(&r);
        buf_reset(&b);
        buf_append(&b, "login: \0\xff", 9);
        buf_append(&b, wire_magic, 7); /* begins like it and is not it */
        buf_append(&b, wire_magic, WIRE_MAGIC_LEN - 1);
        frame_put_hello(&b, NONCE);
        frame_put(&b, FRAME_EXITED, 0, "{}", 2);
        assert_int_equal(feed(&r, &b, step, &f), 2);
        assert_int_equal(f.type, FRAME_EXITED);
        frame_reader_free(&r);
    }
}

static void endless_rubbish_takes_no_memory(void **state)
{
    static const char rubbish[1 << 20] = "\x89HYPEMAN";
    struct frame_reader r;

    (void)state;
    frame_reader_init(&r);
    for (int i = 0; i < 4; i++)
        assert_int_equal(feed_bytes(&r, rubbish, sizeof(rubbish)), 0);
    assert_null(r.in.data);
    frame_reader_free(&r);
}

static void a_magic_between_frames_begins_a_new_connection(void **state)
{
    auto_buf struct buf b = BUF(1 << 20);
    struct frame_reader r;
    struct frame f;

    (void)state;
    for (size_t step = 1; step < 40; step++) {
        frame_reader_init(&r);
        buf_reset(&b);
        frame_put_hello(&b, NONCE);
        frame_put(&b, FRAME_SHUTDOWN, 0, "{}", 2);
        frame_put_hello(&b, NONCE);
        assert_int_equal(feed(&r, &b, step, &f), 3);
        assert_int_equal(f.type, FRAME_HELLO);
        frame_reader_free(&r);
    }
}

static void a_reader_that_was_reset_waits_for_the_magic(void **state)
{
    auto_buf struct buf b = BUF(1 << 20);
    struct frame_reader r;
    struct frame f;

    (void)state;
    frame_reader_init(&r);
    frame_put_hello(&b, NONCE);
    frame_put(&b, FRAME_SHUTDOWN, 0, "0123456789", 10);
    b.len -= 3; /* the connection is lost inside a frame */
    assert_int_equal(feed(&r, &b, b.len, &f), 1);
    frame_reader_reset(&r);
    buf_reset(&b);
    buf_puts(&b, "789");
    frame_put_hello(&b, NONCE);
    assert_int_equal(feed(&r, &b, b.len, &f), 1);
    assert_int_equal(f.type, FRAME_HELLO);
    frame_reader_free(&r);
}

static void a_frame_that_is_too_long_ends_the_connection(void **state)
{
    unsigned char header[FRAME_HEADER] = {1, 0, 1, 0, FRAME_HELLO};
    struct frame_reader r;
    size_t room;

    (void)state;
    frame_reader_init(&r);
    assert_int_equal(feed_bytes(&r, wire_magic, WIRE_MAGIC_LEN), 0);
    assert_int_equal(feed_bytes(&r, header, sizeof(header)), -1);
    assert_null(frame_reader_space(&r, &room));
    assert_int_equal(room, 0);
    frame_reader_reset(&r);

    memset(header, 0, sizeof(header));
    header[6] = 1; /* reserved */
    assert_int_equal(feed_bytes(&r, wire_magic, WIRE_MAGIC_LEN), 0);
    assert_int_equal(feed_bytes(&r, header, sizeof(header)), -1);
    frame_reader_free(&r);
}

static void after_a_refusal_a_reader_can_go_on_at_the_next_magic(void **state)
{
    auto_buf struct buf b = BUF(1 << 20);
    struct frame_reader r;
    struct frame f;
    struct err e = {0};
    size_t room;

    (void)state;
    frame_reader_init(&r);
    buf_append(&b, wire_magic, WIRE_MAGIC_LEN);
    buf_append(&b, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 13);
    frame_put_hello(&b, NONCE);
    memcpy(frame_reader_space(&r, &room), b.data, b.len);
    frame_reader_filled(&r, b.len);
    assert_int_equal(frame_next(&r, &f, &e), -1);
    err_clear(&e);
    assert_int_equal(frame_next(&r, &f, &e), -1);
    err_clear(&e);
    frame_reader_resync(&r);
    assert_int_equal(frame_next(&r, &f, &e), 1);
    assert_int_equal(f.type, FRAME_HELLO);
    frame_reader_free(&r);
}

static void a_frame_that_we_may_not_send_fails_the_buffer(void **state)
{
    auto_buf struct buf b = BUF(1 << 20);
    auto_free char *big = mem_zalloc(FRAME_MAX + 1, 1);

    (void)state;
    frame_put(&b, FRAME_STARTED, 0, big, FRAME_MAX + 1);
    assert_false(buf_ok(&b));
}

static void a_config_is_found_again(void **state)
{
    auto_buf struct buf b = BUF(2 * CONFIG_MAX);
    const char *json;
    struct err e = {0};
    size_t len;

    (void)state;
    config_disk_make(&b, "{\"cmd\":[]}", 10);
    assert_int_equal(b.len % EXIT_SECTOR, 0);
    assert_int_equal(
        config_disk_find(
            (unsigned char *)b.data + CONFIG_OFFSET, b.len - CONFIG_OFFSET, &json, &len, &e),
        0);
    assert_int_equal(len, 10);
    assert_memory_equal(json, "{\"cmd\":[]}", 10);
}

static void a_config_disk_that_is_cut_or_foreign_is_refused(void **state)
{
    auto_buf struct buf b = BUF(2 * CONFIG_MAX);
    auto_free char *big = mem_zalloc(CONFIG_MAX + 1, 1);
    const char *json;
    size_t len;

    (void)state;
    config_disk_make(&b, "{\"cmd\":[]}", 10);
    for (size_t n = 0; n < 22; n++) {
        struct err e = {0};

        assert_int_equal(
            config_disk_find((unsigned char *)b.data + CONFIG_OFFSET, n, &json, &len, &e), -1);
    }
    for (size_t i = 0; i < 12; i++) {
        struct err e = {0};

        if (i == 8)
            continue; /* the low byte of the length: shorter is fine */
        b.data[CONFIG_OFFSET + i] ^= 0x40;
        assert_int_equal(
            config_disk_find(
                (unsigned char *)b.data + CONFIG_OFFSET, b.len - CONFIG_OFFSET, &json, &len, &e),
            -1);
        b.data[CONFIG_OFFSET + i] ^= 0x40;
    }
    config_disk_make(&b, big, CONFIG_MAX + 1);
    assert_false(buf_ok(&b));
}

static void an_exit_record_survives_the_sector(void **state)
{
    struct exit_record r = {
        .incarnation = 3, .code = 137, .signal = 9, .oom = true, .is_early = true, .at_us = -5};
    unsigned char sector[EXIT_SECTOR] = {0};
    struct exit_record got;
    struct err e = {0};

    (void)state;
    assert_int_equal(exit_sector_read(sector, &got, &e), 0);
    strcpy(r.message, "say \"hi\"\n");
    exit_sector_make(sector, &r);
    assert_int_equal(exit_sector_read(sector, &got, &e), 1);
    assert_memory_equal(&r, &got, sizeof(r));
}

static void a_message_is_cut_to_fit_the_sector(void **state)
{
    struct exit_record r = {.incarnation = INT64_MAX, .code = 255, .at_us = INT64_MIN};
    unsigned char sector[EXIT_SECTOR];
    struct exit_record got;
    struct err e = {0};

    (void)state;
    for (int c = 1; c < 256; c++) {
        memset(r.message, c, EXIT_MESSAGE_MAX);
        exit_sector_make(sector, &r);
        assert_int_equal(exit_sector_read(sector, &got, &e), 1);
        assert_true(strlen(got.message) > 40);
        if (c < 128)
            assert_memory_equal(got.message, r.message, strlen(got.message));
    }
}

static void a_forged_exit_record_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "{}",
        "[1]",
        "{\"incarnation\":-1,\"code\":0,\"signal\":0,\"oom\":false,\"message\":\"\",\"at_us\":0}",
        "{\"incarnation\":1,\"code\":256,\"signal\":0,\"oom\":false,\"message\":\"\",\"at_us\":0}",
        "{\"incarnation\":1,\"code\":0,\"signal\":65,\"oom\":false,\"message\":\"\",\"at_us\":0}",
        "{\"incarnation\":1,\"code\":0,\"signal\":0,\"oom\":0,\"message\":\"\",\"at_us\":0}",
        "{\"incarnation\":1,\"code\":0,\"signal\":0,\"oom\":false,\"message\":1,\"at_us\":0}",
        "{\"incarnation\":1,\"code\":1.5,\"signal\":0,\"oom\":false,\"message\":\"\",\"at_us\":0}",
        "{\"incarnation\":1,\"code\":0,\"signal\":0,\"oom\":false,\"message\":\"\",\"at_us\":0}x",
    };
    unsigned char sector[EXIT_SECTOR];
    struct exit_record got;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct err e = {0};

        assert_int_equal(exit_record_parse(bad[i], strlen(bad[i]), &got, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
    }
    for (size_t i = 0; i < EXIT_SECTOR; i++) {
        struct err e = {0};

        memset(sector, 0, sizeof(sector));
        sector[i] = 1;
        assert_int_equal(exit_sector_read(sector, &got, &e), -1);
    }
    for (unsigned n = EXIT_SECTOR - 12; n <= EXIT_SECTOR - 11; n++) {
        const char *json;
        struct err e = {0};
        size_t len;

        memcpy(sector, "HYPEXIT1\0\0\0\0", 12);
        sector[8] = (unsigned char)n;
        sector[9] = (unsigned char)(n >> 8);
        assert_int_equal(exit_sector_find(sector, &json, &len, &e), n == EXIT_SECTOR - 12 ? 1 : -1);
    }
}

static void a_message_from_a_guest_that_is_too_long_is_cut(void **state)
{
    auto_buf struct buf b = BUF(4096);
    struct exit_record got;
    struct err e = {0};

    (void)state;
    buf_printf(&b,
               "{\"incarnation\":1,\"code\":0,\"signal\":0,\"oom\":false,\"at_us\":0,\"more\":[],"
               "\"message\":\"%01000d\"}",
               0);
    assert_int_equal(exit_record_parse(b.data, b.len, &got, &e), 0);
    assert_int_equal(strlen(got.message), EXIT_MESSAGE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(frames_come_out_as_they_went_in_however_they_are_cut),
        checked_test(a_frames_bytes_are_the_callers_until_the_next_call),
        checked_test(what_comes_before_the_magic_is_dropped),
        checked_test(endless_rubbish_takes_no_memory),
        checked_test(a_magic_between_frames_begins_a_new_connection),
        checked_test(a_reader_that_was_reset_waits_for_the_magic),
        checked_test(a_frame_that_is_too_long_ends_the_connection),
        checked_test(after_a_refusal_a_reader_can_go_on_at_the_next_magic),
        checked_test(a_frame_that_we_may_not_send_fails_the_buffer),
        checked_test(a_config_is_found_again),
        checked_test(a_config_disk_that_is_cut_or_foreign_is_refused),
        checked_test(an_exit_record_survives_the_sector),
        checked_test(a_message_is_cut_to_fit_the_sector),
        checked_test(a_forged_exit_record_is_refused),
        checked_test(a_message_from_a_guest_that_is_too_long_is_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
