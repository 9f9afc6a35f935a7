/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/id.h"
#include "base/json.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/parse.h"
#include "base/path.h"
#include "base/scm.h"
#include "unit.h"

static void error_text_grows_outwards(void **state)
{
    struct err e = {0};

    (void)state;
    errno = ENOSPC;
    assert_int_equal(err_errno(&e, "open disk %s", "/x"), -1);
    assert_int_equal(err_wrap(&e, "start %s", "vm-7"), -1);
    assert_string_equal(e.msg, "start vm-7: open disk /x: No space left on device");
    assert_int_equal(err_http_status(e.code), 507);
}

static void error_text_is_cut_not_overrun(void **state)
{
    struct err e = {0};
    char longer[2 * sizeof(e.msg)];

    (void)state;
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    err_set(&e, ERR_INTERNAL, "%s", longer);
    err_wrap(&e, "%s", longer);
    assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
}

static void buffer_fails_once_and_stays_failed(void **state)
{
    auto_buf struct buf b = BUF(10);

    (void)state;
    buf_puts(&b, "12345");
    buf_printf(&b, "%d", 67890);
    assert_true(buf_ok(&b));
    assert_string_equal(buf_str(&b), "1234567890");
    buf_puts(&b, "!");
    buf_puts(&b, "");
    assert_false(buf_ok(&b));
    assert_string_equal(buf_str(&b), "1234567890");
    buf_reset(&b);
    buf_puts(&b, "again");
    buf_consume(&b, 2);
    assert_true(buf_ok(&b));
    assert_string_equal(buf_str(&b), "ain");
}

static void buffer_grows_up_to_its_ceiling(void **state)
{
    auto_buf struct buf b = BUF(1000);

    (void)state;
    for (int i = 0; i < 1000; i++)
        buf_append(&b, "x", 1);
    assert_true(buf_ok(&b));
    assert_int_equal(b.len, 1000);
    buf_append(&b, "x", 1);
    assert_false(buf_ok(&b));
}

static void numbers_are_parsed_strictly(void **state)
{
    static const char *const bad[] = {"", " 1", "1 ", "+1", "-1", "0x1", "18446744073709551616"};
    uint64_t v = 7;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(parse_u64(bad[i], 0, UINT64_MAX, &v));
    assert_false(parse_u64("65", 1, 64, &v));
    assert_int_equal(v, 7); /* untouched on failure */
    assert_true(parse_u64("18446744073709551615", 0, UINT64_MAX, &v));
    assert_true(v == UINT64_MAX);
}

static void paths_stay_beneath_their_root(void **state)
{
    static const char *const bad[] = {"../x", "/etc/passwd", "link", "link/x"};
    char root[] = "/tmp/path-test-XXXXXX";
    auto_close int dirfd = -1;
    auto_close int fd = -1;

    (void)state;
    assert_non_null(mkdtemp(root));
    dirfd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(dirfd >= 0);
    assert_int_equal(symlinkat("/etc", dirfd, "link"), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct err e = {0};

        assert_int_equal(path_open_beneath(dirfd, bad[i], O_RDONLY, 0, &e), -1);
    }
    {
        struct err e = {0};

        fd = path_open_beneath(dirfd, "disk", O_RDWR | O_CREAT | O_EXCL, 0600, &e);
        assert_true(fd >= 0);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    unlinkat(dirfd, "disk", 0);
    unlinkat(dirfd, "link", 0);
    rmdir(root);
}

static void sizes_read_and_print_as_upstream_does(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"512", 512},
                {"1KB", 1024},
                {"1k", 1024},
                {"10 GB", 10ULL << 30},
                {"2gb", 2ULL << 30},
                {"7B", 7}};
    static const char *const bad[] = {
        "", "1.5GB", "-1", "GB", "1XB", "1GBs", "99999999999GB", "18446744073709551616", " 1"};
    static const struct {
        uint64_t bytes;
        const char *text;
    } printed[] = {{0, "0 B"},
                   {1023, "1023 B"},
                   {1024, "1024 B"},
                   {1ULL << 30, "1024.0 MB"},
                   {2ULL << 30, "2.0 GB"},
                   {512ULL << 20, "512.0 MB"},
                   {125000000, "119.2 MB"}};
    char text[SIZE_TEXT_SIZE];
    uint64_t v;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(parse_size(good[i].text, &v));
        assert_true(v == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(parse_size(bad[i], &v));
    for (size_t i = 0; i < sizeof(printed) / sizeof(printed[0]); i++)
        assert_string_equal(size_text(printed[i].bytes, text), printed[i].text);
}

