/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a Cloud Hypervisor is given, or gives back, while its guest runs, and what its
 * devices did. Memory comes and goes by the one zone's virtio-mem, which moves no
 * more than the guest's driver agrees to.
 */
#include "vmm/cloud_hypervisor.h"

#include <inttypes.h>

#include "base/jout.h"
#include "base/json.h"

enum { BODY_MAX = 4096, COUNTERS_MAX = 256 * 1024 };

static int ask(const struct op *op, const struct vmm_handle *vm, const char *request,
               struct buf *body, struct err *e)
{
    return cloud_hypervisor_command(op, vm, request, buf_str(body), NULL, e);
}

int cloud_hypervisor_resize(const struct op *op, const struct vmm_handle *vm, uint32_t vcpus,
                            uint64_t memory_bytes, struct err *e)
{
    auto_buf struct buf cpus = BUF(BODY_MAX);
    auto_buf struct buf zone = BUF(BODY_MAX);

    buf_printf(&cpus, "{\"desired_vcpus\":%" PRIu32 "}", vcpus);
    buf_printf(
        &zone, "{\"id\":\"" CLOUD_HYPERVISOR_RAM "\",\"desired_ram\":%" PRIu64 "}", memory_bytes);
    if (vcpus > 0 && ask(op, vm, "PUT vm.resize", &cpus, e) < 0)
        return -1;
    return memory_bytes > 0 ? ask(op, vm, "PUT vm.resize-zone", &zone, e) : 0;
}

int cloud_hypervisor_set_balloon(const struct op *op, const struct vmm_handle *vm, uint64_t bytes,
                                 struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);

    buf_printf(&body, "{\"desired_balloon\":%" PRIu64 "}", bytes);
    return ask(op, vm, "PUT vm.resize", &body, e);
}

int cloud_hypervisor_add_disk(const struct op *op, const struct vmm_handle *vm,
                              const struct vmm_disk *disk, struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);

    cloud_hypervisor_disk(&body, disk);
    return ask(op, vm, "PUT vm.add-disk", &body, e);
}

int cloud_hypervisor_add_card(const struct op *op, const struct vmm_handle *vm,
                              const struct vmm_card *card, struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);
    struct jout j = JOUT(&body);

    jout_open(&j, NULL, '{');
    jout_str(&j, "id", card->id);
    jout_str(&j, "mac", card->mac);
    jout_close(&j, '}');
    return cloud_hypervisor_call_with(
        op, vm->dir_fd, card->tap_fd, "PUT vm.add-net", buf_str(&body), e);
}

int cloud_hypervisor_remove_device(const struct op *op, const struct vmm_handle *vm, const char *id,
                                   struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);
    struct jout j = JOUT(&body);

    jout_open(&j, NULL, '{');
    jout_str(&j, "id", id);
    jout_close(&j, '}');
    return ask(op, vm, "PUT vm.remove-device", &body, e);
}

static uint64_t counter(const json_t *device, const char *name)
{
    return (uint64_t)json_number_value(json_object_get(device, name));
}

int cloud_hypervisor_count(const struct op *op, const struct vmm_handle *vm,
                           struct vmm_counters *out, struct err *e)
{
    auto_buf struct buf text = BUF(COUNTERS_MAX);
    json_auto_t *devices = NULL;
    const char *name;
    json_t *device;

    if (cloud_hypervisor_command(op, vm, "GET vm.counters", NULL, &text, e) < 0)
        return -1;
    /* Of times that it has none of it gives the greatest number there is. */
    devices = json_loadb(buf_str(&text), text.len, JSON_DECODE_INT_AS_REAL, NULL);
    if (!devices)
        return err_set(e, ERR_INTERNAL, "Cloud Hypervisor's counters are not JSON");
    json_object_foreach(devices, name, device)
    {
        out->disk_read_bytes += counter(device, "read_bytes");
        out->disk_written_bytes += counter(device, "write_bytes");
        out->disk_reads += counter(device, "read_ops");
        out->disk_writes += counter(device, "write_ops");
        out->net_in_bytes += counter(device, "rx_bytes");
        out->net_out_bytes += counter(device, "tx_bytes");
    }
    return 0;
}
