/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image whose command is an init: it becomes the guest's PID 1, and the agent
 * serves beside it. systemd runs it as a unit, put where runtime units go; before
 * any other init it is started as a child of what becomes that init. Nothing in
 * the image is changed: program and unit live in /run.
 */
#pragma once

#include <stdbool.h>

#include "agent/config.h"
#include "base/err.h"

#define SERVICE_WORD "service" /* argv[1] of the agent that is none */

bool init_is_wanted(const struct guest_config *c);
int init_prepare(struct err *e); /* /run, before anything is written there */

/* Becomes the init, or returns with a shell's code. */
int init_become(const struct guest_config *c, int *code_out, struct err *e);

bool service_is_first(void); /* no other one has served since the guest came up; asked once */
void init_stop(void);        /* asks it to end the guest */
