/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations on instances, one file each: what vm_op_begin() is given.
 *
 * create is the exception: its row is not there yet, so it is begun by
 * instance_create(), which reserves the name.
 */
#pragma once

#include "vm/op.h"

extern const struct vm_verb verb_start;
extern const struct vm_verb verb_stop;
extern const struct vm_verb verb_delete;
extern const struct vm_verb verb_standby;
extern const struct vm_verb verb_restore;
extern const struct vm_verb verb_update; /* op->next_spec: what it becomes, in any state */

/*
 * A new instance from another: its disk, and its memory where it has one. Takes the
 * name's validity for granted. The source is in Stopped or Standby, or runs and
 * from_running is set; target is VM_STOPPED, VM_STANDBY or VM_RUNNING.
 */
struct fork_request {
    const char *name;
    enum vm_state target;
    bool from_running;
    const atomic_bool *abandoned; /* as in struct vm_op; what was captured already is finished */
};
void instance_fork(struct vm_world *w, struct instance *source, const struct fork_request *request,
                   void (*answered)(struct vm_op *op, const struct instance *row), void *arg);

/*
 * Takes the spec. The row is shown once all is committed; on failure nothing
 * stays. ERR_EXISTS (name_conflict) through answered() when the name is taken.
 */
void instance_create(struct vm_world *w, struct spec *spec,
                     void (*answered)(struct vm_op *op, const struct instance *row), void *arg);
