/* SPDX-License-Identifier: Apache-2.0 */
/* What a fork cost outside of our own spans: the VMM's faults. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/parse.h"
#include "bench.h"

pid_t vmm_pid(const struct bench *b, const char *id)
{
    auto_free char *dir = mem_printf("%s/data/instances/%s", b->root, id);
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    uint64_t pid = 0;

    while (proc && (entry = readdir(proc)) != NULL) {
        auto_free char *link = mem_printf("/proc/%s/cwd", entry->d_name);
        char cwd[4096];
        ssize_t n;

        if (!parse_u64(entry->d_name, 1, INT32_MAX, &pid))
            continue;
        n = readlink(link, cwd, sizeof(cwd) - 1);
        cwd[n > 0 ? n : 0] = '\0';
        if (strcmp(cwd, dir) == 0) {
            closedir(proc);
            return (pid_t)pid;
        }
    }
    give_up("%s has no process", id);
}

/* The number after a word in a file of /proc/PID. */
static double proc_number(pid_t pid, const char *file, const char *word)
{
    auto_free char *path = mem_printf("/proc/%d/%s", (int)pid, file);
    auto_buf struct buf text = BUF(65536);
    struct err e = {0};
    const char *at;

    must(file_read(AT_FDCWD, path, &text, &e), &e);
    at = strstr(buf_str(&text), word);
    return at ? strtod(at + strlen(word), NULL) : 0;
}

/* The twelfth field of its stat, counted from behind the name. */
static double major_faults(pid_t pid)
{
    auto_free char *path = mem_printf("/proc/%d/stat", (int)pid);
    auto_buf struct buf text = BUF(4096);
    struct err e = {0};
    const char *at;

    must(file_read(AT_FDCWD, path, &text, &e), &e);
    at = strrchr(buf_str(&text), ')');
    for (int i = 0; at && i < 10; i++)
        at = strchr(at + 1, ' ');
    return at ? strtod(at, NULL) : 0;
}

/* "cpu", then user, nice, system, idle, iowait, irq, softirq, steal. */
double processors_stolen(void)
{
    auto_buf struct buf text = BUF(1 << 20);
    struct err e = {0};
    const char *at;

    must(file_read(AT_FDCWD, "/proc/stat", &text, &e), &e);
    at = strstr(buf_str(&text), "cpu ");
    at = at ? strchr(at, ' ') + 1 : NULL;
    for (int i = 0; at && i < 8; i++)
        at = strchr(at + 1, ' ');
    return at ? strtod(at, NULL) : 0;
}

void breakdown_print(const struct bench *b, const struct phases *p, int i, const char *id,
                     double total_ms)
{
    pid_t pid = vmm_pid(b, id);

    (void)fprintf(stderr, "FORK_PHASE_BREAKDOWN iter=%d fork_total_ms=%.3f spans=", i, total_ms);
    for (size_t k = 0; k < p->n; k++)
        (void)fprintf(
            stderr, "%s%s:%.3f", k ? "," : "", p->all[k].name, phases_last(p, p->all[k].name));
    (void)fprintf(stderr,
                  " major_faults=%.0f bytes_read=%.0f\n",
                  major_faults(pid),
                  proc_number(pid, "io", "read_bytes: "));
}
