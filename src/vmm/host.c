/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/host.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/argv.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "loop/proc.h"

enum { TSC_SAMPLE_MS = 20, TSC_TRIES = 16 };

static int64_t monotonic_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct tsc_sample {
    int64_t ns;
    uint64_t tsc;
};

/* Both clocks at one moment: of several tries the one that was least interrupted. */
static struct tsc_sample sample_tsc(void)
{
    struct tsc_sample best = {0};
    uint64_t narrowest = UINT64_MAX;

    for (int i = 0; i < TSC_TRIES; i++) {
        uint64_t before = __rdtsc();
        int64_t ns = monotonic_ns();
        uint64_t width = __rdtsc() - before;

        if (width < narrowest) {
            narrowest = width;
            best = (struct tsc_sample){.ns = ns, .tsc = before + width / 2};
        }
    }
    return best;
}

static uint64_t tsc_khz_since(const struct tsc_sample *first)
{
    struct tsc_sample now = sample_tsc();
    int64_t us = (now.ns - first->ns) / 1000;

    if (us <= 0 || now.tsc <= first->tsc)
        return 0;
    return (now.tsc - first->tsc) * 1000 / (uint64_t)us;
}

/* NULL leaves it empty. */
static int set_text(char *out, size_t size, const char *text, struct err *e)
{
    if (text && strlen(text) >= size)
        return err_set(e, ERR_INVALID, "%.40s... is too long", text);
    if (text)
        memcpy(out, text, strlen(text) + 1);
    return 0;
}

#define SET_TEXT(array, text, e) set_text((array), sizeof(array), (text), (e))

/* The first of that name on PATH, or the one that is wanted; "" when it is not there. */
static int find_program(char out[256], const char *wanted, const char *name, struct err *e)
{
    const char *path = getenv("PATH");

    out[0] = '\0';
    if (wanted)
        return access(wanted, X_OK) == 0 ? set_text(out, 256, wanted, e) : 0;
    for (const char *at = path ? path : "/usr/bin:/usr/local/bin"; *at;) {
        size_t len = strcspn(at, ":");
        int n = snprintf(out, 256, "%.*s/%s", (int)len, at, name);

        if (*at == '/' && n < 256 && access(out, X_OK) == 0)
            return 0;
        at += len + (at[len] == ':');
    }
    out[0] = '\0';
    return 0;
}

static int ask_program(const struct op *op, const char *program, const char *const question[2],
                       struct buf *answer, struct err *e)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);

    argv_push(&argv, program);
    for (int i = 0; i < 2 && question[i]; i++)
        argv_push(&argv, question[i]);
    return proc_run(op, &spec, answer, e);
}

/* "QEMU emulator version 7.2.22 (Debian ...)", then a copyright. */
static void take_version(struct buf *answer, struct vmm_host *out)
{
    const char *word = "version ";
    char *found = answer->data ? strstr(answer->data, word) : NULL;

    if (!found)
        return;
    found += strlen(word);
    found[strcspn(found, "\n")] = '\0';
    (void)snprintf(out->qemu_version, sizeof(out->qemu_version), "%s", found);
}

/* A microvm starts a PVH kernel from qboot only. QEMU says where it looks for firmware. */
static void take_firmware(struct buf *answer, struct vmm_host *out)
{
    char *rest = NULL;

    for (char *dir = answer->data ? strtok_r(answer->data, "\n", &rest) : NULL; dir;
         dir = strtok_r(NULL, "\n", &rest)) {
        int n = snprintf(out->microvm_firmware, sizeof(out->microvm_firmware), "%s/qboot.rom", dir);

        if (n > 0 && (size_t)n < sizeof(out->microvm_firmware) &&
            access(out->microvm_firmware, R_OK) == 0)
            return;
    }
    out->microvm_firmware[0] = '\0';
}