static void rates_read_as_upstream_reads_them(void **state)
{
    static const struct {
        const char *text;
        uint64_t rate;
    } good[] = {{"1Gbps", 125000000},
                {"8bps", 1},
                {"100kbps", 12500},
                {"10MB/s", 10 << 20},
                {"10MBps", 1250000},
                {"512", 512}};
    static const char *const bad[] = {
        "", "x", "bps", "-1bps", "1.5Gbps", "1Xbps", "/s", "99999999999999Tbps"};
    static const char *const bad_of_a_disk[] = {"", "fast", "bps", "-1", "1.5MB/s", "/s", "1Mb/h"};
    uint64_t v;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(parse_bandwidth(good[i].text, &v));
        assert_true(v == good[i].rate);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(parse_bandwidth(bad[i], &v));
    assert_true(parse_byte_rate("10MB/s", &v) && v == 10 << 20);
    assert_true(parse_byte_rate("1Gbps", &v) && v == 1 << 30); /* a disk's has no bits */
    for (size_t i = 0; i < sizeof(bad_of_a_disk) / sizeof(bad_of_a_disk[0]); i++)
        assert_false(parse_byte_rate(bad_of_a_disk[i], &v));
}

static void durations_read_as_in_go(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {{"0", 0},
                {"30s", 30000},
                {"5m", 300000},
                {"1h30m", 5400000},
                {"1.5s", 1500},
                {"500ms", 500},
                {".5s", 500},
                {"0s", 0}};
    static const char *const bad[] = {
        "", "5", "s", "-1s", "1 s", "1d", "1s2", ".s", "99999999999999h"};
    int64_t v;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(parse_duration_ms(good[i].text, &v));
        assert_true(v == good[i].ms);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(parse_duration_ms(bad[i], &v));
}

static void times_survive_the_round_trip(void **state)
{
    static const char *const bad[] = {"",
                                      "2026-01-01",
                                      "2026-13-01T00:00:00Z",
                                      "2026-01-01T00:00:00",
                                      "2026-01-01T00:00:00Zx",
                                      "2026-01-01T00:00:00.Z"};
    char text[TIME_TEXT_SIZE];
    int64_t at;

    (void)state;
    assert_true(time_parse("2026-02-03T04:05:06.070809Z", &at));
    assert_string_equal(time_text(at, text), "2026-02-03T04:05:06.070809Z");
    assert_true(time_parse("2026-02-03T06:05:06.070809+02:00", &at));
    assert_string_equal(time_text(at, text), "2026-02-03T04:05:06.070809Z");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(time_parse(bad[i], &at));
}

/* The writer against the parser: whatever bytes go in, what comes out is JSON that means the same.
 */
