/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two QEMU drivers: "qemu-microvm" (virtio-mmio, no PCI, starts fastest) and
 * "qemu" (q35, PCI). They differ in a machine line and in device names alone.
 *
 * QEMU gets listening sockets as fds, so nothing waits for a socket to appear and
 * a restarted daemon can connect again. Guest RAM is a memfd that it maps shared,
 * or, when it was loaded, a snapshot's memory file that it maps private: then the
 * file never changes and all who live on it share its pages.
 *
 * Inside vmm/ only; callers use vmm.h.
 */
#pragma once

#include "base/argv.h"
#include "vmm/monitor.h"
#include "vmm/vmm.h"

#define QEMU_RAM_NAME "hypeman-ram"           /* of the memfd */
#define QEMU_AGENT_PORT "org.hypeman.agent.0" /* the port's name as the guest sees it */

struct qemu_machine {
    const char *options; /* of -machine, without what is the same for both */
    const char *bus;     /* how the names of virtio devices end */
    const char *net;     /* more properties of the network card */
    bool needs_firmware; /* of ours: vmm_host.microvm_firmware */
};

extern const struct qemu_machine qemu_machine_microvm;
extern const struct qemu_machine qemu_machine_q35;

/*
 * The numbers of the fds that QEMU inherits. The order is fixed: a daemon that did
 * not start it takes the RAM by its number.
 */
enum { QEMU_API_FD = 3, QEMU_EVENTS_FD, QEMU_AGENT_FD, QEMU_RAM_FD, QEMU_TAP_FD, QEMU_END_FD };

enum qemu_purpose {
    QEMU_BOOT,
    QEMU_LOAD,        /* waits for a state, then the guest goes on */
    QEMU_LOAD_PAUSED, /* waits for a state, and the guest stays stopped */
};

/* The whole command line. */
void qemu_argv(struct argv *a, const struct qemu_machine *machine, const struct vmm_boot *boot,
               enum qemu_purpose purpose);

/* Drivers' functions that are the same for both machines. */
int qemu_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
              struct err *e);
int qemu_hold_memory(const struct vmm_handle *vm, struct err *e);
const char *qemu_cpu(const struct vmm_host *host);

extern const struct vmm_driver qemu_microvm_driver;
extern const struct vmm_driver qemu_q35_driver;
extern const struct vmm_monitor_driver qemu_monitor_driver;
