/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of a paused QEMU: the state of its devices, which QEMU writes, and
 * its RAM, which we copy (ram.h).
 *
 * A migration would do for RAM that is mapped shared (x-ignore-shared leaves it
 * out), but a VM that was loaded maps its RAM private, and then the stream
 * holds all of it. xen-save-devices-state writes what we want for both: every
 * device and no RAM, in a stream that -incoming takes. It is in every build.
 */
#include "vmm/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "trace/trace.h"
#include "vmm/qmp.h"
#include "vmm/qmp_line.h"
#include "vmm/ram.h"

enum { STATE_ROOM = 1 << 20 }; /* a state takes 25 to 250 KiB */

static int check_paused(const struct op *op, struct qmp *q, struct err *e)
{
    json_auto_t *status = qmp_call(op, q, "query-status", NULL, e);

    if (!status)
        return -1;
    if (qmp_status(status) != VMM_STATUS_PAUSED)
        return err_set(e, ERR_BAD_STATE, "it is %.40s, not paused", qmp_text(status, "status"));
    return 0;
}

/* QEMU opens files by name only; /dev/fdset/N is the name of what it was given. */
static int64_t give_file(const struct op *op, struct qmp *q, int fd, struct err *e)
{
    json_auto_t *set = qmp_call_fd(op, q, "add-fd", NULL, fd, e);
    const json_t *id = json_object_get(set, "fdset-id");

    if (!set)
        return -1;
    if (!json_is_integer(id) || json_integer_value(id) < 0)
        return err_set(e, ERR_INTERNAL, "add-fd: QEMU names no set");
    return json_integer_value(id);
}

/* QEMU says "an IO error has occurred" and no more. */
static int look_for_space(int fd, struct err *e)
{
    if (fallocate(fd, 0, 0, STATE_ROOM) < 0 && errno == ENOSPC)
        e->code = ERR_NO_SPACE;
    return -1;
}

/* live=false: otherwise it would give up its disks, as for a move to another host. */
static int save_devices(const struct op *op, const struct vmm_handle *vm, int state_fd,
                        struct err *e)
{
    auto_span span = op_span(op, "save_devices");
    auto_qmp struct qmp q = QMP_CLOSED;
    auto_buf struct buf save = BUF(128);
    auto_buf struct buf remove = BUF(128);
    int64_t set;

    if (qmp_open(op, vm->dir_fd, VMM_API_SOCKET, &q, e) < 0 || check_paused(op, &q, e) < 0)
        return -1;
    set = give_file(op, &q, state_fd, e);
    if (set < 0)
        return -1;
    buf_printf(&save, "{\"filename\":\"/dev/fdset/%" PRId64 "\",\"live\":false}", set);
    buf_printf(&remove, "{\"fdset-id\":%" PRId64 "}", set);
    if (qmp_do(op, &q, "xen-save-devices-state", buf_str(&save), e) < 0)
        return look_for_space(state_fd, e);
    return qmp_do(op, &q, "remove-fd", buf_str(&remove), e);
}

static int create(int dir_fd, const char *name, int flags, struct err *e)
{
    int fd = openat(dir_fd, name, flags | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    return fd < 0 ? err_errno(e, "create %s", name) : fd;
}

static int save_memory(const struct op *op, const struct vmm_handle *vm,
                       const struct vmm_save *save, struct err *e)
{
    auto_span span = op_span(op, save->ahead ? "save_memory_ahead" : "save_memory");
    auto_close int fd = create(save->snapshot_dir_fd, "memory", O_RDWR, e);

    return fd < 0 ? -1 : ram_save(op, vm->pidfd, QEMU_RAM_FD, fd, e);
}

int qemu_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
              struct err *e)
{
    auto_close int state_fd = -1;

    if (save->ahead)
        return save_memory(op, vm, save, e);
    state_fd =
        create(save->snapshot_dir_fd, "state", O_WRONLY | O_EXCL, e); /* QEMU wants just that */
    if (state_fd < 0 || save_devices(op, vm, state_fd, e) < 0)
        return -1;
    return save_memory(op, vm, save, e);
}

int qemu_hold_memory(const struct vmm_handle *vm, struct err *e)
{
    return ram_file(vm->pidfd, QEMU_RAM_FD, e);
}