static void what_the_writer_writes_jansson_reads(void **state)
{
    unsigned seed = 7;

    (void)state;
    for (int round = 0; round < 2000; round++) {
        auto_buf struct buf b = BUF(1 << 16);
        struct jout j = JOUT(&b);
        struct err e = {0};
        char text[40];
        size_t n = (size_t)(rand_r(&seed) % 40);
        json_t *doc;

        for (size_t i = 0; i < n; i++)
            text[i] = (char)(rand_r(&seed) % (round % 2 ? 256 : 128));
        jout_open(&j, NULL, '{');
        jout_strn(&j, "s", text, n);
        jout_int(&j, "i", INT64_MIN);
        jout_open(&j, "a", '[');
        jout_bool(&j, NULL, true);
        jout_null(&j, NULL);
        jout_str(&j, NULL, NULL);
        jout_close(&j, ']');
        jout_raw(&j, "r", "{}");
        jout_close(&j, '}');
        doc = json_loadb(buf_str(&b), b.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        assert_non_null(doc);
        if (round % 2 == 0) {
            assert_int_equal(json_string_length(json_object_get(doc, "s")), n);
            assert_memory_equal(json_string_value(json_object_get(doc, "s")), text, n);
        }
        assert_true(json_integer_value(json_object_get(doc, "i")) == INT64_MIN);
        assert_int_equal(json_array_size(json_object_get(doc, "a")), 3);
        json_decref(doc);
        assert_null(parse_json("{\"a\":1,\"a\":2}", 13, &e));
    }
}

static void ids_and_names_are_told_apart_from_paths(void **state)
{
    static const char *const bad[] = {
        "",
        "-a",
        "a-",
        "A",
        "a/b",
        "..",
        "a.b",
        "a_b",
        "\xc3\xa9",
        "0123456789012345678901234567890123456789012345678901234567890123"};
    char id[ID_SIZE];
    char other[ID_SIZE];

    (void)state;
    for (int i = 0; i < 100; i++) {
        id_new(id);
        id_new(other);
        assert_true(id_is_valid(id));
        assert_true(name_is_valid(id));
        assert_string_not_equal(id, other);
    }
    assert_false(id_is_valid("../../../../etc/passwd00"));
    assert_true(name_is_valid("a") && name_is_valid("0-0"));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(name_is_valid(bad[i]));
}

struct entry {
    struct map_link link;
    char key[16];
};

static void a_map_finds_what_was_put_and_not_removed(void **state)
{
    struct map m = {0};
    struct entry *entries = mem_zalloc(5000, sizeof(*entries));

    (void)state;
    for (int i = 0; i < 5000; i++) {
        (void)snprintf(entries[i].key, sizeof(entries[i].key), "k%d", i);
        map_put(&m, &entries[i].link, entries[i].key);
    }
    for (int i = 0; i < 5000; i += 2)
        map_remove(&m, &entries[i].link);
    for (int i = 0; i < 5000; i++) {
        char key[16];

        (void)snprintf(key, sizeof(key), "k%d", i);
        assert_ptr_equal(map_find(&m, key), i % 2 ? &entries[i].link : NULL);
    }
    assert_int_equal(m.n, 2500);
    map_free(&m);
    free(entries);
}

static void a_file_is_replaced_whole_and_a_tree_removed_without_following_links(void **state)
{
    char root[] = "/tmp/file-test-XXXXXX";
    auto_close int dirfd = -1;
    auto_close int outside = -1;
    auto_buf struct buf b = BUF(16);
    struct err e = {0};

    (void)state;
    assert_non_null(mkdtemp(root));
    dirfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(file_replace(dirfd, "f", 0600, "one", 3, &e), 0);
    assert_int_equal(file_replace(dirfd, "f", 0600, "three", 5, &e), 0);
    assert_int_equal(file_read(dirfd, "f", &b, &e), 0);
    assert_string_equal(buf_str(&b), "three");
    assert_int_equal(file_replace(dirfd, "f", 0600, "a text beyond the limit", 23, &e), 0);
    buf_reset(&b);
    assert_int_equal(file_read(dirfd, "f", &b, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    err_clear(&e);

    assert_int_equal(mkdirat(dirfd, "keep", 0700), 0);
    assert_int_equal(mkdirat(dirfd, "tree", 0700), 0);
    outside = openat(dirfd, "keep/file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(outside >= 0);
    assert_int_equal(symlinkat("../keep", dirfd, "tree/link"), 0);
    assert_int_equal(mkdirat(dirfd, "tree/sub", 0700), 0);
    assert_int_equal(tree_remove(dirfd, "tree", &e), 0);
    assert_int_equal(tree_remove(dirfd, "tree", &e), 0); /* absent is fine */
    assert_int_equal(faccessat(dirfd, "tree", F_OK, 0), -1);
    assert_int_equal(faccessat(dirfd, "keep/file", F_OK, 0), 0);
    assert_int_equal(tree_remove(AT_FDCWD, root, &e), 0);
}

static void a_file_goes_with_the_bytes_that_it_was_given_to_and_no_others(void **state)
{
    enum { NONE = -1 };
    int socks[2], pipe_fds[2];
    int got = NONE;
    char bytes[8] = "";

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    assert_int_equal(scm_receive(socks[1], bytes, sizeof(bytes), &got), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(scm_send(socks[0], "bare", 4, NONE), 4);
    assert_int_equal(scm_receive(socks[1], bytes, sizeof(bytes), &got), 4);
    assert_int_equal(got, NONE);
    assert_int_equal(scm_send(socks[0], "with", 4, pipe_fds[1]), 4);
    assert_int_equal(scm_receive(socks[1], bytes, sizeof(bytes), &got), 4);
    assert_memory_equal(bytes, "with", 4);
    assert_true(got >= 0);
    assert_int_equal(fcntl(got, F_GETFD), FD_CLOEXEC);
    assert_int_equal(write(got, "x", 1), 1);
    assert_int_equal(read(pipe_fds[0], bytes, 1), 1);
    close(socks[0]);
    assert_int_equal(scm_receive(socks[1], bytes, sizeof(bytes), &got), 0);
    close(got);
    close(socks[1]);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(error_text_grows_outwards),
        checked_test(error_text_is_cut_not_overrun),
        checked_test(buffer_fails_once_and_stays_failed),
        checked_test(buffer_grows_up_to_its_ceiling),
        checked_test(numbers_are_parsed_strictly),
        checked_test(paths_stay_beneath_their_root),
        checked_test(sizes_read_and_print_as_upstream_does),
        checked_test(rates_read_as_upstream_reads_them),
        checked_test(durations_read_as_in_go),
        checked_test(times_survive_the_round_trip),
        checked_test(what_the_writer_writes_jansson_reads),
        checked_test(ids_and_names_are_told_apart_from_paths),
        checked_test(a_map_finds_what_was_put_and_not_removed),
        checked_test(a_file_is_replaced_whole_and_a_tree_removed_without_following_links),
        checked_test(a_file_goes_with_the_bytes_that_it_was_given_to_and_no_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
