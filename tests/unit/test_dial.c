/* SPDX-License-Identifier: Apache-2.0 */
/* Reaching a guest's port, against a thread that plays the VMM's side of the vsock socket. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/list.h"
#include "unit.h"
#include "vm/dial.h"
#include "vmm/sock.h"
#include "vmm/vmm.h"

struct fixture {
    char path[64];
    int dir_fd;
    int listen_fd;
    struct loop *loop;
    struct dial *dial;
    struct timer late;
    int fd; /* of the guest */
    int reached;
    pthread_t peer;
    const char *const *answers; /* one for each connection that comes; NULL after the last */
    int wrong;                  /* connections that did not ask as they should */
};

static void on_reached(void *owner, int fd)
{
    struct fixture *f = owner;

    f->fd = fd;
    f->reached++;
    loop_stop(f->loop);
}

static void too_late(struct timer *t)
{
    loop_stop(container_of(t, struct fixture, late)->loop);
}

/* As Firecracker: what does not come in one piece is not read. A blank between parts is a pause. */
static void *play(void *arg)
{
    struct fixture *f = arg;

    for (const char *const *answer = f->answers; *answer; answer++) {
        auto_close int fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        char asked[64] = "";

        if (recv(fd, asked, sizeof(asked) - 1, 0) != 13 || strcmp(asked, "CONNECT 2222\n") != 0)
            f->wrong++;
        for (const char *p = *answer; *p; p++) {
            if (*p == '|')
                (void)poll(NULL, 0, 5);
            else
                (void)!send(fd, p, 1, MSG_NOSIGNAL);
        }
    }
    return NULL;
}

static void begin(struct fixture *f, const char *const *answers)
{
    struct err e = {0};

    *f = (struct fixture){
        .path = "/tmp/hypeman-dial-XXXXXX", .fd = -1, .late.fn = too_late, .answers = answers};
    assert_non_null(mkdtemp(f->path));
    f->dir_fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->listen_fd = sock_listen(f->dir_fd, VMM_VSOCK_SOCKET, &e);
    assert_true(f->listen_fd >= 0);
    f->loop = loop_new(&e);
    f->dial = dial_new(f->loop, f->dir_fd, on_reached, f, &e);
    assert_non_null(f->dial);
    assert_int_equal(pthread_create(&f->peer, NULL, play, f), 0);
}

static void run(struct fixture *f, int ms)
{
    struct err e = {0};

    loop_timer_start(f->loop, &f->late, ms);
    assert_int_equal(loop_run(f->loop, &e), 0);
    loop_timer_stop(f->loop, &f->late);
}

static void end(struct fixture *f)
{
    struct err e = {0};

    pthread_join(f->peer, NULL);
    dial_free(f->dial);
    cleanup_close(&f->fd);
    loop_free(f->loop);
    close(f->listen_fd);
    close(f->dir_fd);
    assert_int_equal(tree_remove(AT_FDCWD, f->path, &e), 0);
    assert_int_equal(f->wrong, 0);
}

static void it_is_tried_until_somebody_listens(void **state)
{
    static const char *const answers[] = {"",
                                          "",
                                          "NO\n",
                                          "nonsense without end, longer than any answer may be\n",
                                          "OK",
                                          "O|K 10|73\nhi",
                                          NULL};
    struct fixture f;
    char text[8] = "";

    (void)state;
    begin(&f, answers);
    dial_begin(f.dial, 2222);
    run(&f, 10000);
    assert_int_equal(f.reached, 1);
    assert_int_equal(recv(f.fd, text, 2, MSG_WAITALL), 2); /* the guest's first bytes are left */
    assert_string_equal(text, "hi");
    end(&f);
}

static void the_socket_is_found_where_its_directory_went(void **state)
{
    static const char *const answers[] = {"", "OK 1073741824\n", "OK 1073741825\n", NULL};
    char moved[80];
    struct fixture f;

    (void)state;
    begin(&f, answers);
    (void)snprintf(moved, sizeof(moved), "%s-moved", f.path);
    assert_int_equal(rename(f.path, moved), 0);
    dial_begin(f.dial, 2222);
    run(&f, 10000);
    assert_int_equal(f.reached, 1);
    close(take_fd(&f.fd));
    dial_begin(f.dial, 2222); /* as after a snapshot */
    run(&f, 10000);
    assert_int_equal(f.reached, 2);
    assert_int_equal(rename(moved, f.path), 0);
    end(&f);
}

static void a_vmm_that_is_gone_is_no_error_and_one_that_never_was_is(void **state)
{
    static const char *const answers[] = {NULL};
    struct fixture f;
    struct err e = {0};

    (void)state;
    begin(&f, answers);
    pthread_join(f.peer, NULL);
    assert_int_equal(shutdown(f.listen_fd, SHUT_RDWR), 0);
    dial_begin(f.dial, 2222);
    run(&f, 50);
    assert_int_equal(f.reached, 0);
    assert_int_equal(unlinkat(f.dir_fd, VMM_VSOCK_SOCKET, 0), 0);
    assert_null(dial_new(f.loop, f.dir_fd, on_reached, &f, &e));
    assert_int_equal(pthread_create(&f.peer, NULL, play, &f), 0);
    end(&f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        checked_test(it_is_tried_until_somebody_listens),
        checked_test(the_socket_is_found_where_its_directory_went),
        checked_test(a_vmm_that_is_gone_is_no_error_and_one_that_never_was_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
