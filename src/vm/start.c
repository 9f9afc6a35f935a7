/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cleanup.h"
#include "vm/launch.h"
#include "vm/verbs.h"

static int check(const struct instance *row, struct vm_op *op, struct err *e)
{
    op->starts_vmm = true;
    if (row->run.state != VM_STOPPED)
        return err_set(e,
                       ERR_BAD_STATE,
                       "invalid state transition: cannot start from state %s, must be Stopped",
                       vm_state_name(row->run.state));
    return row->spec->driver ? 0
                             : err_set(e,
                                       ERR_UNSUPPORTED,
                                       "the hypervisor %s is not part of this build",
                                       row->spec->hypervisor);
}

/* What was asked for becomes the instance's own, for this start and later ones. */
static void begin(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)w;
    (void)row;
    if (!op->next_spec)
        return;
    spec_unref(op->spec);
    op->spec = spec_ref(op->next_spec);
}

static int commit(struct vm_op *op, struct err *e)
{
    return op->next_spec ? launch_commit_all(op, e) : launch_commit_state(op, e);
}

static int run(struct vm_op *op, struct err *e)
{
    op->dir_fd = env_open_instance(op->env, op->id, e);
    if (op->dir_fd < 0 || launch_boot(op, e) < 0)
        return err_wrap(e, "start %s", op->spec->name);
    if (commit(op, e) < 0) {
        launch_undo(op);
        return err_wrap(e, "start %s", op->spec->name);
    }
    return 0;
}

static void apply(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    if (op->next_spec)
        instance_set_spec(&w->table, row, take_ptr(&op->next_spec));
    vm_op_show(w, row, op);
}

const struct vm_verb verb_start = {
    .name = "start",
    .span = "instances.start",
    .kind = VM_JOB_START,
    .timeout_ms = 60000,
    .check = check,
    .begin = begin,
    .run = run,
    .apply = apply,
    .undo = launch_undo,
};
