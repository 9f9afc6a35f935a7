/* SPDX-License-Identifier: Apache-2.0 */
/* Our tar against libarchive's: what either writes the other reads, in any pieces. */
#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/tar.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include "unit.h"

enum { ARCHIVE_MAX = 4 << 20 };

static const char long_name[] =
    "a/very/long/name/that/no/field/holds/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/"
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb/"
    "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

struct item {
    const char *path;
    const char *target;
    unsigned type; /* AE_IFREG ... */
    unsigned mode;
    unsigned uid;
    int64_t mtime;
    size_t size;
};

enum { AE_HARD = AE_IFREG | 1 }; /* a hard link, which libarchive has no type for */

static const struct item items[] = {
    {"dir", NULL, AE_IFDIR, 0750, 0, 1700000000, 0},
    {"dir/empty", NULL, AE_IFREG, 0644, 1000, 0, 0},
    {"dir/small", NULL, AE_IFREG, 04755, 7, 1, 1},
    {"dir/block", NULL, AE_IFREG, 0600, 0, 1234567890, 512},
    {"dir/big", NULL, AE_IFREG, 0444, 200000, 4102444800, 100001},
    {"dir/link", "../else\xc3\xa4where", AE_IFLNK, 0777, 0, 5, 0},
    {"dir/again", "dir/small", AE_HARD, 04755, 7, 1, 0},
    {long_name, NULL, AE_IFREG, 0644, 4000000, 9, 10},
    {"dir/long", long_name, AE_IFLNK, 0777, 0, 9, 0},
    {"dir/once more", long_name, AE_HARD, 0644, 4000000, 9, 0},
};
enum { N_ITEMS = sizeof(items) / sizeof(items[0]) };

static char content(size_t at)
{
    return (char)(at * 31 + at / 251);
}

/* --- libarchive's side --- */

static void write_item(struct archive *a, const struct item *item)
{
    struct archive_entry *entry = archive_entry_new();

    archive_entry_set_pathname(entry, item->path);
    archive_entry_set_filetype(entry, item->type & AE_IFMT);
    archive_entry_set_perm(entry, (mode_t)item->mode);
    archive_entry_set_uid(entry, item->uid);
    archive_entry_set_mtime(entry, item->mtime, 0);
    archive_entry_set_size(entry, (int64_t)item->size);
    if (item->type == AE_HARD)
        archive_entry_set_hardlink(entry, item->target);
    else if (item->target)
        archive_entry_set_symlink(entry, item->target);
    if (archive_write_header(a, entry) < ARCHIVE_WARN)
        fail_msg("%s: %s", item->path, archive_error_string(a)); /* of bytes that are no text */
    for (size_t i = 0; i < item->size; i++) {
        char c = content(i);

        assert_int_equal(archive_write_data(a, &c, 1), 1);
    }
    archive_entry_free(entry);
}

static size_t make_archive(int (*format)(struct archive *), size_t n, char *out)
{
    struct archive *a = archive_write_new();
    size_t used = 0;

    assert_int_equal(format(a), ARCHIVE_OK);
    archive_write_set_bytes_per_block(a, 0);
    assert_int_equal(archive_write_open_memory(a, out, ARCHIVE_MAX, &used), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++)
        write_item(a, &items[i]);
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    return used;
}

/* --- a sink that compares, and now and then has no room --- */

struct seen {
    bool is_moody;
    unsigned n_asked;
    size_t n;
    size_t n_bytes; /* of the present file */
};

static bool is_in_the_mood(struct seen *s)
{
    return !s->is_moody || ++s->n_asked % 3 == 0;
}

static enum guest_kind kind_of(const struct item *item)
{
    return item->type == AE_IFREG   ? GUEST_FILE
           : item->type == AE_IFDIR ? GUEST_DIRECTORY
           : item->type == AE_HARD  ? GUEST_HARD_LINK
                                    : GUEST_SYMLINK;
}

static bool take_entry(void *arg, const struct guest_entry *entry)
{
    struct seen *s = arg;
    const struct item *item = &items[s->n];

    if (!is_in_the_mood(s))
        return false;
    assert_true(s->n < N_ITEMS);
    assert_true(s->n == 0 || s->n_bytes == items[s->n - 1].size);
    assert_string_equal(entry->path, item->path);
    assert_int_equal(entry->kind, kind_of(item));
    if (item->target)
        assert_string_equal(entry->link_target, item->target);
    else
        assert_null(entry->link_target);
    assert_int_equal(entry->mode, item->mode);
    assert_int_equal(entry->uid, item->uid);
    assert_int_equal(entry->mtime_s, item->mtime);
    assert_int_equal(entry->size, item->size);
    s->n++;
    s->n_bytes = 0;
    return true;
}

