/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which files of a walk are one: a file that has several names is sent under the
 * first, and each further name as a link to that.
 *
 * Only files with more than one link are kept, and no more than FIRST_NAMES_MAX
 * bytes of them; what comes after that is sent as if it were a file of its own.
 * One thread; shared by agent and CLI.
 */
#pragma once

#include <stddef.h>
#include <sys/stat.h>

#include "base/map.h"

enum { FIRST_NAMES_MAX = 8 * 1024 * 1024 };

struct first_names {
    struct map map;
    size_t bytes;
    struct first_name *all;
};

/* The name that this file was given before, or NULL: then it has this one from now on. */
const char *first_name(struct first_names *names, const struct stat *st, const char *path);
void first_names_free(struct first_names *names);
