/* SPDX-License-Identifier: Apache-2.0 */
/* A rate limiter as Firecracker and Cloud Hypervisor both take it. Pure. */
#pragma once

#include <stdint.h>

#include "base/jout.h"

/* A member of that name, unless both ceilings (a second) are 0. */
void limiter_put(struct jout *j, const char *name, uint64_t bytes, uint64_t requests);
