/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side of a double, and its loop: one thread that serves one request at a time,
 * so that one that takes long keeps all others waiting, and the guest too. Faults
 * (fault.h) are made to happen here.
 */
#pragma once

#include <jansson.h>

#include "base/buf.h"
#include "firecracker_guest.h"
#include "firecracker_vm.h"

enum { DOUBLE_EXIT_ERROR = 1, DOUBLE_EXIT_ARGUMENTS = 153 };

struct answer {
    int status;      /* 204: without a body */
    struct buf body; /* JSON */
    bool then_exit;
};

struct server {
    const char *name; /* "Firecracker API" */
    struct vm *vm;
    struct guest *guest;
    size_t payload_max;
    int given_fd; /* what came with the last request; -1: nothing. Whoever takes it sets it to -1 */

    void (*carry_out)(const char *request, json_t *body, struct answer *a);
    void (*fault)(struct answer *a, const char *why); /* an error, in this VMM's form */
};

/* Never returns. */
void server_run(struct server *s, int listen_fd);
