/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workload's processes stand still, all at once, and go on.
 *
 * A host that wants no program of a fork to run before the fork has its own identity
 * freezes them before the snapshot; with the identity they go on.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"

/* Returns when all of them are so; waits a moment for those that are busy in the kernel. */
int cgroup_freeze(int cgroup_fd, bool frozen, struct err *e);
