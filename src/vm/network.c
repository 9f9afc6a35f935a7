/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/network.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "net/net.h"
#include "vmm/vmm.h"

static bool has_network(const struct vm_world *w, const struct spec *spec)
{
    return spec->network_enabled && spec->driver && w->net && net_is_on(w->net);
}

static int refuse_ports(const struct vm_world *w, struct err *e)
{
    return err_set(e,
                   ERR_UNSUPPORTED,
                   "ports cannot be published: %s",
                   w->net ? net_why_off(w->net) : "there is no network");
}

static int reserve_ports(struct vm_world *w, struct instance *row, struct err *e)
{
    const struct spec *spec = row->spec;

    if (row->ports || spec->n_ports == 0)
        return 0;
    row->ports = net_reserve(w->net, spec->name, spec->ports, spec->n_ports, e);
    return row->ports ? 0 : -1;
}

void network_name(struct vm_world *w, struct instance *row)
{
    if (!w->net || row->named == row->run.address)
        return;
    row->named = row->run.address;
    net_name(w->net, row->id, row->spec->name, row->named);
}

void network_unname(struct vm_world *w, const struct instance *row)
{
    if (w->net && row->named)
        net_unname(w->net, row->id);
}

void network_settle(struct vm_world *w, struct instance *row, bool is_gone)
{
    if (!is_gone && (row->run.state != VM_STOPPED || row->holder))
        return;
    ports_give_back(take_ptr(&row->ports));
    if (w->net)
        net_forget_connections(w->net, row->run.address);
}

bool network_connections(const struct vm_world *w, const struct instance *row,
                         struct flow_counts *out)
{
    *out = (struct flow_counts){0};
    return w->net && row->run.address && net_connections(w->net, row->run.address, out);
}

void network_adopt_ports(struct vm_world *w, struct instance *row)
{
    struct err e = {0};

    if (row->run.state != VM_STOPPED && has_network(w, row->spec) && reserve_ports(w, row, &e) < 0)
        log_warn("instance %s: %s", row->id, e.msg);
}

int network_claim(struct vm_world *w, struct instance *row, struct vm_op *op, struct err *e)
{
    if (!op->starts_vmm || (row->spec->n_ports == 0 && !has_network(w, row->spec)))
        return 0;
    if (!has_network(w, row->spec))
        return refuse_ports(w, e);
    if (reserve_ports(w, row, e) < 0)
        return -1;
    op->slot = net_claim(w->net, op->run.address, e);
    if (!op->slot)
        return -1;
    if (op->run.address == 0)
        op->fresh_address = op->slot->address;
    op->run.address = op->slot->address;
    if (row->spec->n_ports > 0)
        op->slot->ports = port_set_new(op->run.address, row->spec->ports, row->spec->n_ports);
    return 0;
}

int network_limit(const struct vm_op *op, struct net_slot *slot, struct err *e)
{
    return net_limit(op->env->net, slot, op->spec->download_rate, op->spec->upload_rate, e);
}

int network_bind(const struct vm_op *op, const char *span, struct err *e)
{
    auto_span scope = op_span(&op->job.op, span);

    if (!op->slot)
        return 0;
    if (net_bind(op->env->net, op->slot, e) < 0)
        return -1;
    return op->spec->download_rate || op->spec->upload_rate ? network_limit(op, op->slot, e) : 0;
}

int network_leave_tap(const struct vm_op *op, struct err *e)
{
    auto_span span = {0};

    if (!op->slot || !op->spec->driver->opens_tap)
        return 0;
    span = op_span(&op->job.op, "network_leave");
    return slot_leave(&op->job.op, op->slot, e);
}

void network_return_tap(const struct vm_op *op)
{
    auto_span span = {0};

    if (!op->slot || !op->spec->driver->opens_tap)
        return;
    span = op_span(&op->job.op, "network_return");
    slot_return(op->slot, op->started.pidfd);
}

void network_let_go(struct vm_op *op)
{
    if (!op->world || !op->world->net)
        return;
    net_release(op->world->net, op->slot);
    net_give_back(op->world->net, op->fresh_address);
    op->slot = NULL;
    op->fresh_address = 0;
}

struct net_slot *network_hand_over(struct vm_world *w, struct vm_op *op)
{
    struct net_slot *slot = op->slot;

    op->slot = NULL;
    op->fresh_address = 0;
    if (slot)
        net_settle(w->net, slot);
    return slot;
}

void network_adopt_address(struct vm_world *w, struct instance *row)
{
    char text[ADDRESS_TEXT_SIZE];

    if (row->run.address == 0 || !w->net || !net_is_on(w->net))
        return;
    if (net_adopt_address(w->net, row->run.address)) {
        network_name(w, row);
        return;
    }
    log_warn("instance %s: its address %s is not of network.subnet_cidr any more; it gets another "
             "when it starts",
             row->id,
             address_text(row->run.address, text));
    row->run.address = 0;
}

struct net_slot *network_adopt_slot(struct vm_world *w, const struct instance *row, int pidfd)
{
    struct net_slot *slot;
    struct err e = {0};

    if (row->run.address == 0 || !has_network(w, row->spec))
        return NULL;
    slot = net_adopt_slot(w->net, row->run.address, pidfd);
    if (!slot)
        log_warn("instance %s: its VMM has no TAP; it has no network until it is restarted",
                 row->id);
    else if ((row->spec->download_rate || row->spec->upload_rate) &&
             net_limit(w->net, slot, row->spec->download_rate, row->spec->upload_rate, &e) < 0)
        log_warn("instance %s: %s", row->id, e.msg);
    if (slot && row->spec->n_ports > 0)
        net_adopt_ports(w->net, slot, row->spec->ports, row->spec->n_ports);
    return slot;
}

const struct net_plan *network_of_vmm(const struct vm_op *op)
{
    const struct net *net = op->env->net;

    return op->spec->network_enabled && op->spec->driver->makes_network && net &&
                   net_leaves_it_to_vmm(net)
               ? net_plan(net)
               : NULL;
}

struct spec_network network_of_guest(const struct vm_op *op)
{
    return (struct spec_network){
        .plan = op->slot ? net_plan(op->env->net) : network_of_vmm(op),
        .address = op->slot ? op->run.address : 0,
        .gateway_knows_names = op->slot && !net_why_no_names(op->env->net),
    };
}
