/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Cloud Hypervisor is told, as JSON. Names in the instance's directory are
 * relative, so the text is the same for every clone of it. Every device has an id of
 * ours: a state names its devices, and a load tells them by it.
 */
#include "vmm/cloud_hypervisor.h"

#include <inttypes.h>

#include "base/jout.h"
#include "vmm/limiter.h"

/* HYPEMAN_END reaches the guest's init as a variable: a reset would only start the guest anew. */
static const char kernel_line[] = "console=ttyS0 panic=-1 quiet loglevel=1 8250.nr_uarts=1 "
                                  "cryptomgr.notests HYPEMAN_END=poweroff";

static void put_cpus(struct jout *j, const struct vmm_boot *boot)
{
    jout_open(j, "cpus", '{');
    jout_int(j, "boot_vcpus", boot->vcpus);
    jout_int(j, "max_vcpus", boot->max_vcpus > boot->vcpus ? boot->max_vcpus : boot->vcpus);
    jout_close(j, '}');
}

/* Room for more comes in such pieces. */
enum { HOTPLUG_ALIGN = 128 << 20 };

static void put_memory(struct jout *j, const struct vmm_boot *boot,
                       enum cloud_hypervisor_memory memory)
{
    uint64_t room = (boot->hotplug_bytes + HOTPLUG_ALIGN - 1) / HOTPLUG_ALIGN * HOTPLUG_ALIGN;
    struct buf file = BUF(64);

    if (memory == RAM_BY_FD)
        buf_printf(&file, "/proc/self/fd/%d", CLOUD_HYPERVISOR_RAM_FD);
    else if (memory == RAM_OF_SNAPSHOT)
        buf_puts(&file, VMM_SNAPSHOT_MEMORY);
    jout_open(j, "memory", '{');
    jout_int(j, "size", 0);
    if (room > 0)
        jout_str(j, "hotplug_method", "VirtioMem");
    jout_open(j, "zones", '[');
    jout_open(j, NULL, '{');
    jout_str(j, "id", CLOUD_HYPERVISOR_RAM);
    jout_int(j, "size", (int64_t)boot->memory_bytes);
    if (room > 0)
        jout_int(j, "hotplug_size", (int64_t)room);
    if (file.len > 0)
        jout_str(j, "file", buf_str(&file));
    jout_bool(j, "shared", memory != RAM_OF_SNAPSHOT);
    jout_close(j, '}');
    jout_close(j, ']');
    jout_close(j, '}');
    buf_free(&file);
}

static void put_payload(struct jout *j, const struct vmm_host *host)
{
    jout_open(j, "payload", '{');
    jout_str(j, "kernel", host->kernel);
    if (host->initramfs[0])
        jout_str(j, "initramfs", host->initramfs);
    jout_str(j, "cmdline", kernel_line);
    jout_close(j, '}');
}

/* Raw, said outright: what a guest writes onto its disk must not be taken for another format. */
static void put_disk(struct jout *j, const char *id, const char *file, bool is_read_only,
                     const struct vmm_rates *rates)
{
    jout_open(j, NULL, '{');
    jout_str(j, "id", id);
    jout_str(j, "path", file);
    jout_bool(j, "readonly", is_read_only);
    jout_str(j, "image_type", "Raw");
    if (rates)
        limiter_put(j, "rate_limiter_config", rates->disk_bytes, rates->disk_requests);
    jout_close(j, '}');
}

void cloud_hypervisor_disk(struct buf *out, const struct vmm_disk *disk)
{
    struct jout j = JOUT(out);

    put_disk(&j, disk->id, disk->file, disk->is_read_only, NULL);
}

/* The order is the guest's vda, vdb, vdc. */
static void put_disks(struct jout *j, const struct vmm_rates *rates)
{
    jout_open(j, "disks", '[');
    put_disk(j, "rootfs", VMM_IMAGE, true, rates);
    put_disk(j, "overlay", VMM_OVERLAY, false, rates);
    put_disk(j, "config", VMM_CONFIG_DISK, false, NULL);
    jout_close(j, ']');
}

/* One limiter serves both directions: the narrower. */
static uint64_t net_rate(const struct vmm_rates *r)
{
    if (r->net_in_bytes == 0 || r->net_out_bytes == 0)
        return r->net_in_bytes + r->net_out_bytes;
    return r->net_in_bytes < r->net_out_bytes ? r->net_in_bytes : r->net_out_bytes;
}

static void put_nic(struct jout *j, const struct vmm_boot *boot)
{
    jout_open(j, NULL, '{');
    jout_str(j, "id", CLOUD_HYPERVISOR_NIC);
    jout_str(j, "mac", VMM_GUEST_MAC);
    limiter_put(j, "rate_limiter_config", net_rate(&boot->rates), 0);
}

void cloud_hypervisor_nic(struct buf *out, const struct vmm_boot *boot)
{
    struct jout j = JOUT(out);

    put_nic(&j, boot);
    jout_close(&j, '}');
}

/* Of a state's card the fd comes with the request; here it is only known to have one. */
static void put_saved_nic(struct jout *j, const struct vmm_boot *boot)
{
    jout_open(j, "net", '[');
    put_nic(j, boot);
    jout_raw(j, "fds", "[-1]");
    jout_close(j, '}');
    jout_close(j, ']');
}

static void put_small_devices(struct jout *j, const struct vmm_boot *boot)
{
    jout_raw(j, "rng", "{\"src\":\"/dev/urandom\"}");
    jout_raw(j, "serial", "{\"mode\":\"Tty\"}"); /* its standard output, which is our log */
    jout_raw(j, "console", "{\"mode\":\"Off\"}");
    jout_raw(j, "vsock", "{\"id\":\"vsock0\",\"cid\":3,\"socket\":\"" VMM_VSOCK_SOCKET "\"}");
    if (boot->balloon)
        jout_raw(j,
                 "balloon",
                 "{\"id\":\"balloon0\",\"size\":0,\"deflate_on_oom\":true,"
                 "\"free_page_reporting\":true}");
}

void cloud_hypervisor_config(struct buf *out, const struct vmm_boot *boot,
                             enum cloud_hypervisor_memory memory, bool landlock)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    put_cpus(&j, boot);
    put_memory(&j, boot, memory);
    put_payload(&j, boot->host);
    put_disks(&j, &boot->rates);
    put_small_devices(&j, boot);
    if (memory == RAM_OF_SNAPSHOT && boot->tap_fd >= 0)
        put_saved_nic(&j, boot);
    if (landlock) {
        jout_bool(&j, "landlock_enable", true);
        jout_raw(&j, "landlock_rules", "[{\"path\":\".\",\"access\":\"rw\"}]");
    }
    jout_close(&j, '}');
}

void cloud_hypervisor_restore(struct buf *out, const struct vmm_load *load)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "source_url", "file://" VMM_LOAD_DIR);
    if (cloud_hypervisor_version(load->boot.host) >= 52)
        jout_bool(&j, "resume", load->resume);
    if (load->boot.tap_fd >= 0)
        jout_raw(&j, "net_fds", "[{\"id\":\"" CLOUD_HYPERVISOR_NIC "\",\"num_fds\":1}]");
    jout_close(&j, '}');
}
