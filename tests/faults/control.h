/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a test and the fault injector in a daemon tell each other: a file that both
 * map shared. tests/e2e/faults.py writes it by these offsets.
 *
 * A plan is armed by its action, which is written last. Its label names the step
 * (see faults.c), and the step that comes for the at-th time is the one.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

enum fault_action {
    FAULT_NONE,
    FAULT_KILL,  /* the daemon ends as by SIGKILL, before the call */
    FAULT_FULL,  /* the call fails with ENOSPC, and so does all that needs room after it */
    FAULT_STALL, /* the call waits until it is released */
    FAULT_COUNT, /* the plan before this one counts from here: it was armed with FAULT_UNCOUNTED */
};

enum { FAULT_PLANS = 8, FAULT_LABEL = 240 };

#define FAULT_UNCOUNTED 0x80000000u /* in seen: what comes now is not the at-th */

struct fault_plan {
    _Atomic uint32_t action;
    uint32_t at;           /* from 1 */
    _Atomic uint32_t seen; /* how often the step came since it was armed */
    _Atomic uint32_t hit;  /* 1 from the moment at which it struck */
    char label[FAULT_LABEL];
};

struct fault_control {
    _Atomic uint32_t recording; /* steps go to the log */
    _Atomic uint32_t full;      /* the disk has no room; cleared by the test */
    _Atomic uint32_t released;  /* what stalls goes on */
    uint32_t unused;
    char subject[32]; /* the instance that the labels call SOURCE */
    struct fault_plan plans[FAULT_PLANS];
};

_Static_assert(sizeof(struct fault_plan) == 256, "faults.py counts on it");
_Static_assert(offsetof(struct fault_control, plans) == 48, "faults.py counts on it");
