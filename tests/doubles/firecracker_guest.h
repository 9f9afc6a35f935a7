/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest in the double, as far as the host can tell: an agent behind the vsock
 * socket, that answers to the host, says that its workload runs, and resets the
 * machine when it is told to end. What it is told it is called it writes to the end
 * of its second drive, so that every guest is seen to have a disk of its own.
 */
#pragma once

#include "firecracker_vm.h"

struct guest;

struct guest *guest_new(struct vm *vm);

int guest_fd(const struct guest *g);    /* to poll for input; -1: nobody is connected */
void guest_accept(struct guest *g);     /* somebody connects to the vsock socket */
void guest_readable(struct guest *g);   /* may end the process */
void guest_disconnect(struct guest *g); /* as a snapshot does, and a restore */
