/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hypervisor driver has to provide, and the functions that callers use.
 *
 * One constant struct vmm_driver per hypervisor, listed in vmm.c. Callers use
 * the vmm_*() functions, which fill in what is the same for all (capability
 * checks, stop escalation, error context); only vmm.c looks inside the struct.
 * A NULL function means "this hypervisor cannot", and that is also what
 * GET /capabilities reports.
 *
 * A VMM lives in its instance's directory and knows only the relative names
 * below. A directory may be exchanged for another during a restore, so nobody
 * keeps an fd of it from one job to the next: a job opens it, the loop does not.
 *
 * There are two ways to a running VMM. A job that holds the instance has the
 * first (api.sock): straight-line calls under a struct op. The loop has the
 * other, the monitor: events and probes, never blocking (vmm/monitor.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "loop/op.h"
#include "loop/proc.h"
#include "vmm/socket_wait.h"

/* Names in an instance's directory. They stand in snapshots: never rename one. */
#define VMM_API_SOCKET "api.sock"       /* for the job that holds the instance */
#define VMM_EVENTS_SOCKET "events.sock" /* for the loop, where the VMM can have two */
#define VMM_AGENT_SOCKET "agent.sock"   /* byte stream to the guest's agent (virtio-serial) */
#define VMM_VSOCK_SOCKET "vsock.sock"   /* the same, by CONNECT (vsock over a unix socket) */
#define VMM_IMAGE "rootfs.img"          /* hard link to the image's read-only disk */
#define VMM_OVERLAY "overlay.raw"       /* the instance's writable disk */
#define VMM_CONFIG_DISK "config.raw"
#define VMM_SERIAL_LOG "app.log"     /* what the guest's console printed */
#define VMM_VMM_LOG "vmm.log"        /* what the VMM itself printed */
#define VMM_EVENTS_LOG "events.json" /* what happened, as a VMM that writes a file tells it */
#define VMM_METRICS "metrics.json"

#define VMM_GUEST_MAC "02:00:00:00:00:02" /* every guest's; see design.md 2.4 */
#define VMM_SNAPSHOT_DIR "snapshot"
#define VMM_SNAPSHOT_STATE "snapshot/state"
#define VMM_SNAPSHOT_MEMORY "snapshot/memory"
#define VMM_SAVE_DIR "save"          /* what a VMM writes in a form of its own, while it does */
#define VMM_LOAD_DIR "snapshot/load" /* what it reads so: it goes when the snapshot does */

struct vmm_driver;

enum vmm_accel { VMM_TCG, VMM_KVM };

/* Which file it was. */
struct vmm_file {
    uint64_t device, inode, size;
    int64_t changed_ns;
};

/* What start-up found out about this host. Immutable afterwards: any thread may read it. */
struct vmm_host {
    enum vmm_accel accel;
    char accel_reason[256]; /* a sentence, for the log and GET /capabilities */
    uint64_t tsc_khz;       /* of the host; 0 when it cannot be had */
    char kernel[256];       /* vmlinux (ELF with a PVH note), absolute path */
    char kernel_version[96];
    char initramfs[256];
    char microvm_firmware[256]; /* qboot.rom; empty when QEMU comes without it */
    char qemu[256];             /* absolute path of the binary; empty when there is none */
    struct vmm_file qemu_file;  /* what is said of the binary holds for this one */
    char qemu_version[64];
    char firecracker[256]; /* absolute path of the binary; empty when there is none */
    struct vmm_file firecracker_file;
    char firecracker_version[64];  /* "1.16.1" */
    char firecracker_snapshot[32]; /* the format it writes and reads: "v10.0.0" */
    bool firecracker_metrics;      /* by setting: it writes VMM_METRICS every minute */
    bool firecracker_differences;  /* by setting: what was loaded is saved as a difference */
    char cloud_hypervisor[256];    /* absolute path of the binary; empty when there is none */
    struct vmm_file cloud_hypervisor_file;
    char cloud_hypervisor_version[64]; /* "53.0.0" */
    char cpu[80];                      /* vendor and signature */
    bool kvm_tells_real_time; /* KVM_CLOCK_REALTIME: a guest's clock can be set at a load */
    enum socket_readiness socket_readiness; /* of VMMs that make their own socket */
};

/* Ceilings a second; 0: none. */
struct vmm_rates {
    uint64_t disk_bytes; /* of the image and of the overlay, each */
    uint64_t disk_requests;
    uint64_t net_in_bytes; /* as the guest sees it */
    uint64_t net_out_bytes;
};

/*
 * A network made by the VMM itself, without rights: the guest gets out, nobody gets in. Addresses
 * as text; subnet empty: none.
 */
struct vmm_user_net {
    char subnet[24]; /* "192.0.0.0/29" */
    char guest[16];
    char gateway[16];
    char dns[16]; /* another address of the subnet: the host's own resolver */
};

/* A VM to start. Everything is borrowed for the call. */
struct vmm_boot {
    const struct vmm_host *host;
    const char *name; /* of the instance: for messages and the process list */
    int dir_fd;       /* holds the disks already; the sockets are made by the driver */
    uint32_t vcpus;
    uint32_t max_vcpus; /* it may be given so many later, where it can; 0: no more than vcpus */
    uint64_t memory_bytes;
    uint64_t hotplug_bytes; /* the same of memory, beyond memory_bytes */
    int tap_fd;             /* -1: no network device, but for user_net */
    const char *tap_name;   /* the same, for a VMM that opens it itself; NULL: none */
    struct vmm_user_net user_net;
    struct vmm_rates rates; /* what was loaded keeps those that its snapshot holds, if it does */
    bool balloon;
    bool track_dirty; /* so that a later save may be a difference; costs faults while it runs */
};

/* A process that was started or adopted. The pidfd is owned. */
struct vmm_process {
    struct proc_id id;
    int pidfd;
};

/* A running VMM as a job sees it. Everything is borrowed. */
struct vmm_handle {
    const struct vmm_driver *driver;
    const char *name;
    int dir_fd;
    int pidfd;
};

/* What a VM is given while it runs. The id is ours, and tells it again. Borrowed. */
struct vmm_disk {
    const char *id;
    const char *file; /* raw, in the instance's directory */
    bool is_read_only;
};

struct vmm_card {
    const char *id;
    const char *mac;
    int tap_fd;
};

/* Since it started, of all its disks and cards together. */
struct vmm_counters {
    uint64_t disk_read_bytes, disk_written_bytes;
    uint64_t disk_reads, disk_writes;
    uint64_t net_in_bytes, net_out_bytes; /* as the guest sees it; 0 where the VMM counts none */
};

/* Writes VMM_SNAPSHOT_STATE and VMM_SNAPSHOT_MEMORY's content into a directory; syncing is the
 * caller's. */
struct vmm_save {
    int snapshot_dir_fd; /* files "state" and "memory"; empty, or what a save ahead has left */
    bool ahead; /* the VM runs: memory alone, and not of one moment. A save that follows adds the
                   devices and what has changed since, so that its pause is shorter */
    /*
     * Only what was written since this VM's last snapshot is asked of the VMM (its writes
     * were tracked), the rest comes out of that snapshot's memory, which is not written to.
     */
    bool is_difference;
    int base_memory_fd;
};

struct vmm_load {
    struct vmm_boot boot;      /* as the VM was made; dir_fd holds snapshot/ */
    bool resume;               /* let the guest run as part of the load, if the driver can */
    const char *memory_socket; /* who serves the memory on demand (userfaultfd); NULL: the file */
    /*
     * Optional, for a load that resumes: the process is there; and the guest is about to
     * run, which an error prevents. Both on the caller's thread; the second may block.
     */
    void (*started)(void *arg, const struct vmm_process *process);
    int (*about_to_run)(void *arg, struct err *e);
    void *arg;
};

struct vmm_driver {
    const char *name;     /* the API's word: "qemu-microvm" */
    const char *binary;   /* the program's file name: "qemu-system-x86_64" */
    bool resumes_in_load; /* so well that callers should ask for it */
    bool opens_tap;       /* by vmm_boot.tap_name, and nobody else may hold it then; else tap_fd */
    bool makes_network;   /* vmm_boot.user_net */
    bool agent_by_vsock;  /* the agent is behind VMM_VSOCK_SOCKET, not VMM_AGENT_SOCKET */

    /* Start-up: -1 and why when this host cannot run it. */
    int (*available)(const struct vmm_host *host, struct err *why);

    /* What a snapshot was made with, as text: it loads only where this is the same. */
    void (*identity)(const struct vmm_host *host, struct buf *out);

    /* Starts the VMM in boot->dir_fd; on return the guest runs and the API socket answers.
     * On failure the process is gone and the reason carries the end of its log. */
    int (*boot)(const struct op *op, const struct vmm_boot *boot, struct vmm_process *out,
                struct err *e);

    /* Optional. Idempotent. */
    int (*pause)(const struct op *op, const struct vmm_handle *vm, struct err *e);
    int (*resume)(const struct op *op, const struct vmm_handle *vm, struct err *e);

    /*
     * Optional. The VM is paused and stays paused (ahead: runs and runs on). Nobody may talk to the
     * agent meanwhile: what the VMM takes from its socket goes into the guest's memory.
     */
    int (*save)(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
                struct err *e);

    /*
     * Optional. An fd of the file behind the guest's memory. While it is held the end of
     * the process does not free the file, which takes a disk longer than all the rest.
     */
    int (*hold_memory)(const struct vmm_handle *vm, struct err *e);

    /* Optional. *running_out says whether the guest already runs: resume only if it does not. */
    int (*load)(const struct op *op, const struct vmm_load *load, struct vmm_process *out,
                bool *running_out, struct err *e);

    /*
     * Optional, of a VM that runs, each. What is 0 stays as it is; no less memory than it was made
     * with, and no more than there is room for. Asks: the guest takes it, or gives it back, when
     * it likes. One that holds memory beyond what it was made with is not saved.
     */
    int (*resize)(const struct op *op, const struct vmm_handle *vm, uint32_t vcpus,
                  uint64_t memory_bytes, struct err *e);
    /* So much is taken from the guest; it was made with a balloon. */
    int (*set_balloon)(const struct op *op, const struct vmm_handle *vm, uint64_t bytes,
                       struct err *e);
    int (*add_disk)(const struct op *op, const struct vmm_handle *vm, const struct vmm_disk *disk,
                    struct err *e);
    int (*add_card)(const struct op *op, const struct vmm_handle *vm, const struct vmm_card *card,
                    struct err *e);
    int (*remove_device)(const struct op *op, const struct vmm_handle *vm, const char *id,
                         struct err *e);
    int (*count)(const struct op *op, const struct vmm_handle *vm, struct vmm_counters *out,
                 struct err *e);

    /* Optional: an ACPI power button or the like. Asks, does not wait. */
    int (*power_button)(const struct op *op, const struct vmm_handle *vm, struct err *e);

    /* Optional: what its exit code says; NULL when it says nothing more. */
    const char *(*exit_meaning)(int code);

    /* The loop's side; see vmm/monitor.h. */
    const struct vmm_monitor_driver *monitor;
};

/* Every driver there is, in the order in which a default is chosen; NULL after the last. */
const struct vmm_driver *vmm_driver_at(size_t i);
const struct vmm_driver *vmm_find(const char *name); /* NULL: no such hypervisor */

/* Whether this is the path of a program that some driver runs (also one since replaced). */
bool vmm_is_binary(const char *exe);

/*
 * VMM build, machine, CPU model, accelerator and firmware. Recorded with each
 * snapshot and compared before a load; empty from a driver without snapshots.
 */
void vmm_identity(const struct vmm_driver *driver, const struct vmm_host *host, struct buf *out);

int vmm_boot(const struct op *op, const struct vmm_driver *driver, const struct vmm_boot *boot,
             struct vmm_process *out, struct err *e);
int vmm_pause(const struct op *op, const struct vmm_handle *vm, struct err *e);
int vmm_resume(const struct op *op, const struct vmm_handle *vm, struct err *e);
int vmm_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
             struct err *e);
