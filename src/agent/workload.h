/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program that the VM is for: entrypoint and cmd as Docker would run them, in a
 * session of its own, with the console as output, under the image's user.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "agent/config.h"
#include "wire/config_disk.h"

struct workload {
    pid_t pid;
    int cgroup_fd; /* its cgroup's directory; -1 without one */
};

/* Returns when the program runs, or -1 with *code_out as a shell's code (agent/launch.h). */
int workload_start(struct workload *w, const struct guest_config *c, int *code_out, struct err *e);

/* How often the kernel killed something in the cgroup for want of memory. */
uint64_t workload_oom_kills(int cgroup_fd);

/* Fills in how it ended, from its wait status. */
void workload_ended(const struct workload *w, int status, struct exit_record *r);
