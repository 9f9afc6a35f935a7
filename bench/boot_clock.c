/* SPDX-License-Identifier: Apache-2.0 */
/* A program that says when it was started, by the clock that begins with the guest's kernel. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)printf("started at %lld us\n", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    (void)fflush(stdout);
    for (;;)
        (void)pause();
}
