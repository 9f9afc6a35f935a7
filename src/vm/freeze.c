/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/freeze.h"

#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "vm/live.h"

enum { ANSWER_MS = 5000 }; /* the guest gives up after two seconds of its own */

void freeze_begin(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    if (w->env.identity_before_run)
        op->frozen_fd = live_freeze(row);
}

static int refuse(const struct vm_op *op, const char *why, struct err *e)
{
    return err_set(e,
                   ERR_BAD_STATE,
                   "the guest's agent %s, and with identity: before-run nothing is saved unless"
                   " the workload stands still; it runs on, try the %s again",
                   why,
                   op->verb->name);
}

static int await_answer(const struct vm_op *op, struct err *e)
{
    auto_span span = op_span(&op->job.op, "freeze_workload");
    struct op wait = op->job.op;
    struct err waited = {0};
    uint64_t how = 0;

    if (wait.deadline_ms > clock_ms() + ANSWER_MS)
        wait.deadline_ms = clock_ms() + ANSWER_MS;
    if (op_wait(&wait, op->frozen_fd, POLLIN, &waited) == 0 &&
        read(op->frozen_fd, &how, sizeof(how)) == (ssize_t)sizeof(how) && how == 1)
        return 0;
    if (waited.code == ERR_CANCELLED) {
        *e = waited;
        return -1;
    }
    return refuse(op, how == 2 ? "cannot have it stand still" : "does not answer", e);
}

int freeze_await(const struct vm_op *op, struct err *e)
{
    if (!op->env->identity_before_run)
        return 0;
    return op->frozen_fd < 0 ? refuse(op, "is not connected", e) : await_answer(op, e);
}

void freeze_undo(struct vm_world *w, struct instance *row)
{
    if (w->env.identity_before_run)
        live_thaw(row);
}
