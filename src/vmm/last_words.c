/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/last_words.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "loop/proc.h"

enum { PATIENCE_MS = 2000 };

void last_words(int log_fd, off_t from, char out[LAST_WORDS_SIZE])
{
    struct stat st;
    ssize_t n;

    out[0] = '\0';
    if (fstat(log_fd, &st) < 0)
        return;
    if (st.st_size - from > LAST_WORDS_SIZE - 1)
        from = st.st_size - (LAST_WORDS_SIZE - 1);
    n = pread(log_fd, out, LAST_WORDS_SIZE - 1, from);
    while (n > 0 && out[n - 1] == '\n')
        n--;
    out[n > 0 ? n : 0] = '\0';
    for (char *p = out; (p = strchr(p, '\n'));)
        *p = ' ';
}

int last_words_explain(const struct last_words_source *s, struct err *e)
{
    struct op short_wait = {.deadline_ms = clock_ms() + PATIENCE_MS, .cancel_fd = -1};
    struct err ignored = {0};
    struct proc_exit end;
    const char *meaning;
    char words[LAST_WORDS_SIZE];

    if (proc_wait(&short_wait, *s->pidfd, &end, &ignored) < 0)
        return -1;
    close(take_fd(s->pidfd));
    last_words(s->log_fd, s->log_from, words);
    meaning = s->meaning ? s->meaning(end.code) : NULL;
    err_clear(e);
    return err_set(e,
                   ERR_INTERNAL,
                   "%s ended with status %d%s%s%s: %s",
                   s->program,
                   end.code,
                   meaning ? " (" : "",
                   meaning ? meaning : "",
                   meaning ? ")" : "",
                   words);
}
