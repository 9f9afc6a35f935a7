/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/limiter.h"

enum {
    REFILL_MS = 100,
    PARTS_A_SECOND = 1000 / REFILL_MS,
};

/* A tenth of it every tenth of a second: a bucket of a whole second would come in bursts. */
static void put_bucket(struct jout *j, const char *name, uint64_t rate)
{
    if (rate == 0)
        return;
    jout_open(j, name, '{');
    jout_int(j, "size", (int64_t)(rate < PARTS_A_SECOND ? 1 : rate / PARTS_A_SECOND));
    jout_int(j, "refill_time", REFILL_MS);
    jout_close(j, '}');
}

void limiter_put(struct jout *j, const char *name, uint64_t bytes, uint64_t requests)
{
    if (bytes == 0 && requests == 0)
        return;
    jout_open(j, name, '{');
    put_bucket(j, "bandwidth", bytes);
    put_bucket(j, "ops", requests);
    jout_close(j, '}');
}
