/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu-system-x86_64 on its worst days: speaks QMP and the guest's agent, runs no guest.
 *
 * It takes the sockets, the memory and the name out of the command line that
 * src/vmm/qemu_argv.c makes, and is small and static, so that thousands of them fit. How
 * it behaves stands in the file moods/NAME beside the program (else moods/all), which is
 * read anew whenever it matters; NAME is the instance's:
 *
 *   slow MS      neither accepts nor greets until so long after its start
 *   mute         accepts, and never says a word
 *   drip MS      one byte at a time, so far apart
 *   half         sends half of its next answer and dies
 *   garbage      answers with what is not QMP
 *   park MS      while it saves (for so long), no question is answered, on no socket
 *   silent-guest the agent never reports: the instance stays Initializing
 *
 * SIGUSR1 ends the guest, as the mood says: "exit CODE" (the workload ended and left word),
 * "panic", "reboot", "fail STATUS" (the VMM itself gives up). Without one it is "exit 0".
 * SIGTERM ends it as QEMU's own does. One thread; poll() and nothing else waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/scm.h"
#include "wire/config_disk.h"
#include "wire/frame.h"

enum { API, EVENTS, AGENT, N_SOCKETS, LINE = 8192, RAM_FD = 6 };

struct port {
    int listen_fd;
    int fd; /* of the one client; others wait, as QEMU lets them */
    char in[LINE];
    size_t n;
    int passed_fd; /* by SCM_RIGHTS */
};

static struct port ports[N_SOCKETS];
static char name[128];
static char home[3000]; /* of the program */
static const char *status = "running";
static bool starts_paused;
static bool is_loading;
static int64_t began_ms;
static int64_t parked_until_ms;
static struct frame_reader frames;

/* --- moods --- */

static bool read_mood(const char *who, char *out, size_t size)
{
    char path[4096];
    int fd;
    ssize_t n;

    (void)snprintf(path, sizeof(path), "%s/moods/%s", home, who);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, out, size - 1);
    (void)close(fd);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return true;
}

/* The mood's number, -1 if it is in another mood. */
static int mood(const char *which)
{
    char text[128];
    size_t n = strlen(which);

    if (!read_mood(name, text, sizeof(text)) && !read_mood("all", text, sizeof(text)))
        return -1;
    if (strncmp(text, which, n) != 0 || (text[n] != ' ' && text[n] != '\0'))
        return -1;
    return text[n] ? (int)strtol(text + n + 1, NULL, 10) : 0;
}

static bool in_mood(const char *which)
{
    return mood(which) >= 0;
}

/* --- speaking --- */

static void hang_up(struct port *p)
{
    (void)close(p->fd);
    p->fd = -1;
    p->n = 0;
}

static void say(struct port *p, const char *text, size_t len)
{
    int drip = mood("drip");

    if (p->fd < 0 || in_mood("mute"))
        return;
    if (drip < 0) {
        (void)!send(p->fd, text, len, MSG_NOSIGNAL);
        return;
    }
    for (size_t i = 0; i < len; i++) {
        struct timespec gap = {drip / 1000, (long)(drip % 1000) * 1000000};

        (void)!send(p->fd, text + i, 1, MSG_NOSIGNAL);
        (void)nanosleep(&gap, NULL);
    }
}

static void say_event(const char *event, const char *data)
{
    char text[512];
    int n = snprintf(text,
                     sizeof(text),
                     "{\"timestamp\":{\"seconds\":%lld,\"microseconds\":0},\"event\":\"%s\","
                     "\"data\":%s}\r\n",
                     (long long)time(NULL),
                     event,
                     data);

    say(&ports[API], text, (size_t)n);
    say(&ports[EVENTS], text, (size_t)n);
}

static void greet(struct port *p)
{
    static const char greeting[] =
        "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":0,\"minor\":2,\"major\":7},\"package\":"
        "\"double\"},\"capabilities\":[\"oob\"]}}\r\n";

    say(p, greeting, sizeof(greeting) - 1);
}

static void answer(struct port *p, const char *id, const char *value)
{
    char text[512];
    int n = snprintf(text, sizeof(text), "{\"return\":%s,\"id\":%s}\r\n", value, id);

    if (in_mood("half")) {
        say(p, text, (size_t)n / 2);
        _exit(1);
    }
    if (in_mood("garbage"))
        n = snprintf(text, sizeof(text), "{\"return\":]!\x01\x02 nothing of the kind\r\n");
    say(p, text, (size_t)n);
}

/* --- QMP --- */

static void set_status(const char *to, const char *event)
{
    if (strcmp(status, to) == 0)
        return;
    status = to;
    say_event(event, "{}");
}

static void save(struct port *p)
{
    int park = mood("park");

    if (p->passed_fd >= 0) {
        (void)!write(p->passed_fd, "state of a double\n", 18);
        (void)close(p->passed_fd);
    }
    p->passed_fd = -1;
    if (park > 0)
        parked_until_ms = clock_ms() + park;
}

