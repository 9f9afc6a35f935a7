/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine in the double of Cloud Hypervisor: its configuration, and the files of its
 * snapshots as the real one has them. Guest, drives and vsock are those of
 * firecracker_vm.h; the RAM is the file of the one memory zone, shared or private.
 */
#pragma once

#include "firecracker_vm.h"

struct machine {
    struct vm *vm;
    json_t *config; /* a VmConfig; NULL: none was created */
    bool is_shared; /* the zone's */
    size_t added;   /* memory, beyond the zone's */
    int tap_fd;     /* -1: none */
};

/* Each is 0, or -1 with the innermost error in why. */
int machine_boot(struct machine *m, struct buf *why);
int machine_save(const struct machine *m, const char *dir, struct buf *why);
int machine_restore(struct machine *m, const char *dir, struct buf *why);

/* "file://" and a directory's name; NULL otherwise. */
const char *machine_directory(const char *url);
