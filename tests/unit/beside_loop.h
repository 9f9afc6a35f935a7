/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A test whose server is on a loop in the main thread, as the daemon's is, and whose client
 * is a thread beside it. The test's struct fixture begins with a struct beside.
 */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "loop/loop.h"
#include "unit.h"

struct fixture;

struct beside {
    struct loop *loop;
    void (*client)(struct fixture *f);
    const char *failed; /* the client's first CHECK that did not hold */
    int failed_line;
    sem_t done; /* of an errand */
};

static inline struct beside *beside_of(struct fixture *f)
{
    return (struct beside *)(void *)f;
}

static inline void beside_init(struct fixture *f)
{
    struct err e = {0};

    beside_of(f)->loop = loop_new(&e);
    assert_non_null(beside_of(f)->loop);
    sem_init(&beside_of(f)->done, 0, 0);
}

static inline void beside_free(struct fixture *f)
{
    loop_drain(beside_of(f)->loop);
    loop_free(beside_of(f)->loop);
    sem_destroy(&beside_of(f)->done);
}

static inline void *beside_main(void *fixture)
{
    beside_of(fixture)->client(fixture);
    loop_stop(beside_of(fixture)->loop);
    return NULL;
}

/* Runs the loop until the client is done. */
static inline void beside_run(struct fixture *f, void (*client)(struct fixture *f))
{
    struct beside *b = beside_of(f);
    struct err e = {0};
    pthread_t thread;

    b->client = client;
    assert_int_equal(pthread_create(&thread, NULL, beside_main, f), 0);
    assert_int_equal(loop_run(b->loop, &e), 0);
    pthread_join(thread, NULL);
    if (b->failed)
        fail_msg("line %d: %s", b->failed_line, b->failed);
}

/* In the client's thread, where cmocka's own must not be used. */
#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            if (!beside_of(f)->failed) {                                                           \
                beside_of(f)->failed_line = __LINE__;                                              \
                beside_of(f)->failed = #what;                                                      \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
    } while (0)

struct errand {
    struct post post;
    struct fixture *f;
    void (*fn)(struct fixture *f);
};

static inline void errand_run(struct post *p)
{
    struct errand *errand = container_of(p, struct errand, post);

    errand->fn(errand->f);
    sem_post(&beside_of(errand->f)->done);
}

/* Lets the client do something on the loop, and waits for it. */
static inline void on_loop(struct fixture *f, void (*fn)(struct fixture *f))
{
    struct errand errand = {.post.fn = errand_run, .f = f, .fn = fn};

    loop_post(beside_of(f)->loop, &errand.post);
    sem_wait(&beside_of(f)->done);
}

/* A client's connection: to the path if there is one, else to the port of loopback. Nothing is
 * waited for longer than PATIENCE_MS. -1: refused. */
static inline int connect_client(const char *path, int port)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {.tv_sec = PATIENCE_MS / 1000};
    int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc;

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (path)
        memcpy(un.sun_path, path, strlen(path));
    rc = path ? connect(fd, (struct sockaddr *)&un, sizeof(un))
              : connect(fd, (struct sockaddr *)&in, sizeof(in));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (rc == 0)
        return fd;
    close(fd);
    return -1;
}
