/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "net/slot.h"
#include "vm/network.h"
#include "vm/overlay.h"
#include "wire/config_disk.h"

/* The image's disk, by hard link: the directory is complete in itself, and the blocks are shared.
 */
static int link_image(const struct vm_op *op, int dir_fd, struct err *e)
{
    const char *digest = strchr(op->spec->image_digest, ':');
    char path[160];
    auto_close int fd = -1;

    (void)snprintf(
        path, sizeof(path), "%s/rootfs.sqfs", digest ? digest + 1 : op->spec->image_digest);
    if (linkat(op->env->images_fd, path, dir_fd, VMM_IMAGE, 0) == 0)
        return 0;
    if (errno == ENOENT)
        return err_set(
            e, ERR_INVALID, "the files of image %s are gone; import it again", op->spec->image);
    if (errno != EMLINK && errno != EXDEV)
        return err_errno(e, "link the disk of image %s", op->spec->image);
    fd = openat(op->env->images_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_errno(e, "open the disk of image %s", op->spec->image);
    return sparse_copy(fd, dir_fd, VMM_IMAGE, 0600, e) < 0 ? -1 : file_sync(dir_fd, VMM_IMAGE, e);
}

static int fill_dir(const struct vm_op *op, int dir_fd, struct err *e)
{
    if (link_image(op, dir_fd, e) < 0 ||
        overlay_create(
            &op->job.op, op->env->templates_fd, op->spec->overlay_bytes, dir_fd, VMM_OVERLAY, e) <
            0)
        return -1;
    return dir_sync(dir_fd, e);
}

int launch_make_dir(struct vm_op *op, struct err *e)
{
    int parent = op->env->instances_fd;
    auto_span span = op_span(&op->job.op, "prepare_directory");
    char temporary[ID_SIZE + 8];
    auto_close int dir_fd = -1;
    struct err ignored = {0};

    (void)snprintf(temporary, sizeof(temporary), ".new-%s", op->id);
    if (mkdirat(parent, temporary, 0700) < 0)
        return err_errno(e, "create the instance's directory");
    dir_fd = dir_open(parent, temporary, e);
    if (dir_fd < 0 || fill_dir(op, dir_fd, e) < 0) {
        (void)tree_remove(parent, temporary, &ignored);
        return -1;
    }
    if (renameat(parent, temporary, parent, op->id) < 0) {
        err_errno(e, "rename the instance's directory");
        (void)tree_remove(parent, temporary, &ignored);
        return -1;
    }
    return dir_sync(parent, e) < 0 ? -1 : take_fd(&dir_fd);
}

static int write_config(const struct vm_op *op, uint64_t incarnation, struct err *e)
{
    auto_buf struct buf config = BUF(CONFIG_MAX);
    auto_buf struct buf disk = BUF(CONFIG_OFFSET + CONFIG_MAX + 4096);
    struct spec_network network = network_of_guest(op);
    auto_span span = op_span(&op->job.op, "config_disk");

    if (spec_guest_config(&config, op->spec, op->id, incarnation, &network, e) < 0)
        return -1;
    config_disk_make(&disk, config.data, config.len);
    return file_replace(op->dir_fd, VMM_CONFIG_DISK, 0600, disk.data, disk.len, e);
}

/* A third address of the guest's subnet, for names; 0: there is none. */
static uint32_t spare_address(const struct net_plan *p)
{
    uint32_t last = p->inner_net.base | ~subnet_mask(p->inner_net);

    for (uint32_t a = p->inner_net.base + 1; a < last; a++) {
        if (a != p->inner && a != p->gateway)
            return a;
    }
    return 0;
}

static void plan_user_net(const struct net_plan *p, struct vmm_user_net *out)
{
    uint32_t dns = p ? spare_address(p) : 0;

    if (dns == 0)
        return;
    (void)subnet_text(p->inner_net, out->subnet);
    (void)address_text(p->inner, out->guest);
    (void)address_text(p->gateway, out->gateway);
    (void)address_text(dns, out->dns);
}

struct vmm_boot launch_plan(const struct vm_op *op)
{
    struct vmm_boot boot = {
        .host = op->env->host,
        .name = op->spec->name,
        .dir_fd = op->dir_fd,
        .vcpus = op->spec->vcpus,
        .memory_bytes = op->spec->memory_bytes,
        .hotplug_bytes = op->spec->hotplug_bytes,
        .rates = {.disk_bytes = op->spec->disk_rate},
        .tap_fd = op->slot ? op->slot->fd : -1,
        .tap_name = op->slot && op->spec->driver->opens_tap ? op->slot->tap : NULL,
    };

    plan_user_net(network_of_vmm(op), &boot.user_net);
    return boot;
}

static int boot_vmm(struct vm_op *op, struct err *e)
{
    struct vmm_boot boot;
    int rc = network_leave_tap(op, e);

    boot = launch_plan(op); /* a slot that was just made has its file only now */
    if (rc == 0)
        rc = vmm_boot(&op->job.op, op->spec->driver, &boot, &op->started, e);
    network_return_tap(op);
    return rc;
}

int launch_boot(struct vm_op *op, struct err *e)
{
    uint64_t incarnation = op->run.incarnation + 1;

    if (network_bind(op, "network", e) < 0 || write_config(op, incarnation, e) < 0)
        return -1;
    if (boot_vmm(op, e) < 0)
        return -1;
    op->run.incarnation = incarnation;
    op->run.boot = incarnation;
    op->run.proc = op->started.id;
    memcpy(op->run.boot_id, op->env->boot_id, sizeof(op->run.boot_id));
    vm_run_clear_exit(&op->run);
    op->run.restarts = 0;
    vm_run_enter(&op->run, VM_INITIALIZING, VM_BY_REQUEST, wall_us());
    op->run.started_us = op->run.since_us;
    op->run.stopped_us = 0;
    return 0;
}

void launch_undo(struct vm_op *op)
{
    struct op last_moment = {clock_ms() + 30000, -1};
    struct err e = {0};

    if (op->started.pidfd < 0)
        return;
    if (proc_kill(&last_moment, op->started.pidfd, &e) < 0)
        log_error("instance %s: its VMM could not be ended: %s", op->id, e.msg);
    close(take_fd(&op->started.pidfd));
}

static int commit(const struct vm_op *op, struct store_change *change, struct err *e)
{
    auto_span span = op_span(&op->job.op, "store.commit");

    return store_commit(op->env->store, change, e);
}

struct store_change *launch_change_state(const struct vm_op *op)
{
    struct store_change *change = store_change_new();
    auto_buf struct buf state = BUF(16 * 1024);

    vm_run_write(&state, &op->run);
    instances_put_state(change, op->id, buf_str(&state));
    return change;
}

struct store_change *launch_change_all(const struct vm_op *op)
{
    struct store_change *change = store_change_new();
    auto_buf struct buf spec = BUF(16 << 20);
    auto_buf struct buf state = BUF(16 * 1024);
    struct instance_record record = {.id = op->id, .name = op->spec->name};

    spec_write(&spec, op->spec);
    vm_run_write(&state, &op->run);
    record.spec = buf_str(&spec);
    record.state = buf_str(&state);
    instances_put(change, &record);
    return change;
}

int launch_commit_state(struct vm_op *op, struct err *e)
{
    return commit(op, launch_change_state(op), e);
}

int launch_commit_all(struct vm_op *op, struct err *e)
{
    return commit(op, launch_change_all(op), e);
}

int launch_await_directory(const struct vm_op *op, struct err *e)
{
    auto_span span = op_span(&op->job.op, "await_directory");

    return beside_end(op->beside, e);
}

int launch_commit_fork(struct vm_op *op, struct err *e)
{
    return launch_await_directory(op, e) < 0 ? -1 : launch_commit_all(op, e);
}
