/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tar archive over the daemon's copy socket, in either direction, and the files
 * at this end of it. Everything blocks; Ctrl-C ends it (ERR_CANCELLED).
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"

struct transfer_options {
    bool keep_owner;
    bool shows_progress;
};

struct transfer_source {
    const char *path;
    const char *as; /* cli/pack.h */
    bool follow;
};

struct transfer_wanted {
    const char *path;
    bool follow; /* all links */
};

/* Below root, a directory of the guest's; from files, or an archive from standard input, which may
 * be compressed. */
int transfer_in(const char *instance, const char *root, const struct transfer_source *source,
                const struct transfer_options *options, struct err *e);
int transfer_stream_in(const char *instance, const char *root,
                       const struct transfer_options *options, struct err *e);

/* Into the working directory, or as an archive to standard output. */
int transfer_out(const char *instance, const struct transfer_wanted *wanted, const char *as,
                 const struct transfer_options *options, struct err *e);
int transfer_stream_out(const char *instance, const struct transfer_wanted *wanted,
                        const struct transfer_options *options, struct err *e);
