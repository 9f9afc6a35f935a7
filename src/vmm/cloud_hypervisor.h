/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Cloud Hypervisor driver, versions 48 to 53: JSON over HTTP on a socket that we
 * made. It answers one request at a time, a ping too, so a snapshot keeps every
 * other question waiting: what it is doing is read from its process and its event
 * stream (cloud_hypervisor_monitor.c), and only a job asks for what may take long.
 *
 * Guest RAM is a file that it maps shared and leaves out of its snapshots
 * (ram_disk.h); we copy it. A VM that was loaded maps its snapshot's memory private,
 * and that it writes out itself, all of it. Either way a snapshot is "state", its
 * devices, and "memory". What it needs besides, its configuration, is made anew at a
 * load out of how the VM was made.
 *
 * Inside vmm/ only; callers use vmm.h.
 */
#pragma once

#include "base/buf.h"
#include "http/client.h"
#include "vmm/monitor.h"
#include "vmm/vmm.h"

#define CLOUD_HYPERVISOR_NIC "net0"
#define CLOUD_HYPERVISOR_RAM "ram0"

/* The numbers of the fds that it inherits, the same for a daemon that did not start it. */
enum { CLOUD_HYPERVISOR_API_FD = 3, CLOUD_HYPERVISOR_EVENTS_FD, CLOUD_HYPERVISOR_RAM_FD };

unsigned cloud_hypervisor_version(const struct vmm_host *host); /* 53; 0: none */

/* Whether it can confine itself to its directory here. */
bool cloud_hypervisor_can_landlock(void);

/* The bodies of requests, pure. */
enum cloud_hypervisor_memory {
    RAM_BY_FD,
    RAM_OF_ITS_OWN, /* a memfd that it makes */
    RAM_OF_SNAPSHOT,
};
void cloud_hypervisor_config(struct buf *out, const struct vmm_boot *boot,
                             enum cloud_hypervisor_memory memory, bool landlock);
void cloud_hypervisor_nic(struct buf *out, const struct vmm_boot *boot);
void cloud_hypervisor_disk(struct buf *out, const struct vmm_disk *disk);
void cloud_hypervisor_restore(struct buf *out, const struct vmm_load *load);

/*
 * One request ("PUT vm.boot"); 0 when it was carried out. A refusal carries its own
 * words (ERR_INTERNAL); ERR_NOT_FOUND: the connection broke. answer may be NULL.
 */
int cloud_hypervisor_call(const struct op *op, struct http_client *c, const char *request,
                          const char *body, struct buf *answer, struct err *e);

/* The same over a connection for this alone; body and answer may be NULL. */
int cloud_hypervisor_command(const struct op *op, const struct vmm_handle *vm, const char *request,
                             const char *body, struct buf *answer, struct err *e);

/* And with an fd for it to keep, over a connection of its own. */
int cloud_hypervisor_call_with(const struct op *op, int dir_fd, int fd, const char *request,
                               const char *body, struct err *e);

/* What "vm.info" says. */
enum vmm_status cloud_hypervisor_status(const char *json, size_t len);

int cloud_hypervisor_save(const struct op *op, const struct vmm_handle *vm,
                          const struct vmm_save *save, struct err *e);

int cloud_hypervisor_hold_memory(const struct vmm_handle *vm, struct err *e);

/* What changes while it runs; see vmm.h. */
int cloud_hypervisor_resize(const struct op *op, const struct vmm_handle *vm, uint32_t vcpus,
                            uint64_t memory_bytes, struct err *e);
int cloud_hypervisor_set_balloon(const struct op *op, const struct vmm_handle *vm, uint64_t bytes,
                                 struct err *e);
int cloud_hypervisor_add_disk(const struct op *op, const struct vmm_handle *vm,
                              const struct vmm_disk *disk, struct err *e);
int cloud_hypervisor_add_card(const struct op *op, const struct vmm_handle *vm,
                              const struct vmm_card *card, struct err *e);
int cloud_hypervisor_remove_device(const struct op *op, const struct vmm_handle *vm, const char *id,
                                   struct err *e);
int cloud_hypervisor_count(const struct op *op, const struct vmm_handle *vm,
                           struct vmm_counters *out, struct err *e);

extern const struct vmm_driver cloud_hypervisor_driver;
extern const struct vmm_monitor_driver cloud_hypervisor_monitor_driver;
