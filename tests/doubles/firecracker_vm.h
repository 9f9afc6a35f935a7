/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine in the double: its phases, its memory and the files of its snapshots.
 *
 * Its guest is imagined. A guest that runs adds to the word at 2 MiB with time, as
 * tests/guests/tiny does, so memory, pauses, snapshots and clones can be told apart;
 * one whose kernel is called "tiny-reset" resets at once. Its memory is real: mapped
 * private from the file it was loaded from. The drives and the vsock socket are
 * really opened, by the names that the snapshot holds.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/buf.h"

enum { MAX_DRIVES = 8 };

enum vm_phase { VM_NOT_STARTED, VM_RUNNING, VM_PAUSED };

struct vm {
    unsigned minor; /* of the version it plays: 1.minor */
    enum vm_phase phase;
    json_t *config; /* machine, boot, drives, net, vsock: what a state file holds */
    bool configured;
    uint8_t *memory;
    size_t memory_size;
    int drive_fds[MAX_DRIVES];
    size_t n_drives;
    int vsock_fd; /* listening; -1: none */
    int64_t running_since_us;
    uint64_t base_count; /* when it last began to run */
    int uffd_socket;     /* kept open, as the handler expects */
    struct {
        int requests, boots, loads, pauses, resumes, saves; /* resumes that changed something */
        int resume_requests;
    } counts;
};

/* Each is 0, or -1 with a fault message in why. */
int vm_start(struct vm *vm, struct buf *why);
int vm_save(struct vm *vm, const json_t *body, struct buf *why);
int vm_load(struct vm *vm, const json_t *body, struct buf *why);

/* Opens what the configuration's "drives", "nics" and "vsock" name. */
int vm_plug_in(struct vm *vm, struct buf *why);

void vm_run(struct vm *vm); /* from where its count is */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

const char *vm_format(const struct vm *vm); /* of its state files: "10.0.0" */
bool vm_resets(const struct vm *vm);        /* the guest ends it as soon as it runs */
