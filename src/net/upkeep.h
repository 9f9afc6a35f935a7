/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting right what others changed: the worker's side of net/watch.h.
 */
#pragma once

#include "net/publish.h"
#include "net/rules.h"
#include "net/watch.h"

enum { COMMANDS_MAX = 2048 };

struct upkeep_work {
    struct upkeep todo;
    const struct net_plan *plan;
    struct open_ports *ports;
    char uplink[IFNAMSIZ]; /* as the rules have it; may be changed */
    char opened[IFNAMSIZ]; /* it began to forward for us; empty: none did. May be changed */
    struct binding *bindings;
    size_t n_bindings;
    char
        commands[COMMANDS_MAX]; /* what the operator is to run; filled in if todo.firewall is set */
    struct err err;
};

void upkeep_run(struct upkeep_work *u);

/* Forwarding by the uplink, which is off unless somebody turned it on. */
void uplink_set_forwarding(const char *uplink, bool on);
