/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One VM on the VMM that is tried, in a directory of its own, with a guest of a few
 * instructions that counts in memory (tests/guests). Every helper fails the test
 * where it cannot do what it says.
 */
#pragma once

#include "unit.h"

#include "vmm/monitor.h"
#include "vmm/vmm.h"

enum { MEMORY = 16 << 20, COUNT_AT = 2 << 20 };

/* What is tried. */
struct subject {
    const struct vmm_driver *driver;
    struct vmm_host host;
    bool is_firecracker;
    bool is_cloud_hypervisor;
    bool is_double;
    const char *load_request; /* as faults name it */
    int load_requests;        /* how many a load that resumes takes */
};
extern struct subject subject;

struct rig {
    char path[300];
    int dir_fd;
    struct vmm_process process;
    struct vmm_handle vm;
};

struct op within(int64_t ms);

bool lacks(bool has, const char *what); /* for a case that is left out: says so */
int hold_tap(const char *name);         /* -1 without the right to make one */
void make_file(int dir_fd, const char *name, off_t size);

void rig_init(struct rig *r, const char *below); /* below: more path components; NULL: none */
void rig_end(struct rig *r);                     /* kills it; no process may be left */
void rig_end_one(struct rig *r);                 /* while others live */

struct vmm_boot boot_of(const struct rig *r);
void use_kernel(const char *name);
void boot(struct rig *r);
void boot_with(struct rig *r, const struct vmm_boot *b);
void expect_no_boot(struct rig *r, const struct vmm_boot *b, const char *text);

/* By the loop's monitor: its handshake, then a probe. */
enum vmm_status status_of(const struct rig *r);

void pause_vm(struct rig *r);
void resume_vm(struct rig *r);

/* Pauses, saves into a fresh directory that becomes VMM_SNAPSHOT_DIR; the count that was saved. */
uint32_t sleep_vm(struct rig *r, int base_memory_fd);

/* The same, once the guest has counted further than that. */
uint32_t sleep_once_beyond(struct rig *r, int base_memory_fd, uint32_t count);

/* A directory like it with the snapshot linked, or copied to be spoilt. */
void clone_rig(const struct rig *from, struct rig *to, bool copies);

int try_load(struct rig *r, const struct vmm_load *load, bool *runs, struct err *e);
struct vmm_load load_of(const struct rig *r, bool resume);
void load(struct rig *r, bool resume); /* runs if and only if that was asked */

uint64_t hash_of(int dir_fd, const char *name);
bool has_open(const struct rig *r, const char *name); /* its process, this very file */
void write_text(int dir_fd, const char *name, const char *text);
void await_text(int dir_fd, const char *name, const char *text);
