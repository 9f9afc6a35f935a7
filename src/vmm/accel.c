/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/accel.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "base/argv.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/parse.h"
#include "loop/proc.h"

enum {
    PROBE_DEADLINE_MS = 2000,
    SLOWEST_REAL_US = 10000, /* hardware needs under 1 ms, an interpreter over 100 */
    PAGE = 4096,
    CODE_AT = 0,
    PML4_AT = PAGE,
    PDPT_AT = 2 * PAGE,
    PD_AT = 3 * PAGE,
    GUEST_BYTES = 4 * PAGE,
};

static const unsigned char loop_100000[] = {
    0xb9,
    0xa0,
    0x86,
    0x01,
    0x00, /* mov ecx, 100000 */
    0xff,
    0xc9, /* dec ecx */
    0x75,
    0xfc, /* jnz the dec */
    0xe6,
    0x10, /* out 0x10, al */
    0xf4, /* hlt */
};

struct guest {
    int kvm_fd;
    int vm_fd;
    int vcpu_fd;
    unsigned char *memory;
    struct kvm_run *run;
};

static int make_guest(struct guest *g, struct err *e)
{
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_BYTES};
    int run_bytes;

    g->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (g->kvm_fd < 0)
        return err_errno(e, "open it");
    if (ioctl(g->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "it speaks another version of the KVM API");
    g->vm_fd = ioctl(g->kvm_fd, KVM_CREATE_VM, 0);
    if (g->vm_fd < 0)
        return err_errno(e, "make a VM");
    g->memory = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g->memory == MAP_FAILED)
        return err_errno(e, "map memory for a guest");
    region.userspace_addr = (uintptr_t)g->memory;
    if (ioctl(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return err_errno(e, "give memory to a VM");
    g->vcpu_fd = ioctl(g->vm_fd, KVM_CREATE_VCPU, 0);
    if (g->vcpu_fd < 0)
        return err_errno(e, "make a vCPU");
    run_bytes = ioctl(g->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_bytes < (int)sizeof(*g->run))
        return err_set(e, ERR_UNSUPPORTED, "its vCPU area is too small");
    g->run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu_fd, 0);
    return g->run == MAP_FAILED ? err_errno(e, "map a vCPU") : 0;
}

static void put_entry(const struct guest *g, size_t at, uint64_t entry)
{
    memcpy(g->memory + at, &entry, sizeof(entry));
}

/* Long mode, the first 2 MiB mapped onto themselves, about to run the loop. */
static int prepare_guest(const struct guest *g, struct err *e)
{
    const struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    const struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    struct kvm_regs regs = {.rip = CODE_AT, .rflags = 2};
    struct kvm_sregs s;

    assert(g->memory && g->run);
    memcpy(g->memory + CODE_AT, loop_100000, sizeof(loop_100000));
    put_entry(g, PML4_AT, PDPT_AT | 3);
    put_entry(g, PDPT_AT, PD_AT | 3);
    put_entry(g, PD_AT, 0x83); /* present, writable, a 2 MiB page */

    if (ioctl(g->vcpu_fd, KVM_GET_SREGS, &s) < 0)
        return err_errno(e, "read a vCPU's registers");
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cr0 = 0x80000001; /* PG, PE */
    s.cr3 = PML4_AT;
    s.cr4 = 0x20;   /* PAE */
    s.efer = 0x500; /* LMA, LME */
    if (ioctl(g->vcpu_fd, KVM_SET_SREGS, &s) < 0 || ioctl(g->vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return err_errno(e, "set a vCPU's registers");
    return 0;
}

/* This thread's, so that a busy host does not look like a slow one. */
static int64_t processor_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int run_guest(const struct guest *g, int64_t *us_out, struct err *e)
{
    int64_t start = processor_us();

    if (ioctl(g->vcpu_fd, KVM_RUN, 0) < 0)
        return err_errno(e, "run a guest");
    if (g->run->exit_reason != KVM_EXIT_IO)
        return err_set(e, ERR_UNSUPPORTED, "a guest ended with exit %u", g->run->exit_reason);
    *us_out = processor_us() - start;
    return 0;
}

/* The process ends right after: the kernel takes back what was made. */
int accel_probe_main(void)
{
    struct guest g = {0};
    struct err e = {0};
    int64_t us = 0;

    if (make_guest(&g, &e) < 0 || prepare_guest(&g, &e) < 0 || run_guest(&g, &us, &e) < 0) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    (void)printf("%" PRId64 "\n", us);
    return 0;
}

static int decided(struct vmm_host *out, enum vmm_accel accel, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int decided(struct vmm_host *out, enum vmm_accel accel, const char *fmt, ...)
{
    va_list ap;

    out->accel = accel;
    va_start(ap, fmt);
    (void)vsnprintf(out->accel_reason, sizeof(out->accel_reason), fmt, ap);
    va_end(ap);
    return 0;
}

/* Cuts the text at the end of its first line. */
static const char *first_line(struct buf *text)
{
    if (!text->data)
        return "";
    text->data[strcspn(text->data, "\n")] = '\0';
    return text->data;
}

static int judge(struct vmm_host *out, struct buf *printed)
{
    const char *text = first_line(printed);
    uint64_t us;

    if (!parse_u64(text, 0, UINT32_MAX, &us))
        return decided(out, VMM_TCG, "the probe of /dev/kvm said nothing useful");
    if (us > SLOWEST_REAL_US)
        return decided(out,
                       VMM_TCG,
                       "/dev/kvm interprets guest code: 100,000 loop rounds took %" PRIu64
                       " ms (real hardware: under 1 ms)",
                       us / 1000);
    return decided(out,
                   VMM_KVM,
                   "/dev/kvm runs guest code at full speed: 100,000 loop rounds took %" PRIu64
                   " us",
                   us);
}

int accel_decide(const struct op *op, enum accel_choice choice, struct vmm_host *out, struct err *e)
{
    auto_argv struct argv argv = {0};
    auto_buf struct buf printed = BUF(4096);
    struct op limited = *op;
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err why = {0};

    if (choice != ACCEL_AUTO)
        return decided(out, choice == ACCEL_KVM ? VMM_KVM : VMM_TCG, "chosen by the configuration");

    if (limited.deadline_ms > clock_ms() + PROBE_DEADLINE_MS)
        limited.deadline_ms = clock_ms() + PROBE_DEADLINE_MS;
    argv_push(&argv, "/proc/self/exe");
    argv_push(&argv, ACCEL_PROBE_ARGUMENT);
    if (proc_run(&limited, &spec, &printed, &why) == 0)
        return judge(out, &printed);
    if (why.code == ERR_CANCELLED)
        return err_set(e, why.code, "%s", why.msg);
    if (why.code == ERR_TIMEOUT)
        return decided(out,
                       VMM_TCG,
                       "/dev/kvm did not finish 100,000 loop rounds in %d ms",
                       PROBE_DEADLINE_MS);
    return decided(out,
                   VMM_TCG,
                   "/dev/kvm cannot be used: %s",
                   printed.len > 0 ? first_line(&printed) : why.msg);
}