int vmm_resize(const struct op *op, const struct vmm_handle *vm, uint32_t vcpus,
               uint64_t memory_bytes, struct err *e);
int vmm_set_balloon(const struct op *op, const struct vmm_handle *vm, uint64_t bytes,
                    struct err *e);
int vmm_add_disk(const struct op *op, const struct vmm_handle *vm, const struct vmm_disk *disk,
                 struct err *e);
int vmm_add_card(const struct op *op, const struct vmm_handle *vm, const struct vmm_card *card,
                 struct err *e);
int vmm_remove_device(const struct op *op, const struct vmm_handle *vm, const char *id,
                      struct err *e);
int vmm_count(const struct op *op, const struct vmm_handle *vm, struct vmm_counters *out,
              struct err *e);
int vmm_hold_memory(const struct vmm_handle *vm); /* -1: there is nothing to hold */
int vmm_load(const struct op *op, const struct vmm_driver *driver, const struct vmm_load *load,
             struct vmm_process *out, bool *running_out, struct err *e);

/*
 * Ends the process and confirms that it is gone. A guest with a grace was
 * asked over its agent already (by the loop): waits up to grace_ms for the process to end by
 * itself, with a power button half-way where the driver has one, then kills. A
 * cancelled op cuts the grace, not the kill. *killed_out (NULL: nobody asks): it had to be killed.
 */
int vmm_stop(const struct op *op, const struct vmm_handle *vm, int64_t grace_ms, bool *killed_out,
             struct err *e);

/* Removes the sockets of a VMM that is gone, before another starts. */
int vmm_clear_sockets(int dir_fd, struct err *e);
