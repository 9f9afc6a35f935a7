/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program that the VM is for: entrypoint and cmd as Docker would run them, in a
 * session of its own, with the console as output, under the image's user.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "agent/config.h"
#include "wire/config_disk.h"

struct workload {
    pid_t pid;
    int cgroup_fd; /* its cgroup's directory; -1 without one */
};

/* As a shell reports what could not be run. */
enum { CODE_NOT_EXECUTABLE = 126, CODE_NOT_FOUND = 127, CODE_NO_GUEST = 255 };

/* Returns when the program runs, or -1 with *code_out as one of the codes above. */
int workload_start(struct workload *w, const struct guest_config *c, int *code_out, struct err *e);

/* Fills in how it ended, from its wait status. */
void workload_ended(const struct workload *w, int status, struct exit_record *r);
