/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of a paused Cloud Hypervisor: the state of its devices, which it writes
 * into a directory of its own, and the RAM.
 *
 * RAM that it maps shared from a file with a name it leaves out, and we copy it
 * (ram.h). RAM of a VM that was loaded is mapped private; that it writes out itself,
 * zeroes and all, and says so in the state. Its file is then the memory, once the
 * zeroes are holes, and the state is made to say that nothing was written, so that it
 * is mapped like any other.
 */
#include "vmm/cloud_hypervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "trace/trace.h"
#include "vmm/ram.h"
#include "vmm/ram_disk.h"

enum { STATE_MAX = 64 << 20 };

#define OWN_STATE VMM_SAVE_DIR "/state.json"
#define OWN_MEMORY VMM_SAVE_DIR "/memory-ranges"

/* Its directory is below its own, so that the name is relative and Landlock lets it. */
static int write_own(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    auto_span span = op_span(op, "save_devices");

    if (tree_remove(vm->dir_fd, VMM_SAVE_DIR, e) < 0)
        return -1;
    if (mkdirat(vm->dir_fd, VMM_SAVE_DIR, 0700) < 0)
        return err_errno(e, "create the snapshot's directory");
    return cloud_hypervisor_command(
        op, vm, "PUT vm.snapshot", "{\"destination_url\":\"file://" VMM_SAVE_DIR "\"}", NULL, e);
}

/* The memory manager's part of the state is a document within a string. */
static json_t *find_part(json_t *state)
{
    json_t *parts = json_object_get(state, "snapshots");

    return json_object_get(json_object_get(parts, "memory-manager"), "snapshot_data");
}

/* What was added later comes before the rest in what it wrote, and has no place in our file. */
static int refuse_added(const char *text, const struct vmm_handle *vm, off_t written, struct err *e)
{
    struct err ignored = {0};
    auto_close int own_fd = cloud_hypervisor_hold_memory(vm, &ignored);
    char all_of_it[64];

    (void)snprintf(all_of_it, sizeof(all_of_it), "\"boot_ram\":%lld,", (long long)written);
    if (!text || !strstr(text, "\"boot_ram\":"))
        return err_set(e, ERR_INTERNAL, "Cloud Hypervisor wrote a state of another form");
    if (own_fd < 0 && strstr(text, all_of_it))
        return 0;
    return err_set(
        e, ERR_BAD_STATE, "the guest has memory that was added while it ran; take it back first");
}

/* As text: it holds numbers that are too big for a JSON library. */
static int forget_ranges(json_t *part, struct err *e)
{
    static const char list[] = "\"memory_ranges\":{\"data\":[";
    const char *text = json_string_value(json_object_get(part, "state"));
    const char *from = text ? strstr(text, list) : NULL;
    const char *to = from ? strchr(from + sizeof(list), ']') : NULL;
    auto_buf struct buf edited = BUF(STATE_MAX);

    if (!to)
        return err_set(e, ERR_INTERNAL, "Cloud Hypervisor wrote a state of another form");
    buf_append(&edited, text, (size_t)(from - text) + sizeof(list) - 1);
    buf_puts(&edited, to);
    return json_object_set_new(part, "state", json_string(buf_str(&edited))) == 0
               ? 0
               : err_set(e, ERR_INTERNAL, "the state could not be edited");
}

/* The copy of the memory is where the zone's file is said to be: nothing is to be read in. */
static int take_edited_state(const struct vmm_handle *vm, int to_fd, off_t written, struct err *e)
{
    auto_buf struct buf text = BUF(STATE_MAX);
    auto_free char *edited = NULL;
    json_auto_t *state = NULL;
    json_t *part;

    if (file_read(vm->dir_fd, OWN_STATE, &text, e) < 0)
        return -1;
    state = parse_json(buf_str(&text), text.len, e);
    part = find_part(state);
    if (!state ||
        refuse_added(json_string_value(json_object_get(part, "state")), vm, written, e) < 0 ||
        forget_ranges(part, e) < 0)
        return -1;
    edited = json_dumps(state, JSON_COMPACT);
    return edited ? file_replace(to_fd, "state", 0600, edited, strlen(edited), e)
                  : err_set(e, ERR_INTERNAL, "the state could not be edited");
}

static int take_own_memory(const struct op *op, const struct vmm_handle *vm, int to_fd,
                           struct err *e)
{
    auto_span span = op_span(op, "save_memory");
    auto_close int fd = openat(vm->dir_fd, OWN_MEMORY, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return err_errno(e, "open the memory that Cloud Hypervisor wrote");
    if (ram_dig_holes(op, fd, e) < 0)
        return -1;
    if (fchmod(fd, 0600) < 0 || renameat(vm->dir_fd, OWN_MEMORY, to_fd, "memory") < 0)
        return err_errno(e, "take the memory that Cloud Hypervisor wrote");
    return 0;
}

static int copy_memory(const struct op *op, const struct vmm_handle *vm, int to_fd, struct err *e)
{
    auto_span span = op_span(op, "save_memory");
    auto_close int fd = openat(to_fd, "memory", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    return fd < 0 ? err_errno(e, "create the memory file")
                  : ram_save_shared(op, vm->pidfd, CLOUD_HYPERVISOR_RAM_FD, fd, e);
}

static int take_state(const struct vmm_handle *vm, int to_fd, struct err *e)
{
    if (fchmodat(vm->dir_fd, OWN_STATE, 0600, 0) < 0 ||
        renameat(vm->dir_fd, OWN_STATE, to_fd, "state") < 0)
        return err_errno(e, "take the state that Cloud Hypervisor wrote");
    return 0;
}

/* What it wrote says whether the memory is its to write: that of a memfd is, too. */
static int take_files(const struct op *op, const struct vmm_handle *vm, int to_fd, struct err *e)
{
    struct stat st;

    if (fstatat(vm->dir_fd, OWN_MEMORY, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return take_edited_state(vm, to_fd, st.st_size, e) < 0 ? -1
                                                               : take_own_memory(op, vm, to_fd, e);
    return copy_memory(op, vm, to_fd, e) < 0 ? -1 : take_state(vm, to_fd, e);
}

/* The number means something else in one that was loaded. */
int cloud_hypervisor_hold_memory(const struct vmm_handle *vm, struct err *e)
{
    auto_close int fd = ram_file(vm->pidfd, CLOUD_HYPERVISOR_RAM_FD, e);

    if (fd < 0)
        return -1;
    return ram_disk_is(fd) ? take_fd(&fd)
                           : err_set(e, ERR_NOT_FOUND, "the memory is not a file of its own");
}

/* Of memory that it writes out itself there is nothing to be had before the pause. */
static int save_ahead(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
                      struct err *e)
{
    struct err ignored = {0};
    auto_close int fd = cloud_hypervisor_hold_memory(vm, &ignored);

    return fd < 0 ? 0 : copy_memory(op, vm, save->snapshot_dir_fd, e);
}

int cloud_hypervisor_save(const struct op *op, const struct vmm_handle *vm,
                          const struct vmm_save *save, struct err *e)
{
    if (save->ahead)
        return save_ahead(op, vm, save, e);
    if (write_own(op, vm, e) < 0 || take_files(op, vm, save->snapshot_dir_fd, e) < 0)
        return -1;
    return tree_remove(vm->dir_fd, VMM_SAVE_DIR, e);
}
