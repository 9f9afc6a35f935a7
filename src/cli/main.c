/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/session.h"

/* The order of "hypeman help". */
static const struct cli_verb *const verbs[] = {
    &cli_run,    &cli_ps,   &cli_inspect, &cli_logs,    &cli_exec,    &cli_cp,      &cli_stats,
    &cli_top,    &cli_wait, &cli_stop,    &cli_standby, &cli_restore, &cli_fork,    &cli_start,
    &cli_update, &cli_rm,   &cli_image,   &cli_trace,   &cli_token,   &cli_version,
};
enum { N_VERBS = sizeof(verbs) / sizeof(verbs[0]), MAX_ROWS = 64 };

/* --- choosing a row --- */

static const char *last_word(const struct cli_verb *verb)
{
    const char *blank = strrchr(verb->name, ' ');

    return blank ? blank + 1 : verb->name;
}

static const struct cli_verb *find(const struct cli_verb *table, const char *word)
{
    for (; table->name; table++) {
        if (strcmp(last_word(table), word) == 0 ||
            (table->alias && strcmp(table->alias, word) == 0))
            return table;
    }
    return NULL;
}

/* Letters to insert, remove, replace or swap with their neighbour to make one of the other. */
static size_t distance(const char *a, const char *b)
{
    enum { LONGEST = 24 };
    size_t d[LONGEST + 1][LONGEST + 1];
    size_t n = strlen(a);
    size_t m = strlen(b);

    if (n > LONGEST || m > LONGEST)
        return LONGEST;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);

            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

static const char *nearest(const struct cli_verb *table, const char *word)
{
    const char *found = NULL;
    size_t best = 3; /* further away it is another word */

    for (; table->name; table++) {
        size_t d = distance(word, last_word(table));

        if (d < best && d < strlen(word)) {
            best = d;
            found = last_word(table);
        }
    }
    return found;
}

static void print_rows(const struct cli_verb *table)
{
    for (; table->name; table++)
        printf("  %-10s %s\n", last_word(table), table->help);
}

static int unknown(const struct cli_verb *table, const char *parent, const char *word)
{
    const char *guess = nearest(table, word);

    fprintf(stderr, "hypeman%s: no such command: %s", parent, word);
    if (guess)
        fprintf(stderr, "; did you mean '%s'?\n", guess);
    else
        fprintf(stderr, "; see 'hypeman%s help'\n", parent);
    return CLI_MISUSE;
}

static bool is_help(const char *word)
{
    return strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static int finish(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fprintf(stderr, "hypeman: write to standard output: %m\n");
    clearerr(stdout); /* said once is enough, also for a verb within a verb */
    return code ? code : CLI_FAILURE;
}

int cli_dispatch(const struct cli_verb *table, const char *parent, int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "help";
    const struct cli_verb *verb;

    if (is_help(word) && argc > 2 && strcmp(word, "help") == 0) {
        char *ask[] = {argv[2], (char[]){"--help"}, NULL};

        verb = find(table, argv[2]);
        return finish(verb ? verb->run(2, ask) : unknown(table, parent, argv[2]));
    }
    if (is_help(word)) {
        printf("usage: hypeman%s COMMAND\n\n", parent);
        print_rows(table);
        printf("\n'hypeman%s help COMMAND' says more about one.\n", parent);
        return finish(CLI_OK);
    }
    verb = find(table, word);
    return verb ? finish(verb->run(argc - 1, argv + 1)) : unknown(table, parent, word);
}

int cli_misuse(const struct cli_verb *verb, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "hypeman %s: ", verb->name);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "; see 'hypeman %s --help'\n", verb->name);
    return CLI_MISUSE;
}

/* --- the program --- */

/* "--name VALUE" or "--name=VALUE" in front of the verb. Moves past it. */
static bool global_flag(const char *name, int *argc, char ***argv, const char **out)
{
    const char *word = (*argv)[1];
    size_t len = strlen(name);
    int used = 1;

    if (strncmp(word, name, len) != 0 || (word[len] && word[len] != '='))
        return false;
    if (word[len] == '=')
        *out = word + len + 1;
    else if (*argc > 2) {
        *out = (*argv)[2];
        used = 2;
    } else
        return false;
    *argc -= used;
    *argv += used;
    return true;
}

/* What is closed must not become a socket that is then read or written for it: nothing comes from
 * there, and what goes there is an error. */
static void fill_standard_fds(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", O_RDONLY | O_CLOEXEC); /* the lowest that is free: this one */
    }
}

int cli_main(int argc, char **argv, const struct cli_verb *extra)
{
    struct cli_verb table[MAX_ROWS + 1] = {0};
    size_t n = 0;

    fill_standard_fds();
    while (extra && extra->name && n < MAX_ROWS - N_VERBS)
        table[n++] = *extra++;
    for (size_t i = 0; i < N_VERBS; i++)
        table[n++] = *verbs[i];
    while (argc > 1 && (global_flag("--base-url", &argc, &argv, &session_target.base_url) ||
                        global_flag("--socket", &argc, &argv, &session_target.socket_path)))
        continue;
    if (argc > 1 && strcmp(argv[1], "--version") == 0)
        argv[1] += 2;
    if (argc > 1 && argv[1][0] == '-' && !is_help(argv[1])) {
        fprintf(stderr, "hypeman: unknown flag or no value: %s; see 'hypeman help'\n", argv[1]);
        return CLI_MISUSE;
    }
    return cli_dispatch(table, "", argc, argv);
}