static void obey(struct port *p, const char *command, const char *id)
{
    char text[96];

    if (strcmp(command, "query-status") == 0) {
        (void)snprintf(text,
                       sizeof(text),
                       "{\"running\":%s,\"singlestep\":false,\"status\":\"%s\"}",
                       strcmp(status, "running") == 0 ? "true" : "false",
                       status);
        answer(p, id, text);
        return;
    }
    if (strcmp(command, "add-fd") == 0) {
        answer(p, id, "{\"fdset-id\":0,\"fd\":9}");
        return;
    }
    if (strcmp(command, "stop") == 0)
        set_status("paused", "STOP");
    else if (strcmp(command, "cont") == 0)
        set_status("running", "RESUME");
    else if (strcmp(command, "getfd") == 0 && p->passed_fd >= 0)
        p->passed_fd = (close(p->passed_fd), -1);
    answer(p, id, "{}");
    if (strcmp(command, "migrate-incoming") == 0) {
        status = starts_paused ? "paused" : "running";
        say_event("MIGRATION", "{\"status\":\"completed\"}");
    }
}

/* Finds "key": and copies what stands behind it, without quotes. */
static bool find(const char *line, const char *key, char *out, size_t size)
{
    const char *at = strstr(line, key);
    size_t n = 0;

    if (!at)
        return false;
    at += strlen(key);
    at += strspn(at, "\": ");
    n = strcspn(at, "\",} \r\n");
    (void)snprintf(out, size, "%.*s", (int)n, at);
    return true;
}

static void take_line(struct port *p, const char *line)
{
    char command[64];
    char id[32];

    if (!find(line, "\"execute\"", command, sizeof(command)))
        return;
    if (!find(line, "\"id\"", id, sizeof(id)))
        (void)snprintf(id, sizeof(id), "0");
    if (strcmp(command, "xen-save-devices-state") == 0)
        save(p);
    obey(p, command, id);
}

static void take_lines(struct port *p)
{
    char *end;

    while (p->fd >= 0 && clock_ms() >= parked_until_ms &&
           (end = memchr(p->in, '\n', p->n)) != NULL) {
        char line[LINE];
        size_t len = (size_t)(end - p->in);

        memcpy(line, p->in, len);
        line[len] = '\0';
        p->n -= len + 1;
        memmove(p->in, end + 1, p->n);
        take_line(p, line);
    }
}

static void receive(struct port *p)
{
    ssize_t n = scm_receive(p->fd, p->in + p->n, sizeof(p->in) - p->n, &p->passed_fd);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || p->n + (size_t)n == sizeof(p->in)) {
        hang_up(p);
        return;
    }
    p->n += (size_t)n;
    take_lines(p);
}

/* --- the guest's agent --- */

static void report(uint8_t type, const char *json)
{
    struct buf out = BUF(FRAME_MAX);

    frame_put(&out, type, 0, json, strlen(json));
    say(&ports[AGENT], out.data, out.len);
    buf_free(&out);
}

static void end_guest(const char *reason, int code);

static void take_frame(const struct frame *f)
{
    struct buf out = BUF(FRAME_MAX);
    char nonce[64];
    char text[FRAME_MAX > 4096 ? 4096 : FRAME_MAX];

    (void)snprintf(text, sizeof(text), "%.*s", (int)f->len, (const char *)f->data);
    if (f->type == FRAME_HELLO && find(text, "\"nonce\"", nonce, sizeof(nonce)) &&
        !in_mood("silent-guest")) {
        frame_put_hello(&out, nonce);
        say(&ports[AGENT], out.data, out.len);
        report(FRAME_STARTED, "{\"at_us\":1,\"mode\":\"exec\"}");
    } else if (f->type == FRAME_SHUTDOWN) {
        end_guest("guest-shutdown", 0);
    }
    buf_free(&out);
}

static void receive_frames(struct port *p)
{
    struct frame f;
    struct err e = {0};
    size_t room;
    void *at = frame_reader_space(&frames, &room);
    ssize_t n = recv(p->fd, at, room, MSG_DONTWAIT);
    int rc;

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        hang_up(p);
        frame_reader_reset(&frames);
        return;
    }
    frame_reader_filled(&frames, (size_t)n);
    while ((rc = frame_next(&frames, &f, &e)) == 1)
        take_frame(&f);
    if (rc < 0)
        hang_up(p);
}

/* --- ends --- */

/* What the guest's own agent would leave on its disk, and then say. */
static void leave_word(int code)
{
    unsigned char sector[EXIT_SECTOR];
    char config[4096];
    char incarnation[32] = "0";
    struct exit_record record = {.code = code};
    struct buf json = BUF(4096);
    int fd = open("config.raw", O_RDWR | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, config, sizeof(config) - 1, CONFIG_OFFSET + 12);

    if (n > 0) {
        config[n] = '\0';
        (void)find(config, "\"incarnation\"", incarnation, sizeof(incarnation));
    }
    record.incarnation = strtoull(incarnation, NULL, 10);
    exit_sector_make(sector, &record);
    if (fd >= 0)
        (void)!pwrite(fd, sector, sizeof(sector), 0);
    exit_record_json(&json, &record);
    report(FRAME_EXITED, buf_str(&json));
}

