/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restore: from Standby to Running, by the request's time and by its spans. "vmm" is
 * what the VMM needs to load and to run; the rest of the request is ours.
 */
#include "base/cleanup.h"
#include "bench.h"

enum { ITERATIONS = 20 };

void bench_restore(struct bench *b)
{
    int n = b->iterations ? b->iterations : ITERATIONS;
    auto_free char *id = bench_vm(b);
    struct samples total = {0};
    struct samples vmm = {0};
    struct samples ours = {0};
    struct phases phases = {0};

    for (int i = 0; i < n; i++) {
        double ms;
        double theirs;
        double began;

        (void)api(b, "POST /instances/bench/standby", NULL, 200);
        began = now_us();
        (void)api(b, "POST /instances/bench/restore", NULL, 200);
        ms = (now_us() - began) / 1000;
        phases_add(b, &phases, "instances.restore", id);
        theirs = phases_vmm(&phases);
        samples_add(&total, ms);
        samples_add(&vmm, theirs);
        samples_add(&ours, ms - theirs);
    }
    bench_row(b, "total", "ms", &total);
    phases_rows(b, &phases);
    bench_row(b, "vmm", "ms", &vmm);
    bench_row(b, "ours", "ms", &ours);
    delete_vm(b, "bench");
    samples_free(&total);
    samples_free(&vmm);
    samples_free(&ours);
    phases_free(&phases);
}
