/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM without the daemon, of the same command line as a daemon's: what the VMM and the
 * guest cost by themselves. One at a time; what cannot go on ends the program.
 */
#pragma once

#include "bench.h"
#include "vmm/host.h"

struct bare {
    int dir_fd; /* its directory, <root>/bare, with its disks */
    struct vmm_host host;
    struct vmm_process vm;
};

/* Finds the guest of the build that is measured; init replaces the program it begins with (NULL:
 * none), a file's name beside the initramfs. */
void bare_prepare(struct bench *b, struct bare *bare, const char *init);

/* The disks of the instance "bench" become its own. */
void bare_keep_disks(struct bench *b, struct bare *bare);
void bare_start(struct bare *bare);
void bare_end(struct bare *bare);