static size_t take_data(void *arg, const void *data, size_t len)
{
    struct seen *s = arg;
    const char *bytes = data;

    if (!is_in_the_mood(s))
        len = len / 2;
    for (size_t i = 0; i < len; i++)
        assert_int_equal(bytes[i], content(s->n_bytes + i));
    s->n_bytes += len;
    return len;
}

static const struct tar_sink sink = {take_entry, take_data};

static void read_in_pieces(const char *data, size_t len, size_t piece, struct seen *s)
{
    struct tar_reader *r = tar_reader_new(&sink, s);
    struct err e = {0};

    for (size_t at = 0; at < len;) {
        ssize_t n = tar_feed(r, data + at, len - at < piece ? len - at : piece, &e);

        if (n < 0)
            fail_msg("%s", e.msg);
        at += (size_t)n;
    }
    assert_int_equal(tar_reader_finish(r, &e), 0);
    tar_reader_free(r);
}

static void every_form_is_read_in_any_pieces(void **state)
{
    int (*const forms[])(struct archive *) = {
        archive_write_set_format_gnutar,
        archive_write_set_format_pax,
        archive_write_set_format_pax_restricted,
        archive_write_set_format_ustar,
    };
    static const size_t pieces[] = {1, 7, 511, 512, 513, 10000, ARCHIVE_MAX};
    auto_free char *data = mem_zalloc(ARCHIVE_MAX, 1);

    (void)state;
    for (size_t f = 0; f < sizeof(forms) / sizeof(forms[0]); f++) {
        size_t n = f == 3 ? N_ITEMS - 3 : N_ITEMS; /* ustar has no room for such names */
        size_t len = make_archive(forms[f], n, data);

        for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
            struct seen s = {.is_moody = i % 2};

            read_in_pieces(data, len, pieces[i], &s);
            assert_int_equal(s.n, n);
            assert_int_equal(s.n_bytes, items[n - 1].size);
        }
    }
}

static void what_we_write_libarchive_reads(void **state)
{
    auto_buf struct buf b = BUF(ARCHIVE_MAX);
    struct archive *a = archive_read_new();
    struct archive_entry *entry;

    (void)state;
    for (size_t i = 0; i < N_ITEMS; i++) {
        const struct item *item = &items[i];

        tar_put_entry(&b,
                      &(struct guest_entry){.kind = kind_of(item),
                                            .path = item->path,
                                            .link_target = item->target,
                                            .mode = item->mode,
                                            .uid = item->uid,
                                            .mtime_s = item->mtime,
                                            .size = item->size});
        for (size_t at = 0; at < item->size; at++) {
            char c = content(at);

            buf_append(&b, &c, 1);
        }
        tar_put_padding(&b, item->size);
    }
    tar_put_end(&b);
    assert_true(buf_ok(&b) && b.len % TAR_BLOCK == 0);
    archive_read_support_format_tar(a);
    assert_int_equal(archive_read_open_memory(a, b.data, b.len), ARCHIVE_OK);
    for (size_t i = 0; i < N_ITEMS; i++) {
        const struct item *item = &items[i];

        assert_int_equal(archive_read_next_header(a, &entry), ARCHIVE_OK);
        assert_string_equal(archive_entry_pathname(entry), item->path);
        if (item->type != AE_HARD)
            assert_int_equal(archive_entry_filetype(entry), item->type);
        assert_int_equal(archive_entry_perm(entry), item->mode);
        assert_int_equal(archive_entry_uid(entry), item->uid);
        assert_int_equal(archive_entry_mtime(entry), item->mtime);
        assert_int_equal(archive_entry_size(entry), item->size);
        if (item->type == AE_HARD)
            assert_string_equal(archive_entry_hardlink(entry), item->target);
        else if (item->target)
            assert_string_equal(archive_entry_symlink(entry), item->target);
    }
    assert_int_equal(archive_read_next_header(a, &entry), ARCHIVE_EOF);
    archive_read_free(a);
}

/* --- what is refused --- */

static bool take_any(void *arg, const struct guest_entry *entry)
{
    snprintf(arg, 64, "%s", entry->path);
    return true;
}

