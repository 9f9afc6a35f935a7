/* SPDX-License-Identifier: Apache-2.0 */
/* hypeman-bench NAME [--json] [--iters N] [--filesystem KIND]: one benchmark, its table or one JSON
 * object; "list" names them. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/parse.h"
#include "bench.h"

static const struct {
    const char *name;
    const char *what;
    void (*run)(struct bench *b);
    void (*set_up)(struct bench *b); /* before the daemon starts; optional */
} benches[] = {
    {"boot", "create to Running, beside a bare start of the same VM", bench_boot},
    {"start", "Firecracker alone, to its socket, by every way to notice it", bench_start},
    {"footprint", "memory of the daemon, per instance, and wake-ups when idle", bench_footprint},
    {"standby", "Running to Standby, beside the bare stream of the same guest", bench_standby},
    {"restore", "Standby to Running, and what of it is ours", bench_restore},
    {"fork", "forks of a sleeping VM: one, sixteen at once, and their memory", bench_fork},
    {"exec",
     "a command in a guest, and one byte there and back, beside the bare transport",
     bench_exec},
    {"cp", "files into and out of a guest, beside the bare transport", bench_cp},
    {"guest", "what our half of a guest weighs", bench_guest},
    {"network", "slots, the mapping beside a bare TAP, a fork to its first answer", bench_network},
    {"list", "lists of N instances, M of them hung, to C clients", bench_list, doubles_set_up},
    {"parked",
     "list, get, exec and create beside N VMMs that are busy with a snapshot",
     bench_parked,
     parked_set_up},
    {"exit", "the end of a VMM's process to where it is seen", bench_exit, doubles_set_up},
    {"slope", "create and get beside 10, 1,000 and 10,000 instances", bench_slope, doubles_set_up},
};

enum { N_BENCHES = sizeof(benches) / sizeof(benches[0]) };

static void cpu_model(char *out, size_t size)
{
    auto_buf struct buf text = BUF(4 << 20);
    struct err e = {0};
    const char *line;

    (void)snprintf(out, size, "unknown");
    if (file_read(AT_FDCWD, "/proc/cpuinfo", &text, &e) == 0 &&
        (line = strstr(buf_str(&text), "model name")) != NULL && (line = strchr(line, ':')) != NULL)
        (void)snprintf(out, size, "%.*s", (int)strcspn(line + 2, "\n"), line + 2);
}

/* What GET /capabilities said, while the daemon ran. */
static void put_host(struct jout *j, const json_t *caps)
{
    const json_t *host = json_object_get(caps, "host");
    auto_buf struct buf cpuinfo = BUF(4 << 20);
    struct err e = {0};
    struct utsname kernel;
    char cpu[128];

    (void)uname(&kernel);
    cpu_model(cpu, sizeof(cpu));
    jout_open(j, "host", '{');
    jout_str(j, "cpu", cpu);
    jout_int(j, "cores", sysconf(_SC_NPROCESSORS_ONLN));
    jout_str(j, "kernel", kernel.release);
    jout_str(j, "accelerator", json_string_value(json_object_get(host, "accelerator")));
    jout_bool(j,
              "nested",
              file_read(AT_FDCWD, "/proc/cpuinfo", &cpuinfo, &e) == 0 &&
                  strstr(buf_str(&cpuinfo), " hypervisor") != NULL);
    jout_str(j,
             "commit",
             json_string_value(json_object_get(json_object_get(caps, "server"), "version")));
    jout_close(j, '}');
}

