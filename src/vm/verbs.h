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

/*
 * Takes the spec. The row is shown once all is committed; on failure nothing
 * stays. ERR_EXISTS (name_conflict) through answered() when the name is taken.
 */
void instance_create(struct vm_world *w, struct spec *spec,
                     void (*answered)(struct vm_op *op, const struct instance *row), void *arg);
