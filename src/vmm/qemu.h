/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two QEMU drivers: "qemu-microvm" (virtio-mmio, no PCI, starts fastest) and
 * "qemu" (q35, PCI). They differ in a machine line and in device names alone.
 *
 * Guest RAM is a memfd that QEMU maps shared; it is found again by name through
 * /proc/PID/fd. QEMU gets listening sockets as fds, so nothing waits for a
 * socket to appear and a restarted daemon can connect again.
 *
 * Inside vmm/ only; callers use vmm.h.
 */
#pragma once

#include "base/argv.h"
#include "vmm/monitor.h"
#include "vmm/vmm.h"

#define QEMU_RAM_NAME "hypeman-ram"           /* of the memfd */
#define QEMU_AGENT_PORT "org.hypeman.agent.0" /* the port's name as the guest sees it */
#define QEMU_GUEST_MAC "02:00:00:00:00:02"    /* every guest's; see design.md 2.4 */

struct qemu_machine {
    const char *options; /* of -machine, without what is the same for both */
    const char *bus;     /* how the names of virtio devices end */
    const char *net;     /* more properties of the network card */
    bool needs_firmware; /* of ours: vmm_host.microvm_firmware */
};

extern const struct qemu_machine qemu_machine_microvm;
extern const struct qemu_machine qemu_machine_q35;

/* The fds that QEMU inherits, by their numbers in the child; -1 where there is none. */
struct qemu_fds {
    int api, events, agent, ram, tap;
};

/* The whole command line. */
void qemu_argv(struct argv *a, const struct qemu_machine *machine, const struct vmm_boot *boot,
               const struct qemu_fds *fds);

extern const struct vmm_driver qemu_microvm_driver;
extern const struct vmm_driver qemu_q35_driver;
extern const struct vmm_monitor_driver qemu_monitor_driver;
