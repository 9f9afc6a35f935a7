/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/member.h"
#include "api/view.h"
#include "base/mem.h"
#include "vm/verbs.h"

enum { VIEW_MAX = 8 << 20 };

static void reply_instance(struct call *c, int status, const char *id)
{
    const struct instance_table *t = &c->api->world->table;
    struct buf json = BUF(VIEW_MAX);

    instance_view(&json, t, table_by_id(t, id));
    call_reply(c, status, &json);
}

/* --- operations --- */

/* The end of every operation that answers with the instance. */
static void answer(struct vm_op *op, const struct instance *row, int status)
{
    struct call *c = op->arg;

    if (vm_op_error(op)->code != ERR_NONE)
        call_fail(c, vm_op_error(op));
    else if (row)
        reply_instance(c, status, row->id);
    else
        call_fail_with(c, ERR_NOT_FOUND, NULL, "the instance was deleted meanwhile");
}

static void answer_created(struct vm_op *op, const struct instance *row)
{
    answer(op, row, 201);
}

static void answer_ok(struct vm_op *op, const struct instance *row)
{
    answer(op, row, 200);
}

static void answer_deleted(struct vm_op *op, const struct instance *row)
{
    struct call *c = op->arg;

    (void)row;
    if (vm_op_error(op)->code != ERR_NONE)
        call_fail(c, vm_op_error(op));
    else
        call_reply_empty(c, 204);
}

void api_instances_create(struct call *c)
{
    struct err e = {0};
    struct spec *spec = spec_decode(c->api, c->body, &e);

    if (spec)
        instance_create(c->api->world, spec, answer_created, c);
    else
        call_fail(c, &e);
}

void api_instances_update(struct call *c)
{
    struct err e = {0};
    struct spec *next = spec_decode_update(c->row->spec, c->body, &e);
    struct vm_op *op;

    if (!next) {
        call_fail(c, &e);
        return;
    }
    op = vm_op_new(&verb_update, answer_ok, c);
    op->next_spec = next;
    vm_op_begin(c->api->world, c->row, op);
}

void api_instances_start(struct call *c)
{
    struct err e = {0};
    struct spec *next = spec_decode_start(c->row->spec, c->body, &e);
    struct vm_op *op;

    if (e.code != ERR_NONE) {
        call_fail(c, &e);
        return;
    }
    op = vm_op_new(&verb_start, answer_ok, c);
    op->next_spec = next;
    vm_op_begin(c->api->world, c->row, op);
}

void api_instances_stop(struct call *c)
{
    struct vm_op *op = vm_op_new(&verb_stop, answer_ok, c);

    op->grace_ms = c->api->limits.stop_grace_ms;
    vm_op_begin(c->api->world, c->row, op);
}

/* Compression is asked for in the body, and is not there yet; asking for none of it is fine. */
static int refuse_compression(const json_t *body, struct err *e)
{
    const json_t *compression;
    const char *delay;
    bool enabled;

    if (json_member(body, "compression", JSON_OBJECT, &compression, e) < 0 ||
        json_text_member(body, "compression_delay", &delay, e) < 0)
        return -1;
    if (json_bool_member(compression, "enabled", false, &enabled, e) < 0)
        return err_wrap(e, "compression");
    return enabled ? err_set(e, ERR_UNSUPPORTED, "compression: not available in this version") : 0;
}

void api_instances_standby(struct call *c)
{
    struct err e = {0};

    if (refuse_compression(c->body, &e) < 0)
        call_fail(c, &e);
    else
        vm_op_begin(c->api->world, c->row, vm_op_new(&verb_standby, answer_ok, c));
}

void api_instances_restore(struct call *c)
{
    struct vm_op *op = vm_op_new(&verb_restore, answer_ok, c);

    call_watch(c);
    op->abandoned = &c->is_abandoned;
    vm_op_begin(c->api->world, c->row, op);
}

static int decode_fork(const struct call *c, struct fork_request *out, struct err *e)
{
    const char *target;
    bool waits; /* for a network that is always there */

    if (json_bool_member(c->body, "wait_for_network", false, &waits, e) < 0 ||
        json_text_member(c->body, "name", &out->name, e) < 0 ||
        json_text_member(c->body, "target_state", &target, e) < 0 ||
        json_bool_member(c->body, "from_running", false, &out->from_running, e) < 0)
        return -1;
    if (!out->name || !name_is_valid(out->name))
        return json_bad(e, "Bad Request", "is required, in the form of an instance's name", "name");
    out->target = c->row->run.state;
    if (target &&
        (!vm_state_parse(target, &out->target) ||
         (out->target != VM_STOPPED && out->target != VM_STANDBY && out->target != VM_RUNNING)))
        return json_bad(e, "Bad Request", "must be Stopped, Standby or Running", "target_state");
    return 0;
}

void api_instances_fork(struct call *c)
{
    struct fork_request request;
    struct err e = {0};

    if (decode_fork(c, &request, &e) < 0) {
        call_fail(c, &e);
        return;
    }
    call_watch(c);
    request.abandoned = &c->is_abandoned;
    instance_fork(c->api->world, c->row, &request, answer_created, c);
}

/* --- delete: a second one waits for the first --- */

static bool is_being_deleted(const struct instance *row)
{
    return (row->holder && row->holder->verb == &verb_delete) ||
           (row->preemptor && row->preemptor->verb == &verb_delete);
}

struct joined {
    struct instance_waiter waiter;
    struct call *call;
};

static void joined_told(struct instance_waiter *w, const struct instance *row)
{
    struct joined *joined = container_of(w, struct joined, waiter);
    struct call *c = joined->call;

    if (row && is_being_deleted(row))
        return; /* some other change; the delete is still under way */
    instance_unwait(w);
    free(joined);
    if (row)
        call_fail_with(c, ERR_INTERNAL, NULL, "the delete of this instance has failed; try again");
    else
        call_reply_empty(c, 204);
}

void api_instances_delete(struct call *c)
{
    const char *graceful = http_query(c->http, "graceful_shutdown");
    struct vm_op *op;

    if (graceful && *graceful && strcmp(graceful, "true") != 0 && strcmp(graceful, "false") != 0) {
        call_fail_with(c, ERR_INVALID, "Bad Request", "graceful_shutdown must be true or false");
        return;
    }
    if (is_being_deleted(c->row)) {
        struct joined *joined = mem_new(struct joined);

        joined->call = c;
        joined->waiter.fn = joined_told;
        instance_wait(c->row, &joined->waiter);
        return;
    }
    op = vm_op_new(&verb_delete, answer_deleted, c);
    op->grace_ms = graceful && strcmp(graceful, "false") == 0 ? 0 : c->api->limits.delete_grace_ms;
    vm_op_begin(c->api->world, c->row, op);
}
