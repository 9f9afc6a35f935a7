/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/beside.h"

#include "base/clock.h"

enum { STACK_BYTES = 256 * 1024 };

static void *run(void *arg)
{
    struct beside *b = arg;

    b->began_us = clock_us();
    b->rc = b->fn(b->arg, &b->err);
    b->ended_us = clock_us();
    return NULL;
}

/* Signals are blocked in a worker already, and so in the thread that it makes. */
void beside_begin(struct beside *b)
{
    pthread_attr_t attr;

    b->begun = true;
    pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
    b->has_thread = pthread_create(&b->thread, &attr, run, b) == 0;
    pthread_attr_destroy(&attr);
    if (!b->has_thread)
        (void)run(b);
}

int beside_end(struct beside *b, struct err *e)
{
    if (b->has_thread)
        (void)pthread_join(b->thread, NULL);
    b->has_thread = false;
    if (b->begun && b->rc < 0)
        *e = b->err;
    return b->begun ? b->rc : 0;
}
