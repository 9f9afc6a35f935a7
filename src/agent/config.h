/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this guest is to be and to run, from the JSON of the config disk
 * (wire/config_disk.h has its fields). Written by the host, so it is trusted in
 * what it says but not in its form. Unknown members are ignored: the host may
 * be newer than the guest.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/argv.h"
#include "base/err.h"

/* The texts are NULL or empty where the config has none. */
struct guest_network {
    bool enabled;
    unsigned prefix;
    char *address;
    char *gateway;
    char *gateway_mac;
    char *outer_address;
    struct argv dns;
};

struct guest_config {
    uint64_t incarnation;
    char *hostname;
    char *workdir;
    char *user;
    struct argv entrypoint;
    struct argv cmd;
    struct argv env; /* "KEY=value" */
    bool skip_agent; /* no commands, no copies: only the workload and its end */
    struct guest_network network;
};

#define auto_guest_config __attribute__((cleanup(guest_config_free)))

int guest_config_parse(const char *json, size_t len, struct guest_config *out, struct err *e);
void guest_config_free(struct guest_config *c);
