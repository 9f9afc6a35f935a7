/* SPDX-License-Identifier: Apache-2.0 */
/* The journal of changes (vm/events.h): numbers that never come twice, and who follows them. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "store/store.h"
#include "unit.h"
#include "vm/events.h"

struct fixture {
    char root[64];
    int fd;
    size_t fds;
    struct store *store;
    struct loop *loop;
    struct journal journal;
};

static void open_journal(struct fixture *f)
{
    struct err e = {0};

    f->store = store_open(f->fd, &e);
    assert_non_null(f->store);
    f->loop = loop_new(&e);
    journal_init(&f->journal);
    journal_add(
        &f->journal, EVENT_CREATED, "abcdefghijklmnopqrstuvwx", NULL); /* a row of the store */
    assert_int_equal(journal_open(&f->journal, f->store, f->loop, f->fd, &e), 0);
}

/* in_order: as a daemon that is told to stop; else as one that is killed. */
static void close_journal(struct fixture *f, bool in_order)
{
    struct err e = {0};

    if (in_order)
        assert_int_equal(journal_save(&f->journal, f->fd, &e), 0);
    store_close(f->store);
    loop_drain(f->loop);
    journal_free(&f->journal);
    loop_free(f->loop);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct err e = {0};

    f->fds = open_fds();
    log_init(LOG_ERROR_);
    (void)snprintf(f->root, sizeof(f->root), "/tmp/events-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    f->fd = dir_open(AT_FDCWD, f->root, &e);
    open_journal(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    close_journal(f, false);
    close(f->fd);
    assert_int_equal(tree_remove(AT_FDCWD, f->root, &e), 0);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static const char id[] = "abcdefghijklmnopqrstuvwx";

static void add(struct fixture *f, const char *json)
{
    journal_add(&f->journal, EVENT_UPDATED, id, row_text_new(json, strlen(json)));
}

static void a_change_is_kept_with_what_the_row_was(void **state)
{
    struct fixture *f = *state;
    uint64_t first;

    add(f, "{\"a\":1}");
    first = f->journal.revision;
    add(f, "{\"a\":2}");
    journal_add(&f->journal, EVENT_DELETED, id, NULL);
    assert_int_equal(f->journal.revision, first + 2);
    assert_string_equal(journal_at(&f->journal, first)->row->json, "{\"a\":1}");
    assert_string_equal(journal_at(&f->journal, first + 1)->row->json, "{\"a\":2}");
    assert_null(journal_at(&f->journal, first + 2)->row);
    assert_null(journal_at(&f->journal, first + 3));
    assert_true(journal_reaches(&f->journal, first - 1));
    assert_false(journal_reaches(&f->journal, first + 3));
}

static void it_is_bounded_by_number_and_by_bytes(void **state)
{
    struct fixture *f = *state;
    uint64_t before = f->journal.revision;
    char *long_text = mem_zalloc(1, 300001);

    for (int i = 0; i < JOURNAL_ENTRIES + 10; i++)
        add(f, "{}");
    assert_false(journal_reaches(&f->journal, before + 9));
    assert_true(journal_reaches(&f->journal, before + 10));
    memset(long_text, 'x', 300000);
    for (int i = 0; i < 50; i++)
        add(f, long_text);
    assert_true(f->journal.bytes <= JOURNAL_BYTES);
    assert_non_null(journal_at(&f->journal, f->journal.revision));
    free(long_text);
}

static void a_kill_gives_no_number_twice(void **state)
{
    struct fixture *f = *state;
    uint64_t last;

    for (int round = 0; round < 3; round++) {
        add(f, "{}");
        last = f->journal.revision;
        close_journal(f, false);
        open_journal(f);
        assert_true(f->journal.revision >= last);
        assert_false(journal_reaches(&f->journal, last));
        add(f, "{}");
        assert_true(f->journal.revision > last);
    }
}

static void an_end_in_order_hands_the_journal_on_and_only_once(void **state)
{
    struct fixture *f = *state;
    uint64_t last;

    add(f, "{\"a\":1}");
    journal_add(&f->journal, EVENT_DELETED, id, NULL);
    last = f->journal.revision;
    close_journal(f, true);
    open_journal(f);
    assert_int_equal(f->journal.revision, last);
    assert_string_equal(journal_at(&f->journal, last - 1)->row->json, "{\"a\":1}");
    assert_int_equal(journal_at(&f->journal, last)->kind, EVENT_DELETED);
    assert_string_equal(journal_at(&f->journal, last)->id, id);
    add(f, "{\"a\":3}");
    assert_int_equal(f->journal.revision, last + 1);
    last = f->journal.revision;

    close_journal(f, false); /* what was handed on is gone with this one */
    open_journal(f);
    assert_false(journal_reaches(&f->journal, last));
    assert_true(f->journal.revision > last);
}

static void a_number_that_was_given_without_a_reservation_is_not_given_again(void **state)
{
    struct fixture *f = *state;
    uint64_t last = f->journal.reserved + 5; /* as after millions of changes on a full disk */

    f->journal.revision = last - 1;
    f->journal.oldest = last;
    f->journal.is_reserving = true;
    add(f, "{}");
    assert_int_equal(f->journal.revision, last);
    close_journal(f, true);
    open_journal(f);
    assert_true(f->journal.revision >= last);
    add(f, "{}");
    assert_true(f->journal.revision > last && f->journal.reserved > f->journal.revision);
}

static void a_file_that_is_damaged_is_not_believed(void **state)
{
    static const char *const texts[] = {
        "rubbish\n",
        "1 1 abcdefghijklmnopqrstuvwx {}\n3 1 abcdefghijklmnopqrstuvwx {}\n",
        "9999999999999 1 abcdefghijklmnopqrstuvwx {}\n", /* never reserved */
        "1 9 abcdefghijklmnopqrstuvwx {}\n",
        "1 1 ../../etc/passwd {}\n",
    };
    struct fixture *f = *state;
    struct err e = {0};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        uint64_t last = f->journal.revision;

        close_journal(f, false);
        assert_int_equal(file_replace(f->fd, "events", 0600, texts[i], strlen(texts[i]), &e), 0);
        open_journal(f);
        assert_true(f->journal.revision > last);
        assert_int_equal(f->journal.oldest, f->journal.revision + 1);
    }
}

struct counting {
    struct follower follower;
    int n;
    int leave_at;
};

static void count(struct follower *f)
{
    struct counting *c = container_of(f, struct counting, follower);

    if (++c->n == c->leave_at)
        journal_unfollow(f);
}

static void who_follows_is_told_each_change_until_it_leaves(void **state)
{
    struct fixture *f = *state;
    struct counting a = {.follower.fn = count};
    struct counting b = {.follower.fn = count, .leave_at = 2};

    journal_follow(&f->journal, &a.follower);
    journal_follow(&f->journal, &b.follower);
    for (int i = 0; i < 5; i++)
        add(f, "{}");
    assert_int_equal(a.n, 5);
    assert_int_equal(b.n, 2);
    journal_unfollow(&b.follower);
    journal_unfollow(&a.follower);
}

static void a_block_is_reserved_before_the_last_is_used_up(void **state)
{
    struct fixture *f = *state;
    int64_t stored = 0;
    struct err e = {0};
    uint64_t before = f->journal.reserved;

    f->journal.revision = f->journal.reserved - 100; /* as after millions of changes */
    f->journal.oldest = f->journal.revision + 1;
    add(f, "{}");
    assert_true(f->journal.is_reserving);
    while (f->journal.is_reserving)
        loop_drain(f->loop);
    assert_true(f->journal.reserved > before);
    assert_int_equal(store_meta(f->store, "revision", 0, &stored, &e), 0);
    assert_int_equal(stored, f->journal.reserved);
}

#define with_journal(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_journal(a_change_is_kept_with_what_the_row_was),
        with_journal(it_is_bounded_by_number_and_by_bytes),
        with_journal(a_kill_gives_no_number_twice),
        with_journal(an_end_in_order_hands_the_journal_on_and_only_once),
        with_journal(a_number_that_was_given_without_a_reservation_is_not_given_again),
        with_journal(a_file_that_is_damaged_is_not_believed),
        with_journal(who_follows_is_told_each_change_until_it_leaves),
        with_journal(a_block_is_reserved_before_the_last_is_used_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
