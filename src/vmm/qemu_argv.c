/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's command line. Everything in the instance's directory is named
 * relatively, so the line is true in every clone of it; absolute are only the
 * binary, the kernel, the initramfs and the firmware. None of the values
 * holds a comma, which would need doubling: names follow the contract's
 * pattern, the rest are numbers and our own constants.
 */
#include "vmm/qemu.h"

#include <inttypes.h>

const struct qemu_machine qemu_machine_microvm = {
    .options = "microvm",
    .bus = "device",
    .net = "",
    .needs_firmware = true,
};

/* hpet, smm and the rest would cost start-up time; nothing we boot uses them. */
const struct qemu_machine qemu_machine_q35 = {
    .options = "q35,smm=off,hpet=off,vmport=off,sata=off,smbus=off,i8042=off",
    .bus = "pci",
    .net = ",romfile=",
    .needs_firmware = false,
};

enum { TRANSLATION_MIB = 64 }; /* touched as it fills; more only lets an idle guest keep more */

static void push2(struct argv *a, const char *option, const char *value)
{
    argv_push(a, option);
    argv_push(a, value);
}

const char *qemu_cpu(const struct vmm_host *host)
{
    /* Translated, "rep movsb" goes byte by byte: a kernel that is not told of fast ones copies ten
     * times faster. */
    if (host->accel == VMM_TCG)
        return "max,erms=off,fsrm=off";
    /* AMD has no such MSR; where KVM makes one up but cannot set it, QEMU aborts. */
    return __builtin_cpu_is("amd") ? "host,-arch-capabilities" : "host";
}

