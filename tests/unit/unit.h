/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every unit test includes: cmocka with the headers it needs, and checked_test(),
 * which fails a test that ends with more or fewer open fds than it began with.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>

enum { PATIENCE_MS = 60000 }; /* for anything that must happen; far more than it takes */

static inline size_t open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

struct unit_state {
    size_t fds;
    void *own; /* what the test's own setup made */
};

static inline int unit_begin(void **state)
{
    static struct unit_state s;

    s = (struct unit_state){.fds = open_fds()};
    *state = &s;
    return 0;
}

static inline int unit_end(void **state)
{
    const struct unit_state *s = *state;

    assert_int_equal(open_fds(), s->fds);
    return 0;
}

#define checked_test(name) cmocka_unit_test_setup_teardown(name, unit_begin, unit_end)
