/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of instances: one row each, and who holds it.
 *
 * Belongs to the loop thread; nothing here blocks. A row is shown (found, listed)
 * only once its creation is committed; until then it merely reserves its name, so
 * that a name is unique in one place. Whoever changes a row calls
 * instance_changed(), which gives the change a revision, drops the row's kept JSON
 * and wakes who waits for it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/id.h"
#include "base/list.h"
#include "base/map.h"
#include "vm/events.h"
#include "vm/probe.h"
#include "vm/spec.h"
#include "vm/state.h"

struct reservation;
struct vm_op;
struct vm_live;
struct vm_world;

struct instance {
    char id[ID_SIZE];
    struct spec *spec;
    struct vm_run run;
    struct probe probe;  /* whether the VMM answers; means nothing without a process */
    int64_t observed_us; /* wall clock, as the next two: the state was learned or confirmed */
    int64_t silent_us;   /* since when the VMM does not answer */
    int64_t probed_us;   /* the last question had its result; 0: none had */
    bool published;

    struct vm_op *holder;      /* the operation that holds the row; NULL when none does */
    struct vm_op *preemptor;   /* what waits for the holder to unwind, or for the forks */
    unsigned shared;           /* forks that copy from its directory; who would change it waits */
    uint32_t named;            /* the address that its name leads guests to; 0: none yet */
    struct reservation *ports; /* of the host, from its start to its stop; NULL: none */
    struct vm_live *live;      /* watches on the process; NULL when there is none */
    struct question *question; /* the prober's view of the process (prober.h); likewise */

    struct row_text *text; /* as it is shown; NULL until somebody wants to see it */

    struct map_link by_id;
    struct map_link by_name;
    struct list order;   /* of creation */
    struct list waiters; /* of struct instance_waiter */
};

/* Told after every change of a row, and once more with NULL when the row is gone. */
struct instance_waiter {
    void (*fn)(struct instance_waiter *w, const struct instance *row); /* may remove w */
    struct list link;
};

struct instance_table {
    struct map ids;
    struct map names;
    struct list order;
    struct instance **sorted; /* published rows by id, for prefixes */
    size_t n_sorted;
    size_t sorted_room;
    struct journal journal; /* and the revision: every change of a published row has one */

    /* How a row is shown; one reference. NULL: to nobody. */
    struct row_text *(*show)(const struct instance *row);
};

void table_init(struct instance_table *t);
void table_free(struct instance_table *t); /* all rows; nothing may hold one */

/* Takes the references. The name must be free; the row is not shown yet. */
struct instance *table_reserve(struct instance_table *t, const char *id, struct spec *spec);
void table_publish(struct instance_table *t, struct instance *row);
void table_remove(struct instance_table *t, struct instance *row); /* frees it */

size_t table_after(const struct instance_table *t, const char *id); /* place in sorted */
bool table_name_is_taken(const struct instance_table *t, const char *name);
struct instance *table_by_id(const struct instance_table *t, const char *id); /* also unpublished */

/* Exact id, then exact name, then unique prefix of an id. ERR_NOT_FOUND; ERR_EXISTS "ambiguous". */
struct instance *table_resolve(const struct instance_table *t, const char *text, struct err *e);

/* The row as it is shown, kept until it changes; borrowed. The table's show is set. */
struct row_text *instance_text(const struct instance_table *t, struct instance *row);

/* The row changed: a new revision; who follows and who waits for it are told. */
void instance_changed(struct instance_table *t, struct instance *row);
void instance_wait(struct instance *row, struct instance_waiter *w);
void instance_unwait(struct instance_waiter *w);

/* Puts another spec (takes the reference) in place of the row's. */
void instance_set_spec(struct instance_table *t, struct instance *row, struct spec *spec);
