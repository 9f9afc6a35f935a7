/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "vmm/host.h"

#define HALF_MADE VMM_SNAPSHOT_DIR ".new"
#define MADE_BY "made-by" /* {"incarnation":N,"identity":"..."} */
#define USED "used"       /* what it is called once the snapshot counts for nothing */

enum { MADE_BY_MAX = 64 * 1024 };

static int write_made_by(const struct op *op, int snapshot_fd, const struct vmm_handle *vm,
                         const struct vmm_host *host, uint64_t incarnation, struct err *e)
{
    auto_buf struct buf identity = BUF(MADE_BY_MAX / 8);
    auto_buf struct buf json = BUF(MADE_BY_MAX);
    struct jout j = JOUT(&json);

    if (vmm_host_identity(op, vm->driver, host, vm->pidfd, &identity, e) < 0)
        return -1;
    jout_open(&j, NULL, '{');
    jout_int(&j, "incarnation", (int64_t)incarnation);
    jout_str(&j, "identity", buf_str(&identity));
    jout_close(&j, '}');
    return file_replace(snapshot_fd, MADE_BY, 0600, json.data, json.len, e);
}

static int new_dir(int parent_fd, const char *name, struct err *e)
{
    return mkdirat(parent_fd, name, 0700) < 0 ? err_errno(e, "create the snapshot's directory")
                                              : dir_open(parent_fd, name, e);
}

static int save_part(const struct op *op, const struct vmm_handle *vm, bool ahead, int snapshot_fd,
                     struct err *e)
{
    return snapshot_fd < 0 ? -1 : vmm_save(op, vm, &(struct vmm_save){snapshot_fd, ahead}, e);
}

int snapshot_save_ahead(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    auto_close int snapshot_fd = -1;

    if (snapshot_remove(vm->dir_fd, e) < 0)
        return -1;
    snapshot_fd = new_dir(vm->dir_fd, HALF_MADE, e);
    return save_part(op, vm, true, snapshot_fd, e);
}

int snapshot_save_rest(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    auto_close int snapshot_fd = dir_open(vm->dir_fd, HALF_MADE, e);

    return save_part(op, vm, false, snapshot_fd, e);
}

int snapshot_give(const struct op *op, const struct vmm_handle *vm, const struct vmm_host *host,
                  uint64_t incarnation, int to_fd, struct err *e)
{
    auto_close int snapshot_fd = dir_open(vm->dir_fd, HALF_MADE, e);

    if (snapshot_fd < 0 || write_made_by(op, snapshot_fd, vm, host, incarnation, e) < 0)
        return -1;
    return renameat(vm->dir_fd, HALF_MADE, to_fd, VMM_SNAPSHOT_DIR) < 0
               ? err_errno(e, "give the snapshot away")
               : 0;
}

static int sync_files(int snapshot_fd, struct err *e)
{
    if (file_sync(snapshot_fd, "state", e) < 0 || file_sync(snapshot_fd, "memory", e) < 0)
        return -1;
    return dir_sync(snapshot_fd, e);
}

int snapshot_sync(int dir_fd, struct err *e)
{
    auto_close int snapshot_fd = dir_open(dir_fd, VMM_SNAPSHOT_DIR, e);

    return snapshot_fd < 0 ? -1 : sync_files(snapshot_fd, e);
}

static int sync_disk(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    auto_span span = op_span(op, "sync_disk");

    return file_sync(vm->dir_fd, VMM_OVERLAY, e);
}

static int pause_vm(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    auto_span span = op_span(op, "pause_vm");

    return vmm_pause(op, vm, e);
}

/* Whole on the disk, and the disk that it belongs to as well; then it gets its name. */
static int publish(const struct op *op, int dir_fd, int snapshot_fd, struct err *e)
{
    auto_span span = op_span(op, "sync_snapshot");

    if (sync_files(snapshot_fd, e) < 0 || file_sync(dir_fd, VMM_OVERLAY, e) < 0)
        return -1;
    if (renameat(dir_fd, HALF_MADE, dir_fd, VMM_SNAPSHOT_DIR) < 0)
        return err_errno(e, "publish the snapshot");
    return dir_sync(dir_fd, e);
}

/* What is half made is there before the pause: by it the next start knows of one. */
static int save(const struct op *op, const struct vmm_handle *vm, const struct vmm_host *host,
                uint64_t incarnation, struct err *e)
{
    auto_close int snapshot_fd = new_dir(vm->dir_fd, HALF_MADE, e);

    if (snapshot_fd < 0 || pause_vm(op, vm, e) < 0 ||
        save_part(op, vm, false, snapshot_fd, e) < 0 ||
        write_made_by(op, snapshot_fd, vm, host, incarnation, e) < 0)
        return -1;
    return publish(op, vm->dir_fd, snapshot_fd, e);
}

