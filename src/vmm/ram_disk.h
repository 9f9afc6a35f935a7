/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file in memory that has a name, on a tmpfs that is mounted nowhere: guest RAM for
 * a VMM that leaves RAM out of its snapshots only if its file has a link (a memfd has
 * none). It is gone with the last process that has it open, as a memfd is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* ERR_UNSUPPORTED where it may not be made: it takes CAP_SYS_ADMIN. */
int ram_disk_file(uint64_t bytes, struct err *e);

bool ram_disk_is(int fd); /* whether it is such a file, and no memfd */
