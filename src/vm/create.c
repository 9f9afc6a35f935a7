/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "vm/launch.h"
#include "vm/verbs.h"

static int check(const struct instance *row, struct vm_op *op, struct err *e)
{
    (void)row;
    (void)e;
    op->starts_vmm = true;
    return 0;
}

/* Directory first, record last: what a crash leaves in between has no record, and is swept. */
static void undo(struct vm_op *op)
{
    struct err e = {0};

    launch_undo(op);
    if (tree_remove(op->env->instances_fd, op->id, &e) < 0)
        log_error("instance %s: its directory could not be removed: %s", op->id, e.msg);
}

static int run(struct vm_op *op, struct err *e)
{
    op->dir_fd = launch_make_dir(op, e);
    if (op->dir_fd < 0)
        return err_wrap(e, "create %s", op->spec->name);
    if (launch_boot(op, e) < 0 || launch_commit_all(op, e) < 0) {
        undo(op);
        return err_wrap(e, "create %s", op->spec->name);
    }
    return 0;
}

static void apply(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    vm_op_show(w, row, op);
    table_publish(&w->table, row);
}

/* The row was only reserved: nobody has seen it. */
static void failed(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)op;
    world_remove(w, row);
}

static const struct vm_verb verb_create = {
    .name = "create",
    .span = "instances.create",
    .kind = VM_JOB_START,
    .timeout_ms = 60000,
    .check = check,
    .run = run,
    .apply = apply,
    .failed = failed,
    .undo = undo,
};

void instance_create(struct vm_world *w, struct spec *spec,
                     void (*answered)(struct vm_op *op, const struct instance *row), void *arg)
{
    struct vm_op *op = vm_op_new(&verb_create, answered, arg);
    struct instance *row;
    char id[ID_SIZE];

    if (table_name_is_taken(&w->table, spec->name)) {
        err_set(&op->err,
                ERR_EXISTS,
                "an instance named %s exists already; choose another name or remove it",
                spec->name);
        err_slug(&op->err, "name_conflict");
        spec_unref(spec);
        vm_op_refuse(op);
        return;
    }
    do
        id_new(id);
    while (table_by_id(&w->table, id));
    row = world_reserve(w, id, spec);
    row->run.state = VM_CREATED;
    row->run.since_us = spec->created_us;
    vm_op_begin(w, row, op);
}
