/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/modules.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/rootfs.h"
#include "agent/sys.h"
#include "base/cleanup.h"

enum { LIST_MAX = 64 * 1024 };

static bool bus_has(const char *alias)
{
    int bus_len = (int)strcspn(alias, ":");
    bool acpi = strncmp(alias, "acpi:", 5) == 0; /* ACPI's devices stand on the platform bus */
    char path[512];
    struct dirent *d;
    bool found = false;
    DIR *dir;

    (void)snprintf(
        path, sizeof(path), "/sys/bus/%.*s/devices", acpi ? 8 : bus_len, acpi ? "platform" : alias);
    dir = opendir(path);
    while (dir && !found && (d = readdir(dir))) {
        auto_buf struct buf text = BUF(4096);
        char file[sizeof(path) + sizeof(d->d_name) + 16];

        (void)snprintf(file, sizeof(file), "%s/%s/modalias", path, d->d_name);
        found = d->d_name[0] != '.' && slurp(file, &text) &&
                strncmp(buf_str(&text), alias, strlen(alias)) == 0;
    }
    if (dir)
        closedir(dir);
    return found;
}

static bool is_wanted(const char *condition)
{
    if (*condition == '\0')
        return true;
    if (strncmp(condition, "fs:", 3) == 0)
        return strcmp(condition + 3, image_type()) == 0;
    return bus_has(condition);
}

static void load(int dirfd, const char *name)
{
    auto_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        say("module %s: %m", name);
}

int modules_load(struct err *e)
{
    auto_close int dirfd = open("/modules", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_buf struct buf list = BUF(LIST_MAX);
    char *line;
    char *end;

    if (dirfd < 0 || !slurp("/modules/list", &list))
        return err_errno(e, "read /modules/list");
    for (line = list.data; line && *line; line = end) {
        char *condition;

        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        condition = line + strcspn(line, " ");
        if (*condition)
            *condition++ = '\0';
        if (is_wanted(condition))
            load(dirfd, line);
        (void)unlinkat(dirfd, line, 0); /* the initramfs is memory */
    }
    return 0;
}