static void push_machine(struct argv *a, const struct qemu_machine *machine,
                         const struct vmm_boot *boot, enum qemu_purpose purpose)
{
    push2(a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    argv_push(a, "-machine");
    argv_pushf(
        a, "%s,memory-backend=ram0,dump-guest-core=off,suppress-vmdesc=on", machine->options);
    argv_push(a, "-accel");
    if (boot->host->accel == VMM_KVM)
        argv_push(a, "kvm");
    else
        argv_pushf(a, "tcg,tb-size=%d", TRANSLATION_MIB);
    push2(a, "-cpu", qemu_cpu(boot->host));
    argv_push(a, "-smp");
    argv_pushf(a, "%" PRIu32, boot->vcpus);
    argv_push(a, "-m");
    argv_pushf(a, "%" PRIu64 "B", boot->memory_bytes);
    argv_push(a, "-object");
    argv_pushf(a,
               "memory-backend-file,id=ram0,size=%" PRIu64 "B,mem-path=/proc/self/fd/%d,share=%s",
               boot->memory_bytes,
               QEMU_RAM_FD,
               purpose == QEMU_BOOT ? "on" : "off");
    if (machine->needs_firmware)
        push2(a, "-bios", boot->host->microvm_firmware);
}

/*
 * panic=-1 with reboot=t: every end of the guest is a reset, and -no-reboot makes
 * that the end of the process. A translated guest would calibrate its TSC against
 * a timer that a busy host delays, and now and then hang: it is told the rate. Its
 * crypto self-tests and zeroed allocations are a quarter of its start.
 * tsc=reliable: on a busy host translated guests lose timer ticks, the kernel blames the
 * TSC for it, and its clock is wrong from then on (10 % fast was seen).
 */
static void push_kernel(struct argv *a, const struct vmm_host *host)
{
    push2(a, "-kernel", host->kernel);
    if (host->initramfs[0])
        push2(a, "-initrd", host->initramfs);
    argv_push(a, "-append");
    if (host->accel == VMM_TCG && host->tsc_khz)
        argv_pushf(
            a,
            "console=ttyS0 reboot=t panic=-1 quiet loglevel=1 no_timer_check cryptomgr.notests "
            "init_on_alloc=0 tsc=reliable tsc_early_khz=%" PRIu64,
            host->tsc_khz);
    else
        argv_push(
            a, "console=ttyS0 reboot=t panic=-1 quiet loglevel=1 no_timer_check cryptomgr.notests");
}

static void push_socket(struct argv *a, const char *id, int fd)
{
    argv_push(a, "-chardev");
    argv_pushf(a, "socket,id=%s,fd=%d,server=on,wait=off", id, fd);
}

static void push_monitor(struct argv *a, const char *id, int fd)
{
    push_socket(a, id, fd);
    argv_push(a, "-mon");
    argv_pushf(a, "chardev=%s,mode=control", id);
}

/* A limited one has a throttle where the others have "raw": both pass on what they get. */
static void push_format(struct argv *a, const char *id, const char *options, uint64_t rate)
{
    if (rate == 0) {
        argv_push(a, "-blockdev");
        argv_pushf(a, "driver=raw,node-name=%s,file.driver=file,%s", id, options);
        return;
    }
    argv_push(a, "-object");
    argv_pushf(
        a,
        "{\"qom-type\":\"throttle-group\",\"id\":\"%s-rate\",\"limits\":{\"bps-total\":%" PRIu64
        "}}",
        id,
        rate);
    argv_push(a, "-blockdev");
    argv_pushf(a,
               "driver=throttle,throttle-group=%s-rate,node-name=%s,file.driver=file,%s",
               id,
               id,
               options);
}

static void push_disk(struct argv *a, const char *bus, const char *id, const char *options,
                      uint64_t rate)
{
    push_format(a, id, options, rate);
    argv_push(a, "-device");
    argv_pushf(a, "virtio-blk-%s,drive=%s", bus, id);
}

static void push_netdev(struct argv *a, const struct vmm_boot *boot)
{
    const struct vmm_user_net *u = &boot->user_net;

    if (boot->tap_fd >= 0)
        argv_pushf(a, "tap,id=net0,fd=%d", QEMU_TAP_FD);
    else
        argv_pushf(a,
                   "user,id=net0,ipv6=off,net=%s,host=%s,dhcpstart=%s,dns=%s",
                   u->subnet,
                   u->gateway,
                   u->guest,
                   u->dns);
}

/* The order of the disks is the guest's vda, vdb, vdc. */
static void push_devices(struct argv *a, const struct qemu_machine *machine,
                         const struct vmm_boot *boot)
{
    const char *bus = machine->bus;
    uint64_t rate = boot->rates.disk_bytes;

    push2(a, "-chardev", "file,id=serial,path=" VMM_SERIAL_LOG ",append=on");
    push2(a, "-serial", "chardev:serial");
    push_disk(a, bus, "rootfs", "file.filename=" VMM_IMAGE ",read-only=on", rate);
    push_disk(
        a, bus, "overlay", "file.filename=" VMM_OVERLAY ",discard=unmap,detect-zeroes=unmap", rate);
    push_disk(a, bus, "config", "file.filename=" VMM_CONFIG_DISK, 0);

    argv_push(a, "-device");
    argv_pushf(a, "virtio-serial-%s,max_ports=2", bus); /* port 0 is a console's */
    push_socket(a, "agent", QEMU_AGENT_FD);
    push2(a, "-device", "virtserialport,chardev=agent,name=" QEMU_AGENT_PORT ",id=agp");
    push2(a, "-object", "rng-random,id=random,filename=/dev/urandom");
    argv_push(a, "-device");
    argv_pushf(a, "virtio-rng-%s,rng=random", bus);
    if (boot->tap_fd < 0 && !boot->user_net.subnet[0])
        return;
    argv_push(a, "-netdev");
    push_netdev(a, boot);
    argv_push(a, "-device");
    argv_pushf(a, "virtio-net-%s,netdev=net0,mac=%s%s", bus, VMM_GUEST_MAC, machine->net);
}

/*
 * What is loaded is the devices' state alone (see qemu_save.c), which carries
 * neither a machine's name nor a description. The kernel is in the RAM already.
 */
static void push_purpose(struct argv *a, const struct vmm_host *host, enum qemu_purpose purpose)
{
    if (purpose == QEMU_BOOT) {
        push_kernel(a, host);
        return;
    }
    push2(a, "-incoming", "defer");
    push2(a, "-global", "migration.send-configuration=off");
    if (purpose == QEMU_LOAD_PAUSED)
        argv_push(a, "-S");
}

void qemu_argv(struct argv *a, const struct qemu_machine *machine, const struct vmm_boot *boot,
               enum qemu_purpose purpose)
{
    argv_push(a, boot->host->qemu);
    argv_push(a, "-name");
    argv_pushf(a, "guest=%s", boot->name);
    argv_push(a, "-nodefaults");
    argv_push(a, "-no-user-config");
    push2(a, "-display", "none");
    argv_push(a, "-no-reboot");
    push_machine(a, machine, boot, purpose);
    push_purpose(a, boot->host, purpose);
    push_monitor(a, "api", QEMU_API_FD);
    push_monitor(a, "events", QEMU_EVENTS_FD);
    push_devices(a, machine, boot);
}
