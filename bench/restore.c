/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restore: from Standby to Running, by the request's time and by its spans. "vmm" is
 * what the VMM needs to load and to run; the rest of the request is ours. "ours_disk" is what of
 * that it stood still for the disk, and "bare_disk" the same wait of a program that does
 * nothing else, in turns; "ours_but_disk" is what is left, and "ours_unstolen" the same of those
 * in which the machine's host took no processor away.
 */
#include <poll.h>

#include "base/cleanup.h"
#include "bench.h"

/* The memory of the VMM that has just gone is let go after the standby's answer, which takes
 * the machine some 100 ms that are not the restore's. */
enum { ITERATIONS = 20, ASLEEP_MS = 500 };

void bench_restore(struct bench *b)
{
    int n = b->iterations ? b->iterations : ITERATIONS;
    auto_free char *id = bench_vm(b);
    struct samples total = {0};
    struct samples vmm = {0};
    struct samples ours = {0};
    struct samples disk = {0};
    struct samples bare = {0};
    struct samples rest = {0};
    struct samples unstolen = {0};
    struct phases phases = {0};

    for (int i = 0; i < n; i++) {
        double ms;
        double theirs;
        double stolen;
        double began;

        (void)api(b, "POST /instances/bench/standby", NULL, 200);
        (void)poll(NULL, 0, ASLEEP_MS);
        stolen = processors_stolen();
        began = now_us();
        (void)api(b, "POST /instances/bench/restore", NULL, 200);
        ms = (now_us() - began) / 1000;
        stolen = processors_stolen() - stolen;
        phases_add(b, &phases, "instances.restore", id);
        theirs = phases_vmm(&phases);
        samples_add(&total, ms);
        samples_add(&vmm, theirs);
        samples_add(&ours, ms - theirs);
        samples_add(&disk, phases_disk(&phases));
        samples_add(&rest, ours.v[i] - disk.v[i]);
        if (stolen == 0)
            samples_add(&unstolen, rest.v[i]);
        samples_add(&bare, bare_commit_ms(b));
    }
    bench_row(b, "total", "ms", &total);
    phases_rows(b, &phases);
    bench_row(b, "vmm", "ms", &vmm);
    bench_row(b, "ours", "ms", &ours);
    bench_row(b, "ours_disk", "ms", &disk);
    bench_row(b, "bare_disk", "ms", &bare);
    bench_row(b, "ours_but_disk", "ms", &rest);
    if (unstolen.n > 0)
        bench_row(b, "ours_unstolen", "ms", &unstolen);
    delete_vm(b, "bench");
    samples_free(&total);
    samples_free(&vmm);
    samples_free(&ours);
    samples_free(&disk);
    samples_free(&bare);
    samples_free(&rest);
    samples_free(&unstolen);
    phases_free(&phases);
}
