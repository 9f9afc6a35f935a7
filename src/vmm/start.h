/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the start of every VMM is made of: the files that it gets, its process, its log
 * and what that says of a failure. Drivers embed it first and undo it by its cleanup;
 * what was handed over stays.
 *
 * Inside vmm/ only; a job's, whose functions without an op do not wait.
 */
#pragma once

#include "http/client.h"
#include "loop/proc.h"
#include "vmm/last_words.h"
#include "vmm/vmm.h"

enum { VMM_START_GIVEN = 4 };

struct vmm_start {
    const char *program; /* "Firecracker" */
    const struct vmm_boot *boot;
    const char *(*meaning)(int exit_code); /* optional; see last_words.h */
    int given[VMM_START_GIVEN]; /* ours until it has them: else a dead one gives no EOF. -1: none */
    int log_fd;
    off_t log_from;
    struct vmm_process process;
    struct http_client *api; /* one connection for all that a start says; NULL: none */
};

struct vmm_start vmm_start_of(const char *program, const struct vmm_boot *boot);

/* Ends the process. */
void vmm_start_undo(struct vmm_start *s);

/* Files of logs, which are appended to: so they may be shortened while they are written. */
int vmm_start_file(const struct vmm_start *s, const char *name, int more_flags, struct err *e);
int vmm_start_log(struct vmm_start *s, int more_flags, struct err *e); /* VMM_VMM_LOG: its own */

/* In the instance's directory; what was given is closed. */
int vmm_start_spawn(struct vmm_start *s, struct proc_spec *spec, struct err *e);

/*
 * What went wrong, if the connection broke (ERR_NOT_FOUND), in the words of the process; a
 * refusal says why itself. Returns -1.
 */
int vmm_start_explain(struct vmm_start *s, struct err *e);

struct last_words_source vmm_start_words(struct vmm_start *s);

struct vmm_process vmm_start_hand_over(struct vmm_start *s);

/* Of a snapshot to load: a VMM maps as much as the VM has, and what the file lacks would be its
 * end. */
int vmm_start_check_memory(const struct vmm_boot *boot, struct err *e);

/* To the API of one that speaks HTTP. Free with http_client_free(). */
struct http_client *vmm_api_client(int dir_fd);
