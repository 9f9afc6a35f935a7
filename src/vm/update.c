/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "base/log.h"
#include "vm/launch.h"
#include "vm/live.h"
#include "vm/network.h"
#include "vm/verbs.h"

static bool is_new_rate(uint64_t now, uint64_t next)
{
    return next != 0 && next != now;
}

/* One that was given when it was made, for a network that it does not have, may be lifted. */
static int check(const struct instance *row, struct vm_op *op, struct err *e)
{
    const struct spec *now = row->spec;
    const struct spec *next = op->next_spec;

    if (now->network_enabled || !(is_new_rate(now->download_rate, next->download_rate) ||
                                  is_new_rate(now->upload_rate, next->upload_rate)))
        return 0;
    return err_set(e,
                   ERR_BAD_STATE,
                   "update %s: it was made without a network (network.enabled is false), so there "
                   "is no rate to change; create one that has a network",
                   now->name);
}

static void begin(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)w;
    op->in_use = live_slot(row);
}

/* op->spec becomes the new one for as long as it holds; -1: it is the old one again. */
static int run(struct vm_op *op, struct err *e)
{
    struct spec *before = op->spec;
    struct err ignored = {0};

    op->spec = op->next_spec;
    if ((!op->in_use || network_limit(op, op->in_use, e) == 0) && launch_commit_all(op, e) == 0) {
        op->spec = before;
        return 0;
    }
    op->spec = before;
    if (op->in_use && network_limit(op, op->in_use, &ignored) < 0)
        log_warn("instance %s: its rates are not what they were: %s", op->id, ignored.msg);
    return err_wrap(e, "update %s", op->spec->name);
}

static void apply(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    instance_set_spec(&w->table, row, take_ptr(&op->next_spec));
    instance_changed(&w->table, row);
}

const struct vm_verb verb_update = {
    .name = "update",
    .span = "instances.update",
    .kind = VM_JOB_NOTE,
    .timeout_ms = 30000,
    .check = check,
    .begin = begin,
    .run = run,
    .apply = apply,
};
