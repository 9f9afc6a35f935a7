/* SPDX-License-Identifier: Apache-2.0 */
/* Cloud Hypervisor's parts that need none: its events, its monitor, what it is told. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "unit.h"
#include "vmm/cloud_hypervisor.h"
#include "vmm/event_stream.h"
#include "vmm/ram.h"
#include "vmm/ram_disk.h"
#include "vmm/sock.h"

#define EVENT(source, name)                                                                        \
    "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 161090\n  },\n  \"source\": "         \
    "\"" source "\",\n  \"event\": \"" name "\",\n  \"properties\": null\n}\n\n"

/* --- the stream --- */

static void objects_are_split_on_blank_lines(void **state)
{
    static const char text[] = EVENT("vmm", "starting") EVENT("vm", "paused") "{\n  \"time";
    struct stream_event event;
    size_t at = event_stream_take(text, sizeof(text) - 1, &event);

    (void)state;
    assert_string_equal(event.source, "vmm");
    assert_string_equal(event.event, "starting");
    at += event_stream_take(text + at, sizeof(text) - 1 - at, &event);
    assert_string_equal(event.event, "paused");
    assert_false(event.is_lossy);
    assert_int_equal(event_stream_take(text + at, sizeof(text) - 1 - at, &event), 0);
}

static void what_is_cut_or_garbled_is_left_out_and_said(void **state)
{
    static const char cut[] = "{\n  \"timestamp\": {\n    \"se" EVENT("vm", "paused");
    static const char garbage[] = "\xff\x01nothing\n\n";
    static const char other[] = "{\"source\": 7}\n\n";
    static const char long_word[] =
        EVENT("vm", "an event whose name is longer than any that there is");
    struct stream_event event;

    (void)state;
    assert_int_equal(event_stream_take(cut, sizeof(cut) - 1, &event), sizeof(cut) - 1);
    assert_string_equal(event.event, "paused");
    assert_true(event.is_lossy);
    assert_int_equal(event_stream_take(garbage, sizeof(garbage) - 1, &event), sizeof(garbage) - 1);
    assert_true(event.is_lossy && event.source[0] == '\0');
    assert_int_equal(event_stream_take(other, sizeof(other) - 1, &event), sizeof(other) - 1);
    assert_true(event.is_lossy && event.source[0] == '\0');
    (void)event_stream_take(long_word, sizeof(long_word) - 1, &event);
    assert_true(event.is_lossy && event.source[0] == '\0');
}

static void a_head_that_was_given_back_is_skipped(void **state)
{
    static const char text[] = "\0\0\0\n" EVENT("vm", "resumed");
    struct stream_event event;

    (void)state;
    assert_int_equal(event_stream_take(text, sizeof(text) - 1, &event), sizeof(text) - 1);
    assert_string_equal(event.event, "resumed");
    assert_false(event.is_lossy);
}

/* --- the monitor --- */

struct bench {
    char path[64];
    int dir_fd;
    int listen_fd;
    int events_fd;
    struct loop *loop;
    struct vmm_monitor *monitor;
    struct timer late;
    char seen[200];
    const char *until; /* ends the loop once that was seen */
    bool close_on_event;
    uint32_t reboots;
};

static void too_late(struct timer *t)
{
    loop_stop(container_of(t, struct bench, late)->loop);
}

static void on_event(void *owner, const struct vmm_event *event)
{
    static const char *const names[] = {
        "ready ", "status ", "paused ", "resumed ", "shutdown ", "reboot ", "panic ", "lost "};
    struct bench *b = owner;

    b->reboots += event->times;
    strncat(b->seen, names[event->kind], sizeof(b->seen) - strlen(b->seen) - 1);
    if (b->close_on_event) {
        vmm_monitor_close(b->monitor);
        b->monitor = NULL;
    }
    if (b->until && strstr(b->seen, b->until))
        loop_stop(b->loop);
}

static void say(const struct bench *b, const char *text)
{
    assert_int_equal(write(b->events_fd, text, strlen(text)), strlen(text));
}

