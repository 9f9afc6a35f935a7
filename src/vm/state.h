/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an instance's state can be, and the part of an instance that changes.
 *
 * Plain values: the loop's table holds one vm_run per instance, jobs carry
 * copies. The words and the meaning are the contract's (upstream's clients test
 * them).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "loop/proc.h"

/*
 * VM_STOPPED       No process, no snapshot. Left by a start, to INITIALIZING.
 * VM_CREATED       The VMM lives, its VM was not started. Seen only after a probe.
 * VM_INITIALIZING  The VM runs; the guest has not reported the workload's start.
 * VM_RUNNING       The guest has reported it.
 * VM_PAUSED        The process lives, the VM's CPUs are stopped.
 * VM_SHUTDOWN      The VM is off, its process lives. It ends on its own or by a stop.
 * VM_STANDBY       No process; a whole snapshot lies in the directory.
 * VM_UNKNOWN       The process lives and does not answer (vm/probe.h). Left by any sign of
 *                  life, to the state before it; by the process's end; by a stop or delete.
 *
 * INITIALIZING to SHUTDOWN have a process: proc, boot_id and incarnation are valid.
 */
enum vm_state {
    VM_STOPPED,
    VM_CREATED,
    VM_INITIALIZING,
    VM_RUNNING,
    VM_PAUSED,
    VM_SHUTDOWN,
    VM_STANDBY,
    VM_UNKNOWN,
    N_VM_STATES,
};

/* How we know. */
enum vm_source { VM_BY_REQUEST, VM_BY_EXIT, VM_BY_EVENT, VM_BY_PROBE };

enum { BOOT_ID_SIZE = 37 };

struct vm_run {
    enum vm_state state;
    enum vm_state before; /* while UNKNOWN: the last state that was known; it is what is stored */
    enum vm_source source;
    int64_t since_us;     /* wall clock */
    uint64_t incarnation; /* number of the VMM process, counted up by every start and restore */
    uint64_t boot;        /* the incarnation that booted the guest: what the guest calls itself */
    struct proc_id proc;
    char boot_id[BOOT_ID_SIZE]; /* of the host, when the process was started */

    int64_t disk_stamp; /* of a restore under way: snapshot_disk_stamp() before its guest ran */
    uint32_t address;   /* in the network, outside; kept to the instance's end. 0: none */

    int64_t started_us; /* 0: never */
    int64_t stopped_us;
    uint32_t restarts; /* of the guest, within the process that runs now */
    bool exit_known;   /* the workload's exit code is known; else only the message may be */
    int exit_code;
    char *exit_message;            /* owned; NULL for none */
    int64_t phase_ms[N_VM_STATES]; /* time spent in each state, without the present one */
};

const char *vm_source_name(enum vm_source s); /* "exit" */
const char *vm_state_name(enum vm_state s);   /* "Running" */
const char *vm_state_phase(enum vm_state s);  /* "running": the key of phase_durations_ms */
bool vm_state_parse(const char *name, enum vm_state *out);
bool vm_state_has_process(enum vm_state s);

/* Moves to another state (or confirms the present one), with the accounting of phases. */
void vm_run_enter(struct vm_run *run, enum vm_state state, enum vm_source source, int64_t at_us);

/* How the last run ended. A VMM that was killed leaves no code, only a message. */
void vm_run_set_exit(struct vm_run *run, int code, const char *message);
void vm_run_set_end(struct vm_run *run, const char *message);
void vm_run_clear_exit(struct vm_run *run);

struct vm_run vm_run_copy(const struct vm_run *run);
void vm_run_free(struct vm_run *run);
#define auto_run __attribute__((cleanup(vm_run_free)))

/* The document that the store keeps. */
void vm_run_write(struct buf *out, const struct vm_run *run);
int vm_run_read(const char *json, struct vm_run *out, struct err *e);

/* The kernel's id of this boot: a pid of another boot means nothing. */
int vm_boot_id(char out[BOOT_ID_SIZE], struct err *e);