static size_t drop(void *arg, const void *data, size_t len)
{
    (void)arg, (void)data;
    return len;
}

/* A header with its checksum. */
static void put_raw(struct buf *b, const char *name, char type, const char *size)
{
    unsigned char block[512] = {0};
    unsigned sum = 0;

    snprintf((char *)block, 100, "%s", name);
    memcpy(block + 100, "0000644", 7);
    memcpy(block + 108, "0000000", 7);
    memcpy(block + 116, "0000000", 7);
    memcpy(block + 124, size, strlen(size));
    memcpy(block + 136, "00000000000", 11);
    block[156] = (unsigned char)type;
    snprintf((char *)block + 157, 100, "target");
    memcpy(block + 257, "ustar\00000", 8);
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < sizeof(block); i++)
        sum += block[i];
    snprintf((char *)block + 148, 8, "%06o", sum);
    buf_append(b, block, sizeof(block));
}

/* The error, or "" */
static const char *try_out(const struct buf *b, char seen[64])
{
    static const struct tar_sink any = {take_any, drop};
    struct tar_reader *r = tar_reader_new(&any, seen);
    static struct err e;

    e = (struct err){0};
    seen[0] = '\0';
    if (tar_feed(r, b->data, b->len, &e) >= 0)
        (void)tar_reader_finish(r, &e);
    tar_reader_free(r);
    return e.msg;
}

static void what_cannot_be_carried_is_refused_by_name(void **state)
{
    static const struct {
        const char *name;
        char type;
        const char *size;
        const char *error;
        const char *seen;
    } cases[] = {
        {"plain", '0', "00000000000", "", "plain"},
        {"/abs/./x//y/", '5', "00000000000", "", "abs/x/y"},
        {"..hidden/..", '0', "00000000000", "\"..\"", ""},
        {"a/../../etc/passwd", '0', "00000000000", "\"..\"", ""},
        {"hard", '1', "00000000000", "", "hard"},
        {"gnu", 'S', "00000000000", "gnu: a kind", ""},
        {"fifo", '6', "00000000000", "", ""},
        {"./", '5', "00000000000", "", ""},
        {"cut", '0', "00000001000", "ends in the middle", "cut"},
        {"sized", '0', "xyz", "bad size", ""},
        {"huge", '0', "\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "bad size", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        auto_buf struct buf b = BUF(4096);
        char seen[64];
        const char *error;

        put_raw(&b, cases[i].name, cases[i].type, cases[i].size);
        error = try_out(&b, seen);
        if (!strstr(error, cases[i].error) || (!*cases[i].error && *error))
            fail_msg("%s: \"%s\"", cases[i].name, error);
        assert_string_equal(seen, cases[i].seen);
    }
}

static void a_hard_link_that_climbs_is_refused(void **state)
{
    static const char *const targets[] = {"../secret", "a/../../secret", "..", "/", "."};

    (void)state;
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
        auto_buf struct buf b = BUF(4096);
        char seen[64];

        tar_put_entry(&b,
                      &(struct guest_entry){
                          .kind = GUEST_HARD_LINK, .path = "name", .link_target = targets[i]});
        assert_non_null(strstr(try_out(&b, seen), "no path of the archive"));
        assert_string_equal(seen, "");
    }
}

static void what_is_no_archive_is_refused(void **state)
{
    auto_buf struct buf b = BUF(4096);
    char seen[64];

    (void)state;
    for (int i = 0; i < 100; i++)
        buf_puts(&b, "this is no archive ");
    assert_non_null(strstr(try_out(&b, seen), "checksum"));
    buf_reset(&b);
    put_raw(&b, "pax", 'x', "00000000010");
    buf_puts(&b, "99 path=");
    buf_append(&b, (char[504]){0}, 504);
    assert_non_null(strstr(try_out(&b, seen), "pax record"));
    buf_reset(&b);
    put_raw(&b, "long", 'L', "07777777777");
    for (int i = 0; i < 6; i++)
        buf_append(&b, (char[512]){'x'}, 512);
    assert_non_null(strstr(try_out(&b, seen), "middle"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(every_form_is_read_in_any_pieces),
        checked_test(what_we_write_libarchive_reads),
        checked_test(what_cannot_be_carried_is_refused_by_name),
        checked_test(what_is_no_archive_is_refused),
        checked_test(a_hard_link_that_climbs_is_refused),
    };

    return cmocka_run_group_tests_name("tar", tests, NULL, NULL);
}