int snapshot_take(const struct op *op, const struct vmm_handle *vm, const struct vmm_host *host,
                  uint64_t incarnation, struct err *e)
{
    auto_span span = op_span(op, "snapshot");

    /* Most of the disk's dirty pages go out while the guest still runs. */
    if (snapshot_remove(vm->dir_fd, e) < 0 || sync_disk(op, vm, e) < 0)
        return -1;
    if (save(op, vm, host, incarnation, e) < 0)
        return -1;
    return 0;
}

int64_t snapshot_disk_stamp(int dir_fd)
{
    static const char *const disks[] = {VMM_OVERLAY, VMM_CONFIG_DISK};
    int64_t latest = 1; /* a disk that is not there was written to by nobody */

    for (size_t i = 0; i < sizeof(disks) / sizeof(disks[0]); i++) {
        struct stat st;
        int64_t at;

        if (fstatat(dir_fd, disks[i], &st, AT_SYMLINK_NOFOLLOW) < 0) {
            if (errno == ENOENT)
                continue;
            return 0;
        }
        at = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        if (at > latest)
            latest = at;
    }
    return latest;
}

bool snapshot_is_there(int dir_fd)
{
    return faccessat(dir_fd, VMM_SNAPSHOT_DIR, F_OK, 0) == 0 ||
           faccessat(dir_fd, HALF_MADE, F_OK, 0) == 0;
}

static json_t *read_made_by(int dir_fd, struct err *e)
{
    auto_buf struct buf json = BUF(MADE_BY_MAX);
    auto_close int snapshot_fd = dir_open(dir_fd, VMM_SNAPSHOT_DIR, e);

    if (snapshot_fd < 0 || file_read(snapshot_fd, MADE_BY, &json, e) < 0)
        return NULL;
    return parse_json(buf_str(&json), json.len, e);
}

int snapshot_find(int dir_fd, uint64_t incarnation, struct err *e)
{
    json_auto_t *made_by = NULL;

    if (faccessat(dir_fd, VMM_SNAPSHOT_DIR "/" MADE_BY, F_OK, 0) < 0)
        return errno == ENOENT ? 0 : err_errno(e, "look for a snapshot");
    made_by = read_made_by(dir_fd, e);
    if (!made_by)
        return -1;
    return json_integer_value(json_object_get(made_by, "incarnation")) == (json_int_t)incarnation;
}

int snapshot_check_identity(const struct op *op, int dir_fd, const struct vmm_driver *driver,
                            const struct vmm_host *host, struct err *e)
{
    json_auto_t *made_by = read_made_by(dir_fd, e);
    auto_buf struct buf now = BUF(MADE_BY_MAX / 8);
    const char *then;

    if (!made_by || vmm_host_identity(op, driver, host, -1, &now, e) < 0)
        return -1;
    then = json_string_value(json_object_get(made_by, "identity"));
    if (then && strcmp(then, buf_str(&now)) == 0)
        return 0;
    return err_set(e,
                   ERR_BAD_STATE,
                   "the snapshot was made with another hypervisor or host (%.160s; here %.160s); "
                   "stop the instance to give its memory up",
                   then ? then : "unknown",
                   buf_str(&now));
}

/*
 * Without what says who made it it counts for nothing, whatever becomes of the rest. It gets
 * another name: to let go of a file's last name takes a disk far longer. A full disk may
 * have no room for a name, but lets go of one.
 */
int snapshot_withdraw(int dir_fd, struct err *e)
{
    static const char made_by[] = VMM_SNAPSHOT_DIR "/" MADE_BY;

    return renameat(dir_fd, made_by, dir_fd, VMM_SNAPSHOT_DIR "/" USED) < 0 &&
                   unlinkat(dir_fd, made_by, 0) < 0 && errno != ENOENT
               ? err_errno(e, "withdraw the snapshot")
               : 0;
}

int snapshot_use_up(int dir_fd, struct err *e)
{
    return snapshot_withdraw(dir_fd, e) < 0 ? -1 : dir_open(dir_fd, VMM_SNAPSHOT_DIR, e);
}

int snapshot_clear(int dir_fd, int used_fd, struct err *e)
{
    if (dir_clear(used_fd, e) < 0)
        return -1;
    return unlinkat(dir_fd, VMM_SNAPSHOT_DIR, AT_REMOVEDIR) < 0 && errno != ENOENT &&
                   errno != ENOTEMPTY
               ? err_errno(e, "remove a used snapshot")
               : 0;
}

int snapshot_remove(int dir_fd, struct err *e)
{
    static const char *const dirs[] = {VMM_SAVE_DIR, HALF_MADE, VMM_SNAPSHOT_DIR};

    if (snapshot_withdraw(dir_fd, e) < 0)
        return -1;
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        if (tree_remove(dir_fd, dirs[i], e) < 0)
            return -1;
    }
    return 0;
}
