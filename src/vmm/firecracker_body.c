/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Firecracker is told, as JSON. Names in the instance's directory are
 * relative, so they are true in every clone of it; absolute are only the kernel
 * and the initramfs, which a snapshot does not open again.
 */
#include "vmm/firecracker.h"

#include <stdio.h>
#include <string.h>

#include "base/jout.h"
#include "base/parse.h"
#include "vmm/limiter.h"

/* The rest of a machine has no other clock, and what stands behind i8042 is a way to say "reset".
 */
static const char kernel_line[] =
    "console=ttyS0 reboot=k panic=-1 quiet loglevel=1 8250.nr_uarts=1 i8042.noaux i8042.nomux "
    "i8042.dumbkbd cryptomgr.notests";

struct firecracker_version firecracker_version(const struct vmm_host *host)
{
    struct firecracker_version v = {0};
    char text[sizeof(host->firecracker_version)];
    char *minor;
    uint64_t n;

    (void)snprintf(text, sizeof(text), "%s", host->firecracker_version);
    minor = strchr(text, '.');
    if (!minor)
        return v;
    *minor++ = '\0';
    minor[strspn(minor, "0123456789")] = '\0';
    if (!parse_u64(text, 1, 99, &n))
        return v;
    v.major = (unsigned)n;
    if (!parse_u64(minor, 0, 9999, &n))
        return (struct firecracker_version){0};
    v.minor = (unsigned)n;
    return v;
}

bool firecracker_has(const struct vmm_host *host, unsigned minor)
{
    struct firecracker_version v = firecracker_version(host);

    return v.major > 1 || (v.major == 1 && v.minor >= minor);
}

void firecracker_machine(struct buf *out, const struct vmm_boot *boot)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_int(&j, "vcpu_count", boot->vcpus);
    jout_int(&j, "mem_size_mib", (int64_t)(boot->memory_bytes >> 20));
    jout_bool(&j, "track_dirty_pages", boot->track_dirty);
    jout_close(&j, '}');
}

void firecracker_kernel(struct buf *out, const struct vmm_boot *boot)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "kernel_image_path", boot->host->kernel);
    if (boot->host->initramfs[0])
        jout_str(&j, "initrd_path", boot->host->initramfs);
    jout_str(&j, "boot_args", kernel_line);
    jout_close(&j, '}');
}

/* Writeback: the guest's flush is a flush, as it is under the other hypervisors. */
void firecracker_drive(struct buf *out, const char *id, const char *file, bool is_read_only,
                       const struct vmm_rates *rates)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "drive_id", id);
    jout_str(&j, "path_on_host", file);
    jout_bool(&j, "is_root_device", false);
    jout_bool(&j, "is_read_only", is_read_only);
    jout_str(&j, "cache_type", "Writeback");
    limiter_put(&j, "rate_limiter", rates->disk_bytes, rates->disk_requests);
    jout_close(&j, '}');
}

void firecracker_nic(struct buf *out, const struct vmm_boot *boot)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "iface_id", FIRECRACKER_NIC);
    jout_str(&j, "host_dev_name", boot->tap_name);
    jout_str(&j, "guest_mac", VMM_GUEST_MAC);
    limiter_put(&j, "rx_rate_limiter", boot->rates.net_in_bytes, 0);
    limiter_put(&j, "tx_rate_limiter", boot->rates.net_out_bytes, 0);
    jout_close(&j, '}');
}

static void put_path(struct jout *j, const char *key, const char *dir, const char *file)
{
    struct buf path = BUF(4096);

    buf_printf(&path, "%s/%s", dir, file);
    jout_str(j, key, buf_str(&path));
    buf_free(&path);
}

void firecracker_snapshot(struct buf *out, const char *dir, bool is_difference)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "snapshot_type", is_difference ? "Diff" : "Full");
    put_path(&j, "snapshot_path", dir, "state");
    put_path(&j, "mem_file_path", dir, "memory");
    jout_close(&j, '}');
}

static void put_overrides(struct jout *j, const struct vmm_load *load)
{
    if (load->boot.tap_name) {
        jout_open(j, "network_overrides", '[');
        jout_open(j, NULL, '{');
        jout_str(j, "iface_id", FIRECRACKER_NIC);
        jout_str(j, "host_dev_name", load->boot.tap_name);
        jout_close(j, '}');
        jout_close(j, ']');
    }
    if (!firecracker_has(load->boot.host, 16))
        return;
    jout_open(j, "vsock_override", '{');
    jout_str(j, "uds_path", VMM_VSOCK_SOCKET);
    jout_close(j, '}');
    if (load->boot.host->kvm_tells_real_time)
        jout_bool(j, "clock_realtime", true);
}

bool firecracker_tracks(const struct vmm_load *load)
{
    return load->boot.track_dirty || load->boot.host->firecracker_differences;
}

void firecracker_load_body(struct buf *out, const struct vmm_load *load)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "snapshot_path", VMM_SNAPSHOT_STATE);
    jout_open(&j, "mem_backend", '{');
    jout_str(&j, "backend_type", load->memory_socket ? "Uffd" : "File");
    jout_str(&j, "backend_path", load->memory_socket ? load->memory_socket : VMM_SNAPSHOT_MEMORY);
    jout_close(&j, '}');
    if (firecracker_tracks(load))
        jout_bool(&j,
                  firecracker_has(load->boot.host, 13) ? "track_dirty_pages"
                                                       : "enable_diff_snapshots",
                  true);
    jout_bool(&j, "resume_vm", load->resume);
    put_overrides(&j, load);
    jout_close(&j, '}');
}