static void end_guest(const char *reason, int code)
{
    char data[96];

    if (code >= 0)
        leave_word(code);
    if (strcmp(reason, "guest-panic") == 0)
        say_event("GUEST_PANICKED", "{\"action\":\"pause\"}");
    (void)snprintf(data, sizeof(data), "{\"guest\":true,\"reason\":\"%s\"}", reason);
    say_event("SHUTDOWN", data);
    exit(0);
}

static void take_signal(int fd)
{
    struct signalfd_siginfo info;
    int code = mood("exit");

    if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo == SIGTERM)
        end_guest("host-signal", -1);
    if (in_mood("panic"))
        end_guest("guest-panic", -1);
    if (in_mood("reboot"))
        end_guest("guest-reset", -1);
    if (in_mood("fail"))
        exit(mood("fail"));
    end_guest("guest-shutdown", code < 0 ? 0 : code);
}

/* --- the program --- */

static void take_chardev(char *text)
{
    static const char *const ids[] = {
        [API] = "id=api,", [EVENTS] = "id=events,", [AGENT] = "id=agent,"};
    const char *fd = strstr(text, "fd=");

    for (int i = 0; i < N_SOCKETS && fd; i++) {
        if (strstr(text, ids[i]))
            ports[i].listen_fd = (int)strtol(fd + 3, NULL, 10);
    }
}

static void take_memory(const char *text)
{
    size_t size = strtoull(text, NULL, 10);

    /* Whoever saves us looks for this mapping. */
    if (mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, RAM_FD, 0) == MAP_FAILED)
        (void)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, RAM_FD, 0);
}

static void take_arguments(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "-S") == 0)
            starts_paused = true;
        if (!value)
            continue;
        if (strcmp(argv[i], "-name") == 0 && strncmp(value, "guest=", 6) == 0)
            (void)snprintf(name, sizeof(name), "%s", value + 6);
        else if (strcmp(argv[i], "-chardev") == 0)
            take_chardev(value);
        else if (strcmp(argv[i], "-m") == 0)
            take_memory(value);
        else if (strcmp(argv[i], "-incoming") == 0)
            is_loading = true;
    }
    if (is_loading)
        status = "inmigrate";
}

static void accept_one(struct port *p)
{
    p->fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (p->fd >= 0 && p != &ports[AGENT])
        greet(p);
}

static bool is_slow(void)
{
    int slow = mood("slow");

    return slow > 0 && clock_ms() < began_ms + slow;
}

/* -1 unless something is due that no fd tells. */
static int next_ms(void)
{
    int64_t now = clock_ms();
    int slow = mood("slow");
    int64_t left = slow > 0 ? began_ms + slow - now : 0;

    if (parked_until_ms > now)
        left = parked_until_ms - now;
    return left > 0 ? (int)left : -1;
}

static void turn(int signal_fd)
{
    struct pollfd fds[N_SOCKETS + 1] = {[N_SOCKETS] = {.fd = signal_fd, .events = POLLIN}};
    bool slow = is_slow();

    for (int i = 0; i < N_SOCKETS; i++) {
        fds[i].fd = ports[i].fd >= 0 ? ports[i].fd : slow ? -1 : ports[i].listen_fd;
        fds[i].events = POLLIN;
        if (ports[i].fd >= 0 && i != AGENT)
            take_lines(&ports[i]); /* what was parked */
    }
    if (poll(fds, N_SOCKETS + 1, next_ms()) < 0)
        return;
    if (fds[N_SOCKETS].revents)
        take_signal(signal_fd);
    for (int i = 0; i < N_SOCKETS; i++) {
        if (!fds[i].revents || fds[i].fd < 0)
            continue;
        if (ports[i].fd < 0)
            accept_one(&ports[i]);
        else if (i == AGENT)
            receive_frames(&ports[i]);
        else
            receive(&ports[i]);
    }
}

int main(int argc, char **argv)
{
    sigset_t set;
    ssize_t n = readlink("/proc/self/exe", home, sizeof(home) - 1);
    int signal_fd;

    home[n > 0 ? n : 0] = '\0';
    if (strrchr(home, '/'))
        *strrchr(home, '/') = '\0';
    if (argc > 1 && strcmp(argv[1], "--version") == 0)
        return puts("QEMU emulator version 7.2.0 (double)") < 0;
    if (argc > 1 && strcmp(argv[1], "-L") == 0)
        return puts(home) < 0; /* where qboot.rom lies */
    for (int i = 0; i < N_SOCKETS; i++)
        ports[i].listen_fd = ports[i].fd = ports[i].passed_fd = -1;
    began_ms = clock_ms();
    frame_reader_init(&frames);
    take_arguments(argc, argv);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    for (;;)
        turn(signal_fd);
}
