/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/cloud_hypervisor.h"
#include "vmm/firecracker.h"
#include "vmm/qemu.h"

enum { KILL_MS = 10000 };

static const struct vmm_driver *const drivers[] = {
    &cloud_hypervisor_driver,
    &firecracker_driver,
    &qemu_microvm_driver,
    &qemu_q35_driver,
    NULL,
};

const struct vmm_driver *vmm_driver_at(size_t i)
{
    return drivers[i];
}

const struct vmm_driver *vmm_find(const char *name)
{
    for (size_t i = 0; drivers[i]; i++) {
        if (strcmp(drivers[i]->name, name) == 0)
            return drivers[i];
    }
    return NULL;
}

bool vmm_is_binary(const char *exe)
{
    const char *name = strrchr(exe, '/');

    name = name ? name + 1 : exe;
    for (size_t i = 0; drivers[i]; i++) {
        size_t n = strlen(drivers[i]->binary);

        /* The kernel marks a program whose file has been replaced since. */
        if (strncmp(name, drivers[i]->binary, n) == 0 &&
            (name[n] == '\0' || strcmp(name + n, " (deleted)") == 0))
            return true;
    }
    return false;
}

static int unsupported(const struct vmm_driver *driver, const char *what, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "%s cannot %s", driver->name, what);
}

/* To a client "not found" is an instance, not its VMM. */
static int failed(const char *doing, const char *name, struct err *e)
{
    if (e->code == ERR_NOT_FOUND)
        e->code = ERR_INTERNAL;
    return err_wrap(e, "%s %s", doing, name);
}

int vmm_clear_sockets(int dir_fd, struct err *e)
{
    static const char *const names[] = {
        VMM_API_SOCKET, VMM_EVENTS_SOCKET, VMM_AGENT_SOCKET, VMM_VSOCK_SOCKET};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (unlinkat(dir_fd, names[i], 0) < 0 && errno != ENOENT)
            return err_errno(e, "remove %s", names[i]);
    }
    return 0;
}

void vmm_identity(const struct vmm_driver *driver, const struct vmm_host *host, struct buf *out)
{
    if (driver->identity)
        driver->identity(host, out);
}

int vmm_boot(const struct op *op, const struct vmm_driver *driver, const struct vmm_boot *boot,
             struct vmm_process *out, struct err *e)
{
    struct err ignored = {0};

    if (vmm_clear_sockets(boot->dir_fd, e) == 0 && driver->boot(op, boot, out, e) == 0)
        return 0;
    (void)vmm_clear_sockets(boot->dir_fd, &ignored);
    return failed("start", boot->name, e);
}

int vmm_pause(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    if (!vm->driver->pause)
        return unsupported(vm->driver, "pause", e);
    return vm->driver->pause(op, vm, e) < 0 ? failed("pause", vm->name, e) : 0;
}

int vmm_resume(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    if (!vm->driver->resume)
        return unsupported(vm->driver, "resume", e);
    return vm->driver->resume(op, vm, e) < 0 ? failed("resume", vm->name, e) : 0;
}

int vmm_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
             struct err *e)
{
    if (!vm->driver->save)
        return unsupported(vm->driver, "take a snapshot", e);
    return vm->driver->save(op, vm, save, e) < 0 ? failed("save", vm->name, e) : 0;
}

int vmm_resize(const struct op *op, const struct vmm_handle *vm, uint32_t vcpus,
               uint64_t memory_bytes, struct err *e)
{
    if (!vm->driver->resize)
        return unsupported(vm->driver, "change the size of a VM that runs", e);
    return vm->driver->resize(op, vm, vcpus, memory_bytes, e) < 0 ? failed("resize", vm->name, e)
                                                                  : 0;
}

int vmm_set_balloon(const struct op *op, const struct vmm_handle *vm, uint64_t bytes, struct err *e)
{
    if (!vm->driver->set_balloon)
        return unsupported(vm->driver, "take memory from a guest", e);
    return vm->driver->set_balloon(op, vm, bytes, e) < 0 ? failed("set the balloon of", vm->name, e)
                                                         : 0;
}

