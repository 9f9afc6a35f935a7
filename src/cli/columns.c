/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/columns.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/text.h"

enum { GAP = 3, MAX_COLUMNS = 16 };

void columns_add(struct columns *t, const char *text, enum colour colour)
{
    if (t->n == t->capacity) {
        t->capacity = t->capacity ? t->capacity * 2 : 64;
        t->cells = mem_realloc(t->cells, t->capacity * sizeof(*t->cells));
    }
    t->cells[t->n++] = (struct table_cell){mem_strdup(text), colour};
}

void columns_begin(struct columns *t, size_t n_columns, const char *const *headings)
{
    *t = (struct columns){.n_columns = n_columns < MAX_COLUMNS ? n_columns : MAX_COLUMNS};
    for (size_t i = 0; i < t->n_columns; i++)
        columns_add(t, headings[i], COLOUR_NONE);
}

void columns_free(struct columns *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->cells[i].text);
    free(t->cells);
    *t = (struct columns){0};
}

/* Characters, not bytes. */
static size_t width_of(const char *s)
{
    size_t n = 0;

    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static bool has_colours(void)
{
    const char *no = getenv("NO_COLOR");
    const char *term = getenv("TERM");

    return !(no && *no) && term && strcmp(term, "dumb") != 0 && isatty(STDOUT_FILENO);
}

static void print_cell(const struct table_cell *cell, size_t width, bool with_colour)
{
    static const char *const codes[] = {
        [COLOUR_GREEN] = "32", [COLOUR_YELLOW] = "33", [COLOUR_RED] = "31", [COLOUR_DIM] = "2"};
    size_t own = width_of(cell->text);

    with_colour = with_colour && cell->colour != COLOUR_NONE;
    if (with_colour)
        printf("\033[%sm", codes[cell->colour]);
    text_print(stdout, cell->text);
    if (with_colour)
        fputs("\033[0m", stdout);
    if (width > own)
        printf("%*s", (int)(width - own), "");
}

void columns_print(const struct columns *t)
{
    bool with_colour = has_colours();
    size_t widths[MAX_COLUMNS] = {0};

    for (size_t i = 0; i < t->n; i++) {
        size_t own = width_of(t->cells[i].text);

        if (own > widths[i % t->n_columns])
            widths[i % t->n_columns] = own;
    }
    for (size_t i = 0; i < t->n; i++) {
        bool is_last = i % t->n_columns == t->n_columns - 1;

        print_cell(&t->cells[i], is_last ? 0 : widths[i % t->n_columns] + GAP, with_colour);
        if (is_last)
            putchar('\n');
    }
}