/* A QEMU that does not even say its version is one that cannot be run. */
static int probe_qemu(const struct op *op, struct vmm_host *out, struct err *e)
{
    auto_buf struct buf version = BUF(4096);
    auto_buf struct buf dirs = BUF(4096);
    struct err why = {0};

    if (out->qemu[0] == '\0')
        return 0;
    if (ask_program(op, out->qemu, (const char *const[2]){"--version"}, &version, &why) == 0 &&
        ask_program(op, out->qemu, (const char *const[2]){"-L", "help"}, &dirs, &why) == 0) {
        take_version(&version, out);
        take_firmware(&dirs, out);
        return 0;
    }
    if (why.code == ERR_CANCELLED)
        return err_set(e, why.code, "%s", why.msg);
    out->qemu[0] = '\0';
    return 0;
}

/* The word after "Firecracker v", or a line that is all of "v10.0.0". */
static void take_word(const struct buf *answer, const char *before, char *out, size_t size)
{
    const char *found = strstr(buf_str(answer), before);

    if (!found)
        return;
    found += strlen(before);
    (void)snprintf(out, size, "%.*s", (int)strcspn(found, " \n"), found);
}

static int probe_firecracker(const struct op *op, struct vmm_host *out, struct err *e)
{
    auto_buf struct buf version = BUF(4096);
    auto_buf struct buf format = BUF(4096);
    struct err why = {0};

    if (out->firecracker[0] == '\0')
        return 0;
    if (ask_program(op, out->firecracker, (const char *const[2]){"--version"}, &version, &why) ==
            0 &&
        ask_program(
            op, out->firecracker, (const char *const[2]){"--snapshot-version"}, &format, &why) ==
            0) {
        take_word(
            &version, "Firecracker v", out->firecracker_version, sizeof(out->firecracker_version));
        take_word(&format, "", out->firecracker_snapshot, sizeof(out->firecracker_snapshot));
        return 0;
    }
    if (why.code == ERR_CANCELLED)
        return err_set(e, why.code, "%s", why.msg);
    out->firecracker[0] = '\0';
    return 0;
}

static int probe_cloud_hypervisor(const struct op *op, struct vmm_host *out, struct err *e)
{
    auto_buf struct buf version = BUF(4096);
    struct err why = {0};

    if (out->cloud_hypervisor[0] == '\0')
        return 0;
    if (ask_program(
            op, out->cloud_hypervisor, (const char *const[2]){"--version"}, &version, &why) == 0) {
        take_word(&version,
                  "cloud-hypervisor v",
                  out->cloud_hypervisor_version,
                  sizeof(out->cloud_hypervisor_version));
        return 0;
    }
    if (why.code == ERR_CANCELLED)
        return err_set(e, why.code, "%s", why.msg);
    out->cloud_hypervisor[0] = '\0';
    return 0;
}

static const struct program {
    const char *binary;   /* as drivers name it */
    size_t path, file_at; /* in struct vmm_host */
    int (*probe)(const struct op *op, struct vmm_host *out, struct err *e);
} programs[] = {
    {"qemu-system-x86_64",
     offsetof(struct vmm_host, qemu),
     offsetof(struct vmm_host, qemu_file),
     probe_qemu},
    {"firecracker",
     offsetof(struct vmm_host, firecracker),
     offsetof(struct vmm_host, firecracker_file),
     probe_firecracker},
    {"cloud-hypervisor",
     offsetof(struct vmm_host, cloud_hypervisor),
     offsetof(struct vmm_host, cloud_hypervisor_file),
     probe_cloud_hypervisor},
};

enum { N_PROGRAMS = sizeof(programs) / sizeof(programs[0]) };

static char *path_of(struct vmm_host *host, const struct program *p)
{
    return (char *)host + p->path;
}

static struct vmm_file *file_of(struct vmm_host *host, const struct program *p)
{
    return (struct vmm_file *)(void *)((char *)host + p->file_at);
}

