/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud_hypervisor_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_ROOM = 512, PIECE = 1 << 20 };

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

const char *machine_directory(const char *url)
{
    struct stat st;
    const char *path = strncmp(url, "file://", 7) == 0 ? url + 7 : NULL;

    return path && stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? path : NULL;
}

/* What the guest's side of the double reads. */
static void describe_devices(struct machine *m)
{
    json_t *drives = json_object();
    json_t *disk;
    size_t i;

    json_array_foreach(json_object_get(m->config, "disks"), i, disk)
    {
        json_t *drive = json_object();

        json_object_set(drive, "path_on_host", json_object_get(disk, "path"));
        json_object_set(drive, "is_read_only", json_object_get(disk, "readonly"));
        json_object_set_new(drives, text(disk, "id"), drive);
    }
    json_object_set_new(m->vm->config, "drives", drives);
    json_object_set_new(
        m->vm->config,
        "vsock",
        json_pack("{ss}", "uds_path", text(json_object_get(m->config, "vsock"), "socket")));
}

/* One without a file has a memfd. */
static int open_zone(const struct machine *m, const char *file)
{
    int fd;

    if (*file)
        return open(file, (m->is_shared ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    fd = memfd_create("ch_ram", MFD_CLOEXEC);
    return fd >= 0 && ftruncate(fd, (off_t)m->vm->memory_size) == 0 ? fd : -1;
}

static int map_zone(struct machine *m, struct buf *why)
{
    const json_t *memory = json_object_get(m->config, "memory");
    const json_t *zone = json_array_get(json_object_get(memory, "zones"), 0);
    int fd;

    m->is_shared = json_is_true(json_object_get(zone, "shared"));
    m->vm->memory_size = (size_t)json_integer_value(json_object_get(zone, "size"));
    fd = open_zone(m, text(zone, "file"));
    if (fd < 0)
        return failed(why, "Failed to create shared file");
    m->vm->memory = mmap(NULL,
                         m->vm->memory_size,
                         PROT_READ | PROT_WRITE,
                         m->is_shared ? MAP_SHARED : MAP_PRIVATE,
                         fd,
                         0);
    close(fd);
    return m->vm->memory == MAP_FAILED ? failed(why, "Cannot create the guest memory region") : 0;
}

/* Its card has a file that came with a request. */
static int check_card(const struct machine *m, struct buf *why)
{
    if (json_array_size(json_object_get(m->config, "net")) == 0 || m->tap_fd >= 0)
        return 0;
    buf_puts(why, "Cannot open tap device: no file was given");
    return -1;
}

int machine_boot(struct machine *m, struct buf *why)
{
    const char *kernel = text(json_object_get(m->config, "payload"), "kernel");

    describe_devices(m);
    if (access(kernel, R_OK) < 0)
        return failed(why, "Cannot open kernel file");
    if (check_card(m, why) < 0 || map_zone(m, why) < 0 || vm_plug_in(m->vm, why) < 0)
        return -1;
    (void)!write(STDOUT_FILENO, "up\n", 3);
    m->vm->counts.boots++;
    vm_run(m->vm);
    return 0;
}

/* As the real one does it: a file that is there already is an error. The first bytes are zeroes. */
static int write_file(const char *dir, const char *name, size_t zeroes, const void *data,
                      size_t len, struct buf *why)
{
    char path[PATH_ROOM];
    int fd;
    bool whole;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return failed(why, "Error creating the snapshot's file");
    whole = ftruncate(fd, (off_t)(zeroes + len)) == 0 &&
            pwrite(fd, data, len, (off_t)zeroes) == (ssize_t)len;
    close(fd);
    return whole ? 0 : failed(why, "Error writing the snapshot's file");
}

static int write_json(const char *dir, const char *name, const json_t *value, struct buf *why)
{
    char *out = json_dumps(value, JSON_COMPACT);
    int rc = write_file(dir, name, 0, out, strlen(out), why);

    free(out);
    return rc;
}

/* RAM that is shared from a file with a link is left out. */
static bool leaves_memory_out(const struct machine *m)
{
    const json_t *memory = json_object_get(m->config, "memory");
    struct stat st;

    return m->is_shared &&
           stat(text(json_array_get(json_object_get(memory, "zones"), 0), "file"), &st) == 0 &&
           st.st_nlink > 0;
}

/* What was added comes first. */
static int write_memory(const struct machine *m, const char *dir, bool all, struct buf *why)
{
    return write_file(
        dir, "memory-ranges", m->added, m->vm->memory, all ? m->vm->memory_size : 0, why);
}

int machine_save(const struct machine *m, const char *dir, struct buf *why)
{
    bool all = !leaves_memory_out(m);
    struct buf manager = BUF(1024);
    json_t *state;
    int rc;

    /* A number that is too big for most, as it really is there. */
    buf_printf(&manager, "{\"memory_ranges\":{\"data\":[");
    if (all)
        buf_printf(&manager, "{\"gpa\":0,\"length\":%zu}", m->vm->memory_size);
    buf_printf(
        &manager,
        "]},\"boot_ram\":%zu,\"arch_mem_regions\":[{\"base\":0,\"size\":18446744073709551615}]}",
        m->vm->memory_size);
    state = json_pack("{s{s{s{ss}}}sI}",
                      "snapshots",
                      "memory-manager",
                      "snapshot_data",
                      "state",
                      buf_str(&manager),
                      "double",
                      (json_int_t)m->vm->minor);
    rc = write_json(dir, "config.json", m->config, why) < 0
             ? -1
             : write_json(dir, "state.json", state, why);
    if (rc == 0 && all + m->added > 0)
        rc = write_memory(m, dir, all, why);
    json_decref(state);
    buf_free(&manager);
    return rc;
}

static json_t *read_json(const char *dir, const char *name)
{
    char path[PATH_ROOM];
    json_error_t ignored;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    return json_load_file(path, 0, &ignored);
}

/* Over the zone's file, page by page. */
static int fill_memory(const struct machine *m, const char *dir, struct buf *why)
{
    char path[PATH_ROOM];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/memory-ranges", dir);
    file = fopen(path, "re");
    if (!file)
        return failed(why, "Failed to open the memory of the snapshot");
    for (size_t at = 0, n; (n = fread(m->vm->memory + at, 1, PIECE, file)) > 0;)
        at += n;
    (void)fclose(file);
    return 0;
}

int machine_restore(struct machine *m, const char *dir, struct buf *why)
{
    json_t *state = read_json(dir, "state.json");
    const json_t *parts = json_object_get(state, "snapshots");
    const char *manager =
        text(json_object_get(json_object_get(parts, "memory-manager"), "snapshot_data"), "state");
    bool is_filled = strncmp(manager, "{\"memory_ranges\":{\"data\":[{", 27) == 0;
    int rc = -1;

    m->config = read_json(dir, "config.json");
    if (!m->config || !*manager)
        buf_puts(why, "Error deserialising VM state snapshot: expected value at line 1 column 1");
    else if (json_integer_value(json_object_get(state, "double")) != (json_int_t)m->vm->minor)
        buf_puts(why, "Error deserialising VM state snapshot: another version wrote it");
    else
        rc = 0;
    json_decref(state);
    if (rc < 0)
        return -1;
    describe_devices(m);
    if (check_card(m, why) < 0 || map_zone(m, why) < 0 ||
        (is_filled && fill_memory(m, dir, why) < 0) || vm_plug_in(m->vm, why) < 0)
        return -1;
    m->vm->phase = VM_PAUSED;
    m->vm->counts.loads++;
    return 0;
}
