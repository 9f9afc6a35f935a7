/* SPDX-License-Identifier: Apache-2.0 */
#include "fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool line_says(const char *line, const char *word, const char *request, int *number_out)
{
    char said[32];
    int number = 0;
    int used = 0;

    if (sscanf(line, "%31s %d %n", said, &number, &used) < 1 || strcmp(said, word) != 0)
        return false;
    line += used;
    if (used && strncmp(request, line, strcspn(line, "\n")) != 0)
        return false;
    if (number_out)
        *number_out = number;
    return true;
}

bool fault_is(const char *word, const char *request, int *number_out)
{
    const char *named = getenv("HYPEMAN_DOUBLE_FAULTS");
    FILE *file = fopen("faults", "re");
    char line[256];
    bool found = false;

    if (!file && named)
        file = fopen(named, "re");
    while (file && !found && fgets(line, sizeof(line), file))
        found = line_says(line, word, request, number_out);
    if (file)
        (void)fclose(file);
    return found;
}

void fault_pause_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&t, &t) < 0)
        ;
}
