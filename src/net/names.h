/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of instances, for guests: "web.hypeman.internal", and beginnings of its id of 8
 * characters and more, lead to its outer address. A file an instance, which
 * dnsmasq (net/resolver.h) notices by itself, so a change costs the same however
 * many there are.
 *
 * Loop thread; files are written by a job of our own. names_new() and names_free() block.
 */
#pragma once

#include "loop/loop.h"
#include "net/plan.h"

enum { NAMES_PREFIX_MIN = 8 };

struct names;

/* program empty: dnsmasq where it is usually installed. NULL and e: there are no names, and why. */
struct names *names_new(struct loop *loop, const struct net_plan *plan, const char *program,
                        struct err *e);
void names_free(struct names *n); /* NULL is fine */

void names_set(struct names *n, const char *id, const char *name, uint32_t address);
void names_remove(struct names *n, const char *id);
