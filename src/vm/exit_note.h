/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After an end that was observed: writing it down, and reading what the guest left.
 *
 * A guest writes how its workload ended to its config disk before it reports it,
 * so an end that nobody was connected to hear is still known. Both go on beside
 * whatever happens to the instance next; what is read is dropped if the instance
 * has started again meanwhile (the incarnation says so).
 */
#pragma once

#include "vm/world.h"
#include "wire/config_disk.h"

/* Loop: hands the row's state to the store and does not wait. */
void exit_note_store(struct vm_world *w, const struct instance *row);

/* Loop: reads the exit record in a job, then puts it into the row. */
void exit_note_read(struct vm_world *w, const struct instance *row);

/* Worker or start-up: 1 and the record of the guest that this incarnation booted, 0 for none. */
int exit_note_find(int dir_fd, uint64_t boot, struct exit_record *out, struct err *e);
