/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/monitor.h"

#include "vmm/vmm.h"

struct vmm_monitor *vmm_monitor_open(const struct vmm_driver *driver, struct loop *loop, int dir_fd,
                                     vmm_event_fn *fn, void *owner, struct err *e)
{
    struct vmm_monitor *m = driver->monitor->attach(loop, dir_fd, fn, owner, e);

    if (!m)
        err_wrap(e, "follow %s", driver->name);
    return m;
}

int vmm_monitor_probe(struct vmm_monitor *m, struct err *e)
{
    return m->driver->probe(m, e);
}

void vmm_monitor_drain(struct vmm_monitor *m)
{
    m->driver->drain(m);
}

void vmm_monitor_close(struct vmm_monitor *m)
{
    if (m)
        m->driver->close(m);
}