int vmm_add_disk(const struct op *op, const struct vmm_handle *vm, const struct vmm_disk *disk,
                 struct err *e)
{
    if (!vm->driver->add_disk)
        return unsupported(vm->driver, "add a disk to a VM that runs", e);
    return vm->driver->add_disk(op, vm, disk, e) < 0 ? failed("add a disk to", vm->name, e) : 0;
}

int vmm_add_card(const struct op *op, const struct vmm_handle *vm, const struct vmm_card *card,
                 struct err *e)
{
    if (!vm->driver->add_card)
        return unsupported(vm->driver, "add a network card to a VM that runs", e);
    return vm->driver->add_card(op, vm, card, e) < 0 ? failed("add a card to", vm->name, e) : 0;
}

int vmm_remove_device(const struct op *op, const struct vmm_handle *vm, const char *id,
                      struct err *e)
{
    if (!vm->driver->remove_device)
        return unsupported(vm->driver, "take a device from a VM that runs", e);
    return vm->driver->remove_device(op, vm, id, e) < 0 ? failed("take a device from", vm->name, e)
                                                        : 0;
}

int vmm_count(const struct op *op, const struct vmm_handle *vm, struct vmm_counters *out,
              struct err *e)
{
    *out = (struct vmm_counters){0};
    if (!vm->driver->count)
        return unsupported(vm->driver, "tell what its devices did", e);
    return vm->driver->count(op, vm, out, e) < 0 ? failed("count what was done by", vm->name, e)
                                                 : 0;
}

int vmm_hold_memory(const struct vmm_handle *vm)
{
    struct err ignored = {0};

    return vm->driver->hold_memory ? vm->driver->hold_memory(vm, &ignored) : -1;
}

int vmm_load(const struct op *op, const struct vmm_driver *driver, const struct vmm_load *load,
             struct vmm_process *out, bool *running_out, struct err *e)
{
    struct err ignored = {0};

    if (!driver->load)
        return unsupported(driver, "load a snapshot", e);
    if (vmm_clear_sockets(load->boot.dir_fd, e) == 0 &&
        driver->load(op, load, out, running_out, e) == 0)
        return 0;
    (void)vmm_clear_sockets(load->boot.dir_fd, &ignored);
    return failed("load", load->boot.name, e);
}

/* Whether the process ended by itself within that time. False too when cancelled. */
static bool ends_within(const struct op *op, int pidfd, int64_t ms)
{
    struct op part = *op;
    struct err ignored = {0};

    if (part.deadline_ms > clock_ms() + ms)
        part.deadline_ms = clock_ms() + ms;
    return op_wait(&part, pidfd, POLLIN, &ignored) == 0;
}

/* A VMM that does not take the button gets no more than its share of the grace for it. */
static void press_button(const struct op *op, const struct vmm_handle *vm, int64_t ms)
{
    struct op part = *op;
    struct err ignored = {0};

    if (part.deadline_ms > clock_ms() + ms)
        part.deadline_ms = clock_ms() + ms;
    (void)vm->driver->power_button(&part, vm, &ignored);
}

int vmm_stop(const struct op *op, const struct vmm_handle *vm, int64_t grace_ms, bool *killed_out,
             struct err *e)
{
    struct op last_moment = {.cancel_fd = -1};
    int64_t until = clock_ms() + grace_ms;
    bool ended = ends_within(op, vm->pidfd, vm->driver->power_button ? grace_ms / 2 : grace_ms);

    if (!ended && vm->driver->power_button && clock_ms() < until) {
        press_button(op, vm, until - clock_ms());
        ended = ends_within(op, vm->pidfd, until - clock_ms());
    }
    if (killed_out)
        *killed_out = !ended;
    /* Also one that has ended by itself: it is reaped there, and a signal harms it no more. */
    last_moment.deadline_ms = clock_ms() + KILL_MS;
    return proc_kill(&last_moment, vm->pidfd, e) < 0 ? failed("kill", vm->name, e) : 0;
}
