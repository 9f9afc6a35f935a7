/* SPDX-License-Identifier: Apache-2.0 */
/* VMs that are only doubles of a VMM (tests/doubles), so that thousands fit; and records beside. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "bench.h"
#include "store/store.h"
#include "vm/spec.h"
#include "vm/state.h"

enum { DOUBLE_MAX = 4 << 20 };

/* The double of the same build, under the name that a daemon looks for. */
static void copy_double(const struct bench *b, int to_fd)
{
    auto_free char *path = built_for_tests(b, "doubles", "qemu-system-x86_64");
    auto_buf struct buf program = BUF(DOUBLE_MAX);
    struct err e = {0};

    must(file_read(AT_FDCWD, path, &program, &e), &e);
    must(file_replace(to_fd, "qemu-system-x86_64", 0755, program.data, program.len, &e), &e);
    must(file_replace(to_fd, "qboot.rom", 0644, "none", 4, &e), &e);
    must(dir_ensure(to_fd, "moods", 0755, &e), &e);
}

void doubles_set_up(struct bench *b)
{
    struct err e = {0};
    auto_close int fd = -1;
    auto_free char *program = mem_printf("%s/doubles/qemu-system-x86_64", b->root);

    must(dir_ensure(b->root_fd, "doubles", 0755, &e), &e);
    fd = openat(b->root_fd, "doubles", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    copy_double(b, fd);
    if (setenv("HYPERVISOR__QEMU_BINARY_PATH", program, 1) < 0 ||
        setenv("HYPERVISOR__ACCELERATION", "tcg", 1) < 0)
        give_up("setenv: %m");
}

/* Of the full contract: tags, environment and the rest. */
void doubles_run(struct bench *b, int from, int to)
{
    for (int i = from; i < to; i++) {
        auto_free char *body = mem_printf(
            "{\"name\":\"vm-%d\",\"image\":\"bench\",\"size\":\"128MB\",\"vcpus\":2,\"overlay_"
            "size\":\"16MB\",\"tags\":{\"team\":\"browsers\",\"pool\":\"p-%d\"},\"env\":{\"PATH\":"
            "\"/usr/local/bin:/usr/bin:/bin\",\"LANG\":\"C.UTF-8\",\"PORT\":\"8080\"}}",
            i,
            i % 8);

        (void)api(b, "POST /instances", body, 201);
    }
    for (int i = from; i < to; i++) {
        auto_free char *wait = mem_printf("GET /instances/vm-%d/wait?state=Running", i);

        if (!strstr(api(b, wait, NULL, 200), "\"Running\""))
            give_up("vm-%d did not come up", i);
    }
}

static void each_of(const char *task, void (*fn)(void *arg, pid_t pid), void *arg)
{
    auto_buf struct buf text = BUF(1 << 20);
    struct err e = {0};
    char *rest = NULL;

    if (file_read(AT_FDCWD, task, &text, &e) < 0 || !text.data)
        return;
    for (char *pid = strtok_r(text.data, " \n", &rest); pid; pid = strtok_r(NULL, " \n", &rest))
        fn(arg, (pid_t)strtol(pid, NULL, 10));
}

/* The daemon's children are its VMMs; each hangs on the thread that spawned it. */
void doubles_each(const struct bench *b, void (*fn)(void *arg, pid_t pid), void *arg)
{
    auto_free char *tasks = mem_printf("/proc/%d/task", (int)b->daemon.id.pid);
    DIR *dir = opendir(tasks);
    const struct dirent *entry;

    if (!dir)
        give_up("%s: %m", tasks);
    while ((entry = readdir(dir)) != NULL) {
        auto_free char *path = mem_printf("%s/%s/children", tasks, entry->d_name);

        if (entry->d_name[0] != '.')
            each_of(path, fn, arg);
    }
    closedir(dir);
}

static void send_signal(void *arg, pid_t pid)
{
    (void)kill(pid, *(const int *)arg);
}

void doubles_signal(const struct bench *b, int number)
{
    doubles_each(b, send_signal, &number);
}

static void add_record(struct store_change *change, int i)
{
    struct spec *spec = spec_new();
    struct vm_run run = {.state = VM_STOPPED, .incarnation = 3};
    struct buf spec_text = BUF(65536);
    struct buf state_text = BUF(65536);
    char id[ID_SIZE];
    struct instance_record record = {.id = id};

    id_new(id);
    (void)snprintf(spec->name, sizeof(spec->name), "instance-%d", i);
    record.name = spec->name;
    spec->image = mem_strdup("docker.io/library/bench:latest");
    spec->image_digest =
        mem_strdup("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    spec->hypervisor = mem_strdup("qemu-microvm");
    spec->env = mem_strdup("{\"PATH\":\"/usr/local/bin:/usr/bin:/bin\",\"LANG\":\"C.UTF-8\"}");
    spec->image_config =
        mem_strdup("{\"entrypoint\":[],\"cmd\":[\"/bin/"
                   "sleep\",\"100000\"],\"env\":[],\"working_dir\":null,\"user\":null}");
    spec->vcpus = 2;
    spec->memory_bytes = 1ULL << 30;
    spec->overlay_bytes = 10ULL << 30;
    spec->created_us = run.since_us = run.stopped_us = wall_us();
    vm_run_set_exit(&run, 143, "killed by signal 15 (Terminated)");
    spec_write(&spec_text, spec);
    vm_run_write(&state_text, &run);
    record.spec = buf_str(&spec_text);
    record.state = buf_str(&state_text);
    instances_put(change, &record);
    buf_free(&spec_text);
    buf_free(&state_text);
    vm_run_free(&run);
    spec_unref(spec);
}

/* The daemon's own, while there is none. */
static struct store *take_store(struct bench *b)
{
    struct err e = {0};
    auto_close int data_fd = -1;
    struct store *store;

    daemon_stop(b);
    data_fd = openat(b->root_fd, "data", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    store = store_open(data_fd, &e);
    must(store ? 0 : -1, &e);
    return store;
}

static void give_store_back(struct bench *b, struct store *store, struct store_change *change)
{
    struct err e = {0};

    must(store_commit(store, change, &e), &e);
    store_close(store);
    daemon_start(b);
}

void records_add(struct bench *b, int from, int to)
{
    struct store *store = take_store(b);
    struct store_change *change = store_change_new();

    for (int i = from; i < to; i++)
        add_record(change, i);
    give_store_back(b, store, change);
}

struct declaring {
    const char *id;
    struct store_change *change;
};

static int declare_running(void *arg, const struct instance_record *r, struct err *e)
{
    const struct declaring *d = arg;
    auto_buf struct buf text = BUF(65536);
    auto_run struct vm_run run = {0};

    if (strcmp(r->id, d->id) != 0)
        return 0;
    if (vm_run_read(r->state, &run, e) < 0)
        return -1;
    vm_run_enter(&run, VM_RUNNING, VM_BY_EVENT, wall_us());
    vm_run_write(&text, &run);
    instances_put_state(d->change, r->id, buf_str(&text));
    return 0;
}

void record_as_running(struct bench *b, const char *id)
{
    struct store *store = take_store(b);
    struct declaring d = {id, store_change_new()};
    struct err e = {0};

    must(store_each_instance(store, declare_running, &d, &e), &e);
    give_store_back(b, store, d.change);
}