static void bench_init(struct bench *b, const char *history)
{
    struct err e = {0};

    *b = (struct bench){.path = "/tmp/hypeman-ch-XXXXXX", .late.fn = too_late};
    assert_non_null(mkdtemp(b->path));
    b->dir_fd = open(b->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    b->listen_fd = sock_listen(b->dir_fd, VMM_API_SOCKET, &e);
    b->events_fd = openat(b->dir_fd, VMM_EVENTS_LOG, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(b->listen_fd >= 0 && b->events_fd >= 0);
    say(b, history);
    b->loop = loop_new(&e);
    b->monitor = vmm_monitor_open(&cloud_hypervisor_driver, b->loop, b->dir_fd, on_event, b, &e);
    assert_non_null(b->monitor);
}

/* Runs until that was seen, or fails. */
static void expect(struct bench *b, const char *text)
{
    struct err e = {0};

    b->until = text;
    if (!strstr(b->seen, text)) {
        loop_timer_start(b->loop, &b->late, 10000);
        assert_int_equal(loop_run(b->loop, &e), 0);
        loop_timer_stop(b->loop, &b->late);
    }
    if (!strstr(b->seen, text))
        fail_msg("saw \"%s\", not \"%s\"", b->seen, text);
    b->seen[0] = '\0';
}

static void bench_fini(struct bench *b)
{
    struct err e = {0};

    vmm_monitor_close(b->monitor);
    loop_free(b->loop);
    close(b->events_fd);
    close(b->listen_fd);
    close(b->dir_fd);
    assert_int_equal(tree_remove(AT_FDCWD, b->path, &e), 0);
}

static void a_vmm_that_answers_nobody_still_tells_by_its_events(void **state)
{
    struct bench b;

    (void)state;
    bench_init(&b, EVENT("vmm", "starting"));
    say(&b, EVENT("vm", "pausing") EVENT("vm", "paused"));
    expect(&b, "paused ");
    say(&b, EVENT("vm", "resumed"));
    expect(&b, "resumed ");
    say(&b, EVENT("vm", "rebooting") EVENT("vm", "rebooted"));
    expect(&b, "reboot ");
    say(&b, EVENT("guest", "panic") EVENT("vm", "shutdown"));
    expect(&b, "panic shutdown ");
    bench_fini(&b);
}

static void of_history_only_what_it_came_to_is_told(void **state)
{
    struct bench b;

    (void)state;
    bench_init(&b,
               EVENT("vm", "paused") EVENT("vm", "resumed") EVENT("vm", "rebooted")
                   EVENT("vm", "rebooted") EVENT("vm", "paused"));
    expect(&b, "reboot paused ");
    assert_int_equal(b.reboots, 2);
    say(&b, EVENT("vm", "resumed"));
    expect(&b, "resumed ");
    assert_string_equal(b.seen, "");
    bench_fini(&b);
}

static void answer(int fd, const char *state)
{
    char question[512];
    char text[256];
    char body[64];

    assert_true(recv(fd, question, sizeof(question), 0) > 0);
    (void)snprintf(body, sizeof(body), "{\"config\":{},\"state\":\"%s\"}", state);
    (void)snprintf(
        text, sizeof(text), "HTTP/1.1 200 \r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void where_something_was_missed_the_vmm_is_asked(void **state)
{
    struct bench b;
    int fd;

    (void)state;
    bench_init(&b, "");
    fd = accept4(b.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    answer(fd, "Running");
    expect(&b, "ready ");
    say(&b, "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"na\n\n" EVENT("vm", "resumed"));
    expect(&b, "resumed ");
    answer(fd, "Paused");
    expect(&b, "status ");
    close(fd);
    expect(&b, "lost ");
    bench_fini(&b);
}

static void what_it_wrote_before_it_hung_up_comes_first(void **state)
{
    struct bench b;
    int fd;

    (void)state;
    bench_init(&b, "");
    fd = accept4(b.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    say(&b, EVENT("vm", "shutdown"));
    close(fd);
    expect(&b, "shutdown lost ");
    bench_fini(&b);
}

static void a_callback_may_close_the_monitor(void **state)
{
    struct bench b;

    (void)state;
    bench_init(&b, "");
    b.close_on_event = true;
    say(&b, EVENT("vm", "shutdown") EVENT("guest", "panic"));
    expect(&b, "shutdown ");
    assert_null(b.monitor);
    bench_fini(&b);
}

/* --- memory --- */

static void the_ram_has_a_name_nobody_can_find_and_is_gone_with_its_fd(void **state)
{
    struct err e = {0};
    struct stat st;
    int fd = ram_disk_file(8 << 20, &e);

    (void)state;
    if (fd < 0) {
        assert_int_equal(e.code, ERR_UNSUPPORTED);
        skip();
    }
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 8 << 20);
    assert_int_equal(st.st_nlink, 1);
    assert_true(ram_disk_is(fd));
    close(fd);
}

static void zeroes_become_holes_and_the_rest_stays(void **state)
{
    struct op op = {.deadline_ms = clock_ms() + 20000, .cancel_fd = -1};
    auto_close int fd = memfd_create("zeroes", MFD_CLOEXEC);
    static const char word[] = "here";
    char zero[4096] = "";
    char back[sizeof(word)];
    struct err e = {0};
    struct stat st;

    (void)state;
    for (int i = 0; i < 512; i++)
        assert_int_equal(write(fd, zero, sizeof(zero)), sizeof(zero));
    assert_int_equal(pwrite(fd, word, sizeof(word), 300 * 4096), sizeof(word));
    assert_int_equal(ram_dig_holes(&op, fd, &e), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 512 * 4096);
    assert_int_equal(st.st_blocks, 4096 / 512);
    assert_int_equal(pread(fd, back, sizeof(back), 300 * 4096), sizeof(back));
    assert_string_equal(back, word);
}

/* --- what it is told --- */

static struct vmm_host host_of(const char *version)
{
    struct vmm_host host = {.kernel = "/lib/hypeman/vmlinux",
                            .initramfs = "/lib/hypeman/initramfs"};

    (void)snprintf(
        host.cloud_hypervisor_version, sizeof(host.cloud_hypervisor_version), "%s", version);
    return host;
}

static void versions_are_told_apart(void **state)
{
    static const struct {
        const char *text;
        unsigned major;
    } cases[] = {{"53.0.0", 53}, {"48.0", 48}, {"54.0.0-dev", 54}, {"52", 52}, {"x", 0}, {"", 0}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vmm_host host = host_of(cases[i].text);

        assert_int_equal(cloud_hypervisor_version(&host), cases[i].major);
    }
}

static json_t *config_of(const struct vmm_boot *boot, enum cloud_hypervisor_memory memory)
{
    auto_buf struct buf text = BUF(16384);
    struct err e = {0};
    json_t *config;

    cloud_hypervisor_config(&text, boot, memory, true);
    config = parse_json(buf_str(&text), text.len, &e);
    assert_non_null(config);
    return config;
}

static void a_clone_differs_from_what_was_booted_in_its_memory_alone(void **state)
{
    struct vmm_host host = host_of("53.0.0");
    struct vmm_boot boot = {.host = &host, .vcpus = 2, .memory_bytes = 64 << 20, .tap_fd = -1};
    json_auto_t *booted = config_of(&boot, RAM_BY_FD);
    json_auto_t *loaded = config_of(&boot, RAM_OF_SNAPSHOT);
    const json_t *zone =
        json_array_get(json_object_get(json_object_get(loaded, "memory"), "zones"), 0);

    (void)state;
    assert_string_equal(json_string_value(json_object_get(zone, "file")), VMM_SNAPSHOT_MEMORY);
    assert_true(json_is_false(json_object_get(zone, "shared")));
    assert_int_equal(json_object_del(booted, "memory"), 0);
    assert_int_equal(json_object_del(loaded, "memory"), 0);
    assert_true(json_equal(booted, loaded));
}

static void a_restore_resumes_where_the_version_can(void **state)
{
    static const struct {
        const char *version, *body;
    } cases[] = {
        {"53.0.0",
         "{\"source_url\":\"file://snapshot/load\",\"resume\":true,"
         "\"net_fds\":[{\"id\":\"net0\",\"num_fds\":1}]}"},
        {"51.2.0",
         "{\"source_url\":\"file://snapshot/load\",\"net_fds\":[{\"id\":\"net0\",\"num_fds\":1}]}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vmm_host host = host_of(cases[i].version);
        struct vmm_load load = {.boot = {.host = &host, .tap_fd = 5}, .resume = true};
        auto_buf struct buf body = BUF(4096);

        cloud_hypervisor_restore(&body, &load);
        assert_string_equal(buf_str(&body), cases[i].body);
    }
}

static void states_have_their_status(void **state)
{
    static const char running[] = "{\"state\":\"Running\"}";
    static const char paused[] = "{\"state\":\"Paused\"}";
    static const char none[] = "[\"Error from API\"]";

    (void)state;
    assert_int_equal(cloud_hypervisor_status(running, strlen(running)), VMM_STATUS_RUNNING);
    assert_int_equal(cloud_hypervisor_status(paused, strlen(paused)), VMM_STATUS_PAUSED);
    assert_int_equal(cloud_hypervisor_status(none, strlen(none)), VMM_STATUS_UNKNOWN);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        checked_test(objects_are_split_on_blank_lines),
        checked_test(what_is_cut_or_garbled_is_left_out_and_said),
        checked_test(a_head_that_was_given_back_is_skipped),
        checked_test(a_vmm_that_answers_nobody_still_tells_by_its_events),
        checked_test(of_history_only_what_it_came_to_is_told),
        checked_test(where_something_was_missed_the_vmm_is_asked),
        checked_test(what_it_wrote_before_it_hung_up_comes_first),
        checked_test(a_callback_may_close_the_monitor),
        checked_test(the_ram_has_a_name_nobody_can_find_and_is_gone_with_its_fd),
        checked_test(zeroes_become_holes_and_the_rest_stays),
        checked_test(versions_are_told_apart),
        checked_test(a_clone_differs_from_what_was_booted_in_its_memory_alone),
        checked_test(a_restore_resumes_where_the_version_can),
        checked_test(states_have_their_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
