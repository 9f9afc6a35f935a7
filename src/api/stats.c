/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "api/handlers.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/jout.h"
#include "base/parse.h"
#include "loop/proc.h"

static void put_number(struct jout *j, const char *key, double v)
{
    char text[64];

    (void)snprintf(text, sizeof(text), "%.3f", v);
    jout_raw(j, key, text);
}

enum { INTERFACE_SIZE = 16 };

/* The TAP that a process holds, by what the kernel says of its fds; false when it holds none. */
static bool find_tap(pid_t pid, char out[INTERFACE_SIZE])
{
    char path[64];
    DIR *dir;
    const struct dirent *d;
    bool found = false;

    (void)snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)pid);
    dir = opendir(path);
    while (dir && !found && (d = readdir(dir))) {
        auto_buf struct buf info = BUF(4096);
        struct err gone = {0};
        const char *name;
        size_t n;

        if (d->d_name[0] == '.' || file_read(dirfd(dir), d->d_name, &info, &gone) < 0)
            continue;
        name = strstr(buf_str(&info), "\niff:\t");
        n = name ? strcspn(name + 6, "\n/") : 0;
        found = n > 0 && n < INTERFACE_SIZE;
        if (found)
            (void)snprintf(out, INTERFACE_SIZE, "%.*s", (int)n, name + 6);
    }
    if (dir)
        closedir(dir);
    return found;
}

static int64_t count_of(const char *interface, const char *counter)
{
    auto_buf struct buf text = BUF(64);
    char path[128];
    struct err gone = {0};
    uint64_t v = 0;

    (void)snprintf(path, sizeof(path), "/sys/class/net/%s/statistics/%s", interface, counter);
    if (file_read(AT_FDCWD, path, &text, &gone) < 0 || text.len == 0)
        return 0;
    text.data[strcspn(text.data, "\n")] = '\0';
    return parse_u64(text.data, 0, INT64_MAX, &v) ? (int64_t)v : 0;
}

/* As the guest sees it: what it receives is what the host has sent. */
static void put_network(struct jout *j, pid_t pid)
{
    char interface[INTERFACE_SIZE];
    bool found = pid > 0 && find_tap(pid, interface);

    jout_int(j, "network_rx_bytes", found ? count_of(interface, "tx_bytes") : 0);
    jout_int(j, "network_tx_bytes", found ? count_of(interface, "rx_bytes") : 0);
}

/*
 * What the instance's process uses, and what it was given. Nothing waits: the
 * kernel counts, and an instance without a process uses nothing.
 */
void api_instances_stats(struct call *c)
{
    const struct instance *row = c->row;
    struct proc_usage used = {0};
    struct err gone = {0};
    struct buf json = BUF(4096);
    struct jout j = JOUT(&json);

    if (vm_state_has_process(row->run.state))
        (void)proc_usage(&row->run.proc, &used, &gone); /* its exit is on its way to the row */
    jout_open(&j, NULL, '{');
    jout_str(&j, "instance_id", row->id);
    jout_str(&j, "instance_name", row->spec->name);
    put_number(&j, "cpu_seconds", (double)used.cpu_ms / 1000);
    jout_int(&j, "memory_rss_bytes", (int64_t)used.resident_bytes);
    jout_int(&j, "memory_vms_bytes", (int64_t)used.virtual_bytes);
    put_network(&j, row->spec->network_enabled && used.resident_bytes ? row->run.proc.pid : 0);
    jout_int(&j, "allocated_vcpus", row->spec->vcpus);
    jout_int(&j, "allocated_memory_bytes", (int64_t)row->spec->memory_bytes);
    if (used.resident_bytes > 0 && row->spec->memory_bytes > 0)
        put_number(&j,
                   "memory_utilization_ratio",
                   (double)used.resident_bytes / (double)row->spec->memory_bytes);
    else
        jout_null(&j, "memory_utilization_ratio");
    jout_close(&j, '}');
    call_reply(c, 200, &json);
}
