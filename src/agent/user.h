/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who the workload runs as, by Docker's rules, from the text of the image's
 * /etc/passwd and /etc/group. Pure; the files may be empty or rubbish.
 *
 * "", "name", "uid", each with ":group" or ":gid" behind it. A number needs no
 * entry; a name does. Without a group the user has the primary one of its entry
 * (else 0) and those that list its name; with one it has that alone.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

enum { USER_GROUPS_MAX = 64, USER_HOME_SIZE = 256 };

struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[USER_GROUPS_MAX];
    size_t groups_n;
    char home[USER_HOME_SIZE];
};

int user_resolve(const char *spec, const char *passwd, const char *group, struct user *out,
                 struct err *e);
