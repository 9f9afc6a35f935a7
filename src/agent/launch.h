/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a program in the guest: under a user, in a directory, in a session of
 * its own. All that can be worked out is worked out before the fork.
 *
 * Whether it runs comes over a pipe that the exec closes, since what it takes to
 * find a program (a directory on a dead network) may last.
 */
#pragma once

#include <sys/types.h>

#include "agent/config.h"
#include "agent/user.h"
#include "base/argv.h"
#include "base/err.h"

/* As a shell reports what could not be run. */
enum { CODE_NOT_EXECUTABLE = 126, CODE_NOT_FOUND = 127, CODE_NO_GUEST = 255 };

struct launch {
    struct argv command;
    struct argv env;
    struct user user;
    char *workdir;
    int stdio[3];     /* borrowed; -1: as it is */
    bool is_terminal; /* stdio is a terminal, and becomes the session's */
    int cgroup_fd;    /* borrowed; -1: ours */
};

#define LAUNCH ((struct launch){.stdio = {-1, -1, -1}, .cgroup_fd = -1})
#define auto_launch __attribute__((cleanup(launch_free)))
void launch_free(struct launch *l);

/* The user by the image's /etc/passwd and /etc/group. */
int launch_user(struct launch *l, const char *spec, struct err *e);

/* The variables of the config, and those that every program has. After launch_user(). */
void launch_env(struct launch *l, const struct guest_config *c);
void launch_setenv(struct launch *l, const char *pair); /* over one of the same name */
void launch_setenv_default(struct launch *l, const char *name, const char *value);

/* What the child could not do: what[0] is '\0' when it was the exec. */
struct launch_failure {
    int error;
    char what[300]; /* within what a pipe takes at once */
};

/* The pid, and where a launch_failure arrives, or the end of the file once the program runs. */
pid_t launch_begin(const struct launch *l, int *report_fd_out, struct err *e);

/* The failure as an error and as a shell's code. Returns -1. */
int launch_explain(const struct launch_failure *f, const char *program, int *code_out,
                   struct err *e);
