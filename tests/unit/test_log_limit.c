/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "unit.h"
#include "vm/log_limit.h"

struct fixture {
    struct vm_world world;
    struct timer timer;
    int fd; /* of the log */
    int64_t give_up_ms;
};

static off_t on_disk(const struct fixture *f)
{
    struct stat st;

    assert_int_equal(fstat(f->fd, &st), 0);
    return (off_t)st.st_blocks * 512;
}

static void ask(struct timer *t)
{
    struct fixture *f = container_of(t, struct fixture, timer);

    if (on_disk(f) <= LOG_CEILING || clock_ms() > f->give_up_ms)
        loop_stop(f->world.loop);
    else
        loop_timer_start(f->world.loop, t, 10);
}

static void fill(int fd, size_t mib)
{
    static char block[1 << 20];

    memset(block, 'x', sizeof(block));
    for (size_t i = 0; i < mib; i++)
        assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
}

/* A log that passes the ceiling loses its head and keeps its tail and the writer's place. */
static void a_log_that_grows_past_its_ceiling_gives_its_head_back(void **state)
{
    char root[] = "/tmp/log-test-XXXXXX";
    struct fixture f = {.timer.fn = ask};
    struct err e = {0};
    auto_close int dir_fd = -1;
    auto_close int log_fd = -1;
    struct log_limit *limit;
    char tail[5] = "";
    struct stat st;

    (void)state;
    assert_non_null(mkdtemp(root));
    dir_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    log_fd = openat(dir_fd, VMM_SERIAL_LOG, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    f.fd = log_fd;
    world_init(&f.world, loop_new(&e), &(struct vm_env){0});
    f.world.files = fswatcher_of(f.world.loop, &e);
    limit = log_limit_new(&f.world, "x", dir_fd);
    fill(log_fd, 60);
    assert_int_equal(write(log_fd, "tail\n", 5), 5);
    assert_true(on_disk(&f) > LOG_CEILING);
    f.give_up_ms = clock_ms() + 20000;
    loop_timer_start(f.world.loop, &f.timer, 0);
    assert_int_equal(loop_run(f.world.loop, &e), 0);

    assert_true(on_disk(&f) <= LOG_CEILING);
    assert_true(on_disk(&f) >= LOG_KEPT);
    assert_int_equal(fstat(log_fd, &st), 0);
    assert_true(st.st_size == (60 << 20) + 5); /* the writer's offset goes on */
    assert_int_equal(pread(log_fd, tail, sizeof(tail), st.st_size - 5), 5);
    assert_memory_equal(tail, "tail\n", 5);

    log_limit_free(limit);
    world_stop(&f.world);
    world_fini(&f.world);
    loop_free(f.world.loop);
    assert_int_equal(tree_remove(AT_FDCWD, root, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(a_log_that_grows_past_its_ceiling_gives_its_head_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
