/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must differ between two guests that woke up from one snapshot: FRAME_IDENTITY,
 * {"time_us":N,"seed":"hex","hostname":s,"machine_id":s,"outer_address":s}, each if it is there.
 */
#pragma once

#include <stddef.h>

#include "base/err.h"

/* Nothing is applied of a frame that is malformed. inner_address: for /etc/hosts, or NULL. */
int identity_apply(const char *json, size_t len, const char *inner_address, struct err *e);
