/* SPDX-License-Identifier: Apache-2.0 */
#include "firecracker_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scm.h"

enum { COUNT_AT = 2 << 20, PAGE = 4096 };

static int failed(struct buf *why, const char *what)
{
    buf_printf(why, "%s: %s (os error %d)", what, strerror(errno), errno);
    return -1;
}

static const char *text(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : "";
}

const char *vm_format(const struct vm *vm)
{
    return vm->minor >= 16   ? "10.0.0"
           : vm->minor == 15 ? "9.0.0"
           : vm->minor >= 13 ? "8.0.0"
                             : "6.0.0";
}

bool vm_resets(const struct vm *vm)
{
    const char *kernel = text(json_object_get(vm->config, "boot-source"), "kernel_image_path");
    const char *name = strrchr(kernel, '/');

    return vm->phase == VM_RUNNING && strcmp(name ? name + 1 : kernel, "tiny-reset") == 0;
}

/* --- time, for the guest --- */

static void set_count(struct vm *vm)
{
    uint32_t count = (uint32_t)(vm->base_count + (uint64_t)(clock_us() - vm->running_since_us) + 1);

    if (vm->memory_size > COUNT_AT + sizeof(count))
        memcpy(vm->memory + COUNT_AT, &count, sizeof(count));
}

void vm_run(struct vm *vm)
{
    uint32_t count = 0;

    if (vm->memory_size > COUNT_AT + sizeof(count))
        memcpy(&count, vm->memory + COUNT_AT, sizeof(count));
    vm->base_count = count;
    vm->running_since_us = clock_us();
    vm->phase = VM_RUNNING;
}

void vm_pause(struct vm *vm)
{
    if (vm->phase != VM_RUNNING)
        return;
    set_count(vm);
    vm->phase = VM_PAUSED;
    vm->counts.pauses++;
}

void vm_resume(struct vm *vm)
{
    if (vm->phase != VM_PAUSED)
        return;
    vm_run(vm);
    vm->counts.resumes++;
}

/* --- devices --- */

static int open_drives(struct vm *vm, struct buf *why)
{
    const char *id;
    json_t *drive;

    json_object_foreach(json_object_get(vm->config, "drives"), id, drive)
    {
        const char *path = text(drive, "path_on_host");
        bool read_only = json_is_true(json_object_get(drive, "is_read_only"));
        int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);

        if (fd < 0) {
            (void)failed(why, "Error manipulating the backing file");
            buf_printf(why, " %s", path);
            return -1;
        }
        vm->drive_fds[vm->n_drives++] = fd;
    }
    return 0;
}

static int bind_vsock(struct vm *vm, struct buf *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = text(json_object_get(vm->config, "vsock"), "uds_path");

    if (!*path)
        return 0;
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    vm->vsock_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (bind(vm->vsock_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(vm->vsock_fd, 16) < 0)
        return failed(
            why,
            "Cannot create backend for vsock device: Error binding to the host-side Unix socket");
    return 0;
}

/* As the real one does: one that is not there is made, one that is in use is refused. */
static int open_taps(struct vm *vm, struct buf *why)
{
    const char *id;
    json_t *nic;

    json_object_foreach(json_object_get(vm->config, "nics"), id, nic)
    {
        struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
        int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

        (void)snprintf(
            request.ifr_name, sizeof(request.ifr_name), "%s", text(nic, "host_dev_name"));
        if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
            return failed(why, "Open tap device failed: Error while creating ifreq structure");
    }
    return 0;
}

int vm_plug_in(struct vm *vm, struct buf *why)
{
    return open_drives(vm, why) < 0 || open_taps(vm, why) < 0 ? -1 : bind_vsock(vm, why);
}

static size_t memory_size(const struct vm *vm)
{
    const json_t *machine = json_object_get(vm->config, "machine-config");
    json_int_t mib = json_integer_value(json_object_get(machine, "mem_size_mib"));

    return (size_t)(mib > 0 ? mib : 128) << 20;
}

int vm_start(struct vm *vm, struct buf *why)
{
    const char *kernel = text(json_object_get(vm->config, "boot-source"), "kernel_image_path");

    if (!*kernel || access(kernel, R_OK) < 0)
        return failed(why, "Start microvm error: Cannot open the kernel file");
    vm->memory_size = memory_size(vm);
    vm->memory =
        mmap(NULL, vm->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vm->memory == MAP_FAILED)
        return failed(why, "Start microvm error: Cannot create the guest's memory");
    if (vm_plug_in(vm, why) < 0)
        return -1;
    (void)!write(STDOUT_FILENO, "up\n", 3);
    vm->counts.boots++;
    vm_run(vm);
    return 0;
}

/* --- snapshots --- */

static int write_state(const struct vm *vm, const char *path, struct buf *why)
{
    char *config = json_dumps(vm->config, 0);
    FILE *file = fopen(path, "we");

    if (!file) {
        free(config);
        return failed(why, "Cannot open the snapshot file");
    }
    (void)fprintf(file, "firecracker-double %s\n%s\n", vm_format(vm), config);
    (void)fflush(file);
    (void)fsync(fileno(file));
    (void)fclose(file);
    free(config);
    return 0;
}

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* A difference holds what was written: here the page of the count. A right-sized file is
 * overwritten in place, as the real one does. */
static int write_memory(const struct vm *vm, const char *path, bool is_difference, struct buf *why)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return failed(why, "Cannot open the memory file");
    if ((size_t)st.st_size != vm->memory_size &&
        (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)vm->memory_size) < 0))
        return failed(why, "Cannot set the memory file's length");
    for (size_t at = 0; at < vm->memory_size; at += PAGE) {
        if (is_difference ? at != COUNT_AT : is_zero(vm->memory + at))
            continue;
        if (pwrite(fd, vm->memory + at, PAGE, (off_t)at) != PAGE)
            return failed(why, "Cannot write the memory");
    }
    (void)fsync(fd);
    close(fd);
    return 0;
}

