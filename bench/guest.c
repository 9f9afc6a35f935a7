/* SPDX-License-Identifier: Apache-2.0 */
/* guest: what our half of a guest weighs: the agent's memory, its program, and the initramfs. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "bench.h"
#include "transport.h"

static double size_kib(const struct bench *b, const char *name)
{
    auto_free char *path = mem_strdup(b->binary);
    auto_free char *file = NULL;
    char *slash = strrchr(path, '/');
    struct stat st;

    if (slash)
        *slash = '\0';
    file = mem_printf("%s/guest/%s", path, name);
    if (stat(file, &st) < 0)
        give_up("there is no %s", file);
    return (double)st.st_size / 1024;
}

/* The agent's VmHWM and VmRSS, by the guest's own word. */
static void agent_memory(struct bench *b)
{
    struct socket s;
    const char *at;

    socket_open(b, &s, "exec", "{\"command\":[\"/bin/cat\",\"/proc/1/status\"]}");
    socket_fill(&s, SIZE_MAX);
    at = strstr(s.first, "VmRSS:");
    if (!at)
        give_up("the guest does not tell of its agent: %s", s.text);
    bench_value(b, "agent_rss", "KiB", strtod(at + strlen("VmRSS:"), NULL));
    socket_close(&s);
}

void bench_guest(struct bench *b)
{
    auto_free char *id = bench_vm(b);

    agent_memory(b);
    bench_value(b, "agent_program", "KiB", size_kib(b, "init"));
    bench_value(b, "initramfs_with_modules", "KiB", size_kib(b, "initramfs.cpio"));
    delete_vm(b, "bench");
}
