/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/mem.h"
#include "unit.h"
#include "vm/overlay.h"

enum { SIZE = 4 << 20, BLOCK = 4096 };

static int temporary_dir(char *path)
{
    struct err e = {0};
    int fd = -1;

    if (mkdtemp(path))
        fd = dir_open(AT_FDCWD, path, &e);
    assert_true(fd >= 0);
    return fd;
}

static void put(int fd, off_t at, size_t len, int value)
{
    auto_free char *bytes = mem_zalloc(1, len);

    memset(bytes, value, len);
    assert_int_equal(pwrite(fd, bytes, len, at), len);
}

static void assert_same(int dir_fd, const char *one, const char *other)
{
    auto_buf struct buf a = BUF(SIZE);
    auto_buf struct buf b = BUF(SIZE);
    struct err e = {0};

    assert_int_equal(file_read(dir_fd, one, &a, &e), 0);
    assert_int_equal(file_read(dir_fd, other, &b, &e), 0);
    assert_int_equal(a.len, SIZE);
    assert_int_equal(b.len, SIZE);
    assert_memory_equal(a.data, b.data, SIZE);
}

static void an_earlier_copy_becomes_what_the_file_is_now(void **state)
{
    char path[] = "/tmp/hypeman-overlay-XXXXXX";
    auto_close int dir_fd = temporary_dir(path);
    auto_close int fd = openat(dir_fd, "disk", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct err e = {0};
    struct stat copy;

    (void)state;
    assert_int_equal(ftruncate(fd, SIZE), 0);
    put(fd, 0, 3 * BLOCK, 'a');
    put(fd, 1 << 20, 1 << 20, 'b');
    put(fd, SIZE - BLOCK, BLOCK, 'c');
    assert_int_equal(sparse_update(fd, dir_fd, "copy", 0600, &e), 0); /* there is none: a copy */
    assert_same(dir_fd, "disk", "copy");

    put(fd, BLOCK, BLOCK, 'A');       /* data over data */
    put(fd, (1 << 20) + 513, 1, 'B'); /* a single byte */
    put(fd, 3 << 20, BLOCK, 'd');     /* data where a hole was */
    assert_int_equal(fallocate(fd,    /* a hole where data was */
                               FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               (1 << 20) + (1 << 19),
                               1 << 19),
                     0);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SIZE - BLOCK, BLOCK),
                     0);
    assert_int_equal(sparse_update(fd, dir_fd, "copy", 0600, &e), 0);
    assert_same(dir_fd, "disk", "copy");
    assert_int_equal(fstatat(dir_fd, "copy", &copy, 0), 0);
    assert_true(copy.st_blocks * 512 < 1 << 20); /* what was given back is */
    assert_int_equal(tree_remove(AT_FDCWD, path, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(an_earlier_copy_becomes_what_the_file_is_now),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
