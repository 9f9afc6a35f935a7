/* SPDX-License-Identifier: Apache-2.0 */
#include "bare.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "vm/overlay.h"
#include "vmm/qemu.h"
#include "vmm/sock.h"
#include "wire/config_disk.h"

enum { MEMORY = 256 << 20, BOOT_MS = 120000 };

void bare_keep_disks(struct bench *b, struct bare *bare)
{
    static const char *const disks[] = {VMM_IMAGE, VMM_OVERLAY, VMM_CONFIG_DISK};
    struct err e = {0};
    json_t *row = json_loads(api(b, "GET /instances/bench", NULL, 200), 0, NULL);
    auto_free char *path =
        mem_printf("%s/data/instances/%s", b->root, json_string_value(json_object_get(row, "id")));
    auto_close int from_fd = dir_open(AT_FDCWD, path, &e);

    must(from_fd, &e);
    must(dir_ensure(b->root_fd, "bare", 0700, &e), &e);
    bare->dir_fd = dir_open(b->root_fd, "bare", &e);
    for (size_t i = 0; i < sizeof(disks) / sizeof(disks[0]); i++) {
        auto_close int fd = openat(from_fd, disks[i], O_RDONLY | O_CLOEXEC);

        must(fd < 0 ? -1 : sparse_copy(fd, bare->dir_fd, disks[i], 0600, &e), &e);
    }
    json_decref(row);
}

/* One file of a cpio archive, or its end. */
static void put_cpio(struct buf *out, const struct bare_file *file)
{
    static const char zeros[4];

    buf_printf(out,
               "070701%08x%08x%08x%08x%08x%08x%08zx%08x%08x%08x%08x%08zx%08x%s",
               1U,
               file->mode,
               0U,
               0U,
               1U,
               0U,
               file->content ? file->content->len : 0,
               0U,
               0U,
               0U,
               0U,
               strlen(file->name) + 1,
               0U,
               file->name);
    buf_append(out, zeros, 1);
    buf_append(out, zeros, -out->len & 3);
    if (file->content)
        buf_append(out, file->content->data, file->content->len);
    buf_append(out, zeros, -out->len & 3);
}

static char *guest_file(const struct bench *b, const char *name)
{
    auto_free char *build = mem_strdup(b->binary);
    char *end = strrchr(build, '/');

    if (end)
        *end = '\0';
    return mem_printf("%s/guest/%s", build, name);
}

/* The initramfs with one more archive behind it, whose files come over those of the first. */
static char *with_files(struct bench *b, const char *initramfs, const struct bare_file *files,
                        size_t n)
{
    auto_buf struct buf all = BUF(64 << 20);
    struct err e = {0};

    must(file_read(AT_FDCWD, initramfs, &all, &e), &e);
    for (size_t i = 0; i < n; i++)
        put_cpio(&all, &files[i]);
    put_cpio(&all, &(struct bare_file){.name = "TRAILER!!!"});
    must(file_replace(b->root_fd, "initramfs", 0644, all.data, all.len, &e), &e);
    return mem_printf("%s/initramfs", b->root);
}

void bare_prepare_with(struct bench *b, struct bare *bare, const struct bare_file *files, size_t n)
{
    struct op op = {clock_ms() + 20000, -1};
    struct err e = {0};
    auto_free char *kernel = guest_file(b, "vmlinux");
    auto_free char *initramfs = guest_file(b, "initramfs.cpio");
    auto_free char *both = n > 0 ? with_files(b, initramfs, files, n) : NULL;
    struct vmm_host_settings settings = {
        .accel = ACCEL_AUTO, .kernel = kernel, .initramfs = both ? both : initramfs};

    must(vmm_host_probe(&op, &settings, &bare->host, &e), &e);
}

void bare_prepare(struct bench *b, struct bare *bare, const char *init)
{
    auto_free char *path = init ? guest_file(b, init) : NULL;
    auto_buf struct buf program = BUF(16 << 20);
    struct err e = {0};

    if (init)
        must(file_read(AT_FDCWD, path, &program, &e), &e);
    bare_prepare_with(b, bare, &(struct bare_file){"init", 0100755, &program}, init ? 1 : 0);
}

void bare_configure(struct bare *bare, const char *config_json)
{
    auto_buf struct buf disk = BUF(2 * CONFIG_MAX);
    struct err e = {0};

    config_disk_make(&disk, config_json, strlen(config_json));
    must(file_replace(bare->dir_fd, VMM_CONFIG_DISK, 0600, disk.data, disk.len, &e), &e);
}

char *bare_wait_output(struct bare *bare, const char *text)
{
    struct op op = {clock_ms() + BOOT_MS, -1};
    struct err e = {0};

    for (;;) {
        auto_buf struct buf log = BUF(1 << 20);

        if (file_read(bare->dir_fd, VMM_SERIAL_LOG, &log, &e) == 0 && strstr(buf_str(&log), text))
            return mem_strdup(buf_str(&log));
        err_clear(&e);
        must(op_sleep(&op, 5, &e), &e);
    }
}

static int memory_fd(void)
{
    int fd = memfd_create("bench", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, MEMORY) < 0)
        give_up("no memory for the guest");
    return fd;
}

void bare_start(struct bare *bare)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err e = {0};
    struct vmm_boot boot = {.host = &bare->host,
                            .name = "bare",
                            .dir_fd = bare->dir_fd,
                            .vcpus = 1,
                            .memory_bytes = MEMORY,
                            .tap_fd = -1};
    int fds[4];

    must(vmm_clear_sockets(bare->dir_fd, &e), &e);
    (void)unlinkat(bare->dir_fd, VMM_SERIAL_LOG, 0);
    fds[0] = sock_listen(bare->dir_fd, VMM_API_SOCKET, &e);
    fds[1] = sock_listen(bare->dir_fd, VMM_EVENTS_SOCKET, &e);
    fds[2] = sock_listen(bare->dir_fd, VMM_AGENT_SOCKET, &e);
    fds[3] = memory_fd();
    must(e.code ? -1 : 0, &e);
    qemu_argv(&argv, &qemu_machine_microvm, &boot, QEMU_BOOT);
    spec.pass_fds = fds;
    spec.n_pass_fds = 4;
    spec.cwd_fd = bare->dir_fd;
    bare->vm.pidfd = proc_spawn(&spec, &bare->vm.id, &e);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    must(bare->vm.pidfd, &e);
}

void bare_end(struct bare *bare)
{
    struct op op = {clock_ms() + 10000, -1};
    struct err e = {0};

    must(proc_kill(&op, bare->vm.pidfd, &e), &e);
    close(take_fd(&bare->vm.pidfd));
}
