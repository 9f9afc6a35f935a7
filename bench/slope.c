/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slope: create and get of one instance beside 10, 1,000 and 10,000 others. What is
 * done for one must not depend on how many there are.
 */
#include <stdio.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "bench.h"

enum { TIMES = 60, N_SIZES = 3 };

static double timed(struct bench *b, const char *request, const char *body, int status)
{
    double began = now_us();

    (void)api(b, request, body, status);
    return now_us() - began;
}

/* The medians of a create and of a get beside so many. */
static void measure(struct bench *b, int beside, double *create_out, double *get_out)
{
    struct samples create = {0};
    struct samples get = {0};
    auto_free char *create_name = mem_printf("create_beside_%d", beside);
    auto_free char *get_name = mem_printf("get_beside_%d", beside);

    for (int i = 0; i < (b->iterations ? b->iterations : TIMES); i++) {
        samples_add(&create,
                    timed(b,
                          "POST /instances",
                          "{\"name\":\"one\",\"image\":\"bench\",\"size\":\"128MB\","
                          "\"vcpus\":1,\"overlay_size\":\"16MB\"}",
                          201));
        samples_add(&get, timed(b, "GET /instances/one", NULL, 200));
        (void)api(b, "DELETE /instances/one?graceful_shutdown=false", NULL, 204);
    }
    bench_row(b, create_name, "us", &create);
    bench_row(b, get_name, "us", &get);
    *create_out = samples_percentile(&create, 0.5);
    *get_out = samples_percentile(&get, 0.5);
    samples_free(&create);
    samples_free(&get);
}

void bench_slope(struct bench *b)
{
    static const int sizes[N_SIZES] = {10, 1000, 10000};
    double create[N_SIZES];
    double get[N_SIZES];

    bench_image(b);
    for (int i = 0; i < N_SIZES; i++) {
        records_add(b, i == 0 ? 0 : sizes[i - 1], sizes[i]);
        measure(b, sizes[i], &create[i], &get[i]);
    }
    bench_value(b, "create_10000_by_10", "ratio", create[N_SIZES - 1] / create[0]);
    bench_value(b, "get_10000_by_10", "ratio", get[N_SIZES - 1] / get[0]);
}
