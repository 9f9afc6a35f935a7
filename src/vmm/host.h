/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds out, once at start-up, what this host can run VMs with. Blocks for a few hundred ms.
 * A binary may be replaced afterwards, under VMs that run: whose snapshot it is, and who could
 * load it, is therefore seen each time. Worker threads.
 */
#pragma once

#include "base/err.h"
#include "loop/op.h"
#include "vmm/accel.h"
#include "vmm/vmm.h"

struct vmm_host_settings {
    enum accel_choice accel;
    const char *qemu;        /* path of the binary; NULL: the one on PATH */
    const char *firecracker; /* the same */
    const char *cloud_hypervisor;
    bool firecracker_metrics;
    bool firecracker_differences;
    enum socket_readiness socket_readiness;
    const char *kernel;
    const char *kernel_version; /* NULL: not known */
    const char *initramfs;
};

/* What is missing is left empty: a driver's available() says so. Fails on a path that is too long
 * and when cancelled. */
int vmm_host_probe(const struct op *op, const struct vmm_host_settings *settings,
                   struct vmm_host *out, struct err *e);

/*
 * vmm_identity() of the program that the process behind pidfd runs, or with -1 of the one that
 * would be started now. It is asked for its version only where it is not the file that was asked
 * at start-up.
 */
int vmm_host_identity(const struct op *op, const struct vmm_driver *driver,
                      const struct vmm_host *host, int pidfd, struct buf *out, struct err *e);
