/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many TCP connections guests have: from what the kernel tells of each change, so that
 * a question costs a look into a table.
 *
 * At the start, and when more was told than we kept up with, all that there are is listed
 * once (net/flows.h). A connection that began while nobody listened is one of which the
 * kernel will never tell: as long as there are such, there is a listing a minute.
 *
 * Loop thread; nothing blocks. Listing and forgetting are the pool's worker's.
 */
#pragma once

#include "loop/jobs.h"
#include "loop/loop.h"
#include "net/flows.h"
#include "net/plan.h"

struct connections;

struct connections *connections_new(struct loop *loop, struct jobs *jobs,
                                    const struct net_plan *plan, struct err *e);

/* After the jobs have been stopped. NULL is fine. */
void connections_free(struct connections *c);

/* False: they were not listed yet. */
bool connections_of(const struct connections *c, uint32_t guest, struct flow_counts *out);

/* How often all were listed, and whether that is under way or due. */
uint64_t connections_listings(const struct connections *c);
bool connections_is_busy(const struct connections *c);

/*
 * A guest has ended: its connections are not its successor's. Or nothing leads to it any more,
 * while it sleeps: who asked it in vain is to be told so when he asks again.
 */
void connections_forget(struct connections *c, uint32_t guest, enum flows_which which);
