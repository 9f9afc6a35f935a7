/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/freeze.h"

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

enum { FREEZE_MS = 2000 };

static bool is_so(int events_fd, const char *wanted)
{
    char text[256] = {0};

    return pread(events_fd, text, sizeof(text) - 1, 0) > 0 && strstr(text, wanted);
}

int cgroup_freeze(int cgroup_fd, bool frozen, struct err *e)
{
    auto_close int fd = openat(cgroup_fd, "cgroup.freeze", O_WRONLY | O_CLOEXEC);
    auto_close int events_fd = openat(cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
    int64_t until = clock_ms() + FREEZE_MS;

    if (fd < 0 || events_fd < 0)
        return err_errno(e, "open the workload's cgroup");
    if (write(fd, frozen ? "1" : "0", 1) != 1)
        return err_errno(e, "write to cgroup.freeze");
    while (!is_so(events_fd, frozen ? "frozen 1" : "frozen 0")) {
        struct pollfd changed = {.fd = events_fd, .events = POLLPRI};
        int64_t left = until - clock_ms();

        if (left <= 0)
            return err_set(e, ERR_TIMEOUT, "a process of the workload does not stand still");
        (void)poll(&changed, 1, (int)left);
    }
    return 0;
}
