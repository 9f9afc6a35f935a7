/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dnsmasq on the gateway's address, for as long as we run: it answers guests' questions for
 * names out of a directory of files, and passes the rest on to the configured servers.
 *
 * It drops its rights by itself. One that ends is started again, later each time.
 * One that a daemon before us left, because it was killed, gives its place to ours.
 *
 * Loop thread; resolver_new() and resolver_free() block (start-up and end).
 */
#pragma once

#include "loop/loop.h"
#include "net/plan.h"

struct resolver;

/* dir: absolute; names in it are in <dir>/hosts. Borrowed, like the rest. */
struct resolver *resolver_new(struct loop *loop, const struct net_plan *plan, const char *program,
                              const char *dir, struct err *e);
void resolver_free(struct resolver *r); /* ends it; NULL is fine */
