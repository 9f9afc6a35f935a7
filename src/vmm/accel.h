/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether guests run on KVM or are translated (TCG). We decide, not the VMM.
 *
 * A /dev/kvm can exist, accept every call and then interpret guests at a
 * thousandth of the speed (KVM_PVM does so for kernels not made for it), and a
 * nested one can hang. So a program of ours runs a loop of 100,000 rounds on it,
 * under a deadline, and the processor time it took decides.
 */
#pragma once

#include "base/err.h"
#include "loop/op.h"
#include "vmm/vmm.h"

enum accel_choice { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG };

/* Blocks, up to two seconds. Fails only when cancelled; out->accel and why are the result. */
int accel_decide(const struct op *op, enum accel_choice choice, struct vmm_host *out,
                 struct err *e);

/*
 * accel_decide() starts our own program again with this as its only argument.
 * main() then calls accel_probe_main() before anything else and returns its value.
 */
#define ACCEL_PROBE_ARGUMENT "kvm-probe"
int accel_probe_main(void);
