/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Firecracker driver, versions 1.12 to 1.16: its API is JSON over HTTP on the
 * socket it makes, one request at a time.
 *
 * The guest's serial port is the process's standard output, which is VMM_SERIAL_LOG
 * opened for appending: true in every version, and after a load no call is spent on
 * it. Log and metrics are named on the command line for the same reason. A VMM that
 * has no KVM to run on is not offered (vmm/accel.h).
 *
 * Inside vmm/ only; callers use vmm.h.
 */
#pragma once

#include "base/buf.h"
#include "http/client.h"
#include "vmm/monitor.h"
#include "vmm/vmm.h"

#define FIRECRACKER_NIC "eth0"

/* Which fields a binary knows; what it does not know it refuses. */
struct firecracker_version {
    unsigned major, minor;
};
struct firecracker_version firecracker_version(const struct vmm_host *host); /* {0, 0}: none */
bool firecracker_has(const struct vmm_host *host, unsigned minor);           /* 1.minor or later */

/* The bodies of requests, pure. A guest's CID counts within its process: all have the same. */
#define FIRECRACKER_VSOCK "{\"guest_cid\":3,\"uds_path\":\"" VMM_VSOCK_SOCKET "\"}"
#define FIRECRACKER_BALLOON "{\"amount_mib\":0,\"deflate_on_oom\":true}"
void firecracker_machine(struct buf *out, const struct vmm_boot *boot);
void firecracker_kernel(struct buf *out, const struct vmm_boot *boot);
void firecracker_drive(struct buf *out, const char *id, const char *file, bool is_read_only,
                       const struct vmm_rates *rates);
void firecracker_nic(struct buf *out, const struct vmm_boot *boot);
void firecracker_snapshot(struct buf *out, const char *dir, bool is_difference);
void firecracker_load_body(struct buf *out, const struct vmm_load *load);

/*
 * One request; 0 when it was carried out. A refusal carries Firecracker's own
 * words. answer may be NULL.
 */
int firecracker_call(const struct op *op, struct http_client *c, const char *request,
                     const char *body, struct buf *answer, struct err *e);

/*
 * By setting: a VM that was loaded is saved as a difference to the memory that it maps.
 * A file in its directory says that its writes are tracked since then; it goes before
 * anything is saved, since that begins the tracking anew, and before a process starts.
 */
int firecracker_begin_tracking(int dir_fd, struct err *e);
bool firecracker_end_tracking(int dir_fd); /* whether they were */
bool firecracker_tracks(const struct vmm_load *load);

int firecracker_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
                     struct err *e);

const char *firecracker_exit_meaning(int code);

extern const struct vmm_driver firecracker_driver;
extern const struct vmm_monitor_driver firecracker_monitor_driver;