static void print_json(const struct bench *b, const json_t *caps)
{
    struct buf out = BUF(1 << 20);
    struct jout j = JOUT(&out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "bench", b->name);
    if (b->filesystem)
        jout_str(&j, "filesystem", b->filesystem);
    put_host(&j, caps);
    jout_open(&j, "rows", '[');
    for (size_t i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        char number[64];

        jout_open(&j, NULL, '{');
        jout_str(&j, "name", r->name);
        jout_str(&j, "unit", r->unit);
        jout_int(&j, "n", (int64_t)r->n);
        (void)snprintf(number, sizeof(number), "%.3f", r->p50);
        jout_raw(&j, "p50", number);
        (void)snprintf(number, sizeof(number), "%.3f", r->p99);
        jout_raw(&j, "p99", number);
        (void)snprintf(number, sizeof(number), "%.3f", r->max);
        jout_raw(&j, "max", number);
        jout_close(&j, '}');
    }
    jout_close(&j, ']');
    jout_close(&j, '}');
    (void)puts(buf_str(&out));
    buf_free(&out);
}

static void print_table(const struct bench *b)
{
    (void)printf("%-40s %6s %8s %12s %12s %12s\n", "", "unit", "n", "p50", "p99", "max");
    for (size_t i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];

        (void)printf("%-40s %6s %8zu %12.2f %12.2f %12.2f\n",
                     r->name,
                     r->unit,
                     r->n,
                     r->p50,
                     r->p99,
                     r->max);
    }
}

static void usage(void)
{
    (void)fputs("usage: hypeman-bench NAME [--json] [--iters N] [--instances N] [--hung N]"
                " [--parked N] [--clients N] [--filesystem ext4|xfs] [--hypeman BINARY]\n"
                "       [--hypervisor NAME] [--readiness inotify|poll1|poll50|pool]"
                " [--resume load|explicit] [--guest tiny|tiny-idle]\n",
                stderr);
    for (size_t i = 0; i < N_BENCHES; i++)
        (void)fprintf(stderr, "  %-12s %s\n", benches[i].name, benches[i].what);
}

static void run(struct bench *b, size_t which, bool as_json)
{
    const char *tmp = getenv("TMPDIR"); /* on another file system, to tell the disk's part */
    struct err e = {0};
    json_t *caps;

    (void)snprintf(b->root, sizeof(b->root), "%s/hypeman-bench-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(b->root))
        give_up("no temporary directory can be made");
    b->root_fd = dir_open(AT_FDCWD, b->root, &e);
    must(b->root_fd, &e);
    step_aside();
    if (benches[which].set_up)
        benches[which].set_up(b);
    if (b->filesystem)
        data_mount(b);
    daemon_start(b);
    caps = json_loads(api(b, "GET /capabilities", NULL, 200), 0, NULL);
    benches[which].run(b);
    daemon_stop(b);
    data_unmount(b);
    must(tree_remove(AT_FDCWD, b->root, &e), &e);
    close(b->root_fd);
    if (as_json)
        print_json(b, caps);
    else
        print_table(b);
    json_decref(caps);
}

/* The daemon of the same build, unless another is named. */
static void beside_us(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    char *slash;

    out[n > 0 ? n : 0] = '\0';
    slash = strrchr(out, '/');
    if (slash)
        (void)snprintf(slash + 1, size - (size_t)(slash + 1 - out), "hypeman");
}

/* "--iters 5" and its like; value may be NULL, behind the last word. */
static bool take_number(struct bench *b, const char *flag, const char *value)
{
    const struct {
        const char *flag;
        int *to;
    } flags[] = {{"--iters", &b->iterations},
                 {"--instances", &b->instances},
                 {"--hung", &b->hung},
                 {"--parked", &b->parked},
                 {"--clients", &b->clients}};
    uint64_t n = 0;

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (strcmp(flag, flags[i].flag) == 0 && value && parse_u64(value, 1, 100000, &n)) {
            *flags[i].to = (int)n;
            return true;
        }
    }
    return false;
}

/* Upstream polled every 50 ms, then every one. */
static void use_readiness(const char *how)
{
    if (strcmp(how, "pool") == 0)
        give_up(
            "the daemon keeps no VMMs that wait; hypeman-bench start has one beside the others");
    setenv("HYPERVISOR__SOCKET_READINESS", how, 1);
}