int vm_save(struct vm *vm, const json_t *body, struct buf *why)
{
    bool is_difference = strcmp(text(body, "snapshot_type"), "Diff") == 0;

    if (vm->phase != VM_PAUSED) {
        buf_puts(why,
                 "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
                 "save/restore unavailable while running");
        return -1;
    }
    if (write_state(vm, text(body, "snapshot_path"), why) < 0 ||
        write_memory(vm, text(body, "mem_file_path"), is_difference, why) < 0)
        return -1;
    vm->counts.saves++;
    return 0;
}

static int read_state(struct vm *vm, const char *path, struct buf *why)
{
    FILE *file = fopen(path, "re");
    char format[32] = "";
    json_error_t e;

    if (!file)
        return failed(why, "Failed to open snapshot file");
    if (fscanf(file, "firecracker-double %31s", format) != 1) {
        (void)fclose(file);
        buf_puts(why, "Failed to load snapshot state from file: CRC64 validation failed");
        return -1;
    }
    if (strcmp(format, vm_format(vm)) != 0) {
        (void)fclose(file);
        buf_printf(
            why, "Failed to load snapshot state from file: Invalid data version: %s", format);
        return -1;
    }
    json_decref(vm->config);
    vm->config = json_loadf(file, 0, &e);
    (void)fclose(file);
    if (vm->config)
        return 0;
    buf_puts(why, "Failed to load snapshot state from file: CRC64 validation failed");
    return -1;
}

static int override(struct vm *vm, const json_t *body, struct buf *why)
{
    json_t *vsock = json_object_get(body, "vsock_override");
    size_t i;
    json_t *nic;

    json_array_foreach(json_object_get(body, "network_overrides"), i, nic)
    {
        json_t *own = json_object_get(json_object_get(vm->config, "nics"), text(nic, "iface_id"));

        if (!own) {
            buf_puts(why, "Unknown Network Device.");
            return -1;
        }
        json_object_set_new(own, "host_dev_name", json_string(text(nic, "host_dev_name")));
    }
    if (!vsock)
        return 0;
    if (!json_object_get(vm->config, "vsock")) {
        buf_puts(why, "Unknown Vsock Device.");
        return -1;
    }
    json_object_set_new(
        json_object_get(vm->config, "vsock"), "uds_path", json_string(text(vsock, "uds_path")));
    return 0;
}

static int map_file(struct vm *vm, const char *path, struct buf *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return failed(why, "Failed to load guest memory: Failed to load guest memory");
    if ((size_t)st.st_size < vm->memory_size) {
        buf_puts(why,
                 "Failed to load guest memory: Failed to restore guest memory: the file is smaller "
                 "than the mapping");
        return -1;
    }
    vm->memory = mmap(NULL, vm->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    close(fd);
    return vm->memory == MAP_FAILED ? failed(why, "Cannot map the guest's memory") : 0;
}

/* One message with one fd: here of a memory file, where the real one sends its userfaultfd. */
static int hand_over(const struct vm *vm, int fd, struct buf *why)
{
    char text_of[160];
    int n = snprintf(text_of,
                     sizeof(text_of),
                     "[{\"base_host_virt_addr\":%llu,\"size\":%zu,\"offset\":0,\"page_size\":4096,"
                     "\"page_size_kib\":4096}]",
                     (unsigned long long)(uintptr_t)vm->memory,
                     vm->memory_size);

    return scm_send(vm->uffd_socket, text_of, (size_t)n, fd) == n
               ? 0
               : failed(why, "Failed to sends file descriptor");
}

static int ask_handler(struct vm *vm, const char *path, struct buf *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = memfd_create("guest", MFD_CLOEXEC);
    int rc;

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    vm->uffd_socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(vm->uffd_socket, (struct sockaddr *)&address, sizeof(address)) < 0)
        return failed(why, "Failed to load guest memory: Failed to connect to UDS Unix stream");
    if (fd < 0 || ftruncate(fd, (off_t)vm->memory_size) < 0)
        return failed(why, "Cannot make the guest's memory");
    vm->memory = mmap(NULL, vm->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    rc = vm->memory == MAP_FAILED ? failed(why, "Cannot map the guest's memory")
                                  : hand_over(vm, fd, why);
    close(fd);
    return rc;
}

int vm_load(struct vm *vm, const json_t *body, struct buf *why)
{
    const json_t *backend = json_object_get(body, "mem_backend");
    const char *path = text(backend, "backend_path");
    bool is_uffd = strcmp(text(backend, "backend_type"), "Uffd") == 0;

    if (read_state(vm, text(body, "snapshot_path"), why) < 0 || override(vm, body, why) < 0)
        return -1;
    vm->memory_size = memory_size(vm);
    if ((is_uffd ? ask_handler(vm, path, why) : map_file(vm, path, why)) < 0 ||
        vm_plug_in(vm, why) < 0)
        return -1;
    vm->phase = VM_PAUSED;
    vm->counts.loads++;
    if (json_is_true(json_object_get(body, "resume_vm")))
        vm_resume(vm);
    return 0;
}
