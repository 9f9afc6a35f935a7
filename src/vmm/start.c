/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/start.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

enum { KILL_MS = 10000 };

struct vmm_start vmm_start_of(const char *program, const struct vmm_boot *boot)
{
    return (struct vmm_start){.program = program,
                              .boot = boot,
                              .given = {-1, -1, -1, -1},
                              .log_fd = -1,
                              .process = {.pidfd = -1}};
}

static void close_given(struct vmm_start *s)
{
    for (size_t i = 0; i < VMM_START_GIVEN; i++) {
        cleanup_close(&s->given[i]);
        s->given[i] = -1;
    }
}

void vmm_start_undo(struct vmm_start *s)
{
    struct op last_moment = {.deadline_ms = clock_ms() + KILL_MS, .cancel_fd = -1};
    struct err ignored = {0};

    http_client_free(s->api);
    if (s->process.pidfd >= 0)
        (void)proc_kill(&last_moment, s->process.pidfd, &ignored);
    cleanup_close(&s->process.pidfd);
    cleanup_close(&s->log_fd);
    close_given(s);
}

int vmm_start_file(const struct vmm_start *s, const char *name, int more_flags, struct err *e)
{
    int fd = openat(s->boot->dir_fd,
                    name,
                    O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | more_flags,
                    0640);

    return fd < 0 ? err_errno(e, "open %s", name) : fd;
}

int vmm_start_log(struct vmm_start *s, int more_flags, struct err *e)
{
    s->log_fd = vmm_start_file(s, VMM_VMM_LOG, more_flags, e);
    if (s->log_fd < 0)
        return -1;
    s->log_from = lseek(s->log_fd, 0, SEEK_END);
    return 0;
}

int vmm_start_spawn(struct vmm_start *s, struct proc_spec *spec, struct err *e)
{
    spec->cwd_fd = s->boot->dir_fd;
    spec->stderr_fd = s->log_fd;
    s->process.pidfd = proc_spawn(spec, &s->process.id, e);
    close_given(s);
    return s->process.pidfd < 0 ? -1 : 0;
}

struct last_words_source vmm_start_words(struct vmm_start *s)
{
    return (struct last_words_source){.program = s->program,
                                      .pidfd = &s->process.pidfd,
                                      .log_fd = s->log_fd,
                                      .log_from = s->log_from,
                                      .meaning = s->meaning};
}

int vmm_start_explain(struct vmm_start *s, struct err *e)
{
    struct last_words_source words = vmm_start_words(s);

    return e->code == ERR_NOT_FOUND ? last_words_explain(&words, e) : -1;
}

struct vmm_process vmm_start_hand_over(struct vmm_start *s)
{
    return (struct vmm_process){.id = s->process.id, .pidfd = take_fd(&s->process.pidfd)};
}

int vmm_start_check_memory(const struct vmm_boot *boot, struct err *e)
{
    struct stat st;

    if (fstatat(boot->dir_fd, VMM_SNAPSHOT_MEMORY, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return err_errno(e, "look at %s", VMM_SNAPSHOT_MEMORY);
    if (st.st_size != (off_t)boot->memory_bytes)
        return err_set(e,
                       ERR_BAD_STATE,
                       "the snapshot holds %lld bytes of memory, the VM has %llu",
                       (long long)st.st_size,
                       (unsigned long long)boot->memory_bytes);
    return 0;
}

struct http_client *vmm_api_client(int dir_fd)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir_fd, VMM_API_SOCKET);
    return http_client_new(path);
}