static void use_guest(const struct bench *b)
{
    auto_free char *kernel = b->guest ? built_for_tests(b, "guests", b->guest) : NULL;

    if (kernel && access(kernel, R_OK) < 0)
        give_up("there is no guest %s: %m", kernel);
    if (kernel)
        setenv("GUEST__KERNEL", kernel, 1);
}

/* The daemon inherits our environment. */
void use_hypervisor(const struct bench *b)
{
    static const struct {
        const char *name, *real, *setting;
    } doubled[] = {
        {"firecracker", "HYPEMAN_TEST_FIRECRACKER", "HYPERVISOR__FIRECRACKER_BINARY_PATH"},
        {"cloud-hypervisor",
         "HYPEMAN_TEST_CLOUD_HYPERVISOR",
         "HYPERVISOR__CLOUD_HYPERVISOR_BINARY_PATH"},
    };

    if (!b->hypervisor)
        return;
    setenv("HYPERVISOR__DEFAULT", b->hypervisor, 1);
    for (size_t i = 0; i < sizeof(doubled) / sizeof(doubled[0]); i++) {
        const char *real = getenv(doubled[i].real);
        auto_free char *path = built_for_tests(b, "doubles", doubled[i].name);

        if (strcmp(b->hypervisor, doubled[i].name) != 0)
            continue;
        setenv(doubled[i].setting, real ? real : path, 1);
        setenv("HYPERVISOR__ACCELERATION", "kvm", 1);
        (void)fprintf(stderr, "on %s\n", real ? real : "its double, which answers at once");
    }
}

static bool is_filesystem(const char *text)
{
    return strcmp(text, "ext4") == 0 || strcmp(text, "xfs") == 0;
}

int main(int argc, char **argv)
{
    char binary[4096];
    struct bench b = {.root_fd = -1, .daemon = {.pidfd = -1}, .binary = binary};
    const char *iters = getenv("HYPEMAN_FORK_PHASE_BREAKDOWN_PERF_ITERS"); /* upstream's name */
    bool as_json = false;

    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < N_BENCHES; i++)
            (void)puts(benches[i].name);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "linked") == 0) { /* for footprint: linked, and no more */
        (void)pause();
        return 0;
    }
    beside_us(binary, sizeof(binary));
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            as_json = true;
        } else if (take_number(&b, argv[i], argv[i + 1])) {
            i++;
        } else if (strcmp(argv[i], "--filesystem") == 0 && i + 1 < argc &&
                   is_filesystem(argv[i + 1])) {
            b.filesystem = argv[++i];
        } else if (strcmp(argv[i], "--hypervisor") == 0 && i + 1 < argc) {
            b.hypervisor = argv[++i];
        } else if (strcmp(argv[i], "--guest") == 0 && i + 1 < argc) {
            b.guest = argv[++i];
        } else if (strcmp(argv[i], "--readiness") == 0 && i + 1 < argc) {
            use_readiness(argv[++i]);
        } else if (strcmp(argv[i], "--resume") == 0 && i + 1 < argc) {
            setenv("HYPEMAN_FIRECRACKER_RESTORE_RESUME_ON_LOAD",
                   strcmp(argv[++i], "explicit") == 0 ? "0" : "1",
                   1);
        } else if (strcmp(argv[i], "--hypeman") == 0 && i + 1 < argc) {
            b.binary = argv[++i];
        } else {
            usage();
            return 2;
        }
    }
    if (b.iterations == 0 && iters)
        (void)take_number(&b, "--iters", iters);
    use_hypervisor(&b);
    use_guest(&b);
    for (size_t i = 0; argc > 1 && i < N_BENCHES; i++) {
        if (strcmp(argv[1], benches[i].name) == 0) {
            b.name = benches[i].name;
            run(&b, i, as_json);
            return 0;
        }
    }
    usage();
    return 2;
}