/* All zero when there is none. */
static struct vmm_file look_at(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return (struct vmm_file){0};
    return (struct vmm_file){.device = st.st_dev,
                             .inode = st.st_ino,
                             .size = (uint64_t)st.st_size,
                             .changed_ns =
                                 (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec};
}

static bool is_same_file(const struct vmm_file *a, const struct vmm_file *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
           a->changed_ns == b->changed_ns;
}

/* The file is looked at first: one that is replaced meanwhile is then asked again. */
static int probe_programs(const struct op *op, struct vmm_host *host, struct err *e)
{
    for (size_t i = 0; i < N_PROGRAMS; i++) {
        *file_of(host, &programs[i]) = look_at(path_of(host, &programs[i]));
        if (programs[i].probe(op, host, e) < 0)
            return -1;
    }
    return 0;
}

static int running_program(int pidfd, char *out, size_t size, struct err *e)
{
    pid_t pid = proc_pid(pidfd, e);

    if (pid < 0)
        return -1;
    (void)snprintf(out, size, "/proc/%d/exe", (int)pid);
    return 0;
}

int vmm_host_identity(const struct op *op, const struct vmm_driver *driver,
                      const struct vmm_host *host, int pidfd, struct buf *out, struct err *e)
{
    struct vmm_host now = *host;
    const struct program *p = programs;
    struct vmm_file file;
    char *path;

    while (p < programs + N_PROGRAMS && strcmp(p->binary, driver->binary) != 0)
        p++;
    if (p == programs + N_PROGRAMS) {
        vmm_identity(driver, host, out);
        return 0;
    }
    path = path_of(&now, p);
    if (pidfd >= 0 && running_program(pidfd, path, sizeof(now.qemu), e) < 0)
        return -1;
    file = look_at(path);
    if (!is_same_file(&file, file_of(&now, p)) && p->probe(op, &now, e) < 0)
        return -1;
    if (path[0] == '\0')
        return err_set(e, ERR_BAD_STATE, "%s does not tell its version any more", driver->binary);
    vmm_identity(driver, &now, out);
    return 0;
}

static void take_cpu(struct vmm_host *out)
{
    unsigned a, b, c, d;
    char vendor[13] = "";

    if (!__get_cpuid(0, &a, &b, &c, &d))
        return;
    memcpy(vendor, &b, 4);
    memcpy(vendor + 4, &d, 4);
    memcpy(vendor + 8, &c, 4);
    if (__get_cpuid(1, &a, &b, &c, &d))
        (void)snprintf(out->cpu, sizeof(out->cpu), "cpu %s %x", vendor, a);
}

/* KVM keeps one clock for a VM only once it has a processor. */
static bool kvm_tells_real_time(void)
{
    auto_close int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    auto_close int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
    auto_close int vcpu = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
    struct kvm_clock_data clock = {0};

    return vcpu >= 0 && ioctl(vm, KVM_GET_CLOCK, &clock) == 0 && (clock.flags & KVM_CLOCK_REALTIME);
}

int vmm_host_probe(const struct op *op, const struct vmm_host_settings *settings,
                   struct vmm_host *out, struct err *e)
{
    struct vmm_host host = {.firecracker_metrics = settings->firecracker_metrics,
                            .firecracker_differences = settings->firecracker_differences,
                            .socket_readiness = settings->socket_readiness};
    struct tsc_sample start = sample_tsc();

    if (SET_TEXT(host.kernel, settings->kernel, e) < 0 ||
        SET_TEXT(host.kernel_version, settings->kernel_version, e) < 0 ||
        SET_TEXT(host.initramfs, settings->initramfs, e) < 0 ||
        find_program(host.qemu, settings->qemu, "qemu-system-x86_64", e) < 0 ||
        find_program(host.firecracker, settings->firecracker, "firecracker", e) < 0 ||
        find_program(host.cloud_hypervisor, settings->cloud_hypervisor, "cloud-hypervisor", e) < 0)
        return -1;

    /* The TSC is measured over the time that the rest takes, and a little more. */
    if (accel_decide(op, settings->accel, &host, e) < 0 || probe_programs(op, &host, e) < 0 ||
        op_sleep(op, TSC_SAMPLE_MS, e) < 0)
        return err_wrap(e, "look at this host");
    host.tsc_khz = tsc_khz_since(&start);
    host.kvm_tells_real_time = host.accel == VMM_KVM && kvm_tells_real_time();
    take_cpu(&host);
    *out = host;
    return 0;
}
