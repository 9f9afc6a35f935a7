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

/* The same with any files over those of the initramfs. */
struct bare_file {
    const char *name;
    unsigned mode;             /* with its type */
    const struct buf *content; /* NULL: none */
};
void bare_prepare_with(struct bench *b, struct bare *bare, const struct bare_file *files, size_t n);

/* What its guest has printed, once that holds the text; the caller's. */
char *bare_wait_output(struct bare *bare, const char *text);

/* The disks of the instance "bench" become its own. */
void bare_keep_disks(struct bench *b, struct bare *bare);
void bare_configure(struct bare *bare, const char *config_json); /* instead of its config disk */
void bare_start(struct bare *bare);
void bare_end(struct bare *bare);
